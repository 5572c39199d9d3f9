"""A client of the node's Unix socket on trio: testnets, tests, the command line. Trio sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from node.rpc.protocol import (
    ANSWER_BYTES_MAX,
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
    Subscribe,
    Subscribed,
    decode_from_node,
    frame,
)
from primitives.errors import ProtocolViolation

NOTICES_MAX = 4_096
"""Notices not read yet; when full, reading from the node waits, and the node closes us as a slow consumer."""

T = TypeVar("T")


class CallRefused(Exception):
    """The node refused the call or the connection; `reason` is an RpcReason value."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class NodeClient:
    """One connection. Calls may overlap; notices come in order through `notices` after `subscribe`.

    Every method raises trio.BrokenResourceError once the node is gone.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        """Use `open_node_client`."""
        self._stream = stream
        self._send_lock = trio.Lock()
        self._next_id = 1
        self._waiting: dict[int, trio.MemorySendChannel[AnswerBody]] = {}
        self._notice_send, self.notices = trio.open_memory_channel[Notice](NOTICES_MAX)

    async def submit(self, raws: Sequence[bytes]) -> tuple[SubmitReply, ...]:
        """Hand over encoded SignedTransactions; one reply each, in order."""
        return (await self._call(SubmitTransactions(tuple(raws)), SubmitReplies)).replies

    async def status(self) -> StatusReply:
        """Where the node stands."""
        return await self._call(GetStatus(), StatusReply)

    async def metrics(self) -> bytes:
        """Prometheus text."""
        return (await self._call(GetMetrics(), MetricsReply)).text

    async def subscribe(self) -> int:
        """Ask for notices; returns the final height after which they begin."""
        return (await self._call(Subscribe(), Subscribed)).final_height

    async def _call(self, body: SubmitTransactions | GetStatus | GetMetrics | Subscribe, kind: type[T]) -> T:
        number = self._next_id
        self._next_id = number % (2**32 - 1) + 1
        send, receive = trio.open_memory_channel[AnswerBody](1)
        self._waiting[number] = send
        try:
            async with self._send_lock:
                await self._stream.send_all(frame(Call(number, body)))
            answer = await receive.receive()
        except trio.EndOfChannel:
            raise trio.BrokenResourceError("the node closed the connection") from None
        finally:
            self._waiting.pop(number, None)
        if isinstance(answer, Refused):
            raise CallRefused(answer.reason, answer.detail)
        if not isinstance(answer, kind):
            raise CallRefused(RpcReason.MALFORMED, f"the node answered with {type(answer).__name__}")
        return answer

    async def _read(self) -> None:
        """Hand out what the node sends until it is gone; then every waiting call and the notices end."""
        buffer = FrameBuffer(ANSWER_BYTES_MAX)
        try:
            while data := await self._stream.receive_some(262_144):
                for raw in buffer.feed(data):
                    await self._take(raw)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolViolation):
            pass
        finally:
            for send in self._waiting.values():
                send.close()
            self._notice_send.close()

    async def _take(self, raw: bytes) -> None:
        message = decode_from_node(raw)
        if not isinstance(message, Answer):
            await self._notice_send.send(message)
        elif message.id in self._waiting:
            self._waiting[message.id].send_nowait(message.body)


@asynccontextmanager
async def open_node_client(path: Path) -> AsyncIterator[NodeClient]:
    """A connected client. Raises OSError if nothing listens."""
    stream = await trio.open_unix_socket(str(path))
    client = NodeClient(stream)
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(client._read)
        yield client
        nursery.cancel_scope.cancel()
