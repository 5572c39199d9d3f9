"""Answers nodes that catch up, from the block store and the epoch files: validators and followers alike. Trio, disk.

Whatever is asked, consensus does not notice: nothing here touches the core or the ledger, the disk is read on worker
threads, and gossip/request_response.py bounds what leaves in a second.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from consensus.messages import SUFFIX_HEADERS_MAX, Block, EpochProof, Header, QuorumCertificate
from gossip.limits import FOLLOWER_TRANSACTIONS, FOLLOWERS_TRANSACTIONS, TokenBucket
from gossip.network import BULK_MESSAGE_BYTES_MAX, PeerName
from node.messages import TransactionBundle
from node.storage.block_store import BlockStore
from node.storage.epoch_files import EpochFiles
from node.storage.snapshots import SnapshotFiles, StoredSnapshot
from node.sync.messages import (
    OFFERS_MAX,
    RANGE_BYTES_MAX,
    Chunk,
    ChunkRequest,
    EpochFileRequest,
    EpochLink,
    Question,
    Range,
    RangeRequest,
    Reply,
    SnapshotOffers,
    SnapshotRequest,
    Taken,
    Tip,
    TipRequest,
    decode_question,
)
from primitives.codec import decode_own, encode
from primitives.errors import InvariantViolation, OperatorError

TIP_BLOCKS_MAX = 64
"""How far below the newest block a proved one is looked for."""
ALLOWANCES_MAX = 256
"""Followers whose allowance of transactions is remembered; the one that has been silent longest is forgotten."""
ANSWER_ROOM_BYTES = 64
"""What an answer is longer than the heads in it."""
HEADERS_MAX = 128
"""How far above a range its proof is looked for."""
NOTHING = Range((), (), None)


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
        self._store = store
        self._epochs = epochs
        self._epoch_blocks = epoch_blocks
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
                return self._range(question)
            case TipRequest(epoch=epoch):
                return self._tip(epoch)
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

    def _tip(self, epoch: int) -> Tip:
        closing = self._epochs.proof_of(epoch)
        if closing is not None:
            return Tip(None, None, closing)
        tip = self._store.tip()
        height = 0 if tip is None else tip.height
        for at in range(height, max(0, height - TIP_BLOCKS_MAX), -1):
            proof = self._own_proof(at)
            if proof is not None:
                return Tip(self._header(at), proof, None)
        return Tip(None, None, None)

    def _range(self, request: RangeRequest) -> Range:
        """Blocks up to the last that fits; below it if only there a proof is near."""
        raws: list[bytes] = []
        size = 0
        last = self._last_of_epoch(request.height_first, request.height_first + request.count_max - 1)
        for height in range(request.height_first, last + 1):
            raw = self._store.block_at(height)
            if raw is None or (raws and size + len(raw) > RANGE_BYTES_MAX):
                break
            raws.append(raw)
            size += len(raw)
        for count in range(len(raws), 0, -1):
            proof = self._own_proof(request.height_first + count - 1)
            if proof is not None:
                return Range(tuple(raws[:count]), (), proof)
        return self._proved_from_above(request.height_first + len(raws) - 1, raws) if raws else NOTHING

    def _last_of_epoch(self, first: int, last: int) -> int:
        if not self._epoch_blocks:
            return last
        return min(last, -(-first // self._epoch_blocks) * self._epoch_blocks)

    def _proved_from_above(self, height: int, raws: list[bytes]) -> Range:
        """No block of the range has a proof: lead on to the next one that has, or to the end of the epoch."""
        headers: list[Header] = []
        end = self._last_of_epoch(height, height + HEADERS_MAX)
        for at in range(height, end + 1):
            if at > height:
                header = self._header(at)
                if header is None:
                    return NOTHING
                headers.append(header)
                proof = self._own_proof(at)
                if proof is not None:
                    return Range(tuple(raws), tuple(headers), proof)
        closing = self._closing_at(end)
        if closing is None or len(headers) + len(closing.headers) > SUFFIX_HEADERS_MAX:
            return NOTHING
        return Range(tuple(raws), (*headers, *closing.headers[1:]), closing.certificate)

    def _closing_at(self, height: int) -> EpochProof | None:
        if not self._epoch_blocks or height % self._epoch_blocks:
            return None
        return self._epochs.proof_of(height // self._epoch_blocks - 1)

    def _own_proof(self, height: int) -> QuorumCertificate | None:
        """The proof of exactly this block."""
        raw = self._store.proof_at(height)
        if raw is None:
            return None
        proof = decode_own(QuorumCertificate, raw)
        return proof if proof.block == self._store.hash_at(height) else None

    def _header(self, height: int) -> Header | None:
        raw = self._store.block_at(height)
        return None if raw is None else decode_own(Block, raw).header
