"""The node's side of the Unix socket: answers calls and sends notices to subscribers. Trio sockets.

Nothing a client sends or fails to read can stop the node: frames are capped, each connection has its own
bounded queue, and an exception in a handler ends as a Refused answer and a log line. InvariantViolation
alone passes: then we are wrong, and the node must stop.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from node.rpc.protocol import (
    CALL_BYTES_MAX,
    Answer,
    AnswerBody,
    Call,
    FrameBuffer,
    GetMetrics,
    GetStatus,
    MetricsReply,
    Notice,
    Refused,
    RpcReason,
    StatusReply,
    SubmitReplies,
    SubmitReply,
    SubmitTransactions,
    Subscribed,
    decode_call,
    frame,
)
from primitives.errors import InvariantViolation, OperatorError, ProtocolViolation

CLIENTS_MAX = 32
"""Open connections; a further one is told TOO_MANY_CLIENTS and closed."""
CALLS_AT_ONCE_MAX = 64
"""Calls of one connection being answered; when reached, its next frame waits in the socket."""
QUEUE_FRAMES_MAX = 4_096
"""Frames waiting for one client. A notice that finds it full ends the connection as a slow consumer; answers
wait."""
WRITE_SECONDS_MAX = 10.0
"""A client that takes no bytes for this long is closed."""
READ_BYTES = 262_144
SOCKET_PATH_BYTES_MAX = 107
"""What Linux allows for the name of a Unix socket."""

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger()


class NodeHandler(Protocol):
    """What the node does for its socket."""

    async def submit(self, raws: Sequence[bytes]) -> Sequence[SubmitReply]:
        """One reply per raw transaction, in order."""

    def status(self) -> StatusReply:
        """Where the node stands now."""

    def metrics_text(self) -> bytes:
        """Prometheus text."""


class _Client:
    """One connection: its stream and what waits to be written to it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.is_subscribed = False
        self.send, self.receive = trio.open_memory_channel[bytes](QUEUE_FRAMES_MAX)
        self.slots = trio.CapacityLimiter(CALLS_AT_ONCE_MAX)
        self.writing = trio.Lock()
        self.cancel_scope = trio.CancelScope()


class NodeSocket:
    """Listens on `path` (0600). `run` once; `publish` from the same trio thread."""

    def __init__(self, path: Path, handler: NodeHandler) -> None:
        self.path = path
        self.counters: Counter[str] = Counter()
        """Calls by kind, refusals by reason, `connections`, `notices`."""
        self._handler = handler
        self._clients: dict[int, _Client] = {}
        self._next_client = 0

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once the socket accepts. Raises OperatorError if it cannot be
        bound."""
        listener = _listen(self.path)
        async with trio.open_nursery() as nursery:
            task_status.started()
            await trio.serve_listeners(self._serve, [listener], handler_nursery=nursery)

    def publish(self, notice: Notice) -> None:
        """Queue a notice for every subscriber; encoded once. A subscriber whose queue is full is closed."""
        raw: bytes | None = None
        for client in list(self._clients.values()):
            if not client.is_subscribed:
                continue
            raw = frame(notice) if raw is None else raw
            try:
                client.send.send_nowait(raw)
                self.counters["notices"] += 1
            except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
                self._refuse(client, RpcReason.SLOW_CONSUMER)

    @property
    def subscribers(self) -> int:
        """Connections that get notices."""
        return sum(client.is_subscribed for client in self._clients.values())

    def _refuse(self, client: _Client, reason: RpcReason) -> None:
        self.counters[reason.value] += 1
        client.is_subscribed = False
        client.cancel_scope.cancel()
        log.warning("rpc_client_closed", reason=reason.value)

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One connection, from accept to close; a barrier for everything but our own broken promises."""
        self.counters["connections"] += 1
        client = _Client(stream)
        number = self._next_client
        self._next_client += 1
        try:
            if len(self._clients) >= CLIENTS_MAX:
                await _last_words(client, RpcReason.TOO_MANY_CLIENTS, f"at most {CLIENTS_MAX} connections")
                return
            self._clients[number] = client
            with client.cancel_scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, client)
                    await self._read(client, nursery)
                    nursery.cancel_scope.cancel()
        except* InvariantViolation:
            raise
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self.counters["broken_connection"] += 1
        except* Exception as failure:
            self.counters["barrier"] += 1
            log.error("rpc_connection_failed", error=repr(failure.exceptions[0]))
        finally:
            self._clients.pop(number, None)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.aclose()

    async def _read(self, client: _Client, nursery: trio.Nursery) -> None:
        """Cut the stream into calls and start each; returns when the client is gone or broke the protocol."""
        buffer = FrameBuffer(CALL_BYTES_MAX)
        while data := await client.stream.receive_some(READ_BYTES):
            try:
                calls = [decode_call(body) for body in buffer.feed(data)]
            except ProtocolViolation as violation:
                self.counters[violation.reason.value] += 1
                await _last_words(client, violation.reason.value, violation.detail)
                return
            for call in calls:
                token = object()
                await client.slots.acquire_on_behalf_of(token)
                nursery.start_soon(self._answer, client, call, token)

    async def _answer(self, client: _Client, call: Call, token: object) -> None:
        try:
            self.counters[type(call.body).__name__] += 1
            try:
                body = await self._body(client, call)
            except InvariantViolation:
                raise
            except Exception as error:
                self.counters[RpcReason.INTERNAL.value] += 1
                log.error("rpc_call_failed", call=type(call.body).__name__, exc_info=error)
                body = Refused(RpcReason.INTERNAL.value, "the node failed to answer")
            await client.send.send(frame(Answer(call.id, body)))
        finally:
            client.slots.release_on_behalf_of(token)

    async def _body(self, client: _Client, call: Call) -> AnswerBody:
        match call.body:
            case SubmitTransactions(raws):
                return SubmitReplies(tuple(await self._handler.submit(raws)))
            case GetStatus():
                return self._handler.status()
            case GetMetrics():
                return MetricsReply(self._handler.metrics_text())
            case _:
                client.is_subscribed = True
                return Subscribed(self._handler.status().final_height)

    async def _write(self, client: _Client) -> None:
        """Send what waits, as much at a time as there is."""
        async for first in client.receive:
            chunk = bytearray(first)
            while len(chunk) < READ_BYTES:
                try:
                    chunk += client.receive.receive_nowait()
                except trio.WouldBlock:
                    break
            with trio.move_on_after(WRITE_SECONDS_MAX) as scope:
                async with client.writing:
                    await client.stream.send_all(bytes(chunk))
            if scope.cancelled_caught:
                self._refuse(client, RpcReason.SLOW_CONSUMER)


async def _last_words(client: _Client, reason: str, detail: str) -> None:
    with trio.move_on_after(1):
        async with client.writing:
            await client.stream.send_all(frame(Answer(0, Refused(reason, detail))))


def _listen(path: Path) -> trio.SocketListener:
    """A listening socket that only its owner can open; the home lock keeps other nodes from the path."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise OperatorError(
            f"the socket path {path} is longer than {SOCKET_PATH_BYTES_MAX} bytes: "
            "use a home directory with a shorter name"
        )
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(CLIENTS_MAX)
    except OSError as error:
        listening.close()
        raise OperatorError(f"cannot listen on the socket {path}: {error.strerror}") from None
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))
