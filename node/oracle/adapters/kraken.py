"""Kraken spot: best bid and ask of the dollar markets. Ticker channel of WebSocket API v2. Pure.

Documented at docs.kraken.com (Spot WebSocket v2: ticker, heartbeat, ping). Prices are JSON numbers. A ticker without
a time of its own is stamped with the venue's clock, which every pong and acknowledgement tells: early, never late.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from ledger.instruments import Underlying
from node.oracle.adapters.said import (
    Feed,
    Said,
    SpotDialect,
    decoded,
    each,
    index_quote,
    iso_time,
    positive,
    text_of,
)
from node.oracle.reasons import QuoteReason
from primitives.errors import ProtocolViolation

SYMBOLS = {"BTC/USD": Underlying.BTC, "ETH/USD": Underlying.ETH}


class _Ticker(msgspec.Struct):
    symbol: str
    bid: Decimal
    ask: Decimal
    timestamp: str | None = None


class _Message(msgspec.Struct):
    channel: str = ""
    method: str = ""
    success: bool = True
    time_out: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")


_message = msgspec.json.Decoder(_Message)
_tickers = msgspec.json.Decoder(list[_Ticker])


class Kraken(SpotDialect):
    """One connection to Kraken."""

    def __init__(self) -> None:
        self._time_ns = 0

    def requests(self) -> list[str]:
        """Both markets, on every change of the best prices rather than on trades."""
        params = {"channel": "ticker", "symbol": list(SYMBOLS), "event_trigger": "bbo", "snapshot": True}
        return [text_of({"method": "subscribe", "params": params})]

    def ping(self) -> str:
        """Its pong tells Kraken's clock."""
        return text_of({"method": "ping"})

    def translate(self, message: str | bytes) -> Sequence[Said]:
        """What one message says."""
        said = decoded(_message, message)
        if said.channel == "ticker":
            return each(decoded(_tickers, said.data), self._quotes)
        if not said.success:
            raise ProtocolViolation(QuoteReason.SUBSCRIPTION_REFUSED, said.method)
        if said.time_out:
            self._time_ns = iso_time(said.time_out)
        return []

    def _quotes(self, ticker: _Ticker) -> list[Said]:
        underlying = SYMBOLS.get(ticker.symbol)
        if underlying is None:
            raise ProtocolViolation(QuoteReason.UNKNOWN_UNDERLYING, ticker.symbol)
        time_ns = iso_time(ticker.timestamp) if ticker.timestamp is not None else self._time_ns
        if time_ns == 0:
            raise ProtocolViolation(QuoteReason.NO_TIME, "a ticker before Kraken told its clock")
        return [index_quote(underlying, time_ns, positive(ticker.bid), positive(ticker.ask))]


FEEDS = (Feed("", lambda _: Kraken()),)
"""One connection; only spot."""
