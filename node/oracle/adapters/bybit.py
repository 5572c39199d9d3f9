"""Bybit: its dollar index from spot tickers, and USDT options. Public v5 topics, one WebSocket per category. Pure.

Documented at bybit-exchange.github.io/docs/v5 (websocket, public, ticker). Spot and option tickers are whole each
time; numbers are strings, times milliseconds, premiums in USDT, which we take for dollars.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated

import msgspec

from ledger.instruments import Instrument, Underlying
from node.oracle.adapters.said import (
    Feed,
    Option,
    Said,
    SpotDialect,
    bybit_name,
    changes,
    chunks,
    decimal_of,
    decoded,
    index_quote,
    listed_options,
    option_quote,
    positive,
    text_of,
    underlying_price,
)
from node.oracle.reasons import QuoteReason
from primitives.errors import ProtocolViolation

SYMBOLS = {"BTCUSDT": Underlying.BTC, "ETHUSDT": Underlying.ETH}
"""The most active spot market of each coin; we read its `usdIndexPrice`, not its price in USDT."""
OPTIONS_MAX = 500
"""Options on one connection: Bybit allows 21,000 characters of topics there, and each takes about 35."""
TOPICS_MAX = 100
"""Topics in one request."""


class _Topics(msgspec.Struct, rename="camel"):
    fail_topics: list[str] = []


class _Message(msgspec.Struct):
    topic: str = ""
    ts: Annotated[int, msgspec.Meta(ge=0, le=2**43)] = 0
    cs: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    data: msgspec.Raw = msgspec.Raw(b"{}")
    success: bool = True
    op: str = ""
    type: str = ""


class _Spot(msgspec.Struct, rename="camel"):
    symbol: str
    usd_index_price: str


class _Option(msgspec.Struct, rename="camel"):
    symbol: str
    bid_price: str
    ask_price: str
    underlying_price: str


_PING = text_of({"op": "ping"})
_message = msgspec.json.Decoder(_Message)
_topics = msgspec.json.Decoder(_Topics)
_spot = msgspec.json.Decoder(_Spot)
_option = msgspec.json.Decoder(_Option)


class BybitSpot(SpotDialect):
    """One connection to Bybit's spot market."""

    def __init__(self) -> None:
        self._sequences: dict[str, int] = {}

    def requests(self) -> list[str]:
        """Both tickers in one request."""
        return _requests("subscribe", [f"tickers.{symbol}" for symbol in SYMBOLS])

    def ping(self) -> str:
        """Bybit recommends one every 20 seconds."""
        return _PING

    def translate(self, message: str | bytes) -> Sequence[Said]:
        """What one ticker says."""
        said = _ticker(decoded(_message, message))
        if said is None:
            return []
        spot = decoded(_spot, said.data)
        underlying = SYMBOLS.get(spot.symbol)
        if underlying is None:
            raise ProtocolViolation(QuoteReason.UNKNOWN_UNDERLYING, spot.symbol)
        if said.cs < self._sequences.get(spot.symbol, 0):
            raise ProtocolViolation(QuoteReason.OUT_OF_ORDER, f"sequence {said.cs} of {spot.symbol}")
        price = positive(decimal_of(spot.usd_index_price))
        quote = index_quote(underlying, said.ts * 1_000_000, price, price)
        self._sequences[spot.symbol] = said.cs
        return [quote]


class BybitOptions:
    """One connection to Bybit's options, for some of them."""

    def __init__(self, listed: Sequence[Instrument]) -> None:
        self._options = _options_of(listed)

    def requests(self) -> list[str]:
        """Every option of this connection."""
        return _requests("subscribe", [f"tickers.{name}" for name in self._options])

    def relist(self, listed: Sequence[Instrument]) -> list[str]:
        """Only the topics that are gone or new."""
        before, self._options = self._options, _options_of(listed)
        gone, new = ([f"tickers.{name}" for name in names] for names in changes(before, self._options))
        return [*_requests("unsubscribe", gone), *_requests("subscribe", new)]

    def ping(self) -> str:
        """Bybit recommends one every 20 seconds."""
        return _PING

    def translate(self, message: str | bytes) -> Sequence[Said]:
        """What one ticker says, or which topics an acknowledgement refuses."""
        said = decoded(_message, message)
        if said.type == "COMMAND_RESP":
            failed = decoded(_topics, said.data).fail_topics
            return [ProtocolViolation(QuoteReason.SUBSCRIPTION_REFUSED, topic) for topic in failed]
        if _ticker(said) is None:
            return []
        ticker, time_ns = decoded(_option, said.data), said.ts * 1_000_000
        option = self._options.get(ticker.symbol)
        if option is None:
            raise ProtocolViolation(QuoteReason.UNKNOWN_SERIES, ticker.symbol)
        bid, ask = _or_none(ticker.bid_price), _or_none(ticker.ask_price)
        underlying = underlying_price(option.series, time_ns, decimal_of(ticker.underlying_price))
        return [option_quote(option, time_ns, bid, ask), underlying]


def _ticker(said: _Message) -> _Message | None:
    """The message if it is a ticker, None for a pong or an acknowledgement.

    Raises:
        ProtocolViolation: SUBSCRIPTION_REFUSED.
    """
    if not said.success:
        raise ProtocolViolation(QuoteReason.SUBSCRIPTION_REFUSED, said.op)
    return said if said.topic.startswith("tickers.") else None


def _options_of(listed: Sequence[Instrument]) -> dict[str, Option]:
    return {bybit_name(item): option for item, option in listed_options(listed)}


def _requests(operation: str, topics: Sequence[str]) -> list[str]:
    return [text_of({"op": operation, "args": chunk}) for chunk in chunks(topics, TOPICS_MAX)]


def _or_none(text: str) -> Decimal:
    return decimal_of(text) if text else Decimal(0)


FEEDS = (
    Feed("/spot", lambda _: BybitSpot()),
    Feed("/option", BybitOptions, premiums_in_coin=False, options_max=OPTIONS_MAX),
)
"""One connection for spot, and one for every OPTIONS_MAX options."""
