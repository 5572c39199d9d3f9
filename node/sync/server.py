"""Answers nodes that catch up, from the block store and the epoch files: validators and followers alike. Trio, disk.

Whatever is asked, consensus does not notice: nothing here touches the core or the ledger, the disk is read on worker
threads, and gossip/request_response.py bounds what leaves in a second.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from gossip.limits import FOLLOWER_TRANSACTIONS, FOLLOWERS_TRANSACTIONS, TokenBucket
from gossip.network import BULK_MESSAGE_BYTES_MAX, PeerName
from node.messages import TransactionBundle
from node.storage.block_store import BlockStore
from node.storage.epoch_files import EpochFiles
from node.storage.snapshots import SnapshotFiles, StoredSnapshot
from node.sync.answers import ChainAnswers
from node.sync.messages import (
    OFFERS_MAX,
    Chunk,
    ChunkRequest,
    EpochFileRequest,
    EpochLink,
    Question,
    RangeRequest,
    Reply,
    SnapshotOffers,
    SnapshotRequest,
    Taken,
    TipRequest,
    decode_question,
)
from primitives.codec import encode
from primitives.errors import InvariantViolation, OperatorError

ALLOWANCES_MAX = 256
"""Followers whose allowance of transactions is remembered; the one that has been silent longest is forgotten."""
ANSWER_ROOM_BYTES = 64
"""What an answer is longer than the heads in it."""


class SyncServer:
    """What `Libp2pNetwork` asks when a peer asks."""

    def __init__(
        self,
        store: BlockStore,
        epochs: EpochFiles,
        snapshots: SnapshotFiles,
        epoch_blocks: int,
        on_bundle: Callable[[TransactionBundle], Awaitable[None]],
    ) -> None:
        """`epoch_blocks` 0: one endless epoch."""
        self._chain = ChainAnswers(store, epochs, epoch_blocks)
        self._epochs = epochs
        self._on_bundle = on_bundle
        self._allowances: dict[PeerName, TokenBucket] = {}
        self._all_followers = TokenBucket(FOLLOWERS_TRANSACTIONS, time.monotonic_ns())
        self._snapshots = snapshots
        self._open: dict[bytes, StoredSnapshot] = {}
        """The snapshots last offered, by name: their heads are read once."""

    async def answer(self, peer: PeerName, raw: bytes) -> bytes:
        """Encoded question in, encoded answer out. Raises ProtocolViolation when it is no question."""
        question = decode_question(raw)
        if isinstance(question, TransactionBundle):
            return encode(Taken(await self._take(peer, question)))
        return encode(await trio.to_thread.run_sync(self._answer, question))

    async def _take(self, peer: PeerName, bundle: TransactionBundle) -> int:
        """How many transactions were taken: all, or none when the follower or all of them are over their allowance."""
        now_ns, count = time.monotonic_ns(), len(bundle.transactions)
        own = self._allowances.pop(peer, None) or TokenBucket(FOLLOWER_TRANSACTIONS, now_ns)
        self._allowances[peer] = own
        while len(self._allowances) > ALLOWANCES_MAX:
            del self._allowances[next(iter(self._allowances))]
        if not (own.can_take(count, now_ns) and self._all_followers.can_take(count, now_ns)):
            return 0
        own.take(count)
        self._all_followers.take(count)
        await self._on_bundle(bundle)
        return count

    def _answer(self, question: Question) -> Reply:
        match question:
            case RangeRequest():
                return self._chain.range(question)
            case TipRequest(epoch=epoch):
                return self._chain.tip(epoch)
            case SnapshotRequest():
                return self._offers()
            case ChunkRequest(name=name, index=index):
                return self._chunk(name, index)
            case EpochFileRequest(epoch=epoch):
                return EpochLink(self._epochs.opened(epoch), self._epochs.proof_of(epoch - 1))
            case TransactionBundle():
                raise InvariantViolation("bundles are not answered from disk")

    def _offers(self) -> SnapshotOffers:
        """What fits one answer; a snapshot whose manifest does not is nobody's to fetch."""
        known = {one.height: one for one in self._open.values()}
        with suppress(OperatorError):  # Retention may remove one at any time.
            newest = self._snapshots.heights()[-OFFERS_MAX:]
            found = [known.get(height) or self._snapshots.open(height) for height in reversed(newest)]
            self._open = {one.head.name: one for one in found}
        heads: list[bytes] = []
        room = BULK_MESSAGE_BYTES_MAX - ANSWER_ROOM_BYTES
        for one in self._open.values():
            raw = encode(one.head)
            room -= len(raw)
            if room >= 0:
                heads.append(raw)
        return SnapshotOffers(tuple(heads))

    def _chunk(self, name: bytes, index: int) -> Chunk:
        snapshot = self._open.get(name)
        if snapshot is None or index >= snapshot.count:
            return Chunk(b"")
        try:
            return Chunk(snapshot.read_chunk(index))
        except OperatorError:
            return Chunk(b"")
