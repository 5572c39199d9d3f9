"""A proof file proves what it says under the trust it is given, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consensus.messages import VoteKind, hash_of
from ledger.accounts import Account
from ledger.state_keys import account_key
from node.genesis import chain_id_of
from node.genesis_defaults import make_genesis
from node.home import entry_of
from node.light import verifier
from node.light.prover import NotProvable, account_subject, instrument_subject, order_subject
from node.light.sync import from_prover, sync_epochs, trust_of
from node.light.verifier import (
    ProofRefused,
    Trust,
    pack,
    trust_of_checkpoint,
    trust_of_genesis,
    unpack,
    verify_proof_file,
)
from primitives.amounts import USD
from primitives.codec import decode_own, encode
from primitives.signing import address_of
from tests.ledger.exchange import a_key
from tests.light.light_chain import LightChain, a_set, key_of
from tests.node.network_of_nodes import INSTRUMENTS, a_genesis, keys_of

ALICE = account_subject(address_of(a_key("alice").public_key), 0)
NOBODY = account_subject(b"\7" * 20, 3)


def leaf_of(proven: verifier.Proven) -> bytes | None:
    return next(iter(proven.leaves.values()))


def changed(raw: bytes, change: Callable[[list[Any]], None]) -> bytes:
    """The file with its decoded fields changed."""
    fields = msgspec.msgpack.decode(raw)
    change(fields)
    return encode(fields)


def refusal(raw: bytes, trust: Trust) -> str:
    with pytest.raises(ProofRefused) as caught:
        verify_proof_file(raw, trust)
    return str(caught.value)


@pytest.fixture
def chain(tmp_path: Path) -> LightChain:
    """Three final blocks of one epoch."""
    chain = LightChain(tmp_path)
    for _ in range(3):
        chain.block()
    return chain


@pytest.fixture
def trust(chain: LightChain) -> Trust:
    return trust_of(chain.genesis)


# --- what is proven ---


def test_an_account_is_proven_at_the_height_below_the_final_block(chain: LightChain, trust: Trust) -> None:
    proven = verify_proof_file(chain.proof("account", ALICE), trust)
    raw = leaf_of(proven)
    assert raw is not None
    assert decode_own(Account, raw).cash_uusd == 1_000_000 * USD
    assert (proven.height, proven.block_hash, proven.state_root) == (
        2,
        hash_of(chain.tip),
        chain.tip.parent_state_root,
    )
    assert (proven.kind, proven.subject, proven.trust) == ("account", ALICE, trust)


def test_that_an_account_does_not_exist_is_proven(chain: LightChain, trust: Trust) -> None:
    assert verify_proof_file(chain.proof("account", NOBODY), trust).leaves == {b"a" + NOBODY: None}


def test_the_state_proven_is_the_one_before_the_newest_block(chain: LightChain, trust: Trust) -> None:
    key = account_key((ALICE[:20], 0))
    before = chain.store.leaf(key)
    account = decode_own(Account, before or b"")
    chain.block(
        {key: encode(msgspec.structs.replace(account, cash_uusd=5)), account_key((b"\7" * 20, 3)): None}
    )
    assert leaf_of(verify_proof_file(chain.proof("account", ALICE), trust)) == before
    chain.block({key: None})
    later = leaf_of(verify_proof_file(chain.proof("account", ALICE), trust))
    assert decode_own(Account, later or b"").cash_uusd == 5
    chain.block()
    assert leaf_of(verify_proof_file(chain.proof("account", ALICE), trust)) is None


@pytest.mark.parametrize(
    ("kind", "subject", "key"),
    [
        ("mark", instrument_subject(0), b"m"),
        ("settlement", instrument_subject(INSTRUMENTS[1].id), b"i" + INSTRUMENTS[1].id.to_bytes(4, "big")),
        ("order", order_subject(17, 0), b"b" + bytes(4)),
    ],
)
def test_other_kinds_prove_the_leaf_of_their_subject(
    chain: LightChain, trust: Trust, kind: str, subject: bytes, key: bytes
) -> None:
    proven = verify_proof_file(chain.proof(kind, subject), trust)
    assert proven.leaves == {key: chain.store.leaf(key)}


def test_a_heavy_notarization_proves_finality_and_a_light_one_does_not(
    chain: LightChain, trust: Trust
) -> None:
    header = chain.header()
    chain.block(proof=chain.certificate(header, VoteKind.NOTARIZE))
    verify_proof_file(chain.proof("account", ALICE), trust)
    light = chain.certificate(header, VoteKind.NOTARIZE, signers=(0, 1, 2))

    def use_light(fields: list[Any]) -> None:
        fields[6][1] = light

    assert refusal(changed(chain.proof("account", ALICE), use_light), trust) == (
        "signed by weight 3, final is 4"
    )


def test_a_block_is_final_through_suffix_blocks_upon_it(chain: LightChain, trust: Trust) -> None:
    light = chain.certificate(chain.header(), VoteKind.NOTARIZE, signers=(0, 1, 2))
    chain.block(proof=light)
    with pytest.raises(NotProvable, match="that of a later one"):
        chain.proof("account", ALICE)
    chain.end_epoch(suffix=2)
    proven = verify_proof_file(chain.proof("account", ALICE), trust)
    assert (proven.height, proven.trust.epoch) == (3, 0)


# --- what is not ---


def test_every_flipped_bit_and_every_other_byte_is_refused(chain: LightChain, trust: Trust) -> None:
    chain.end_epoch()
    chain.block()
    raw = chain.proof("account", NOBODY)
    verify_proof_file(raw, trust)
    accepted = []
    for place in range(len(raw)):
        for wrong in {raw[place] ^ 1, raw[place] ^ 0x80, raw[place] ^ 0xFF, (raw[place] + 1) % 256}:
            try:
                verify_proof_file(raw[:place] + bytes((wrong,)) + raw[place + 1 :], trust)
            except ProofRefused:
                continue
            accepted.append((place, wrong))
    assert accepted == []


def test_a_file_cut_anywhere_or_with_more_behind_it_is_refused(chain: LightChain, trust: Trust) -> None:
    raw = chain.proof("account", ALICE)
    for end in range(len(raw)):
        refusal(raw[:end], trust)
    assert refusal(raw + b"\0", trust) == "not in canonical form"


def test_another_genesis_trusts_nothing_of_this_chain(chain: LightChain) -> None:
    other = msgspec.structs.replace(chain.genesis, chain_name="other")
    assert refusal(chain.proof("account", ALICE), trust_of(other)) == "the proof is of another chain"


def test_too_few_signatures_prove_nothing(chain: LightChain, trust: Trust) -> None:
    few = chain.certificate(chain.tip, signers=(0, 3))

    def use_few(fields: list[Any]) -> None:
        fields[6][1] = few

    assert refusal(changed(chain.proof("account", ALICE), use_few), trust) == "signed by weight 2, final is 3"


@pytest.mark.parametrize(
    ("signers", "sentence"),
    [
        ((0, 1, 1), "signers are not strictly ascending"),
        ((2, 1, 0), "signers are not strictly ascending"),
        ((0, 1, 4), "a signer is not an integer from 0 to 3"),
    ],
)
def test_signers_are_ascending_places_of_the_set(
    chain: LightChain, trust: Trust, signers: tuple[int, ...], sentence: str
) -> None:
    def use_signers(fields: list[Any]) -> None:
        fields[6][1][5] = signers

    assert refusal(changed(chain.proof("account", ALICE), use_signers), trust) == sentence


def test_votes_to_skip_a_view_prove_nothing(chain: LightChain, trust: Trust) -> None:
    skip = chain.certificate(chain.tip, VoteKind.NULLIFY)

    def use_skip(fields: list[Any]) -> None:
        fields[6][1] = skip

    assert refusal(changed(chain.proof("account", ALICE), use_skip), trust) == (
        "not a notarization or finalization"
    )


def test_a_leaf_of_another_state_is_refused(chain: LightChain, trust: Trust) -> None:
    poor = encode(
        msgspec.structs.replace(decode_own(Account, chain.store.leaf(b"a" + ALICE) or b""), cash_uusd=1)
    )

    def use_poor(fields: list[Any]) -> None:
        fields[7][0][1] = poor

    def hide(fields: list[Any]) -> None:
        fields[7][0][1] = None

    def swap(fields: list[Any]) -> None:
        fields[7][0][0], fields[1] = b"m", "mark"
        fields[2] = bytes(4)

    raw = chain.proof("account", ALICE)
    assert refusal(changed(raw, use_poor), trust) == "a leaf is not under the state root"
    assert refusal(changed(raw, hide), trust) == "no leaf is shown, and the tree is not empty"
    assert refusal(changed(raw, swap), trust) == "a leaf is not under the state root"


def test_a_proof_of_one_subject_does_not_pass_for_another(chain: LightChain, trust: Trust) -> None:
    def rename(fields: list[Any]) -> None:
        fields[2] = NOBODY

    assert refusal(changed(chain.proof("account", ALICE), rename), trust) == (
        "the leaves are not those of the subject"
    )


def test_a_suffix_block_carries_no_state(chain: LightChain, trust: Trust) -> None:
    suffix = chain.header(flags=1)
    certificate = chain.certificate(suffix)

    def use_suffix(fields: list[Any]) -> None:
        fields[6] = [[suffix], certificate]

    assert refusal(changed(chain.proof("account", ALICE), use_suffix), trust) == (
        "the block carries no state root"
    )


def test_a_header_of_a_later_protocol_version_says_that_the_verifier_is_too_old(
    chain: LightChain, trust: Trust
) -> None:
    later = chain.header(version=2)
    certificate = chain.certificate(later)

    def use_later(fields: list[Any]) -> None:
        fields[6] = [[later], certificate]

    assert refusal(changed(chain.proof("account", ALICE), use_later), trust) == (
        "a header of a later protocol version than 1: this verifier is too old for the chain"
    )


# --- weights ---


def weighted(tmp_path: Path, weights: tuple[int, ...]) -> LightChain:
    entries = [entry_of(f"node{index}", keys_of(index), weight) for index, weight in enumerate(weights)]
    base = a_genesis(len(weights))
    reporters = tuple(
        msgspec.structs.replace(one, weight=weight)
        for one, weight in zip(base.ledger.reporters, weights, strict=True)
    )
    ledger = msgspec.structs.replace(base.ledger, reporters=reporters)
    return LightChain(tmp_path, make_genesis("weighted", entries, ledger, base.consensus))


def test_weight_counts_and_not_the_number_of_signers(tmp_path: Path) -> None:
    chain = weighted(tmp_path, (10, 1, 1, 1))
    trust = trust_of(chain.genesis)
    assert trust.validators.quorum == 9
    chain.block(proof=chain.certificate(chain.header(), signers=(0,)))
    raw = chain.proof("account", ALICE)
    assert verify_proof_file(raw, trust).height == 0
    light = chain.certificate(chain.tip, signers=(1, 2, 3))

    def use_light(fields: list[Any]) -> None:
        fields[6][1] = light

    assert refusal(changed(raw, use_light), trust) == "signed by weight 3, final is 9"


def test_no_more_signatures_are_written_than_it_takes(chain: LightChain) -> None:
    certificate = msgspec.msgpack.decode(chain.proof("account", ALICE))[6][1]
    assert certificate[5] == [0, 1, 2]


# --- epochs ---


@pytest.fixture
def long_chain(tmp_path: Path) -> LightChain:
    """Epochs 0 and 1 belong to genesis' validators, 2 and 3 to others, the fourth of whom has left in 3."""
    chain = LightChain(tmp_path)
    keys = [key_of(2, index) for index in range(5)]
    chain.know(keys)
    chain.block()
    chain.end_epoch(a_set(keys))
    chain.block()
    chain.end_epoch(a_set(keys, (1, 1, 1, 1, 0)), suffix=2)
    chain.block()
    chain.end_epoch()
    chain.block()
    return chain


def test_the_epochs_lead_from_genesis_to_validators_of_today(long_chain: LightChain) -> None:
    proven = verify_proof_file(long_chain.proof("account", ALICE), trust_of(long_chain.genesis))
    assert (proven.trust.epoch, proven.height) == (3, 3)
    assert proven.trust.validators.set_hash() == long_chain.validators.set_hash()


def test_following_the_epochs_gives_a_checkpoint_that_shortens_proofs(long_chain: LightChain) -> None:
    genesis = trust_of(long_chain.genesis)
    reached = sync_epochs(genesis, from_prover(long_chain.prover))
    assert (reached.epoch, reached.validators.public_keys) == (3, long_chain.validators.public_keys)
    kept = trust_of_checkpoint(reached.checkpoint())
    assert kept == reached
    short, full = long_chain.proof("account", ALICE, 3), long_chain.proof("account", ALICE)
    assert len(short) < len(full)
    assert verify_proof_file(short, kept).leaves == verify_proof_file(full, kept).leaves
    assert refusal(short, genesis) == "the epochs of the proof do not pass through epoch 0"


def test_validators_of_an_old_epoch_sign_nothing_in_a_later_one(long_chain: LightChain) -> None:
    trust, raw = trust_of(long_chain.genesis), long_chain.proof("account", ALICE)
    today, long_chain.validators = (
        long_chain.validators,
        a_set([keys_of(index).consensus for index in range(4)]),
    )
    old = long_chain.certificate(long_chain.tip)
    long_chain.validators = today

    def use_old(fields: list[Any]) -> None:
        fields[6][1] = old

    assert refusal(changed(raw, use_old), trust) == "a signature is not valid"


def test_one_who_left_the_set_is_no_signer(long_chain: LightChain) -> None:
    trust, raw = trust_of(long_chain.genesis), long_chain.proof("account", ALICE)
    long_chain.validators = a_set([key_of(2, index) for index in range(5)])
    certificate = long_chain.certificate(long_chain.tip, signers=(0, 1, 2, 4))

    def use(fields: list[Any]) -> None:
        fields[6][1] = certificate

    assert refusal(changed(raw, use), trust) == "a signer is not in the validator set"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda links: links.pop(1), "a header is not of epoch 1"),
        (lambda links: links.reverse(), "a header is not of epoch 0"),
        (lambda links: links[1].__setitem__(2, None), "the header names another next validator set"),
        (lambda links: links[1][2][1].__setitem__(0, 9), "F_FINAL lies between max(q, F(0)) and the total"),
        (lambda links: links[1][2][0].reverse(), "the header names another next validator set"),
        (lambda links: links.pop(), "a header is not of epoch 2"),
    ],
)
def test_a_broken_epoch_chain_is_refused(
    long_chain: LightChain, change: Callable[[list[Any]], object], sentence: str
) -> None:
    raw = changed(long_chain.proof("account", ALICE), lambda fields: change(fields[5]) and None)
    assert refusal(raw, trust_of(long_chain.genesis)) == sentence


# --- the verifier itself ---


def test_the_trust_of_a_wire_genesis_is_the_node_s_own(chain: LightChain) -> None:
    for final_weight in (0, 4):
        parameters = msgspec.structs.replace(chain.genesis.consensus, final_weight=final_weight)
        document = msgspec.structs.replace(chain.genesis, consensus=parameters)
        trust = trust_of_genesis(encode(document))
        assert trust == trust_of(document)
        assert trust.chain_id == chain_id_of(document)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 100])
def test_the_arithmetic_is_that_of_consensus(count: int) -> None:
    ours = a_set([key_of(1, index) for index in range(count)])
    theirs = verifier.validator_set((ours.public_keys, ours.weights, ours.final_weight))
    assert (theirs.quorum, theirs.total, theirs.set_hash()) == (ours.quorum, ours.total, ours.set_hash())
    assert theirs.fast_weight(ours.faulty) == ours.fast_weight(ours.faulty)


@pytest.mark.parametrize(
    "value",
    [
        *(0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63, 2**64 - 1),
        *(-1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1, -(2**63)),
        *(None, True, False, "", "x" * 31, "x" * 32, "x" * 256, "x" * 70_000, "é"),
        *(
            b"",
            b"x" * 255,
            b"x" * 256,
            b"x" * 70_000,
            (),
            (1,) * 15,
            (1,) * 16,
            (1,) * 70_000,
            ((b"a", None),),
        ),
    ],
)
def test_its_encoding_is_the_codec_s(value: Any) -> None:
    assert pack(value) == encode(value)
    assert unpack(encode(value)) == value


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"\xcc\x01", b"\xd0\x01", b"\xd9\x01a", b"\xc5\x00\x01a", b"\xdc\x00\x01\x01", b"\xc1"),
        *(
            b"\x80",
            b"\xcb" + bytes(8),
            b"\xdd\xff\xff\xff\xff",
            b"\xc6\xff\xff\xff\xffa",
            b"\x91" * 20 + b"\x01",
        ),
        *(b"\xa1\xff", b"\x01\x01"),
    ],
)
def test_what_is_not_canonical_is_refused(raw: bytes) -> None:
    with pytest.raises(ProofRefused):
        unpack(raw)


ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"msgspec", "primitives", "consensus", "ledger", "gossip", "node"}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import importlib.util
spec = importlib.util.spec_from_file_location("embedded", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["embedded"] = module
spec.loader.exec_module(module)
foreign = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
trust = module.trust_of_genesis(open(sys.argv[2], "rb").read())
proven = module.verify_proof_file(open(sys.argv[3], "rb").read(), trust)
print(proven.height, sorted(name for name in foreign if not name.startswith("_") and name != "embedded"))
"""


def test_the_file_alone_verifies_with_nothing_but_pynacl(chain: LightChain, tmp_path: Path) -> None:
    (tmp_path / "genesis").write_bytes(encode(chain.genesis))
    (tmp_path / "proof").write_bytes(chain.proof("account", ALICE))
    (tmp_path / "embedded.py").write_bytes(Path(str(verifier.__file__)).read_bytes())
    arguments = [str(tmp_path / name) for name in ("embedded.py", "genesis", "proof")]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    height, foreign = done.stdout.split(maxsplit=1)
    assert height == "2"
    assert set(foreign.strip("[]\n").replace("'", "").split(", ")) <= {"nacl", "cffi", "pycparser"}


def a_hundred(tmp_path: Path) -> LightChain:
    return LightChain(tmp_path, a_genesis(100))


def test_a_hundred_validators_proof_is_small_and_quick(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = a_hundred(tmp_path)
    for _ in range(3):
        chain.block()
        chain.end_epoch()
    chain.block()
    trust, raw = trust_of(chain.genesis), chain.proof("account", ALICE)
    start_ns = time.perf_counter_ns()
    verify_proof_file(raw, trust)
    took_us = (time.perf_counter_ns() - start_ns) // 1_000
    fields = msgspec.msgpack.decode(raw)
    certificates = sum(len(encode(one)) for one in (fields[6][1], *(link[1] for link in fields[5])))
    with capsys.disabled():
        print(f"\n  100 validators, 3 epochs: {len(raw)} bytes, {certificates} in certificates, {took_us} us")
    assert len(raw) - certificates < 50_000
    assert all(isinstance(one, list) and len(one[5]) == 67 for one in (fields[6][1],))


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 255, 2**63, 2**64 - 1, "", "x", b"", b"x", bytes(32), bytes(64)),
    *((), (0,), (None, None), ((), ()), (b"", 0, ()), (0,) * 7),
)


def places_of(value: Any) -> list[tuple[int, ...]]:
    """Every place in nested lists."""
    if not isinstance(value, list):
        return []
    here = [(index,) for index in range(len(value))]
    return here + [(index, *rest) for index, item in enumerate(value) for rest in places_of(item)]


def test_anything_odd_at_any_place_is_refused_and_never_crashes(chain: LightChain, trust: Trust) -> None:
    chain.end_epoch()
    chain.block()
    raw = chain.proof("account", NOBODY)
    accepted = []
    for place in places_of(msgspec.msgpack.decode(raw)):
        for odd in ODD:
            fields = msgspec.msgpack.decode(raw)
            within = fields
            for index in place[:-1]:
                within = within[index]
            if encode(within[place[-1]]) == encode(odd):
                continue
            within[place[-1]] = odd
            try:
                verify_proof_file(encode(fields), trust)
            except ProofRefused:
                continue
            accepted.append((place, odd))
    assert accepted == []
