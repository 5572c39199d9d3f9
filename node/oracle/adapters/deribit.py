"""Deribit: options and dated futures by ticker, and its index. JSON-RPC 2.0 over one WebSocket. Pure.

Documented at docs.deribit.com: public/subscribe, public/set_heartbeat, ticker.{instrument}.{interval},
deribit_price_index.{index}. Premiums are in coin; times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any

import msgspec

from ledger.instruments import Instrument, Underlying
from node.oracle.adapters.said import (
    Feed,
    Option,
    Reply,
    Said,
    changes,
    chunks,
    decoded,
    deribit_future,
    deribit_name,
    forward_quote,
    index_quote,
    listed_options,
    option_quote,
    positive,
    text_of,
    underlying_price,
)
from node.oracle.reasons import QuoteReason
from node.oracle.venue_book import Series
from primitives.errors import ProtocolViolation

HEARTBEAT_SECONDS = 10
"""The shortest interval that Deribit accepts."""
CHANNELS_MAX = 200
"""Channels in one subscribe request; requests have a quota, so a whole listing takes only a few."""
OPTION_INTERVAL, FUTURE_INTERVAL = "agg2", "100ms"
"""Options every two seconds at most, for surfaces are fitted every five; forwards as fast as is public."""

_INDEXES = {f"{underlying.name.lower()}_usd": underlying for underlying in Underlying}
_NONE = Decimal(0)
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**43)]


class _Error(msgspec.Struct):
    code: int = 0


class _Params(msgspec.Struct):
    type: str = ""
    channel: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")


class _Message(msgspec.Struct):
    method: str = ""
    params: _Params | None = None
    id: int | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: _Error | None = None


class _Ticker(msgspec.Struct):
    instrument_name: str
    timestamp: Milliseconds
    state: str
    best_bid_price: Decimal | None
    best_ask_price: Decimal | None
    underlying_price: Decimal | None = None


class _Index(msgspec.Struct):
    index_name: str
    timestamp: Milliseconds
    price: Decimal


_message = msgspec.json.Decoder(_Message)
_ticker = msgspec.json.Decoder(_Ticker)
_index = msgspec.json.Decoder(_Index)
_channels = msgspec.json.Decoder(list[str])


class Deribit:
    """One connection to Deribit."""

    def __init__(self, listed: Sequence[Instrument]) -> None:
        self._options: dict[str, Option] = {}
        self._futures: dict[str, Series] = {}
        self._channels: list[str] = []
        self._asked: dict[int, frozenset[str]] = {}
        self._requests = 0
        self._list(listed)

    def requests(self) -> list[str]:
        """A heartbeat, then all channels."""
        indexes = [f"deribit_price_index.{name}" for name in _INDEXES]
        heartbeat = _request(0, "public/set_heartbeat", {"interval": HEARTBEAT_SECONDS})
        return [heartbeat, *self._subscribe([*indexes, *self._channels])]

    def relist(self, listed: Sequence[Instrument]) -> list[str]:
        """Only the channels that are gone or new."""
        before = self._channels
        self._list(listed)
        gone, new = changes(before, self._channels)
        leave = [
            _request(0, "public/unsubscribe", {"channels": chunk}) for chunk in chunks(gone, CHANNELS_MAX)
        ]
        return [*leave, *self._subscribe(new)]

    def _list(self, listed: Sequence[Instrument]) -> None:
        pairs = listed_options(listed)
        self._options = {deribit_name(item): option for item, option in pairs}
        self._futures = {deribit_future(item): option.series for item, option in pairs}
        self._channels = [f"ticker.{name}.{FUTURE_INTERVAL}" for name in self._futures]
        self._channels += [f"ticker.{name}.{OPTION_INTERVAL}" for name in self._options]

    def _subscribe(self, channels: Sequence[str]) -> list[str]:
        requests = []
        for chunk in chunks(channels, CHANNELS_MAX):
            self._requests += 1
            self._asked[self._requests] = frozenset(chunk)
            requests.append(_request(self._requests, "public/subscribe", {"channels": chunk}))
        return requests

    def ping(self) -> None:
        """Deribit's heartbeat asks us."""

    def translate(self, message: str | bytes) -> Sequence[Said]:
        """What one notification, heartbeat or answer says."""
        said = decoded(_message, message)
        if said.method == "subscription" and said.params is not None:
            if said.params.channel.startswith("ticker."):
                return self._quotes(decoded(_ticker, said.params.data))
            if said.params.channel.startswith("deribit_price_index."):
                return [_index_of(decoded(_index, said.params.data))]
        if said.method == "heartbeat" and said.params is not None and said.params.type == "test_request":
            return [Reply(_request(0, "public/test", {}))]
        if said.error is not None:
            raise ProtocolViolation(QuoteReason.SUBSCRIPTION_REFUSED, f"error {said.error.code}")
        return self._missing(said) if said.id in self._asked else []

    def _missing(self, said: _Message) -> list[Said]:
        """A violation for each channel that was asked for and is not among those granted."""
        missing = self._asked.pop(said.id or 0) - set(decoded(_channels, said.result))
        return [ProtocolViolation(QuoteReason.SUBSCRIPTION_REFUSED, name) for name in sorted(missing)]

    def _quotes(self, ticker: _Ticker) -> list[Said]:
        name, time_ns = ticker.instrument_name, ticker.timestamp * 1_000_000
        if ticker.state != "open":
            raise ProtocolViolation(QuoteReason.NOT_TRADING, f"{name} is {ticker.state}")
        bid, ask = ticker.best_bid_price or _NONE, ticker.best_ask_price or _NONE
        option = self._options.get(name)
        if option is not None:
            if ticker.underlying_price is None:
                raise ProtocolViolation(QuoteReason.NO_UNDERLYING, name)
            underlying = underlying_price(option.series, time_ns, ticker.underlying_price)
            return [option_quote(option, time_ns, bid, ask), underlying]
        series = self._futures.get(name)
        if series is None:
            raise ProtocolViolation(QuoteReason.UNKNOWN_SERIES, name)
        return [forward_quote(series, time_ns, positive(bid), positive(ask))]


def _index_of(index: _Index) -> Said:
    underlying = _INDEXES.get(index.index_name)
    if underlying is None:
        raise ProtocolViolation(QuoteReason.UNKNOWN_UNDERLYING, index.index_name)
    return index_quote(underlying, index.timestamp * 1_000_000, positive(index.price), index.price)


def _request(number: int, method: str, params: dict[str, Any]) -> str:
    return text_of({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


FEEDS = (Feed("", Deribit),)
"""One connection for everything."""
