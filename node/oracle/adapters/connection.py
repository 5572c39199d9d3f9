"""Runs one exchange's connections: dial, subscribe, ping, read, check, dial again. Trio, WebSocket, TLS.

Nothing a venue does raises here; everything refused is counted by its reason. Quotes enter the book as they come,
option chains every FLUSH_SECONDS. When the listing changes, a connection asks for what is new and leaves what is gone.
"""

from __future__ import annotations

import ssl
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from urllib.parse import urlsplit

import h11
import trio
import trio_websocket
import wsproto.utilities

from ledger.instruments import Instrument
from node.oracle.adapters.assembler import ChainAssembler
from node.oracle.adapters.said import (
    Dialect,
    Feed,
    OptionQuote,
    Reply,
    Said,
    UnderlyingPrice,
    listed_options,
)
from node.oracle.adapters.shares import shared
from node.oracle.quotes import ForwardQuote, Quote
from node.oracle.reasons import QuoteReason
from node.oracle.venue_book import VenueBook, series_of
from primitives.errors import ProtocolViolation

MESSAGE_BYTES_MAX = 2 * 1024 * 1024
"""One message; a longer one closes the connection. OKX's summary of a whole option family takes about 0.4 MB."""
CONNECT_SECONDS_MAX = 10.0
"""For TCP, TLS and the opening handshake together."""
CLOSE_SECONDS_MAX = 1.0
"""How long a venue may take to say goodbye."""
IDLE_SECONDS_MAX = 30.0
"""A connection that brings no sound price for this long is closed and dialled again, heartbeats or not."""
PING_SECONDS = 1.0
"""Every exchange asks for one in 20 seconds or less; Kraken's pong is also its clock."""
REQUEST_SECONDS = 0.35
"""Pause between requests: the strictest exchange allows about three a second."""
SETTLE_SECONDS = 3.0
"""Chains are drawn only so long after the last request: until then half of the options are missing."""
ASK_AGAIN_SECONDS = 300.0
"""How often an option that was never heard of is asked for again: the exchange may list it later than we do."""
FLUSH_SECONDS = 0.5
"""How often changed chains are drawn: each costs some tens of microseconds, each change would."""
BACKOFF_SECONDS_MIN = 0.5
BACKOFF_SECONDS_MAX = 30.0
"""Pause between attempts: doubles from the first to the second."""
STEADY_SECONDS = 60.0
"""A connection that lived this long takes the pause back to the first; exchanges ban those who dial too often."""
RECEIVE_BYTES = 65_536

_Stream = trio.SocketStream | trio.SSLStream
_TOO_BIG = 1009
_FAILURES = (
    *(OSError, trio.BrokenResourceError, trio.ClosedResourceError),
    *(trio_websocket.HandshakeError, trio_websocket.ConnectionClosed),
    # trio-websocket lets these through when the other side does not even speak HTTP.
    *(h11.ProtocolError, wsproto.utilities.ProtocolError),
)


class WebSocketAdapter:
    """A venue that is an exchange: one book, one set of counters, one or more connections."""

    def __init__(
        self,
        url: str,
        feeds: Sequence[Feed],
        listed: Sequence[Instrument],
        book: VenueBook,
        now_ns: Callable[[], int],
    ) -> None:
        self.book = book
        self.counters: Counter[str] = Counter()
        """Refusals by reason, and `frames`, `quotes`, `chains`, `connects`, `disconnects`, `connect_failed`."""
        self._url = url
        self._now_ns = now_ns
        self._nursery: trio.Nursery | None = None
        self._connections: dict[Feed, list[_Connection]] = {feed: [] for feed in feeds}
        self.relist(listed)

    async def run(self) -> None:
        """Stream until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for connections in self._connections.values():
                for connection in connections:
                    self._nursery.start_soon(connection.run)
            await trio.sleep_forever()

    def relist(self, listed: Sequence[Instrument]) -> None:
        """Ask for these instruments from now on, and forget the others; connections go on."""
        self.book.list_series(series_of(listed))
        for feed, connections in self._connections.items():
            shares = shared([connection.listed for connection in connections], listed, feed.options_max)
            for connection, share in zip(connections, shares, strict=False):
                connection.relist(share)
            for share in shares[len(connections) :]:
                connections.append(self._open(feed, share))
            if feed.options_max is not None:
                for connection in connections:
                    if not connection.listed:
                        connection.close()
                connections[:] = [connection for connection in connections if connection.listed]

    def _open(self, feed: Feed, share: Sequence[Instrument]) -> _Connection:
        connection = _Connection(self._url + feed.path, feed, share, self.book, self.counters, self._now_ns)
        if self._nursery is not None:
            self._nursery.start_soon(connection.run)
        return connection


class _Connection:
    """One feed's WebSocket, over and over."""

    def __init__(
        self,
        url: str,
        feed: Feed,
        listed: Sequence[Instrument],
        book: VenueBook,
        counters: Counter[str],
        now_ns: Callable[[], int],
    ) -> None:
        self.listed = listed
        self._url = url
        self._feed = feed
        self._session: _Session | None = None
        self._life = trio.CancelScope()
        self._book = book
        self._counters = counters
        self._now_ns = now_ns
        self._tls = ssl.create_default_context() if url.startswith("wss:") else None

    async def run(self) -> None:
        """Stream until cancelled or closed, reconnecting with backoff."""
        backoff_seconds = BACKOFF_SECONDS_MIN
        with self._life:
            while True:
                began = trio.current_time()
                await self._attempt()
                if trio.current_time() - began >= STEADY_SECONDS:
                    backoff_seconds = BACKOFF_SECONDS_MIN
                await trio.sleep(backoff_seconds)
                backoff_seconds = min(2 * backoff_seconds, BACKOFF_SECONDS_MAX)

    def relist(self, listed: Sequence[Instrument]) -> None:
        """These from now on, in the running session or the next."""
        self.listed = listed
        if self._session is not None:
            self._session.relist(listed)

    def close(self) -> None:
        """It is needed no more."""
        self._life.cancel()

    async def _attempt(self) -> None:
        """One connection from dialling to its end, for whatever reason."""
        dialling = trio.CancelScope(deadline=trio.current_time() + CONNECT_SECONDS_MAX)
        try:
            with dialling:
                stream = await self._dial()
                try:
                    await self._converse(stream, dialling)
                finally:
                    await trio.aclose_forcefully(stream)
        except* _FAILURES:
            pass
        self._counters["connect_failed" if dialling.deadline < inf else "disconnects"] += 1

    async def _dial(self) -> _Stream:
        parts = urlsplit(self._url)
        host = parts.hostname or ""
        if self._tls is None:
            return await trio.open_tcp_stream(host, parts.port or 80)
        return await trio.open_ssl_over_tcp_stream(
            host, parts.port or 443, ssl_context=self._tls, https_compatible=True
        )

    async def _converse(self, stream: _Stream, dialling: trio.CancelScope) -> None:
        """Speak WebSocket on a stream until either side has enough; `dialling` ends with the handshake.

        The nursery is ours, for trio-websocket's own waits for a venue that said goodbye to hang up too.
        """
        parts = urlsplit(self._url)
        resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        async with trio.open_nursery() as nursery:
            socket = await trio_websocket.wrap_client_stream(
                nursery,
                stream,
                parts.netloc,
                resource,
                max_message_size=MESSAGE_BYTES_MAX,
                receive_buffer_size=RECEIVE_BYTES,
            )
            dialling.deadline = inf
            self._counters["connects"] += 1
            held = (self._feed, self.listed, self._book, self._counters, self._now_ns)
            self._session = _Session(socket, *held)
            try:
                await self._session.run()
            finally:
                self._session = None
            with trio.move_on_after(CLOSE_SECONDS_MAX):
                await socket.aclose()
            nursery.cancel_scope.cancel()


class _Session:
    """What lives as long as one connection: the dialect's memory and the options gathered so far."""

    def __init__(
        self,
        socket: trio_websocket.WebSocketConnection,
        feed: Feed,
        listed: Sequence[Instrument],
        book: VenueBook,
        counters: Counter[str],
        now_ns: Callable[[], int],
    ) -> None:
        self._socket = socket
        self._listed = listed
        self._dialect: Dialect = feed.dialect(listed)
        self._requests: deque[str] = deque()
        self._is_settled = False
        self._chains = ChainAssembler(premiums_in_coin=feed.premiums_in_coin)
        self._book = book
        self._counters = counters
        self._now_ns = now_ns
        self._closing = False

    async def run(self) -> None:
        """Read until the connection ends, falls silent, or the venue says that it will."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._subscribe)
            nursery.start_soon(self._ping_forever)
            try:
                await self._read()
            except trio_websocket.ConnectionClosed as closed:
                if closed.reason is not None and closed.reason.code == _TOO_BIG:
                    self._counters[QuoteReason.FRAME_TOO_LARGE.value] += 1
            nursery.cancel_scope.cancel()

    def relist(self, listed: Sequence[Instrument]) -> None:
        """Ask for what is new and leave what is gone; chains are drawn again once that has settled."""
        self._listed = listed
        self._requests.extend(self._dialect.relist(listed))
        self._chains.keep(series_of(listed))
        self._is_settled = False

    async def _subscribe(self) -> None:
        """Send requests, and draw chains whenever there are none to send."""
        self._requests.extend(self._dialect.requests())
        ask_again_at = trio.current_time() + ASK_AGAIN_SECONDS
        with suppress(trio_websocket.ConnectionClosed):
            while True:
                while self._requests:
                    await self._socket.send_message(self._requests.popleft())
                    await trio.sleep(REQUEST_SECONDS)
                if not self._is_settled:
                    self._is_settled = True
                    await trio.sleep(SETTLE_SECONDS)
                    continue
                self._draw_chains()
                if trio.current_time() >= ask_again_at:
                    self._ask_again()
                    ask_again_at = trio.current_time() + ASK_AGAIN_SECONDS
                await trio.sleep(FLUSH_SECONDS)

    def _ask_again(self) -> None:
        """For options of which nothing was heard: as if they had been away in between."""
        heard = [item for item, option in listed_options(self._listed) if self._chains.has_heard_of(option)]
        self._dialect.relist(heard)
        self._requests.extend(self._dialect.relist(self._listed))

    async def _ping_forever(self) -> None:
        ping = self._dialect.ping()
        try:
            while ping is not None:
                await self._socket.send_message(ping)
                await trio.sleep(PING_SECONDS)
        except trio_websocket.ConnectionClosed:
            return

    async def _read(self) -> None:
        with trio.move_on_after(IDLE_SECONDS_MAX) as idle:
            while not self._closing:
                message = await self._socket.get_message()
                quotes = self._counters["quotes"]
                for reply in self._take(message):
                    await self._socket.send_message(reply)
                if self._counters["quotes"] > quotes:
                    idle.deadline = trio.current_time() + IDLE_SECONDS_MAX
        if idle.cancelled_caught:
            self._counters[QuoteReason.SILENT.value] += 1

    def _take(self, message: str | bytes) -> list[str]:
        """Keep what a message says; what to answer."""
        self._counters["frames"] += 1
        try:
            all_said = self._dialect.translate(message)
        except ProtocolViolation as violation:
            self._count(violation)
            return []
        now_ns = self._now_ns()
        for said in all_said:
            self._keep(said, now_ns)
        return [said.text for said in all_said if isinstance(said, Reply)]

    def _keep(self, said: Said, now_ns: int) -> None:
        if isinstance(said, Reply):
            return
        if isinstance(said, ProtocolViolation):
            self._count(said)
            return
        try:
            if isinstance(said, OptionQuote):
                self._book.check_time(said.time_ns, now_ns)
                self._chains.add_option(said)
            elif isinstance(said, UnderlyingPrice):
                self._book.check_time(said.time_ns, now_ns)
                self._chains.add_underlying(said)
                return
            else:
                self._add(said, now_ns)
        except ProtocolViolation as violation:
            self._count(violation)
        else:
            self._counters["quotes"] += 1

    def _add(self, quote: Quote, now_ns: int) -> None:
        self._book.add(quote, now_ns)
        if isinstance(quote, ForwardQuote):
            self._chains.note_future((quote.underlying, quote.expiry_ns))

    def _draw_chains(self) -> None:
        now_ns = self._now_ns()
        for quote in self._chains.draw(self._book.oldest_ns(now_ns)):
            try:
                self._book.add(quote, now_ns)
                self._counters["chains"] += not isinstance(quote, ForwardQuote)
            except ProtocolViolation as violation:
                self._count(violation)

    def _count(self, violation: ProtocolViolation) -> None:
        self._counters[violation.reason.value] += 1
        self._closing |= violation.reason == QuoteReason.VENUE_CLOSING
