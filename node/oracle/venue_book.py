"""The newest quotes of one venue, each checked against the clock and its predecessor. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from ledger.instruments import Instrument, Kind, Underlying
from node.oracle.quotes import ChainSnapshot, ForwardQuote, IndexQuote, Quote, check_quote
from node.oracle.reasons import QuoteReason
from primitives.amounts import NS
from primitives.errors import ProtocolViolation

Key = TypeVar("Key")
Value = TypeVar("Value", IndexQuote, ForwardQuote, ChainSnapshot)
Series = tuple[int, int]
"""(underlying, expiry_ns): the key of a forward and of a chain."""

AHEAD_SECONDS_MAX = 2
"""A stamp may run this far (real seconds, times speed) ahead of our clock; more is refused."""
AGE_SECONDS_MAX = 1_200
"""A stamp older than this (real seconds, times speed) is refused at once: no rule would use it."""


def series_of(listed: Iterable[Instrument]) -> set[Series]:
    """The series that these instruments belong to."""
    return {(item.underlying, item.expiry_ns) for item in listed if item.kind != Kind.PERPETUAL}


class VenueBook:
    """Newest index, forward and chain per key of one venue.

    Bounded: one index per underlying, one forward and chain per listed series.
    """

    def __init__(self, name: str, listed: Iterable[Series], speed: float = 1.0) -> None:
        """`speed` is market time per real time: limits that exist because of networks scale with it."""
        self.name = name
        self.indexes: dict[int, IndexQuote] = {}
        self.forwards: dict[Series, ForwardQuote] = {}
        self.chains: dict[Series, ChainSnapshot] = {}
        self.chain_forwards: dict[Series, ForwardQuote] = {}
        """The forward that was newest when the chain came: what its premiums were quoted against."""
        self._ahead_ns = int(AHEAD_SECONDS_MAX * NS * speed)
        self._age_ns = int(AGE_SECONDS_MAX * NS * speed)
        self._listed: frozenset[Series] = frozenset()
        self.list_series(listed)

    def list_series(self, listed: Iterable[Series]) -> None:
        """Replace the listed series; quotes of delisted ones are forgotten."""
        self._listed = frozenset(listed)
        self.forwards = {key: quote for key, quote in self.forwards.items() if key in self._listed}
        self.chains = {key: quote for key, quote in self.chains.items() if key in self._listed}
        self.chain_forwards = {key: q for key, q in self.chain_forwards.items() if key in self._listed}

    def add(self, quote: Quote, now_ns: int) -> None:
        """Keep a quote if it is sound, timely and newer than what we hold.

        Raises:
            ProtocolViolation: a QuoteReason; nothing has changed.
        """
        check_quote(quote)
        self.check_time(quote.time_ns, now_ns)
        if isinstance(quote, IndexQuote):
            _replace(self.indexes, quote.underlying, quote)
            return
        series = (quote.underlying, quote.expiry_ns)
        if series not in self._listed:
            name = Underlying(quote.underlying).name
            raise ProtocolViolation(QuoteReason.UNKNOWN_SERIES, f"{name} expiring at {quote.expiry_ns}")
        if isinstance(quote, ForwardQuote):
            _replace(self.forwards, series, quote)
        else:
            _replace(self.chains, series, quote)
            if series in self.forwards:
                self.chain_forwards[series] = self.forwards[series]

    def oldest_ns(self, now_ns: int) -> int:
        """Anything stamped before this is refused."""
        return now_ns - self._age_ns

    def check_time(self, time_ns: int, now_ns: int) -> None:
        """Refuse a stamp that no rule would use.

        Raises:
            ProtocolViolation: FROM_THE_FUTURE or STALE.
        """
        if time_ns > now_ns + self._ahead_ns:
            raise ProtocolViolation(QuoteReason.FROM_THE_FUTURE, f"{time_ns - now_ns} ns ahead")
        if time_ns < self.oldest_ns(now_ns):
            raise ProtocolViolation(QuoteReason.STALE, f"{now_ns - time_ns} ns old")


def _replace(held: dict[Key, Value], key: Key, quote: Value) -> None:
    before = held.get(key)
    if before is not None and quote.time_ns < before.time_ns:
        raise ProtocolViolation(
            QuoteReason.OUT_OF_ORDER, f"{before.time_ns - quote.time_ns} ns older than held"
        )
    held[key] = quote
