"""The authenticated map: roots that know the content only, and proofs that cannot be bent."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.state_tree import (
    PROOF_BYTES_MAX,
    PROOF_STEPS_MAX,
    OtherLeaf,
    Proof,
    ProofReason,
    StateTree,
    Step,
    verify_proof,
)
from primitives.codec import decode, encode
from primitives.errors import ProtocolViolation

CONTENT = {b"account/%d" % i: b"%d dollars" % (i * 7) for i in range(40)}
TREE = StateTree().update(CONTENT.items())

contents = st.dictionaries(st.binary(max_size=3), st.binary(max_size=3), max_size=12)
batches = st.lists(st.lists(st.tuples(st.binary(max_size=1), st.none() | st.binary(max_size=1)), max_size=12))


def refusal(root: bytes, key: bytes, value: bytes | None, proof: Proof) -> ProofReason | None:
    try:
        verify_proof(root, key, value, proof)
    except ProtocolViolation as violation:
        assert isinstance(violation.reason, ProofReason)
        return violation.reason
    return None


def flips(raw: bytes) -> list[bytes]:
    """`raw` with each byte changed in its lowest and in its highest bit."""
    return [raw[:i] + bytes([raw[i] ^ bit]) + raw[i + 1 :] for i in range(len(raw)) for bit in (0x01, 0x80)]


def survives(root: bytes, key: bytes, value: bytes | None, raw_proof: bytes) -> bool:
    """Whether a stranger's proof bytes pass decoding and verification."""
    try:
        verify_proof(root, key, value, decode(Proof, raw_proof, bytes_max=PROOF_BYTES_MAX))
    except ProtocolViolation:
        return False
    return True


@given(contents)
def test_every_key_is_proved_present_with_its_value_and_with_no_other(content: dict[bytes, bytes]) -> None:
    tree = StateTree().update(content.items())
    assert len(tree) == len(content)
    for key, value in content.items():
        proof = tree.prove(key)
        seen = [refusal(tree.root, key, claim, proof) for claim in (value, value + b"!", None)]
        assert seen == [None, ProofReason.ROOT_MISMATCH, ProofReason.NOT_AN_ABSENCE]


@given(contents, st.binary(max_size=3))
def test_every_absent_key_is_proved_absent_and_never_present(content: dict[bytes, bytes], key: bytes) -> None:
    content.pop(key, None)
    tree = StateTree().update(content.items())
    proof = tree.prove(key)
    verify_proof(tree.root, key, None, proof)
    assert refusal(tree.root, key, b"", proof) is not None


@given(batches)
def test_the_root_depends_on_the_content_only(history: list[list[tuple[bytes, bytes | None]]]) -> None:
    tree, content = StateTree(), {}
    for batch in history:
        tree = tree.update(batch)
        content |= dict(batch)
    left = {key: value for key, value in content.items() if value is not None}
    afresh = StateTree().update(sorted(left.items(), reverse=True))
    one_by_one = StateTree()
    for item in left.items():
        one_by_one = one_by_one.update([item])
    assert [tree.root, len(tree)] == [afresh.root, len(left)]
    assert one_by_one.root == afresh.root


@given(batches, batches)
def test_the_reverse_changes_give_back_the_exact_root(
    before: list[list[tuple[bytes, bytes | None]]], block: list[list[tuple[bytes, bytes | None]]]
) -> None:
    content = dict(change for batch in before for change in batch)
    changes = dict(change for batch in block for change in batch)
    tree = StateTree().update(content.items())
    changed = tree.update(changes.items())
    assert changed.update((key, content.get(key)) for key in changes).root == tree.root


def test_different_contents_have_different_roots() -> None:
    trees = [{}, {b"": b""}, {b"a": b""}, {b"": b"a"}, {b"a": b"", b"": b""}, {b"a": b"", b"b": b""}]
    assert len({StateTree().update(content.items()).root for content in trees}) == len(trees)


def test_an_update_leaves_the_old_tree_and_its_proofs_valid() -> None:
    root, key = TREE.root, b"account/3"
    TREE.update([(key, None), (b"new", b"1")])
    assert TREE.root == root
    verify_proof(root, key, CONTENT[key], TREE.prove(key))


def test_a_key_named_twice_in_a_batch_takes_its_last_change() -> None:
    twice = TREE.update([(b"x", b"1"), (b"account/1", b"y"), (b"x", None), (b"account/1", b"z")])
    assert twice.root == TREE.update([(b"account/1", b"z")]).root


def test_removing_absent_keys_or_setting_what_is_there_gives_the_same_tree() -> None:
    absent = [(b"account/%d" % i, None) for i in range(40, 80)]
    assert TREE.update([*CONTENT.items(), *absent]) is TREE
    assert StateTree().update(absent).root == StateTree().root


def test_a_tree_of_which_all_is_removed_is_the_empty_tree() -> None:
    emptied = TREE.update((key, None) for key in CONTENT)
    assert (emptied.root, len(emptied)) == (StateTree().root, 0)


def test_an_empty_tree_proves_absence_with_an_empty_proof() -> None:
    proof = StateTree().prove(b"any")
    assert proof == Proof(0, (), None)
    verify_proof(StateTree().root, b"any", None, proof)


def test_the_empty_proof_shows_no_absence_in_a_tree_with_leaves() -> None:
    assert refusal(TREE.root, b"any", None, Proof(0, (), None)) == ProofReason.ROOT_MISMATCH
    assert refusal(TREE.root, b"any", None, Proof(40, (), None)) == ProofReason.NOT_AN_ABSENCE


def test_one_leaf_is_proved_without_steps_and_stands_for_every_absent_key() -> None:
    tree = StateTree().update([(b"a", b"1")])
    present, absent = tree.prove(b"a"), tree.prove(b"b")
    assert present == Proof(1, (), None)
    assert isinstance(absent.other, OtherLeaf)
    verify_proof(tree.root, b"a", b"1", present)
    verify_proof(tree.root, b"b", None, absent)
    assert refusal(tree.root, b"a", None, absent) == ProofReason.NOT_AN_ABSENCE
    assert refusal(tree.root, b"b", b"1", absent) == ProofReason.NOT_A_PRESENCE


def test_a_present_key_is_not_shown_absent_by_the_leaf_of_another() -> None:
    """The other leaf at its own place, at the key's place, and with no way to it."""
    key, verdicts = b"account/3", set()
    for other in CONTENT.keys() - {key}:
        places = (TREE.prove(other).steps, TREE.prove(key).steps, ())
        proofs = [Proof(len(TREE), steps, _leaf_of(other)) for steps in places]
        verdicts.add(tuple(refusal(TREE.root, key, None, proof) for proof in proofs))
    not_there = ProofReason.NOT_AN_ABSENCE
    assert verdicts == {(not_there, not_there, ProofReason.ROOT_MISMATCH)}


def _leaf_of(key: bytes) -> OtherLeaf:
    """What a tree of this one leaf shows for an absent key."""
    shown = StateTree().update([(key, CONTENT[key])]).prove(b"absent").other
    assert shown is not None
    return shown


@pytest.mark.parametrize("key", [b"account/0", b"account/21", b"account/39"])
def test_any_changed_byte_of_a_presence_is_refused(key: bytes) -> None:
    value, raw = CONTENT[key], encode(TREE.prove(key))
    assert survives(TREE.root, key, value, raw)
    assert not any(survives(root, key, value, raw) for root in flips(TREE.root))
    assert not any(survives(TREE.root, other, value, raw) for other in flips(key))
    assert not any(survives(TREE.root, key, other, raw) for other in flips(value))
    assert not any(survives(TREE.root, key, value, other) for other in flips(raw))


@pytest.mark.parametrize("key", [b"", b"account/40", b"account/", b"zzz"])
def test_any_changed_byte_of_an_absence_is_refused(key: bytes) -> None:
    raw = encode(TREE.prove(key))
    assert survives(TREE.root, key, None, raw)
    assert not any(survives(root, key, None, raw) for root in flips(TREE.root))
    assert not any(survives(TREE.root, key, None, other) for other in flips(raw))


def test_an_absence_proves_no_present_key() -> None:
    """A proof of absence speaks for every absent key of its place, for no present one."""
    proofs = [TREE.prove(b"absent/%d" % i) for i in range(200)]
    assert {refusal(TREE.root, key, None, proof) for key in CONTENT for proof in proofs} == {
        ProofReason.NOT_AN_ABSENCE
    }


def test_a_proof_with_a_step_left_out_or_added_is_refused() -> None:
    key = b"account/7"
    proof = TREE.prove(key)
    shorter = [msgspec.structs.replace(proof, steps=proof.steps[:i] + proof.steps[i + 1 :]) for i in range(3)]
    longer = [msgspec.structs.replace(proof, steps=(*proof.steps, Step(255, bytes(32))))]
    seen = {refusal(TREE.root, key, CONTENT[key], other) for other in shorter + longer}
    assert seen == {ProofReason.ROOT_MISMATCH}


def test_the_longest_proof_fits_the_limit_and_a_longer_one_is_refused() -> None:
    step = Step(255, bytes(32))
    longest = Proof(2**63 - 1, (step,) * PROOF_STEPS_MAX, OtherLeaf(bytes(32), bytes(32)))
    assert decode(Proof, encode(longest), bytes_max=PROOF_BYTES_MAX) == longest
    too_long = msgspec.structs.replace(longest, steps=(step,) * (PROOF_STEPS_MAX + 1))
    with pytest.raises(ProtocolViolation):
        decode(Proof, encode(too_long), bytes_max=2 * PROOF_BYTES_MAX)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32))
def test_proofs_of_a_large_tree_are_short(seed: int) -> None:
    tree = StateTree().update((b"%d/%d" % (seed, i), b"") for i in range(1_000))
    assert max(len(tree.prove(b"%d/%d" % (seed, i)).steps) for i in range(1_000)) < 40
