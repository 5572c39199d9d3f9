"""One question, one answer, a fresh stream: how followers fetch final blocks. I/O: the streams it is given.

Validators fetch from each other on the bulk lane; this is for nodes that do not vote, and it gets its own
small quota.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
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
from gossip.limits import REQUEST_BUDGET, Budget
from gossip.link import Stream
from gossip.network import BULK_MESSAGE_BYTES_MAX, Lane, PeerName
from gossip.reasons import GossipReason
from primitives.errors import ProtocolViolation

REQUEST_BYTES_MAX = 1024
"""A longer request is refused: it names heights, it carries nothing."""
REQUESTS_AT_ONCE_MAX = 16
"""Requests being answered; a further one is closed unanswered, and the follower asks another validator."""
REQUEST_SECONDS_MAX = 10
"""Deadline from the first byte of a request to the last of its answer."""
BUDGETS_MAX = 256
"""Peers whose request budget is remembered; when full, the longest known is forgotten."""
_REQUEST_LIMITS = FrameLimits(HEADER.size + 4 + REQUEST_BYTES_MAX, 1)

OnRequest = Callable[[PeerName, bytes], Awaitable[bytes]]


class ClosableStream(Stream, Protocol):
    """A stream that can also end politely."""

    async def close(self) -> None: ...


class Answerer:
    """Serves requests through one handler, within a budget per peer."""

    def __init__(self, handler: OnRequest, counters: Counters) -> None:
        self._handler = handler
        self._counters = counters
        self._running = 0
        self._budgets: dict[PeerName, Budget] = {}

    async def answer(self, peer: PeerName, stream: ClosableStream, decoder: FrameDecoder) -> None:
        """Read one request after the hello, answer it, end the stream.

        Raises:
            ProtocolViolation: BAD_REQUEST or OVER_BUDGET; the caller blames the peer.
            StreamBroken, trio.TooSlowError: the peer went away or dawdled.
        """
        if self._running >= REQUESTS_AT_ONCE_MAX:
            self._counters.add(GossipReason.QUEUE_FULL, "request")
            await stream.close()
            return
        self._running += 1
        try:
            with trio.fail_after(REQUEST_SECONDS_MAX):
                request = await _read_one(stream, decoder, _REQUEST_LIMITS)
                self._charge(peer, len(request))
                reply = await self._handler(peer, request)
                await stream.write(encode_frame(Kind.MESSAGES, [reply]))
                await stream.close()
        finally:
            self._running -= 1

    def _charge(self, peer: PeerName, size_bytes: int) -> None:
        now_ns = time.monotonic_ns()
        if peer not in self._budgets:
            if len(self._budgets) >= BUDGETS_MAX:
                del self._budgets[next(iter(self._budgets))]
            self._budgets[peer] = Budget(REQUEST_BUDGET, now_ns)
        if not self._budgets[peer].spend(1, size_bytes, now_ns):
            raise ProtocolViolation(GossipReason.OVER_BUDGET, "too many requests")


async def ask(stream: ClosableStream, decoder: FrameDecoder, request: bytes) -> bytes:
    """Write one request and read its answer. Raises StreamBroken, ProtocolViolation or trio.TooSlowError."""
    with trio.fail_after(REQUEST_SECONDS_MAX):
        await stream.write(encode_frame(Kind.MESSAGES, [request]))
        reply = await _read_one(stream, decoder, FrameLimits(FRAME_LIMITS[Lane.BULK].frame_bytes_max, 1))
        await stream.close()
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
