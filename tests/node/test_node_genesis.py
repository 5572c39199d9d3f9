"""The genesis document: one chain id for one content, and a refusal that names the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgpack
import pytest
from msgspec.structs import replace

from gossip.peer_id import peer_id_of_seed
from ledger.genesis import GenesisAccount
from ledger.instruments import Underlying
from ledger.listing_schedule import scheduled_expiries
from node.genesis import (
    GenesisDocument,
    ValidatorEntry,
    chain_id_of,
    check_genesis,
    load_genesis,
    save_genesis,
)
from node.genesis_defaults import (
    default_instruments,
    default_ledger_genesis,
    default_listing,
    default_staking,
    make_genesis,
    reporters_of,
    scheduled_instruments,
)
from primitives.amounts import USD
from primitives.errors import OperatorError
from primitives.signing import SigningKey

TIME_NS = 1_770_000_000_000_000_000
INDEX_UUSD = {Underlying.BTC: 100_000 * USD, Underlying.ETH: 4_000 * USD}


def public_key(number: int) -> bytes:
    return SigningKey(bytes([number]) * 32).public_key


def a_validator(index: int) -> ValidatorEntry:
    first = 3 * index + 1
    return ValidatorEntry(
        name=f"node{index}",
        consensus_key=public_key(first),
        oracle_key=public_key(first + 1),
        peer_id=peer_id_of_seed(bytes([first + 2]) * 32),
        weight=1,
    )


def a_genesis() -> GenesisDocument:
    validators = [a_validator(index) for index in range(4)]
    return make_genesis(
        "test-chain",
        validators,
        default_ledger_genesis(
            time_ns=TIME_NS,
            custodian_key=public_key(99),
            reporters=reporters_of(validators),
            staking=default_staking(validators),
            index_uusd=INDEX_UUSD,
            instruments=default_instruments(TIME_NS, INDEX_UUSD),
            accounts=[GenesisAccount(bytes([9]) * 20, 0, 50_000 * USD)],
        ),
    )


def test_a_saved_genesis_is_read_back_whole(tmp_path: Path) -> None:
    save_genesis(a_genesis(), tmp_path / "genesis.json")
    assert load_genesis(tmp_path / "genesis.json") == a_genesis()


def test_the_chain_id_is_the_digest_of_plain_msgpack_arrays() -> None:
    raw = msgpack.packb(plain(a_genesis()))
    assert chain_id_of(a_genesis()) == blake2b(raw, digest_size=32, person=b"quorate-genesis").digest()


def plain(value: object) -> object:
    """Structs as lists of their fields: what an implementation without msgspec would encode."""
    if hasattr(value, "__struct_fields__"):
        return [plain(getattr(value, name)) for name in value.__struct_fields__]
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def test_the_series_of_the_schedule_are_listed_from_the_start() -> None:
    """With an id for each, calls and puts at every strike of the schedule's own rule."""
    listed = scheduled_instruments(TIME_NS, INDEX_UUSD, default_listing())
    options = [item for item in listed if item.expiry_ns]
    assert [item.id for item in listed] == list(range(len(listed)))
    assert [item.name for item in listed[:2]] == ["BTC-PERPETUAL", "ETH-PERPETUAL"]
    for underlying, index_uusd in INDEX_UUSD.items():
        own = [item for item in options if item.underlying == underlying]
        assert sorted({item.expiry_ns for item in own}) == scheduled_expiries(TIME_NS, default_listing())
        for expiry_ns in {item.expiry_ns for item in own}:
            strikes = [item.strike_uusd for item in own if item.expiry_ns == expiry_ns]
            assert strikes == sorted(strikes) and 16 <= len(strikes) <= 42
            assert strikes[0] < index_uusd < strikes[-1]
    assert 600 < len(listed) < default_listing().instruments_max


def test_the_file_is_read_by_people(tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    save_genesis(a_genesis(), path)
    assert max(len(line) for line in path.read_text().splitlines()) <= 110
    assert '"oracle_stale_ns": 10000000000' in path.read_text()


def test_spacing_and_order_of_names_do_not_change_the_chain_and_a_value_does(tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    save_genesis(a_genesis(), path)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(document.items())), indent=7))
    assert chain_id_of(load_genesis(path)) == chain_id_of(a_genesis())
    document["consensus"]["min_block_ms"] += 1
    path.write_text(json.dumps(document))
    assert chain_id_of(load_genesis(path)) != chain_id_of(a_genesis())


Edit = Callable[[dict[str, Any]], object]

EDITS: list[tuple[Edit, str]] = [
    (lambda d: d.pop("chain_name"), "chain_name: is missing"),
    (lambda d: d.update(extra=1), "extra: there is no such field"),
    (lambda d: d.update(version=2), "version: Expected `int` <= 1"),
    (lambda d: d.update(chain_name="a b"), "chain_name: Expected `str` matching regex"),
    (lambda d: d.update(time_ns="0"), "time_ns: Expected `int`, got `str`"),
    (lambda d: d.update(time_ns=1.5), "time_ns: Expected `int`, got `float`"),
    (lambda d: d.update(time_ns=TIME_NS + 1), "ledger.time_ns: must equal time_ns"),
    (lambda d: d.update(validators=[]), r"validators: Expected `array` of length >= 1"),
    (lambda d: d["validators"][1].update(weight=0), r"validators\[1\].weight: Expected `int` >= 1"),
    (
        lambda d: d["validators"][1].update(name="node0"),
        r"validators\[1\].name: is already used by validators\[0\]",
    ),
    (lambda d: d["validators"][1].update(peer_id="Qm1"), r"validators\[1\].peer_id: is not the peer id"),
    (
        lambda d: d["validators"][1].update(peer_id=peer_id_of_seed(b"\4" * 32)),
        r"validators\[1\].peer_id: belongs to the consensus_key; use another key",
    ),
    (
        lambda d: d["validators"][0].update(consensus_key="00" * 32),
        r"validators\[0\].consensus_key: not a valid Ed25519",
    ),
    (
        lambda d: d["validators"][0].update(oracle_key="0"),
        r"validators\[0\].oracle_key: expected lower-case hex",
    ),
    (lambda d: d["validators"][0].update(oracle_key="00"), r"oracle_key: Expected `bytes` of length >= 32"),
    (lambda d: d["consensus"].update(final_weight=5), "consensus.final_weight: is above the total weight 4"),
    (lambda d: d["consensus"].update(delta_ms=0), "consensus.delta_ms: Expected `int` >= 1"),
    (lambda d: d["ledger"]["reporters"].reverse(), "ledger.reporters: must list the validators' oracle keys"),
    (lambda d: d["ledger"]["underlyings"].reverse(), "ledger.underlyings: must be in ascending order"),
    (
        lambda d: d["ledger"]["underlyings"][1].update(index_uusd=0),
        r"ledger.underlyings\[1\].index_uusd: must be 1 to",
    ),
    (
        lambda d: d["ledger"]["underlyings"][0]["ticks"].reverse(),
        r"ledger.underlyings\[0\].ticks: must be in descending order",
    ),
    (
        lambda d: d["ledger"]["underlyings"][0].update(perpetual_tick_uusd=150),
        r"perpetual_tick_uusd: must be a positive multiple of 100",
    ),
    (
        lambda d: d["ledger"]["underlyings"][0]["margin"].update(mm_factor_ppm=0),
        r"ledger.underlyings\[0\].margin: 0 < maintenance",
    ),
    (lambda d: d["ledger"]["instruments"].reverse(), "ledger.instruments: must be in ascending order of id"),
    (
        lambda d: d["ledger"]["instruments"][5].update(expiry_ns=TIME_NS),
        r"ledger.instruments\[5\].expiry_ns: must be after time_ns",
    ),
    (
        lambda d: d["ledger"]["instruments"][4].update(
            strike_uusd=d["ledger"]["instruments"][2]["strike_uusd"]
        ),
        r"ledger.instruments\[4\]: is the same contract as ledger.instruments\[2\]",
    ),
    (
        lambda d: d["ledger"]["instruments"][0].update(strike_uusd=1),
        r"a perpetual has neither expiry nor strike",
    ),
    (lambda d: d["ledger"]["accounts"].append(d["ledger"]["accounts"][0]), "an account appears twice"),
    (
        lambda d: d["ledger"]["parameters"].update(settlement_bucket_ns=7 * 10**9),
        "settlement_window_ns: must be a multiple",
    ),
    (lambda d: d["ledger"]["parameters"].update(oracle_stale_ns=1), "oracle_stale_ns: must be at least"),
    (lambda d: d["ledger"]["parameters"].update(taker_fee_ppm=2_000_000), "taker_fee_ppm: must be at most"),
]


@pytest.mark.parametrize(("edit", "sentence"), EDITS)
def test_each_mistake_is_one_sentence_that_names_the_field(tmp_path: Path, edit: Edit, sentence: str) -> None:
    path = tmp_path / "genesis.json"
    save_genesis(a_genesis(), path)
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(OperatorError, match=sentence) as refusal:
        load_genesis(path)
    assert str(refusal.value).startswith(f"the genesis {path}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "is not valid JSON"),
        (b"[1]", "expected an object with named fields"),
        (b"\xff", "is not valid JSON"),
        (b'{"a": 1, "a": 2}', "the name 'a' appears twice"),
        (b"[" * 100_000, "is not valid JSON"),
    ],
)
def test_what_is_no_genesis_is_refused(tmp_path: Path, raw: bytes, sentence: str) -> None:
    (tmp_path / "genesis.json").write_bytes(raw)
    with pytest.raises(OperatorError, match=sentence):
        load_genesis(tmp_path / "genesis.json")


def test_a_missing_genesis_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot read the genesis .*: No such file or directory"):
        load_genesis(tmp_path / "genesis.json")


def test_an_unsound_genesis_is_not_even_written(tmp_path: Path) -> None:
    document = a_genesis()
    with pytest.raises(OperatorError, match=r"ledger.time_ns"):
        save_genesis(replace(document, time_ns=1), tmp_path / "genesis.json")
    assert list(tmp_path.iterdir()) == []
    check_genesis(document)
