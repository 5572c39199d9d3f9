"""What the gateway knows of its node now: status, readiness, metrics, transactions on their way. asyncio."""

from __future__ import annotations

from typing import Literal

from node.rpc.access import Access
from node.rpc.answers import (
    HealthAnswer,
    ReadyAnswer,
    StatusAnswer,
    TipAnswer,
    TransactionAnswer,
    status_answer,
)
from node.rpc.api_route import Reply
from node.rpc.node_link import NodeLink
from node.rpc.order_entry import OrderEntry
from node.rpc.queries import Queries
from node.rpc.streams import Streams
from primitives.errors import ProtocolViolation

READY_LAG_MS_MAX = 30_000
"""A node whose newest final block is older than this, in real time, is behind."""


class Live:
    """The line to the node, and what the gateway itself remembers."""

    def __init__(
        self,
        *,
        access: Access,
        link: NodeLink,
        queries: Queries,
        orders: OrderEntry,
        streams: Streams,
        market_speed: int,
    ) -> None:
        self._access = access
        self._link = link
        self._queries = queries
        self._orders = orders
        self._streams = streams
        self._market_speed = market_speed

    async def status(self) -> StatusAnswer | TipAnswer:
        """The node's own status; when it is away, what is stored."""
        try:
            return status_answer(await self._link.status())
        except ProtocolViolation:
            return self._queries.tip()

    def health(self) -> Reply:
        """200 with a node, 503 without."""
        if self._link.is_connected:
            return Reply(200, HealthAnswer(status="ok"))
        return Reply(503, HealthAnswer(status="node_unavailable"))

    async def ready(self) -> Reply:
        """200 when clients are well served here."""
        try:
            status = await self._link.status()
        except ProtocolViolation:
            away = ReadyAnswer(
                ready=False, reason="node_unavailable", final_height=self._queries.height, lag_ms=-1
            )
            return Reply(503, away)
        lag_ms = (status.market_time_ns - status.block_time_ns) // (1_000_000 * self._market_speed)
        reason: Literal["", "halted", "behind"] = (
            "halted" if status.halted else "behind" if lag_ms > READY_LAG_MS_MAX else ""
        )
        answer = ReadyAnswer(ready=not reason, reason=reason, final_height=status.final_height, lag_ms=lag_ms)
        return Reply(200 if answer.ready else 503, answer)

    async def metrics(self) -> bytes:
        """Prometheus text."""
        answers = (
            f'quorate_gateway_answers_total{{status="{status}"}} {count}\n'
            for status, count in sorted(self._access.statuses.items())
        )
        return await self._link.metrics() + "".join(answers).encode() + self._streams.metrics_text()

    def transaction(self, name: bytes) -> TransactionAnswer:
        """From the store when it is final, else as far as this gateway has heard. Raises NOT_FOUND."""
        try:
            return self._queries.transaction(name)
        except ProtocolViolation:
            if name not in self._orders.progress:
                raise
        stage, height = self._orders.progress[name]
        return TransactionAnswer(transaction_id=name, status=stage, height=height, events=())  # type: ignore[arg-type]
