"""Exchanges on loopback: a real WebSocket server, and for each exchange its documented messages with our numbers."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import trio
import trio_websocket

from ledger.instruments import Instrument, Kind, Underlying
from node.oracle.adapters import connection, open_adapter
from node.oracle.adapters.connection import WebSocketAdapter
from primitives.amounts import NS, USD

NOW = 1_770_192_000 * NS
"""2026-02-04 08:00:00 UTC."""
EXPIRY = NOW + 2 * 86_400 * NS
"""2026-02-06 08:00:00 UTC."""
Socket = trio_websocket.WebSocketConnection
Script = Callable[[Socket, int], Awaitable[None]]
"""What a server does with one connection; connections are counted from 0."""


def an_option(strike: int, kind: Kind, *, expiry_ns: int = EXPIRY, underlying: int = 0) -> Instrument:
    return Instrument(
        strike * 10 + kind + underlying,
        underlying,
        kind,
        expiry_ns,
        strike * USD,
        100 if underlying == 0 else 10,
    )


LISTED = (
    Instrument(0, Underlying.BTC, Kind.PERPETUAL, 0, 0, 100),
    an_option(88_000, Kind.CALL),
    an_option(88_000, Kind.PUT),
    an_option(90_000, Kind.CALL),
)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import this into a test module: pauses that suit loopback."""
    for name, seconds in {
        "REQUEST_SECONDS": 0.0,
        "SETTLE_SECONDS": 0.01,
        "FLUSH_SECONDS": 0.005,
        "PING_SECONDS": 0.02,
        "BACKOFF_SECONDS_MIN": 0.005,
        "BACKOFF_SECONDS_MAX": 0.01,
        "CLOSE_SECONDS_MAX": 0.2,
        "CONNECT_SECONDS_MAX": 0.5,
    }.items():
        monkeypatch.setattr(connection, name, seconds)


class Server:
    """A WebSocket server on loopback. `received` holds what clients sent, `paths` what they asked for."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.received: list[Any] = []
        self.paths: list[str] = []
        self.port = 0

    async def handle(self, request: trio_websocket.WebSocketRequest) -> None:
        turn = len(self.paths)
        self.paths.append(request.path)
        socket = await request.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, socket)
            with suppress(trio_websocket.ConnectionClosed):
                await self._script(socket, turn)
            nursery.cancel_scope.cancel()

    @property
    def requests(self) -> list[Any]:
        """What was received, without the pings."""
        pings = ("ping", {"op": "ping"}, {"method": "ping"})
        return [message for message in self.received if message not in pings]

    async def _listen(self, socket: Socket) -> None:
        try:
            while True:
                message = await socket.get_message()
                self.received.append(message if message == "ping" else json.loads(message))
        except trio_websocket.ConnectionClosed:
            return


@asynccontextmanager
async def an_exchange(
    name: str,
    script: Script,
    *,
    listed: Sequence[Instrument] = LISTED,
    tls: ssl.SSLContext | None = None,
    path: str = "",
) -> AsyncIterator[tuple[WebSocketAdapter, Server]]:
    """A running adapter, and the server on loopback that plays its exchange."""
    server = Server(script)
    async with trio.open_nursery() as nursery:
        listening = await nursery.start(
            lambda task_status: trio_websocket.serve_websocket(
                server.handle, "127.0.0.1", 0, tls, task_status=task_status
            )
        )
        server.port = listening.port
        scheme = "ws" if tls is None else "wss"
        address = f"{name}:{scheme}://127.0.0.1:{listening.port}{path}"
        adapter = open_adapter(name, address, listed, 1.0, lambda: NOW)
        assert isinstance(adapter, WebSocketAdapter)
        nursery.start_soon(adapter.run)
        yield adapter, server
        nursery.cancel_scope.cancel()


def says(*messages: str) -> Script:
    """Says this once to each connection, and then nothing."""

    async def script(socket: Socket, number: int) -> None:
        for message in messages:
            await socket.send_message(message)
        await trio.sleep_forever()

    return script


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - the other side is a socket, which sets no event.
            await trio.sleep(0.002)


def iso(time_ns: int) -> str:
    whole = datetime.fromtimestamp(time_ns // NS, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{time_ns % NS:09d}Z"


def ms(time_ns: int) -> int:
    return time_ns // 1_000_000


def text_of(message: object) -> str:
    return msgspec.json.encode(message).decode()


def number(text: str) -> msgspec.Raw:
    """A JSON number exactly as written, however impossible."""
    return msgspec.Raw(text.encode())


class Speech:
    """One exchange's way to say the price of an underlying. `price` and `ask` are numbers as text."""

    name = ""
    symbol, unknown = "", "DOGE-XYZ"
    two_sided = False
    """Whether it says bid and ask, rather than one price."""
    numbers = False
    """Whether prices are JSON numbers, rather than strings."""

    def index(
        self, price: str, *, ask: str | None = None, time_ns: int = NOW, symbol: str | None = None
    ) -> str:
        return text_of(self.message(price, ask or price, time_ns, symbol or self.symbol))

    def message(self, price: str, ask: str, time_ns: int, symbol: str) -> dict[str, Any]:
        raise NotImplementedError


class DeribitSpeech(Speech):
    name, symbol, numbers = "deribit", "btc_usd", True

    def message(self, price: str, ask: str, time_ns: int, symbol: str) -> dict[str, Any]:
        data = {"index_name": symbol, "price": number(price), "timestamp": ms(time_ns)}
        params = {"channel": f"deribit_price_index.{symbol}", "data": data}
        return {"jsonrpc": "2.0", "method": "subscription", "params": params}


class BinanceSpeech(Speech):
    name, symbol, two_sided = "binance", "BTCUSDC", True

    def message(self, price: str, ask: str, time_ns: int, symbol: str) -> dict[str, Any]:
        return {
            "e": "24hrTicker",
            "E": ms(time_ns),
            "s": symbol,
            "p": "15.1",
            "c": "70000.5",
            "Q": "0.2",
            "b": price,
            "B": "1.5",
            "a": ask,
            "A": "2.5",
            "o": "1",
            "n": 18_151,
        }


class OkxSpeech(Speech):
    name, symbol = "okx", "BTC-USD"

    def message(self, price: str, ask: str, time_ns: int, symbol: str) -> dict[str, Any]:
        data = {"instId": symbol, "idxPx": price, "high24h": "7", "sodUtc0": "1", "ts": str(ms(time_ns))}
        return {"arg": {"channel": "index-tickers", "instId": symbol}, "data": [data]}


class BybitSpeech(Speech):
    name, symbol = "bybit", "BTCUSDT"

    def __init__(self) -> None:
        self.sequence = 1_000

    def message(self, price: str, ask: str, time_ns: int, symbol: str) -> dict[str, Any]:
        self.sequence += 7
        data = {"symbol": symbol, "lastPrice": "1.5", "volume24h": "3", "usdIndexPrice": price}
        head = {"topic": f"tickers.{symbol}", "ts": ms(time_ns), "type": "snapshot", "cs": self.sequence}
        return {**head, "data": data}


class CoinbaseSpeech(Speech):
    name, symbol, two_sided = "coinbase", "BTC-USD", True

    def __init__(self) -> None:
        self.sequence = 0

    def message(self, price: str, ask: str, time_ns: int, symbol: str) -> dict[str, Any]:
        sequence, self.sequence = self.sequence, self.sequence + 1
        head = {"channel": "ticker", "client_id": "", "timestamp": iso(time_ns), "sequence_num": sequence}
        ticker = {
            "type": "ticker",
            "product_id": symbol,
            "price": "1.5",
            "best_bid": price,
            "best_bid_quantity": "1",
            "best_ask": ask,
            "best_ask_quantity": "2",
        }
        return {**head, "events": [{"type": "update", "tickers": [ticker]}]}


class KrakenSpeech(Speech):
    name, symbol, two_sided, numbers = "kraken", "BTC/USD", True, True

    def message(self, price: str, ask: str, time_ns: int, symbol: str) -> dict[str, Any]:
        sides = {"bid": number(price), "bid_qty": 1.5, "ask": number(ask), "ask_qty": 2}
        ticker = {"symbol": symbol, **sides, "last": 9.5, "vwap": 8.1, "timestamp": iso(time_ns)}
        return {"channel": "ticker", "type": "update", "data": [ticker]}


SPEECHES: tuple[type[Speech], ...] = (
    DeribitSpeech,
    BinanceSpeech,
    OkxSpeech,
    BybitSpeech,
    CoinbaseSpeech,
    KrakenSpeech,
)
