"""One venue's quote stream: connects, decodes, checks, reconnects. Trio sockets.

An adapter fills a VenueBook and never raises for what a venue does. The simulated venues speak our own
frames; a real exchange gets its own adapter behind the same Protocol, translating its messages into quotes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

import trio

from ledger.instruments import Instrument
from node.oracle.quotes import FRAME_BYTES_MAX, LENGTH_BYTES, Quote, decode_frame
from node.oracle.reasons import QuoteReason
from node.oracle.venue_book import VenueBook, series_of
from primitives.errors import OperatorError, ProtocolViolation

BACKOFF_SECONDS_MIN = 0.1
BACKOFF_SECONDS_MAX = 5.0
"""Pause between attempts: doubles from the first to the second, back to the first with every good frame."""
IDLE_SECONDS_MAX = 10.0
"""A connection that brings no bytes for this long is closed and dialled again."""
READ_BYTES = 65_536
"""Read at a time; what is buffered is bounded by this plus one frame."""
_CONNECTION_ERRORS = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)


class VenueAdapter(Protocol):
    """Anything that keeps a venue's newest quotes in a book."""

    book: VenueBook
    counters: Counter[str]
    """Refusals by reason, and `frames`, `quotes`, `connects`, `disconnects`, `connect_failed`."""

    async def run(self) -> None:
        """Stream until cancelled."""

    def relist(self, listed: Sequence[Instrument]) -> None:
        """Ask for these instruments from now on, and forget the others."""


def parse_address(address: str) -> tuple[str, str, int]:
    """(`unix`, path, 0) or (`tcp`, host, port) of `unix:/path/to.sock` or `tcp:host:port`.

    Raises:
        OperatorError: neither of the two.
    """
    scheme, _, rest = address.partition(":")
    host, _, port = rest.rpartition(":")
    if scheme == "unix" and rest:
        return scheme, rest, 0
    if scheme == "tcp" and host and port.isdecimal() and int(port) < 65_536:
        return scheme, host, int(port)
    raise OperatorError(f"{address!r} is not a venue address: write unix:/path/to.sock or tcp:host:port.")


async def open_stream(address: str) -> trio.SocketStream:
    """Connect to a venue's address. Raises OSError, or OperatorError for an address that is none."""
    scheme, host, port = parse_address(address)
    if scheme == "unix":
        return await trio.open_unix_socket(host)
    return await trio.open_tcp_stream(host, port)


async def frames_of(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes, None]:
    """Bodies of the stream's frames, until it ends.

    Raises:
        ProtocolViolation: FRAME_TOO_LARGE; nothing is read for what a length only claims.
    """
    buffer = bytearray()
    while True:
        while len(buffer) >= LENGTH_BYTES:
            size = int.from_bytes(buffer[:LENGTH_BYTES], "big")
            if size > FRAME_BYTES_MAX:
                raise ProtocolViolation(QuoteReason.FRAME_TOO_LARGE, f"{size} bytes claimed")
            if len(buffer) < LENGTH_BYTES + size:
                break
            yield bytes(buffer[LENGTH_BYTES : LENGTH_BYTES + size])
            del buffer[: LENGTH_BYTES + size]
        with trio.fail_after(IDLE_SECONDS_MAX):
            received = await stream.receive_some(READ_BYTES)
        if not received:
            return
        buffer += received


class VenueClient:
    """Adapter for a venue that sends length-prefixed frames of our quotes.

    `address` is `unix:/path/to.sock` or `tcp:host:port`; `now_ns` is the market clock.
    """

    def __init__(self, address: str, book: VenueBook, now_ns: Callable[[], int]) -> None:
        parse_address(address)
        self.address = address
        self.book = book
        self.counters: Counter[str] = Counter()
        self._now_ns = now_ns
        self._backoff_seconds = BACKOFF_SECONDS_MIN

    async def run(self) -> None:
        """Stream until cancelled, reconnecting with backoff."""
        while True:
            try:
                stream = await open_stream(self.address)
            except OSError:
                self.counters["connect_failed"] += 1
            else:
                self.counters["connects"] += 1
                await self._read(stream)
                self.counters["disconnects"] += 1
            await trio.sleep(self._backoff_seconds)
            self._backoff_seconds = min(2 * self._backoff_seconds, BACKOFF_SECONDS_MAX)

    def relist(self, listed: Sequence[Instrument]) -> None:
        """Such a venue sends all it has; the book takes what is listed."""
        self.book.list_series(series_of(listed))

    async def _read(self, stream: trio.SocketStream) -> None:
        """Take frames until the connection ends, for whatever reason."""
        try:
            async with stream, aclosing(frames_of(stream)) as frames:
                async for body in frames:
                    self._take(body)
        except ProtocolViolation as violation:
            self.counters[violation.reason.value] += 1
        except _CONNECTION_ERRORS:
            return

    def _take(self, body: bytes) -> None:
        self.counters["frames"] += 1
        try:
            quotes = decode_frame(body)
        except ProtocolViolation as violation:
            self.counters[violation.reason.value] += 1
            return
        self._backoff_seconds = BACKOFF_SECONDS_MIN
        now_ns = self._now_ns()
        for quote in quotes:
            self._add(quote, now_ns)

    def _add(self, quote: Quote, now_ns: int) -> None:
        try:
            self.book.add(quote, now_ns)
            self.counters["quotes"] += 1
        except ProtocolViolation as violation:
            self.counters[violation.reason.value] += 1
