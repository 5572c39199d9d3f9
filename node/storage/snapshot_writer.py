"""Writes one snapshot from a node's block store, as a process beside the node. Reads LMDB, writes files.

    python -m node.storage.snapshot_writer STORE SNAPSHOTS HEIGHT KEEP

The node goes on voting and storing meanwhile: the store keeps what the newest UNDO_BLOCKS blocks replaced, so
the state of HEIGHT is still at hand when this process gets to it. Exit code 0: written, or there already; 1:
not possible (the state is gone, the block is not proved), in one line on standard error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from consensus.messages import SUFFIX_HEADERS_MAX, Block, Header, QuorumCertificate
from ledger.snapshot import cut
from node.storage.block_store import BlockStore
from node.storage.snapshots import SnapshotFiles, SnapshotHead, check_head
from primitives.codec import decode_own
from primitives.errors import OperatorError, ProtocolViolation

NICENESS = 10
"""Below the process that votes."""


def make_snapshot(store: BlockStore, height: int) -> tuple[SnapshotHead, list[bytes]]:
    """The state after a final block, with what proves it.

    Raises:
        OperatorError: it is too long ago, or nothing final stands upon it yet.
    """
    raw, leaves = store.block_at(height), store.leaves_at(height)
    if raw is None or leaves is None:
        raise OperatorError(f"the state of height {height} is not in the block store (any more)")
    headers, certificate = _proof_above(store, height)
    manifest, chunks = cut(height, leaves)
    block = decode_own(Block, raw)
    head = SnapshotHead(block.header.chain_id, manifest, block, headers, certificate)
    try:
        check_head(head, block.header.chain_id)
    except ProtocolViolation as violation:
        raise OperatorError(f"the state stored for height {height} is damaged: {violation.detail}") from None
    return head, chunks


def _proof_above(store: BlockStore, height: int) -> tuple[tuple[Header, ...], QuorumCertificate]:
    """The headers above, up to the first that a stored certificate is for."""
    headers: list[Header] = []
    while (raw := store.block_at(height + len(headers) + 1)) is not None:
        headers.append(decode_own(Block, raw).header)
        at = height + len(headers)
        raw_proof = store.proof_at(at)
        certificate = decode_own(QuorumCertificate, raw_proof) if raw_proof else None
        if certificate is not None and certificate.block == store.hash_at(at):
            return tuple(headers), certificate
        if len(headers) == SUFFIX_HEADERS_MAX:
            break
    raise OperatorError(f"no block above height {height} is stored with a proof of its own")


def main(arguments: list[str]) -> int:
    """Write one snapshot, then remove the older ones."""
    store_path, directory, height, keep = arguments
    os.nice(NICENESS)
    files = SnapshotFiles(Path(directory))
    try:
        store = BlockStore.open(Path(store_path), read_only=True)
        try:
            files.put(*make_snapshot(store, int(height)))
        finally:
            store.close()
        files.keep_newest(int(keep))
    except OperatorError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
