"""The state root: an authenticated map from keys to leaf bytes, with proofs that fit a light client. Pure.

A binary radix tree over digest(key) without one-armed branches: its shape, and so its root, depends on the
content only, never on the order of changes. Trees are immutable and share what did not change, so undo is
keeping the old tree, and an update costs one digest per branch above a changed leaf, shared by a batch.

    leaf   = H("quorate-st-leaf",   path || H("quorate-st-value", value))
    branch = H("quorate-st-node",   bit || left || right)      bit: where its two halves' paths first differ
    root   = H("quorate-st-root",   leaves || branch or leaf)  leaves: how many, 8 bytes, big endian
    path   = H("quorate-st-key",    key)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, ClassVar

import msgspec

from primitives.codec import U8, U63, Bytes32, Wire
from primitives.errors import ProtocolViolation
from primitives.hashing import DIGEST_BYTES, digest

PATH_BITS = 8 * DIGEST_BYTES
PROOF_STEPS_MAX = PATH_BITS
"""A path has no more branches; honest keys need about log2(leaves) + 3. Longer ones are refused."""
PROOF_BYTES_MAX = 10_000
"""The longest encoded Proof: 256 steps of at most 37 bytes."""

PATHS_KEPT = 16_384
"""Keys whose paths are remembered, the newest asked: the same accounts write in block after block."""

_EMPTY = bytes(DIGEST_BYTES)
"""Stands for the top of a tree without leaves."""


class ProofReason(StrEnum):
    """Why a proof is refused."""

    ROOT_MISMATCH = "proof_root_mismatch"
    """The digests do not lead to the root: key, value, proof or root is another tree's."""
    NOT_AN_ABSENCE = "proof_not_an_absence"
    """Offered for an absent key, but the leaf shown is the key's own, or not where the key would lead."""
    NOT_A_PRESENCE = "proof_not_a_presence"
    """Offered for a present key, but it shows another leaf."""


class Step(Wire, frozen=True):
    """One branch on the way from the root: the bit it decides and the digest of the half not taken."""

    bit: U8
    sibling: Bytes32


class OtherLeaf(Wire, frozen=True):
    """The leaf that stands where an absent key would lead."""

    path: Bytes32
    value_digest: Bytes32


class Proof(Wire, frozen=True):
    """Presence (`other` is None) or absence of one key; an empty tree's has neither steps nor `other`."""

    leaves: U63
    steps: Annotated[tuple[Step, ...], msgspec.Meta(max_length=PROOF_STEPS_MAX)]
    other: OtherLeaf | None


class _Leaf(msgspec.Struct, frozen=True, gc=False):
    path: int
    value_digest: bytes
    digest: bytes
    leaves: ClassVar[int] = 1


class _Branch(msgspec.Struct, frozen=True, gc=False):
    """`some_path` is the path of one leaf below: all agree in the bits before `bit`."""

    bit: int
    some_path: int
    leaves: int
    left: _Leaf | _Branch
    right: _Leaf | _Branch
    digest: bytes


_Node = _Leaf | _Branch
_Changes = tuple[list[int], list[bytes | None]]
"""Paths, ascending, each once; and for each the value's digest, or None to remove it."""


class StateTree:
    """An immutable map from keys to leaf bytes; it keeps digests only, the values stay with the caller."""

    __slots__ = ("_top", "root")

    root: bytes
    """32 bytes that commit to every key, every value and their number."""

    def __init__(self, _top: _Node | None = None) -> None:
        self._top = _top
        self.root = _root_digest(len(self), _top.digest if _top else _EMPTY)

    def __len__(self) -> int:
        return self._top.leaves if self._top else 0

    def update(self, changes: Iterable[tuple[bytes, bytes | None]]) -> StateTree:
        """The tree after setting keys to leaf bytes, or removing them (None; absent ones are no matter).

        A key named twice takes its last change. The old tree stays valid; it is returned if nothing is new.
        """
        last = {path_of(key): None if value is None else _value_digest(value) for key, value in changes}
        if not last:
            return self
        paths = sorted(last)
        top = _changed(self._top, (paths, [last[path] for path in paths]), 0, len(paths))
        return self if top is self._top else StateTree(top)

    def prove(self, key: bytes) -> Proof:
        """Proof of the key's presence or absence, checked by verify_proof against this tree's root."""
        path, node, steps = path_of(key), self._top, []
        while isinstance(node, _Branch):
            taken, other = (node.right, node.left) if _bit(path, node.bit) else (node.left, node.right)
            steps.append(Step(node.bit, other.digest))
            node = taken
        found = None
        if node is not None and node.path != path:
            found = OtherLeaf(node.path.to_bytes(DIGEST_BYTES, "big"), node.value_digest)
        return Proof(len(self), tuple(steps), found)


def verify_proof(root: bytes, key: bytes, value: bytes | None, proof: Proof) -> None:
    """Check that under `root` the key has this value, or, with None, that it has none.

    A branch's bit and halves are under the root, so an absent key's own bits lead to exactly one leaf;
    showing another key's leaf at that place proves the absence.

    Args:
        root: 32 bytes that the caller trusts.
        proof: from a stranger, decoded by primitives.codec.decode with PROOF_BYTES_MAX.

    Raises:
        ProtocolViolation: with a ProofReason.
    """
    path, other = path_of(key), proof.other
    if value is not None:
        if other is not None:
            raise ProtocolViolation(ProofReason.NOT_A_PRESENCE, "the proof shows another key's leaf")
        top = _leaf_digest(path, _value_digest(value))
    elif other is not None:
        other_path = int.from_bytes(other.path, "big")
        leads_there = all(_bit(path, step.bit) == _bit(other_path, step.bit) for step in proof.steps)
        if other_path == path or not leads_there:
            raise ProtocolViolation(
                ProofReason.NOT_AN_ABSENCE, "the leaf shown does not stand in the key's place"
            )
        top = _leaf_digest(other_path, other.value_digest)
    else:
        if proof.leaves or proof.steps:
            raise ProtocolViolation(ProofReason.NOT_AN_ABSENCE, "no leaf is shown, and the tree is not empty")
        top = _EMPTY
    for step in reversed(proof.steps):
        halves = (step.sibling, top) if _bit(path, step.bit) else (top, step.sibling)
        top = _branch_digest(step.bit, *halves)
    if _root_digest(proof.leaves, top) != root:
        raise ProtocolViolation(ProofReason.ROOT_MISMATCH, "the proof does not lead to the root")


@lru_cache(maxsize=PATHS_KEPT)
def path_of(key: bytes) -> int:
    """Where a key stands in the tree: the 256 bits of its digest."""
    return int.from_bytes(digest(b"quorate-st-key", key), "big")


def _bit(path: int, bit: int) -> int:
    return path >> (PATH_BITS - 1 - bit) & 1


def _value_digest(value: bytes) -> bytes:
    return digest(b"quorate-st-value", value)


def _leaf_digest(path: int, value_digest: bytes) -> bytes:
    return digest(b"quorate-st-leaf", path.to_bytes(DIGEST_BYTES, "big") + value_digest)


def _branch_digest(bit: int, left: bytes, right: bytes) -> bytes:
    return digest(b"quorate-st-node", bit.to_bytes(1, "big") + left + right)


def _root_digest(leaves: int, top: bytes) -> bytes:
    return digest(b"quorate-st-root", leaves.to_bytes(8, "big") + top)


def _changed(node: _Node | None, changes: _Changes, low: int, high: int) -> _Node | None:
    """`node` after changes[low:high], at least one; shares what they do not touch."""
    paths, value_digests = changes
    if node is None or isinstance(node, _Leaf):
        if high - low == 1 and (node is None or node.path == paths[low]):
            return _leaf(node, paths[low], value_digests[low])
        leaves = {paths[i]: value_digests[i] for i in range(low, high)}
        if node is not None:
            leaves.setdefault(node.path, node.value_digest)
        kept = [(path, value) for path, value in sorted(leaves.items()) if value is not None]
        if node is not None and kept == [(node.path, node.value_digest)]:
            return node
        return _built(kept, 0, len(kept)) if kept else None
    some_path = node.some_path
    differing = (paths[low] ^ some_path) | (paths[high - 1] ^ some_path)
    bit = min(PATH_BITS - differing.bit_length(), node.bit)
    # Sorted paths that agree with the node before `bit` part there: zeros below the threshold, ones from it.
    shift = PATH_BITS - 1 - bit
    middle = bisect_left(paths, (some_path >> shift | 1) << shift, low, high)
    left: _Node | None = None
    right: _Node | None = None
    if bit == node.bit:
        left, right = node.left, node.right
    elif _bit(some_path, bit):
        right = node
    else:
        left = node
    new_left = _changed(left, changes, low, middle) if low < middle else left
    new_right = _changed(right, changes, middle, high) if middle < high else right
    if new_left is node.left and new_right is node.right:
        return node
    if new_left is None or new_right is None:  # No branch has one arm.
        return new_right if new_left is None else new_left
    return _branch(bit, new_left, new_right)


def _leaf(before: _Leaf | None, path: int, value_digest: bytes | None) -> _Leaf | None:
    """The leaf that stands on a path after a change of its value; `before` if it is no change."""
    if value_digest is None:
        return None
    if before is not None and before.value_digest == value_digest:
        return before
    return _Leaf(path, value_digest, _leaf_digest(path, value_digest))


def _built(leaves: list[tuple[int, bytes]], low: int, high: int) -> _Node:
    """A tree of leaves[low:high], at least one, sorted by path."""
    path, value = leaves[low]
    if high - low == 1:
        return _Leaf(path, value, _leaf_digest(path, value))
    bit = first_difference(path, leaves[high - 1][0])
    shift = PATH_BITS - 1 - bit
    middle = bisect_left(leaves, ((path >> shift | 1) << shift, b""), low, high)
    return _branch(bit, _built(leaves, low, middle), _built(leaves, middle, high))


def _branch(bit: int, left: _Node, right: _Node) -> _Branch:
    some_path = left.path if isinstance(left, _Leaf) else left.some_path
    halves = _branch_digest(bit, left.digest, right.digest)
    return _Branch(bit, some_path, left.leaves + right.leaves, left, right, halves)


def first_difference(left: int, right: int) -> int:
    """The first bit in which two paths differ; PATH_BITS when they are equal."""
    return PATH_BITS - (left ^ right).bit_length()


def part_digest(leaves: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Digest of the branch or leaf that stands over these (key, value), at least one, ascending by path_of(key)."""
    return _built([(path_of(key), _value_digest(value)) for key, value in leaves], 0, len(leaves)).digest


def root_of_parts(leaves: int, digests: Sequence[bytes], bits: Sequence[int]) -> bytes:
    """The root of a tree of so many leaves that was cut into parts, given each part's digest from left to right.

    `bits`: where neighbours part, one fewer than parts. Bits of no tree give some other root.
    """
    if not digests:
        return _root_digest(leaves, _EMPTY)
    # Each open entry waits for its right half; a smaller bit stands above and closes those below it.
    waiting: list[tuple[int, bytes]] = []
    top = digests[0]
    for bit, following in zip(bits, digests[1:], strict=True):
        while waiting and waiting[-1][0] > bit:
            below, left = waiting.pop()
            top = _branch_digest(below, left, top)
        waiting.append((bit, top))
        top = following
    for bit, left in reversed(waiting):
        top = _branch_digest(bit, left, top)
    return _root_digest(leaves, top)
