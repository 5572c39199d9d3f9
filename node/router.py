"""Frames from other validators to the service they are for, behind one fault barrier. Trio.

A ProtocolViolation is counted and blamed on the sender; any other exception is a bug of ours and ends the process:
a stopped validator is safe, a wrong one is not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from gossip.network import Inbound, Lane, Network, Topic
from gossip.reasons import GossipReason
from node.consensus_service import ConsensusService
from node.messages import ReportMessage, TransactionBundle, decode_message
from node.metrics import NodeMetrics
from node.oracle_service import ReportPool
from node.transaction_service import TransactionService
from node.verifier import SignatureVerifier
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex
from primitives.reasons import CodecReason

log = structlog.get_logger()


class Router:
    """Reads both lanes; the vote lane has its own task, so that bulk work never holds up a vote."""

    def __init__(
        self,
        *,
        network: Network,
        consensus: ConsensusService,
        transactions: TransactionService,
        reports: ReportPool,
        verifier: SignatureVerifier,
        metrics: NodeMetrics,
        on_final_block: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> None:
        """`on_final_block`: a follower's ear; None for a validator, to whom topics decide nothing."""
        self._network = network
        self._consensus = consensus
        self._transactions = transactions
        self._reports = reports
        self._verifier = verifier
        self._metrics = metrics
        self._on_final_block = on_final_block

    async def run(self) -> None:
        """Route until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, self._network.votes)
            nursery.start_soon(self._read, self._network.bulk)

    async def _read(self, inbox: trio.MemoryReceiveChannel[Inbound]) -> None:
        async for inbound in inbox:
            for raw in inbound.messages:
                try:
                    await self._take(inbound, raw)
                except ProtocolViolation as violation:
                    reason = violation.reason.value
                    self._metrics.count("message_refused", reason)
                    log.warning("message_refused", peer=inbound.peer, reason=reason, detail=violation.detail)
                    self._network.penalise(inbound.peer, GossipReason.INVALID_MESSAGE)

    async def _take(self, inbound: Inbound, raw: bytes) -> None:
        peer, lane = inbound.peer, inbound.lane
        if lane is Topic.FINAL_BLOCKS and self._on_final_block is not None:
            await self._on_final_block(raw)
        elif isinstance(lane, Lane) and not isinstance(peer, str):
            await self._take_message(peer, lane, raw)

    async def _take_message(self, peer: ValidatorIndex, lane: Lane, raw: bytes) -> None:
        message = decode_message(lane, raw)
        if isinstance(message, TransactionBundle):
            await self._transactions.receive(message)
        elif isinstance(message, ReportMessage):
            time_ns, check = self._reports.check(message.report)
            if not await self._verifier.all_valid([check]):
                raise ProtocolViolation(CodecReason.BAD_SIGNATURE, "an oracle report does not verify")
            self._reports.add(time_ns, message.report)
        else:
            await self._consensus.receive(peer, message)
