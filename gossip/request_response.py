"""One question, one answer, a fresh stream: how nodes catch up. I/O: the streams it is given.

For validators that lag and nodes that do not vote, with a quota of its own: it shares connections with the lanes, so
answers are paced, and written in slices between which votes go first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import trio

from gossip.counters import Counters
from gossip.envelope import (
    FRAME_LIMITS,
    HEADER,
    HELLO_LIMITS,
    Frame,
    FrameDecoder,
    FrameLimits,
    Kind,
    encode_frame,
)
from gossip.limits import ANSWER_BUDGET, REQUEST_BUDGET, Budget
from gossip.link import Stream, StreamBroken
from gossip.network import BULK_MESSAGE_BYTES_MAX, Lane, PeerName
from gossip.reasons import GossipReason, Traffic
from primitives.amounts import NS
from primitives.errors import ProtocolViolation

FOLLOW_PROTOCOL = "/quorate/follow/1"
HELLO_SECONDS_MAX = 5
"""Deadline of the hello on a new stream, of any kind."""
REQUEST_BYTES_MAX = 128 * 1024
"""A longer request is refused: it names heights, or carries a few clients' transactions."""
REQUESTS_AT_ONCE_MAX = 32
"""Requests being answered; a further one is closed unanswered, and whoever asks turns to another node."""
REQUESTS_PER_PEER_MAX = 4
"""Of one peer; the same."""
REQUEST_SECONDS_MAX = 10
"""Deadline for a request to arrive, and for its answer to leave; also how long the other side waits for it."""
WRITE_SECONDS_MAX = 5
"""For a question to leave."""
END_SECONDS_MAX = 2
"""For the end of a stream to be told."""
SLICE_BYTES = 64 * 1024
"""Of an answer, written in one piece."""
BUDGETS_MAX = 256
"""Peers whose request budget is remembered; when full, the longest known is forgotten."""
_REQUEST_LIMITS = FrameLimits(HEADER.size + 4 + REQUEST_BYTES_MAX, 1)

OnRequest = Callable[[PeerName, bytes], Awaitable[bytes]]


class ClosableStream(Stream, Protocol):
    """A stream that can also end politely."""

    async def close(self) -> None: ...
    async def reset(self) -> None: ...
    async def widen(self) -> None: ...


class Answerer:
    """Serves requests through one handler, within a budget per peer."""

    def __init__(self, handler: OnRequest, counters: Counters) -> None:
        self._handler = handler
        self._counters = counters
        self._running: Counter[PeerName] = Counter()
        self._budgets: dict[PeerName, Budget] = {}
        self._all = Budget(ANSWER_BUDGET, time.monotonic_ns())

    async def answer(self, peer: PeerName, stream: ClosableStream, decoder: FrameDecoder) -> None:
        """Read one request after the hello, answer it, end the stream.

        Raises:
            ProtocolViolation: what is wrong with the request; the caller blames the peer.
            StreamBroken, trio.TooSlowError: the peer went away or dawdled.
        """
        if self._running.total() >= REQUESTS_AT_ONCE_MAX or self._running[peer] >= REQUESTS_PER_PEER_MAX:
            self._counters.add(GossipReason.QUEUE_FULL, "request")
            await stream.close()
            return
        self._running[peer] += 1
        try:
            with trio.fail_after(REQUEST_SECONDS_MAX):
                request = await _read_one(stream, decoder, _REQUEST_LIMITS)
            reply = await self._handler(peer, request)
            self._counters.add(Traffic.MESSAGES_SENT, "request")
            self._counters.add(Traffic.BYTES_SENT, "request", len(reply))
            await self._pace(peer, len(request), len(reply))
            await _write_slices(stream, encode_frame(Kind.MESSAGES, [reply]))
        finally:
            self._running[peer] -= 1
            if not self._running[peer]:
                del self._running[peer]

    async def _pace(self, peer: PeerName, request_bytes: int, reply_bytes: int) -> None:
        """Wait until this peer's and everybody's budget allow the answer."""
        now_ns = time.monotonic_ns()
        if peer not in self._budgets:
            if len(self._budgets) >= BUDGETS_MAX:
                del self._budgets[next(iter(self._budgets))]
            self._budgets[peer] = Budget(REQUEST_BUDGET, now_ns)
        wait_ns = self._budgets[peer].pace_ns(1, request_bytes, now_ns)
        wait_ns = max(wait_ns, self._all.pace_ns(1, reply_bytes, now_ns))
        if wait_ns:
            await trio.sleep(wait_ns / NS)


async def _write_slices(stream: ClosableStream, data: bytes) -> None:
    """A write is never cancelled half-way: the lanes share its connection. The clock is looked at in between."""
    deadline = trio.current_time() + REQUEST_SECONDS_MAX
    for start in range(0, len(data), SLICE_BYTES):
        if trio.current_time() > deadline:
            raise trio.TooSlowError
        await stream.write(data[start : start + SLICE_BYTES])
    await stream.close()


async def _write_whole(stream: ClosableStream, data: bytes) -> None:
    """Not cancelled half-way, unless that takes too long: then the connection is cut. Raises StreamBroken."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_SECONDS_MAX) as scope:
        await stream.widen()
        await stream.write(data)
    if scope.cancelled_caught:
        stream.abort()
        raise StreamBroken("the peer takes nothing")


async def end_stream(stream: ClosableStream, politely: bool = False) -> None:
    """End one stream and leave its connection alone; cut that as well if it does not even take the end."""
    with (
        trio.CancelScope(shield=True, deadline=trio.current_time() + END_SECONDS_MAX) as scope,
        suppress(StreamBroken),
    ):
        await (stream.close() if politely else stream.reset())
    if scope.cancelled_caught:
        stream.abort()


async def ask(stream: ClosableStream, decoder: FrameDecoder, request: bytes) -> bytes:
    """Write one request and read its answer. Raises StreamBroken, ProtocolViolation or trio.TooSlowError."""
    is_done = False
    try:
        await _write_whole(stream, encode_frame(Kind.MESSAGES, [request]))
        with trio.fail_after(REQUEST_SECONDS_MAX):
            reply = await _read_one(stream, decoder, FrameLimits(FRAME_LIMITS[Lane.BULK].frame_bytes_max, 1))
        is_done = True
    finally:
        await end_stream(stream, politely=is_done)
    if len(reply) > BULK_MESSAGE_BYTES_MAX:
        raise ProtocolViolation(GossipReason.TOO_LARGE, f"an answer of {len(reply)} bytes")
    return reply


async def read_frame(stream: Stream, decoder: FrameDecoder) -> Frame:
    """The next frame of a stream. Raises StreamBroken or ProtocolViolation."""
    frame = decoder.feed_one(b"")
    while frame is None:
        frame = decoder.feed_one(await stream.read())
    return frame


def hello_decoder() -> FrameDecoder:
    """A decoder for the first frame of any stream."""
    return FrameDecoder(HELLO_LIMITS)


async def _read_one(stream: Stream, decoder: FrameDecoder, limits: FrameLimits) -> bytes:
    decoder.limits = limits
    frame = await read_frame(stream, decoder)
    if frame.kind is not Kind.MESSAGES:
        raise ProtocolViolation(GossipReason.BAD_REQUEST, f"{frame.kind.name} where a message is expected")
    return frame.messages[0]
