"""The ledger and the final tip from the block store, as a node starts. Reads the disk, repairs the stored state.

Normally the stored leaves are the state. They are believed only if, without what the newest block changed,
they have the root which that block's header names; else the state is made again: from the newest snapshot
(or genesis) and the blocks above it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import msgspec
import structlog

from consensus.effects import JournalRecord
from consensus.epoch import genesis_block
from consensus.messages import Block, QuorumCertificate, hash_of
from consensus.state import FinalTip
from ledger.state import State
from ledger.state_tree import StateTree
from node.genesis import GenesisDocument, chain_id_of
from node.replay import HistoryDiffers, execute
from node.storage.block_store import BlockStore, FinalBlock
from node.storage.snapshots import SnapshotFiles, StoredSnapshot
from primitives.codec import decode_own, encode
from primitives.errors import OperatorError, ensure
from primitives.identifiers import BlockHash

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Restored:
    """What the disk remembers: the ledger at the final tip, that tip, and the journal of our own votes."""

    state: State
    tip: FinalTip | None
    tip_hash: BlockHash
    tip_height: int
    records: list[JournalRecord]


def restore(
    store: BlockStore, genesis: GenesisDocument, snapshots: SnapshotFiles, records: list[JournalRecord]
) -> Restored:
    """The state at the final tip; on the very first start the genesis state, stored as height 0.

    Raises:
        OperatorError: the stored state is damaged, and so is what it could be made from again.
    """
    chain_id = chain_id_of(genesis)
    tip = store.tip()
    if tip is None:
        state = State.from_genesis(genesis.ledger, chain_id)
        block = genesis_block(chain_id)
        block_hash = hash_of(block.header)
        leaves = state.all_leaves()
        store.commit(FinalBlock(0, block_hash, encode(block), b"", encode(()), leaves=leaves))
        return Restored(state, None, block_hash, 0, records)
    if is_intact(store):
        state = State.from_leaves(chain_id, genesis.ledger, store.leaves())
    else:
        log.error(
            "stored_state_damaged", height=tip.height, action="made again from a snapshot and the blocks"
        )
        state = rebuild(store, genesis, snapshots)
        store.replace_leaves(state.all_leaves())
    block = stored_block(store, tip.height)
    raw_proof = store.proof_at(tip.height)
    proof = decode_own(QuorumCertificate, raw_proof) if raw_proof else None
    final = FinalTip(block, proof) if tip.height else None
    return Restored(state, final, BlockHash(tip.block_hash), tip.height, records)


def is_intact(store: BlockStore) -> bool:
    """Whether the leaves before the newest block have the root that validators signed with it."""
    try:
        before = store.before_tip()
    except msgspec.MsgspecError:
        return False
    if before is None:
        # At genesis, or just made again or imported, both of which are checked when that is done.
        return True
    header = decode_own(Block, before.block).header
    return StateTree().update(before.leaves).root == header.parent_state_root


def rebuild(store: BlockStore, genesis: GenesisDocument, snapshots: SnapshotFiles) -> State:
    """The state at the tip from the newest snapshot that reads, else from genesis, and the blocks above it.

    Raises:
        OperatorError: no such start, or a block between it and the tip is missing or has other results.
    """
    tip = store.tip()
    ensure(tip is not None, "a store without blocks needs no rebuilding")
    height = 0 if tip is None else tip.height
    state = _start(genesis, snapshots, height)
    first = store.first_height()
    if first is None or first > state.clock.height + 1:
        raise OperatorError(
            f"the stored state is damaged, and the blocks from height {state.clock.height + 1} on that it could be "
            f"made from are not kept: remove the directory of blocks, and the node fetches the chain again"
        )
    try:
        for at in range(state.clock.height + 1, height + 1):
            execute(state, stored_block(store, at))
    except HistoryDiffers as difference:
        raise OperatorError(
            f"the stored state is damaged, and making it again failed ({difference}): remove the directory of "
            "blocks, and the node fetches the chain again"
        ) from None
    return state


def _start(genesis: GenesisDocument, snapshots: SnapshotFiles, at_most: int) -> State:
    for height in reversed([height for height in snapshots.heights() if height <= at_most]):
        try:
            return state_of(snapshots.open(height), genesis)
        except OperatorError as error:
            log.error("snapshot_damaged", height=height, why=str(error))
    return State.from_genesis(genesis.ledger, chain_id_of(genesis))


def state_of(snapshot: StoredSnapshot, genesis: GenesisDocument) -> State:
    """The state that a snapshot holds. Raises OperatorError when a file of it is damaged."""
    return State.from_leaves(chain_id_of(genesis), genesis.ledger, sorted(snapshot.leaves()))


def install(store: BlockStore, snapshot: StoredSnapshot) -> None:
    """Make an empty store stand on a snapshot: its block is the tip, its leaves the state.

    The snapshot's head was checked against trusted validators (node.storage.snapshots.check_head).
    """
    ensure(store.tip() is None, "a snapshot is installed into an empty store")
    head, header = snapshot.head, snapshot.head.block.header
    store.commit(
        FinalBlock(
            height=header.height,
            block_hash=hash_of(header),
            block=encode(head.block),
            proof=b"",
            events=encode(()),
            leaves=list(snapshot.leaves()),
            epoch=header.epoch,
            view=header.view,
            time_ns=header.time_ns,
        )
    )


def stored_block(store: BlockStore, height: int) -> Block:
    """A block of the store. Raises OperatorError when it is missing or damaged."""
    with suppress(msgspec.MsgspecError):
        block = decode_own(Block, store.block_at(height) or b"")
        if hash_of(block.header) == store.hash_at(height):
            return block
    raise OperatorError(f"block {height} is missing from the block store, or damaged")
