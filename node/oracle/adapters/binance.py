"""Binance spot: best bid and ask of the dollar pairs. Raw market streams over one WebSocket. Pure.

Documented at developers.binance.com (web socket streams): <symbol>@ticker carries a time and comes every second;
<symbol>@bookTicker is immediate but has only an update number, so it is stamped with the newest time that the
venue told: early at worst, never late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from ledger.instruments import Underlying
from node.oracle.adapters.said import (
    Feed,
    Said,
    SpotDialect,
    decimal_of,
    decoded,
    index_quote,
    positive,
    text_of,
)
from node.oracle.reasons import QuoteReason
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason

SYMBOLS = {"BTCUSDC": Underlying.BTC, "ETHUSDC": Underlying.ETH}
"""There is no dollar market; USDC is redeemed at par, USDT is not. The aggregation clips what strays."""


class _Refusal(msgspec.Struct):
    code: int = 0


class _Message(msgspec.Struct):
    """A ticker (`e`, `E`), a book ticker (`u`), an answer (`id`) or an error; letters are Binance's."""

    e: str = ""
    E: Annotated[int, msgspec.Meta(ge=0, le=2**43)] = 0
    s: str = ""
    u: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    b: str | None = None
    a: str | None = None
    id: int | None = None
    error: _Refusal | None = None
    code: int | None = None


_message = msgspec.json.Decoder(_Message)


class Binance(SpotDialect):
    """One connection to Binance."""

    def __init__(self) -> None:
        self._time_ns = 0
        self._updates: dict[str, int] = {}

    def requests(self) -> list[str]:
        """All streams in one request."""
        names = [f"{symbol.lower()}@{stream}" for symbol in SYMBOLS for stream in ("ticker", "bookTicker")]
        return [text_of({"method": "SUBSCRIBE", "params": names, "id": 1})]

    def ping(self) -> None:
        """Binance pings with WebSocket frames, which the socket answers."""

    def translate(self, message: str | bytes) -> Sequence[Said]:
        """What one event says."""
        said = decoded(_message, message)
        if said.e == "24hrTicker":
            quote = self._quote(said, said.E * 1_000_000)
            self._time_ns = said.E * 1_000_000
            return [quote]
        if said.e == "serverShutdown":
            raise ProtocolViolation(QuoteReason.VENUE_CLOSING, "serverShutdown")
        if said.error is not None or said.code is not None:
            raise ProtocolViolation(QuoteReason.SUBSCRIPTION_REFUSED, "an error event")
        if said.e or said.id is not None:
            return []
        if said.u <= self._updates.get(said.s, 0):
            raise ProtocolViolation(QuoteReason.OUT_OF_ORDER, f"update {said.u} of {said.s}")
        if self._time_ns == 0:
            raise ProtocolViolation(QuoteReason.NO_TIME, "a book ticker before the first ticker")
        quote = self._quote(said, self._time_ns)
        self._updates[said.s] = said.u
        return [quote]

    def _quote(self, said: _Message, time_ns: int) -> Said:
        underlying = SYMBOLS.get(said.s)
        if underlying is None:
            raise ProtocolViolation(QuoteReason.UNKNOWN_UNDERLYING, said.s)
        if said.b is None or said.a is None:
            raise ProtocolViolation(CodecReason.MALFORMED, "a ticker without best prices")
        bid, ask = positive(decimal_of(said.b)), positive(decimal_of(said.a))
        return index_quote(underlying, time_ns, bid, ask)


FEEDS = (Feed("", lambda _: Binance()),)
"""One connection; only spot."""
