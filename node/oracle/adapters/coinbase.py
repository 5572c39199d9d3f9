"""Coinbase: best bid and ask of the dollar markets. Advanced Trade market data over one WebSocket. Pure.

Documented at docs.cdp.coinbase.com (Advanced Trade WebSocket channels): ticker and heartbeats, which keeps the
subscription open. Every message of a connection is numbered, so that a lost one is noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from ledger.instruments import Underlying
from node.oracle.adapters.said import (
    Feed,
    Reply,
    Said,
    SpotDialect,
    decimal_of,
    decoded,
    each,
    index_quote,
    iso_time,
    positive,
    text_of,
)
from node.oracle.reasons import QuoteReason
from primitives.errors import ProtocolViolation

PRODUCTS = {"BTC-USD": Underlying.BTC, "ETH-USD": Underlying.ETH}
RESUBSCRIBE_MESSAGES_MIN = 100
"""After a gap and its new snapshot, further gaps within so many messages ask for no other one."""


class _Ticker(msgspec.Struct):
    product_id: str
    best_bid: str
    best_ask: str


class _Event(msgspec.Struct):
    tickers: list[_Ticker]


class _Message(msgspec.Struct):
    channel: str = ""
    type: str = ""
    timestamp: str = ""
    sequence_num: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    events: msgspec.Raw = msgspec.Raw(b"[]")


_message = msgspec.json.Decoder(_Message)
_events = msgspec.json.Decoder(list[_Event])


class Coinbase(SpotDialect):
    """One connection to Coinbase."""

    def __init__(self) -> None:
        self._sequence = -1
        self._resubscribed_at = -RESUBSCRIBE_MESSAGES_MIN

    def requests(self) -> list[str]:
        """One request a channel."""
        return [_request("subscribe", "heartbeats"), _request("subscribe", "ticker")]

    def ping(self) -> None:
        """Coinbase's heartbeats need no answer."""

    def translate(self, message: str | bytes) -> Sequence[Said]:
        """What one message says; after a gap also the requests that bring a new snapshot."""
        said = decoded(_message, message)
        if said.type == "error":
            raise ProtocolViolation(QuoteReason.SUBSCRIPTION_REFUSED, "an error message")
        if said.sequence_num is None:
            return []
        recovery = self._follow(said.sequence_num)
        if said.channel != "ticker":
            return recovery
        time_ns = iso_time(said.timestamp)
        tickers = [ticker for event in decoded(_events, said.events) for ticker in event.tickers]
        return [*recovery, *each(tickers, lambda ticker: [_quote(ticker, time_ns)])]

    def _follow(self, sequence: int) -> list[Said]:
        """Note a message's number; what to do about those missing before it."""
        if sequence <= self._sequence:
            raise ProtocolViolation(QuoteReason.OUT_OF_ORDER, f"message {sequence} after {self._sequence}")
        lost, self._sequence = sequence - self._sequence - 1, sequence
        if lost == 0:
            return []
        gap = ProtocolViolation(QuoteReason.SEQUENCE_GAP, f"{lost} messages before {sequence}")
        if sequence - self._resubscribed_at < RESUBSCRIBE_MESSAGES_MIN:
            return [gap]
        self._resubscribed_at = sequence
        return [gap, Reply(_request("unsubscribe", "ticker")), Reply(_request("subscribe", "ticker"))]


def _quote(ticker: _Ticker, time_ns: int) -> Said:
    underlying = PRODUCTS.get(ticker.product_id)
    if underlying is None:
        raise ProtocolViolation(QuoteReason.UNKNOWN_UNDERLYING, ticker.product_id)
    bid, ask = positive(decimal_of(ticker.best_bid)), positive(decimal_of(ticker.best_ask))
    return index_quote(underlying, time_ns, bid, ask)


def _request(kind: str, channel: str) -> str:
    return text_of({"type": kind, "product_ids": list(PRODUCTS), "channel": channel})


FEEDS = (Feed("", lambda _: Coinbase()),)
"""One connection; only spot."""
