"""Which blocks to ask for, and from whom; and the final blocks that we still have to reach. Pure.

A target of catch-up comes only from a certificate, never from a peer's claim (consensus.md sections 8 and
16).
"""

from __future__ import annotations

from collections.abc import Collection

from consensus.messages import BLOCKS_PER_RESPONSE_MAX, BlockRequest, QuorumCertificate
from primitives.identifiers import BlockHash, ValidatorIndex

FETCHES_MAX = 16
"""Block requests in flight. Further wishes are dropped: each retry derives them anew from what is missing."""


class Fetcher:
    """Asks one peer at a time for each missing block; another one at each retry."""

    def __init__(self, count: int, own_index: int | None) -> None:
        self._peers = [ValidatorIndex(i) for i in range(count) if i != own_index]
        self._in_flight: dict[BlockHash, int] = {}
        self._turn = 0

    def ask(
        self, block: BlockHash, final_height: int, hint: ValidatorIndex | None = None
    ) -> tuple[ValidatorIndex, BlockRequest] | None:
        """Whom to send which request; None when it is already asked for, or too much is."""
        if not self._peers or block in self._in_flight or len(self._in_flight) >= FETCHES_MAX:
            return None
        self._in_flight[block] = final_height
        peer = hint if hint in self._peers else self.next_peer()
        return peer, BlockRequest(block, final_height, BLOCKS_PER_RESPONSE_MAX)

    def next_peer(self) -> ValidatorIndex:
        """Every peer in turn. There must be one."""
        self._turn += 1
        return self._peers[self._turn % len(self._peers)]

    def has_peers(self) -> bool:
        """Whether there is anybody to ask."""
        return bool(self._peers)

    def answered(self, block: BlockHash) -> bool:
        """Whether this answer was asked for; it is no longer in flight."""
        return self._in_flight.pop(block, None) is not None

    def retry(self) -> None:
        """Forget what is in flight: whatever is still missing is asked for again, from the next peer."""
        self._in_flight.clear()


class FinalTargets:
    """Blocks proved final that are not delivered yet, from the highest down to the next to connect."""

    def __init__(self) -> None:
        self.proof: QuorumCertificate | None = None
        self._blocks: list[BlockHash] = []

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def prove(self, proof: QuorumCertificate) -> None:
        """Take a higher finality proof as the target; what lies below it stays proved."""
        if self.proof is not None and proof.view <= self.proof.view:
            return
        self.proof = proof
        if len(self._blocks) > 1:
            self._blocks[0] = BlockHash(proof.block)
        else:
            self._blocks.insert(0, BlockHash(proof.block))

    def bound(self, block: BlockHash, proof: QuorumCertificate) -> None:
        """`block` is the last one that will ever be delivered here, proved by `proof` for it or a descendant."""
        self.proof = proof
        self._blocks = [block]

    def descend(self, block: BlockHash) -> None:
        """`block` is an ancestor of the lowest target, by its header: reach it first."""
        if block not in self._blocks:
            self._blocks.append(block)

    def forget(self, delivered: Collection[BlockHash]) -> None:
        """These blocks are delivered, by whatever way."""
        self._blocks = [block for block in self._blocks if block not in delivered]

    def lowest(self) -> BlockHash:
        """The next block to connect to the final tip."""
        return self._blocks[-1]

    def reached(self) -> None:
        """The lowest target is delivered."""
        self._blocks.pop()
