"""The whole state as chunks that can be checked one by one against a root that validators have signed. Pure.

The state tree is cut from the top: a part whose leaves fit a chunk is one, any other is cut at its branch. So
the same state gives the same chunks everywhere, and a chunk may come from anybody. The manifest names each
part's digest; they lead to the root, so it is believed or refused before the first chunk is asked for, and a
chunk with other leaves is refused on its own. Every leaf is in the tree, whatever table it belongs to.

    manifest, chunks = write(state)                            # or cut(height, leaves)
    check_manifest(manifest, height, root)                     # root: from the header of height + 1
    leaves = verify_chunk(manifest, index, raw)                # each as it comes
    state = restore(manifest, chunks, chain_id, genesis)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Annotated, NamedTuple

import msgspec

from ledger.genesis import LedgerGenesis
from ledger.reasons import SnapshotReason
from ledger.state import State
from ledger.state_tree import PATH_BITS, first_difference, part_digest, path_of, root_of_parts
from primitives.codec import U8, U63, Bytes32, Wire, decode, encode
from primitives.errors import ProtocolViolation

CHUNK_BYTES_MAX = 256 * 1024
"""A chunk of several leaves; more leaves make more chunks."""
LEAF_BYTES_MAX = 3 * 1024 * 1024
"""One leaf, alone in its chunk if it is longer than CHUNK_BYTES_MAX; a longer one is refused from others."""
CHUNKS_MAX = 65_536
"""16 GiB of leaves; a manifest with more is refused."""
MANIFEST_BYTES_MAX = 48 * CHUNKS_MAX
KEY_BYTES_MAX = 511
_LEAF_OVERHEAD_BYTES = 12
"""At most, in msgpack, beside key and value: so a chunk is never longer than it may be."""


class SnapshotLeaf(Wire):
    """One leaf of the state."""

    key: Annotated[bytes, msgspec.Meta(min_length=1, max_length=KEY_BYTES_MAX)]
    value: Annotated[bytes, msgspec.Meta(max_length=LEAF_BYTES_MAX)]


class Manifest(Wire):
    """The state after block `height`, in parts from left to right."""

    height: U63
    leaves: U63
    bits: Annotated[tuple[U8, ...], msgspec.Meta(max_length=CHUNKS_MAX)]
    """Where neighbouring parts' paths first differ."""
    parts: Annotated[tuple[Bytes32, ...], msgspec.Meta(max_length=CHUNKS_MAX)]
    """Each part's digest in the state tree."""


class _Entry(NamedTuple):
    path: int
    key: bytes
    value: bytes


def write(state: State) -> tuple[Manifest, list[bytes]]:
    """The state as it stands, whole."""
    return cut(state.clock.height, state.all_leaves())


def cut(height: int, leaves: Iterable[tuple[bytes, bytes]]) -> tuple[Manifest, list[bytes]]:
    """(key, value) of every leaf, in any order, as a manifest and its chunks."""
    entries = sorted(_Entry(path_of(key), key, value) for key, value in leaves)
    sizes = (len(one.key) + len(one.value) + _LEAF_OVERHEAD_BYTES for one in entries)
    ends = _ends(entries, list(accumulate(sizes, initial=_LEAF_OVERHEAD_BYTES)))
    parts, chunks, start = [], [], 0
    for end in ends:
        part = [(one.key, one.value) for one in entries[start:end]]
        parts.append(part_digest(part))
        chunks.append(encode(part))
        start = end
    bits = tuple(first_difference(entries[end - 1].path, entries[end].path) for end in ends[:-1])
    return Manifest(height, len(entries), bits, tuple(parts)), chunks


def _ends(entries: Sequence[_Entry], before: Sequence[int]) -> list[int]:
    """Where each chunk ends. `before[i]`: bytes of the entries before the i-th."""
    ends: list[int] = []
    waiting = [(0, len(entries))] if entries else []
    while waiting:
        low, high = waiting.pop()
        if high - low == 1 or before[high] - before[low] <= CHUNK_BYTES_MAX - _LEAF_OVERHEAD_BYTES:
            ends.append(high)
            continue
        first, last = entries[low].path, entries[high - 1].path
        shift = PATH_BITS - 1 - first_difference(first, last)
        middle = bisect_left(entries, (first >> shift | 1) << shift, low, high, key=lambda one: one.path)
        waiting += [(middle, high), (low, middle)]
    return ends


def manifest_root(manifest: Manifest) -> bytes:
    """The state root that the manifest's parts lead to. Raises ProtocolViolation when they are no tree's."""
    if len(manifest.bits) != max(0, len(manifest.parts) - 1):
        raise ProtocolViolation(
            SnapshotReason.WRONG_ROOT, "the manifest's parts and bits do not fit together"
        )
    return root_of_parts(manifest.leaves, manifest.parts, manifest.bits)


def check_manifest(manifest: Manifest, height: int, root: bytes) -> None:
    """That every chunk the manifest can accept is part of the state with this root.

    Raises:
        ProtocolViolation: WRONG_HEIGHT or WRONG_ROOT: whoever sent the manifest lies.
    """
    if manifest.height != height:
        raise ProtocolViolation(
            SnapshotReason.WRONG_HEIGHT, f"the manifest is of height {manifest.height}, not {height}"
        )
    if manifest_root(manifest) != root:
        raise ProtocolViolation(SnapshotReason.WRONG_ROOT, "the manifest does not lead to the signed root")


def verify_chunk(manifest: Manifest, index: int, raw: bytes) -> list[tuple[bytes, bytes]]:
    """(key, value) of the chunk's leaves, if they are exactly those of its part.

    Raises:
        ProtocolViolation: WRONG_CHUNK or what is wrong with the encoding: whoever sent the chunk lies.
    """
    if not 0 <= index < len(manifest.parts):
        raise ProtocolViolation(SnapshotReason.WRONG_CHUNK, f"there is no chunk {index}")
    leaves = decode(tuple[SnapshotLeaf, ...], raw, bytes_max=LEAF_BYTES_MAX + CHUNK_BYTES_MAX)
    pairs = [(leaf.key, leaf.value) for leaf in leaves]
    paths = [path_of(key) for key, _ in pairs]
    in_order = bool(paths) and all(one < other for one, other in pairwise(paths))
    if not in_order or part_digest(pairs) != manifest.parts[index]:
        raise ProtocolViolation(
            SnapshotReason.WRONG_CHUNK, f"the leaves of chunk {index} are not those of its part"
        )
    return pairs


def restore(manifest: Manifest, chunks: Iterable[bytes], chain_id: bytes, genesis: LedgerGenesis) -> State:
    """The state from all chunks, in order; the manifest was checked. Raises as verify_chunk.

    Raises:
        ProtocolViolation: also WRONG_HEIGHT, when the state's own clock tells another height.
    """
    leaves = [pair for index, raw in enumerate(chunks) for pair in verify_chunk(manifest, index, raw)]
    if len(leaves) != manifest.leaves:
        raise ProtocolViolation(SnapshotReason.WRONG_CHUNK, "there are chunks missing")
    state = State.from_leaves(chain_id, genesis, sorted(leaves))
    if state.clock.height != manifest.height:
        raise ProtocolViolation(
            SnapshotReason.WRONG_HEIGHT, f"the state is of height {state.clock.height}, not {manifest.height}"
        )
    return state
