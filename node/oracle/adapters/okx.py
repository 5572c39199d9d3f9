"""OKX: index, coin-margined options and dated futures. Public channels over one WebSocket. Pure.

Documented at okx.com/docs-v5: tickers, index-tickers, and opt-summary for the forward that an expiry's premiums in
coin are worth. Numbers and times (milliseconds) are strings; an empty one means there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from ledger.instruments import Instrument, Underlying
from node.oracle.adapters.said import (
    Feed,
    Option,
    Said,
    UnderlyingPrice,
    changes,
    chunks,
    decimal_of,
    decoded,
    each,
    forward_quote,
    index_quote,
    listed_options,
    milliseconds,
    okx_future,
    okx_name,
    option_quote,
    positive,
    text_of,
    underlying_price,
)
from node.oracle.reasons import QuoteReason
from node.oracle.venue_book import Series
from primitives.errors import ProtocolViolation

ARGUMENTS_MAX = 200
"""Channels in one request, about 13 KB of the 64 KB that OKX allows; it allows 480 requests an hour."""
CLOSING_CODE = "64008"
"""The notice that a server will close its connections for an upgrade."""

_INDEXES = {f"{underlying.name}-USD": underlying for underlying in Underlying}


class _Argument(msgspec.Struct):
    channel: str = ""


class _Message(msgspec.Struct):
    event: str = ""
    code: str = ""
    arg: _Argument | None = None
    data: msgspec.Raw = msgspec.Raw(b"[]")


class _Ticker(msgspec.Struct, rename="camel"):
    inst_id: str
    bid_px: str
    ask_px: str
    ts: str


class _Index(msgspec.Struct, rename="camel"):
    inst_id: str
    idx_px: str
    ts: str


class _Summary(msgspec.Struct, rename="camel"):
    inst_id: str
    fwd_px: str
    ts: str


_message = msgspec.json.Decoder(_Message)
_tickers = msgspec.json.Decoder(list[_Ticker])
_indexes = msgspec.json.Decoder(list[_Index])
_summaries = msgspec.json.Decoder(list[_Summary])


class Okx:
    """One connection to OKX."""

    def __init__(self, listed: Sequence[Instrument]) -> None:
        self._options: dict[str, Option] = {}
        self._futures: dict[str, Series] = {}
        self._arguments: list[str] = []
        self._list(listed)

    def requests(self) -> list[str]:
        """The indices and forwards first, then every future and option."""
        indexes = [text_of({"channel": "index-tickers", "instId": name}) for name in _INDEXES]
        return _requests("subscribe", [*indexes, *self._arguments])

    def relist(self, listed: Sequence[Instrument]) -> list[str]:
        """Only the channels that are gone or new."""
        before = self._arguments
        self._list(listed)
        gone, new = changes(before, self._arguments)
        return [*_requests("unsubscribe", gone), *_requests("subscribe", new)]

    def _list(self, listed: Sequence[Instrument]) -> None:
        pairs = listed_options(listed)
        self._options = {okx_name(item): option for item, option in pairs}
        self._futures = {okx_future(item): option.series for item, option in pairs}
        families = sorted({f"{Underlying(option.series[0]).name}-USD" for option in self._options.values()})
        arguments = [{"channel": "opt-summary", "instFamily": name} for name in families]
        arguments += [{"channel": "tickers", "instId": name} for name in (*self._futures, *self._options)]
        self._arguments = [text_of(argument) for argument in arguments]

    def ping(self) -> str:
        """A bare word; OKX hangs up on a connection without data for 30 seconds."""
        return "ping"

    def translate(self, message: str | bytes) -> Sequence[Said]:
        """What one push or event says."""
        if message in ("pong", b"pong"):
            return []
        said = decoded(_message, message)
        if said.event == "notice" and said.code == CLOSING_CODE:
            raise ProtocolViolation(QuoteReason.VENUE_CLOSING, "service upgrade")
        if said.event == "error":
            raise ProtocolViolation(QuoteReason.SUBSCRIPTION_REFUSED, "an error event")
        channel = said.arg.channel if said.arg is not None and not said.event else ""
        if channel == "tickers":
            return each(decoded(_tickers, said.data), self._quotes)
        if channel == "index-tickers":
            return each(decoded(_indexes, said.data), _index_of)
        if channel == "opt-summary":
            return self._forwards(decoded(_summaries, said.data))
        return []

    def _quotes(self, ticker: _Ticker) -> list[Said]:
        time_ns = milliseconds(ticker.ts)
        bid, ask = _or_none(ticker.bid_px), _or_none(ticker.ask_px)
        option = self._options.get(ticker.inst_id)
        if option is not None:
            return [option_quote(option, time_ns, bid, ask)]
        series = self._futures.get(ticker.inst_id)
        if series is None:
            raise ProtocolViolation(QuoteReason.UNKNOWN_SERIES, ticker.inst_id)
        return [forward_quote(series, time_ns, positive(bid), positive(ask))]

    def _forwards(self, summaries: Sequence[_Summary]) -> list[Said]:
        """The newest forward of each listed expiry; the family's other options are none of our business."""
        known = [item for item in summaries if item.inst_id in self._options]
        prices = each(known, self._forward)
        newest: dict[Series, UnderlyingPrice] = {}
        for price in prices:
            if isinstance(price, UnderlyingPrice):
                held = newest.get(price.series)
                newest[price.series] = price if held is None or price.time_ns >= held.time_ns else held
        return [*newest.values(), *(said for said in prices if isinstance(said, ProtocolViolation))]

    def _forward(self, summary: _Summary) -> list[Said]:
        series = self._options[summary.inst_id].series
        return [underlying_price(series, milliseconds(summary.ts), decimal_of(summary.fwd_px))]


def _requests(operation: str, arguments: Sequence[str]) -> list[str]:
    """`arguments` are JSON texts."""
    return [
        text_of({"op": operation, "args": [msgspec.Raw(text.encode()) for text in chunk]})
        for chunk in chunks(arguments, ARGUMENTS_MAX)
    ]


def _index_of(index: _Index) -> list[Said]:
    underlying = _INDEXES.get(index.inst_id)
    if underlying is None:
        raise ProtocolViolation(QuoteReason.UNKNOWN_UNDERLYING, index.inst_id)
    price = positive(decimal_of(index.idx_px))
    return [index_quote(underlying, milliseconds(index.ts), price, price)]


def _or_none(text: str) -> Decimal:
    return decimal_of(text) if text else Decimal(0)


FEEDS = (Feed("", Okx),)
"""One connection for everything."""
