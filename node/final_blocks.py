"""What follows finality: execution and storage, then notices to clients and followers. Trio.

Storage comes first: whatever a client or follower is told is already durable here.
"""

from __future__ import annotations

import structlog

from consensus.messages import QuorumCertificate
from gossip.network import Network, Topic
from ledger.transactions import transaction_id
from node.clock import MarketClock
from node.consensus_service import ConsensusService
from node.ledger_service import FinalResult, LedgerService
from node.messages import FinalBlockMessage
from node.metrics import NodeMetrics
from node.rpc.node_socket import NodeSocket
from node.rpc.protocol import BlockTiming, FinalBlockNotice
from node.tracing import trace
from primitives.codec import encode

log = structlog.get_logger()


class FinalBlocks:
    """Takes final blocks from consensus, in order, and tells everybody whom they concern."""

    def __init__(
        self,
        *,
        consensus: ConsensusService,
        ledger: LedgerService,
        network: Network,
        socket: NodeSocket,
        metrics: NodeMetrics,
        clock: MarketClock,
        own_index: int | None,
    ) -> None:
        self._consensus = consensus
        self._ledger = ledger
        self._network = network
        self._socket = socket
        self._metrics = metrics
        self._clock = clock
        self._own_index = own_index

    async def run(self) -> None:
        """Serve until cancelled."""
        async for delivery in self._consensus.final_blocks:
            with self._metrics.time_store():
                results = await self._ledger.finalize(delivery.blocks, delivery.proof)
            for result in results:
                self._tell(result, delivery.proof, delivery.is_fast, delivery.final_ns)

    def _tell(self, result: FinalResult, proof: QuorumCertificate, is_fast: bool, final_ns: int) -> None:
        header = result.block.header
        seen_ns = self._consensus.seen_ns.get(result.block_hash)
        finality_us = (final_ns - seen_ns) // 1_000 if seen_ns is not None else None
        self._metrics.on_final(result.height, finality_us, is_fast)
        (log.debug if self._consensus.is_catching_up else log.info)(
            "block_final",
            height=result.height,
            view=header.view,
            root=result.result.root.hex()[:16],
            transactions=len(result.block.transactions) - 1,
            fast=is_fast,
            finality_us=finality_us,
        )
        trace("final", map(transaction_id, result.block.transactions[1:]), height=result.height)
        self._socket.publish(
            FinalBlockNotice(
                result.height,
                result.block_hash,
                result.result.root,
                header.time_ns,
                self._clock.now_ns(),
                encode(result.result.events),
            )
        )
        if seen_ns is not None:
            self._socket.publish(
                BlockTiming(
                    result.height,
                    result.block_hash,
                    header.proposer,
                    self._consensus.proposed_ns.get(result.block_hash, 0),
                    final_ns,
                    is_fast,
                    proof.signers,
                )
            )
        if header.proposer == self._own_index and proof.block == result.block_hash:
            self._network.publish(Topic.FINAL_BLOCKS, encode(FinalBlockMessage(result.block, proof)))
