"""What a node answers to those who catch up: how far the chain is, and final blocks that prove themselves. Pure.

Every answer carries its proof, or is empty. The block store of a node and that of the simulator are asked alike.
"""

from __future__ import annotations

from typing import Protocol

from consensus.messages import SUFFIX_HEADERS_MAX, Block, EpochProof, Header, QuorumCertificate
from node.sync.messages import RANGE_BYTES_MAX, Range, RangeRequest, Tip
from primitives.codec import decode_own

TIP_BLOCKS_MAX = 64
"""How far below the newest block a proved one is looked for."""
HEADERS_MAX = 128
"""How far above a range its proof is looked for."""
NOTHING = Range((), (), None)


class StoredTip(Protocol):
    """The newest final block."""

    @property
    def height(self) -> int: ...


class StoredBlocks(Protocol):
    """Final blocks by height, as bytes (node/storage/block_store.py)."""

    def tip(self) -> StoredTip | None: ...
    def block_at(self, height: int) -> bytes | None: ...
    def proof_at(self, height: int) -> bytes | None: ...
    def hash_at(self, height: int) -> bytes | None: ...


class StoredEpochs(Protocol):
    """Why epochs are closed (node/storage/epoch_files.py)."""

    def proof_of(self, epoch: int) -> EpochProof | None: ...


class ChainAnswers:
    """From what is stored, and nothing else."""

    def __init__(self, store: StoredBlocks, epochs: StoredEpochs, epoch_blocks: int) -> None:
        """`epoch_blocks` 0: one endless epoch."""
        self._store = store
        self._epochs = epochs
        self._epoch_blocks = epoch_blocks

    def tip(self, epoch: int) -> Tip:
        """The newest block with a proof of its own, or why the epoch is over."""
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

    def range(self, request: RangeRequest) -> Range:
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
