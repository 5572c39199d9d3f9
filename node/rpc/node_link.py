"""The gateway's line to its node: calls and notices over the Unix socket. asyncio; reconnects by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from node.rpc.protocol import (
    ANSWER_BYTES_MAX,
    RAW_BYTES_MAX,
    RAWS_MAX,
    Answer,
    AnswerBody,
    Call,
    FrameBuffer,
    GetMetrics,
    GetStatus,
    MetricsReply,
    Notice,
    Refused,
    StatusReply,
    SubmitReplies,
    SubmitReply,
    SubmitTransactions,
    Subscribe,
    Subscribed,
    decode_from_node,
    frame,
)
from node.rpc.reasons import GatewayReason
from primitives.errors import ProtocolViolation

CALL_SECONDS_MAX = 5.0
"""A call that the node has not answered by then fails with TIMEOUT; its effect may still come."""
RECONNECT_SECONDS = 0.2
WAITING_MAX = 10_000
"""Transactions handed over and not answered yet; a further one is refused as BUSY."""

T = TypeVar("T")


class NodeLink:
    """One connection at a time. Calls raise ProtocolViolation with a GatewayReason."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._on_notice: Callable[[Notice], None] = lambda _: None
        self._on_connected: Callable[[], None] = lambda: None
        self._transport: asyncio.Transport | None = None
        self.is_connected = False
        """Whether the node is there and tells us its notices."""
        self._calls: dict[int, asyncio.Future[AnswerBody]] = {}
        self._next_id = 1
        self._outbox: list[tuple[bytes, asyncio.Future[SubmitReply]]] = []
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, on_notice: Callable[[Notice], None], on_connected: Callable[[], None]) -> None:
        """Who is told every notice, and that the node is (again) there."""
        self._on_notice, self._on_connected = on_notice, on_connected

    async def run(self) -> None:
        """Connect, subscribe, and again after every loss, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            lost = loop.create_future()
            with contextlib.suppress(OSError):
                transport, _ = await loop.create_unix_connection(lambda: _Wire(self, lost), str(self._path))  # noqa: B023
                self._transport = transport
                try:
                    await self._call(Subscribe(), Subscribed)
                    self.is_connected = True
                    self._on_connected()
                except ProtocolViolation:
                    transport.close()
                await lost
            await asyncio.sleep(RECONNECT_SECONDS)

    async def status(self) -> StatusReply:
        """Where the node stands."""
        return await self._call(GetStatus(), StatusReply)

    async def metrics(self) -> bytes:
        """Prometheus text of the node."""
        return (await self._call(GetMetrics(), MetricsReply)).text

    async def submit(self, raw: bytes) -> SubmitReply:
        """Hand over one transaction; all that come in one loop turn travel in one call."""
        if len(raw) > RAW_BYTES_MAX:
            raise ProtocolViolation(
                GatewayReason.BODY_TOO_LARGE, f"a transaction has at most {RAW_BYTES_MAX} bytes"
            )
        if self._waiting >= WAITING_MAX:
            raise ProtocolViolation(GatewayReason.BUSY, "too many transactions are being handed over")
        loop = asyncio.get_running_loop()
        if not self._outbox:
            loop.call_soon(self._flush)
        future: asyncio.Future[SubmitReply] = loop.create_future()
        self._outbox.append((raw, future))
        self._waiting += 1
        try:
            return await future
        finally:
            self._waiting -= 1

    def _flush(self) -> None:
        while self._outbox:
            batch, self._outbox = self._outbox[:RAWS_MAX], self._outbox[RAWS_MAX:]
            task = asyncio.create_task(self._submit_batch(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _submit_batch(self, batch: list[tuple[bytes, asyncio.Future[SubmitReply]]]) -> None:
        try:
            body = SubmitTransactions(tuple(raw for raw, _ in batch))
            replies = (await self._call(body, SubmitReplies)).replies
            for (_, future), reply in zip(batch, replies, strict=True):
                if not future.done():
                    future.set_result(reply)
        except ProtocolViolation as violation:
            for _, future in batch:
                if not future.done():
                    future.set_exception(violation)

    async def _call(self, body: SubmitTransactions | GetStatus | GetMetrics | Subscribe, kind: type[T]) -> T:
        transport = self._transport
        if transport is None:
            raise ProtocolViolation(GatewayReason.NODE_UNAVAILABLE, "the node is not reachable")
        number = self._next_id
        self._next_id = number % (2**32 - 1) + 1
        future: asyncio.Future[AnswerBody] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        transport.write(frame(Call(number, body)))
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                answer = await future
        except TimeoutError:
            raise ProtocolViolation(GatewayReason.TIMEOUT, "the node did not answer in time") from None
        finally:
            self._calls.pop(number, None)
        if isinstance(answer, Refused) or not isinstance(answer, kind):
            raise ProtocolViolation(GatewayReason.NODE_UNAVAILABLE, "the node refused the call")
        return answer

    def take(self, raw: bytes) -> None:
        """One message of the node. Raises ProtocolViolation if it is none."""
        message = decode_from_node(raw)
        if not isinstance(message, Answer):
            self._on_notice(message)
        elif (future := self._calls.get(message.id)) is not None and not future.done():
            future.set_result(message.body)

    def lose(self) -> None:
        """The connection is gone: fail what waits for it."""
        self._transport, self.is_connected = None, False
        gone = ProtocolViolation(GatewayReason.NODE_UNAVAILABLE, "the connection to the node was lost")
        for future in self._calls.values():
            if not future.done():
                future.set_exception(gone)


class _Wire(asyncio.Protocol):
    """Cuts what the node sends into messages."""

    def __init__(self, link: NodeLink, lost: asyncio.Future[None]) -> None:
        self._link = link
        self._lost = lost
        self._buffer = FrameBuffer(ANSWER_BYTES_MAX)
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for raw in self._buffer.feed(data):
                self._link.take(raw)
        except ProtocolViolation:
            if self._transport is not None:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._link.lose()
        if not self._lost.done():
            self._lost.set_result(None)
