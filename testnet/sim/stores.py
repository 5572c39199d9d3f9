"""What a simulated validator has on its disk of the final chain, and how catch-up and forensics read it. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.effects import DeliverFinal, OpenedEpoch, ServeBlocks
from consensus.fork import EpochStep
from consensus.messages import Block, BlockResponse, EpochProof, Evidence, QuorumCertificate, hash_of
from consensus.state import FinalTip
from primitives.codec import encode


class FinalStore:
    """Final blocks on disk: each commit is one durable transaction, as LMDB gives it. Also a fork.ShownChain."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.proof: QuorumCertificate | None = None
        self.by_hash: dict[bytes, int] = {}
        self.evidence: list[Evidence] = []
        self.opened: list[tuple[OpenedEpoch, EpochProof]] = []
        """Every epoch that began here, and the proof that the one before is closed."""
        self.leaves: dict[bytes, bytes] = {}
        """The ledger's leaves at the tip, in exchange runs; written in the same transaction as the block."""
        self.proofs: dict[int, QuorumCertificate] = {}
        """Of the blocks with a proof of their own, by height."""

    def commit(self, delivered: DeliverFinal) -> tuple[Block, ...]:
        """Keep what is new; returns it."""
        fresh = tuple(block for block in delivered.blocks if block.header.height > len(self.blocks))
        for block in fresh:
            self.blocks.append(block)
            self.by_hash[hash_of(block.header)] = len(self.blocks)
        if fresh:
            self.proof = delivered.proof
            if self.by_hash.get(delivered.proof.block) == len(self.blocks):
                self.proofs[len(self.blocks)] = delivered.proof
        return fresh

    def wipe(self) -> None:
        """The disk is gone."""
        self.blocks, self.proof, self.by_hash, self.proofs = [], None, {}, {}
        self.leaves, self.evidence, self.opened = {}, [], []

    def tip(self) -> FinalTip | None:
        """Where a restart begins."""
        return FinalTip(self.blocks[-1], self.proof) if self.blocks else None

    def heights(self) -> tuple[int, int]:
        """Everything from genesis up to the highest block with a proof of its own, or at the end of its epoch."""
        boundary = self.opened[-1][0].first_height if self.opened else 0
        return 1, max(boundary, *self.proofs, 0)

    def block(self, height: int) -> Block:
        """A final block."""
        return self.blocks[height - 1]

    def proof_at(self, height: int) -> QuorumCertificate | None:
        """Its own proof."""
        return self.proofs.get(height)

    def step(self, epoch: int) -> EpochStep | None:
        """How this validator passed from `epoch` to the next."""
        if epoch >= len(self.opened):
            return None
        opened, closing = self.opened[epoch]
        return EpochStep(closing, opened.validators)

    def serve(self, effect: ServeBlocks, count_max: int) -> BlockResponse:
        """A block and its ancestors, downwards; at most `count_max`, if that is not 0."""
        request = effect.request
        height = self.by_hash.get(request.block, 0)
        lowest = max(request.height_above, height - min(request.count_max, count_max or request.count_max))
        return BlockResponse(request.block, tuple(self.blocks[at - 1] for at in range(height, lowest, -1)))


@dataclass(frozen=True, slots=True)
class _Height:
    height: int


class ServedStore:
    """A simulated store as the production's answers want it."""

    def __init__(self, store: FinalStore) -> None:
        self._store = store

    def tip(self) -> _Height | None:
        """The newest final block."""
        return _Height(len(self._store.blocks)) if self._store.blocks else None

    def block_at(self, height: int) -> bytes | None:
        """Encoded."""
        blocks = self._store.blocks
        return encode(blocks[height - 1]) if 0 < height <= len(blocks) else None

    def proof_at(self, height: int) -> bytes | None:
        """Encoded; of exactly this block."""
        proof = self._store.proofs.get(height)
        return None if proof is None else encode(proof)

    def hash_at(self, height: int) -> bytes | None:
        """The block's."""
        blocks = self._store.blocks
        return hash_of(blocks[height - 1].header) if 0 < height <= len(blocks) else None

    def proof_of(self, epoch: int) -> EpochProof | None:
        """Why it is closed."""
        opened = self._store.opened
        return opened[epoch][1] if epoch < len(opened) else None
