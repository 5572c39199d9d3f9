"""What all validators agree on before the first block, and the chain id of it. Reads and writes one file.

The file is the readable form of node/named_form.py; the chain id is the digest of the wire form, so spacing
and the order of names in the file change nothing, and any change of a value is another chain.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from gossip.peer_id import peer_id_of
from ledger.genesis import LedgerGenesis, UnderlyingParameters
from ledger.instruments import LOTS_PER_CONTRACT, Instrument, Kind, Underlying
from ledger.staking.parameters import genesis_stake_rules, staking_rules
from ledger.transactions import PRICE_UUSD_MAX
from node.named_form import format_named, from_named, parse_named, to_named
from node.storage.files import write_durably
from primitives.codec import U32, U63, Bytes32, Wire, encode
from primitives.errors import OperatorError, ProtocolViolation
from primitives.hashing import digest
from primitives.identifiers import ChainId
from primitives.signing import check_public_key

FILE_BYTES_MAX = 64 * 1024 * 1024
"""A longer genesis file is refused."""
GENESIS_VERSION = 1

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ValidatorEntry(Wire):
    """One validator; its place in the list is its index. Three keys, for three purposes, never the same."""

    name: Name
    consensus_key: Bytes32
    oracle_key: Bytes32
    peer_id: str
    """libp2p peer id of its network key."""
    weight: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]


class ConsensusParameters(Wire):
    """Policy numbers of consensus.md section 1; times in real milliseconds."""

    delta_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)]
    """Assumed bound on a message delay, fsync and validation included."""
    min_block_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)]
    """A leader proposes no sooner than this after it saw the parent."""
    retain_views: Annotated[int, msgspec.Meta(ge=8, le=2**20)]
    lookahead_views: Annotated[int, msgspec.Meta(ge=1, le=4_096)]
    final_weight: U32
    """Vote weight of the two-delay path; 0 means F(f) of consensus.md."""


class GenesisDocument(Wire):
    """Everything that names a chain."""

    version: Annotated[int, msgspec.Meta(ge=GENESIS_VERSION, le=GENESIS_VERSION)]
    chain_name: Name
    time_ns: U63
    """Market time at height 0."""
    validators: Annotated[tuple[ValidatorEntry, ...], msgspec.Meta(min_length=1, max_length=256)]
    consensus: ConsensusParameters
    ledger: LedgerGenesis


def chain_id_of(document: GenesisDocument) -> ChainId:
    """32 bytes: digest of the canonical wire form."""
    return ChainId(digest(b"quorate-genesis", encode(document)))


def save_genesis(document: GenesisDocument, path: Path) -> None:
    """Check and write; the file is readable by all, for it holds no secret."""
    check_genesis(document)
    try:
        write_durably(path, format_named(to_named(document)).encode(), mode=0o644)
    except OSError as error:
        raise OperatorError(f"cannot write the genesis {path}: {error.strerror}") from None


def load_genesis(path: Path) -> GenesisDocument:
    """Read and check. Raises OperatorError that names the file and the field."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise OperatorError(f"cannot read the genesis {path}: {error.strerror}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise OperatorError(f"the genesis {path} is larger than {FILE_BYTES_MAX} bytes")
    try:
        document = from_named(GenesisDocument, parse_named(raw.decode()))
        check_genesis(document)
    except (ValueError, RecursionError) as error:
        raise OperatorError(f"the genesis {path} is not valid JSON: {error}") from None
    except OperatorError as error:
        raise OperatorError(f"the genesis {path}: {error}") from None
    return document


def check_genesis(document: GenesisDocument) -> None:
    """Every relation between fields. Raises OperatorError that names the field."""
    _check_validators(document)
    ledger = document.ledger
    reporters = tuple((reporter.oracle_key, reporter.weight) for reporter in ledger.reporters)
    _require(
        reporters == tuple((entry.oracle_key, entry.weight) for entry in document.validators),
        "ledger.reporters",
        "must list the validators' oracle keys and weights, in their order",
    )
    _require(ledger.time_ns == document.time_ns, "ledger.time_ns", "must equal time_ns")
    _check_key(ledger.custodian_key, "ledger.custodian_key")
    total = sum(entry.weight for entry in document.validators)
    _require(
        document.consensus.final_weight <= total,
        "consensus.final_weight",
        f"is above the total weight {total}",
    )
    _check_underlyings(ledger)
    _check_instruments(ledger)
    _check_accounts(ledger)
    _check_parameters(ledger)
    _check_staking(document)


def _check_validators(document: GenesisDocument) -> None:
    seen: dict[object, str] = {}
    for index, entry in enumerate(document.validators):
        place = f"validators[{index}]"
        _check_key(entry.consensus_key, f"{place}.consensus_key")
        _check_key(entry.oracle_key, f"{place}.oracle_key")
        _require(
            entry.peer_id.startswith("12D3KooW"), f"{place}.peer_id", "is not the peer id of an Ed25519 key"
        )
        for field in ("name", "consensus_key", "oracle_key", "peer_id"):
            value = getattr(entry, field)
            _require(value not in seen, f"{place}.{field}", f"is already used by {seen.get(value)}")
            seen[value] = f"{place}.{field}"
        for field in ("consensus_key", "oracle_key"):
            _require(
                peer_id_of(getattr(entry, field)) != entry.peer_id,
                f"{place}.peer_id",
                f"belongs to the {field}; use another key",
            )


def _check_underlyings(ledger: LedgerGenesis) -> None:
    ids = [item.underlying for item in ledger.underlyings]
    _require(bool(ids), "ledger.underlyings", "lists nothing to trade")
    _require(ids == sorted(set(ids)), "ledger.underlyings", "must be in ascending order, each once")
    for number, item in enumerate(ledger.underlyings):
        place = f"ledger.underlyings[{number}]"
        _require(item.underlying in list(Underlying), f"{place}.underlying", "is unknown")
        _require(
            0 < item.index_uusd <= PRICE_UUSD_MAX, f"{place}.index_uusd", f"must be 1 to {PRICE_UUSD_MAX}"
        )
        _check_ticks(item, place)


def _check_ticks(item: UnderlyingParameters, place: str) -> None:
    starts = [start for start, _ in item.ticks]
    _require(
        bool(starts) and starts == sorted(set(starts), reverse=True) and starts[-1] == 0,
        f"{place}.ticks",
        "must be in descending order of price and end at 0",
    )
    lots = LOTS_PER_CONTRACT[Underlying(item.underlying)]
    for number, tick in enumerate([*(tick for _, tick in item.ticks), item.perpetual_tick_uusd]):
        name = f"ticks[{number}]" if number < len(starts) else "perpetual_tick_uusd"
        _require(tick > 0 and tick % lots == 0, f"{place}.{name}", f"must be a positive multiple of {lots}")


def _check_instruments(ledger: LedgerGenesis) -> None:
    known = {item.underlying for item in ledger.underlyings}
    ids = [item.id for item in ledger.instruments]
    _require(ids == sorted(set(ids)), "ledger.instruments", "must be in ascending order of id, each once")
    seen: dict[tuple[int, ...], int] = {}
    for number, item in enumerate(ledger.instruments):
        place = f"ledger.instruments[{number}]"
        _require(item.underlying in known, f"{place}.underlying", "is not in ledger.underlyings")
        _require(item.kind in list(Kind), f"{place}.kind", "is unknown")
        lots = LOTS_PER_CONTRACT[Underlying(item.underlying)]
        _require(item.lots_per_contract == lots, f"{place}.lots_per_contract", f"must be {lots}")
        _check_terms(item, ledger.time_ns, place)
        terms = (item.underlying, item.kind, item.expiry_ns, item.strike_uusd)
        _require(terms not in seen, place, f"is the same contract as ledger.instruments[{seen.get(terms)}]")
        seen[terms] = number


def _check_terms(item: Instrument, time_ns: int, place: str) -> None:
    if item.kind == Kind.PERPETUAL:
        _require(item.expiry_ns == item.strike_uusd == 0, place, "a perpetual has neither expiry nor strike")
        return
    _require(item.expiry_ns > time_ns, f"{place}.expiry_ns", "must be after time_ns")
    _require(0 < item.strike_uusd <= PRICE_UUSD_MAX, f"{place}.strike_uusd", f"must be 1 to {PRICE_UUSD_MAX}")


def _check_accounts(ledger: LedgerGenesis) -> None:
    names = [(account.owner, account.subaccount) for account in ledger.accounts]
    _require(len(set(names)) == len(names), "ledger.accounts", "an account appears twice")
    total = sum(account.cash_uusd for account in ledger.accounts) + ledger.parameters.insurance_fund_uusd
    _require(total < 2**62, "ledger.accounts", "hold more than 2^62 micro-USD together")


def _check_parameters(ledger: LedgerGenesis) -> None:
    numbers = ledger.parameters
    for name in (
        *("nonce_window", "open_orders_max", "positions_max", "orders_per_book_max", "oracle_stale_ns"),
        *("oracle_epoch_ns", "settlement_window_ns", "settlement_bucket_ns", "liquidation_close_ppm"),
        *("liquidation_delta_uusd", "price_band_ppm"),
    ):
        _require(getattr(numbers, name) > 0, f"ledger.parameters.{name}", "must be above 0")
    for name in ("maker_fee_ppm", "taker_fee_ppm", "option_fee_cap_ppm", "liquidation_close_ppm"):
        _require(getattr(numbers, name) <= 1_000_000, f"ledger.parameters.{name}", "must be at most 1000000")
    _require(
        numbers.settlement_window_ns % numbers.settlement_bucket_ns == 0,
        "ledger.parameters.settlement_window_ns",
        "must be a multiple of settlement_bucket_ns",
    )
    _require(
        numbers.oracle_stale_ns >= numbers.oracle_epoch_ns,
        "ledger.parameters.oracle_stale_ns",
        "must be at least oracle_epoch_ns",
    )


def _check_staking(document: GenesisDocument) -> None:
    staking = document.ledger.staking
    for holds, rule in (*staking_rules(staking), *genesis_stake_rules(staking)):
        _require(holds, "ledger.staking", f"does not hold: {rule}")
    listed = [(item.consensus_key, item.oracle_key, item.peer_id) for item in staking.validators]
    _require(
        not listed
        or listed
        == [(entry.consensus_key, entry.oracle_key, entry.peer_id) for entry in document.validators],
        "ledger.staking.validators",
        "must list the validators' keys and peer ids, in their order, or nobody",
    )


def _check_key(key: bytes, place: str) -> None:
    try:
        check_public_key(key)
    except ProtocolViolation as violation:
        raise OperatorError(f"{place}: {violation.detail}") from None


def _require(holds: bool, place: str, sentence: str) -> None:
    if not holds:
        raise OperatorError(f"{place}: {sentence}")
