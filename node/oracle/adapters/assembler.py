"""Gathers single options into chains in dollars, one expiry at a time. Pure.

A premium in coin is worth what the coin is worth now, so the conversion happens when a chain is drawn, with the
venue's own newest price of the underlying: a quote that did not change has followed it.
"""

from __future__ import annotations

from collections.abc import Collection

from node.oracle.adapters.said import PICO, Option, OptionQuote, UnderlyingPrice
from node.oracle.quotes import PRICE_UUSD_MAX, ChainSnapshot, ForwardQuote
from node.oracle.reasons import QuoteReason
from node.oracle.venue_book import Series
from primitives.amounts import USD, ceil_div
from primitives.errors import ProtocolViolation


class ChainAssembler:
    """The newest quote of each option on one connection. Bounded by what Quorate lists."""

    def __init__(self, *, premiums_in_coin: bool) -> None:
        self._in_coin = premiums_in_coin
        self._options: dict[Series, dict[tuple[int, int], OptionQuote]] = {}
        self._underlyings: dict[Series, UnderlyingPrice] = {}
        self._dated: set[Series] = set()
        self._changed: set[Series] = set()

    def add_option(self, quote: OptionQuote) -> None:
        """Keep an option's quote. Raises ProtocolViolation: OUT_OF_ORDER."""
        option: Option = quote.option
        chain = self._options.setdefault(option.series, {})
        key = (option.strike_uusd, option.kind)
        before = chain.get(key)
        if before is not None and quote.time_ns < before.time_ns:
            raise ProtocolViolation(QuoteReason.OUT_OF_ORDER, "an option's quote older than held")
        chain[key] = quote
        self._changed.add(option.series)

    def add_underlying(self, price: UnderlyingPrice) -> None:
        """Keep what an expiry is priced against. Raises ProtocolViolation: OUT_OF_ORDER."""
        before = self._underlyings.get(price.series)
        if before is not None and price.time_ns < before.time_ns:
            raise ProtocolViolation(QuoteReason.OUT_OF_ORDER, "an underlying's price older than held")
        self._underlyings[price.series] = price
        self._changed.add(price.series)

    def keep(self, series: Collection[Series]) -> None:
        """Forget all other series."""
        for held in (self._options, self._underlyings):
            for gone in held.keys() - series:
                del held[gone]
        self._dated.intersection_update(series)
        self._changed.intersection_update(series)

    def has_heard_of(self, option: Option) -> bool:
        """Whether an option was quoted lately, however one-sidedly."""
        return (option.strike_uusd, option.kind) in self._options.get(option.series, {})

    def note_future(self, series: Series) -> None:
        """A dated future is quoted: it is the forward, and the price of the options' underlying is not."""
        self._dated.add(series)

    def draw(self, oldest_ns: int) -> list[ForwardQuote | ChainSnapshot]:
        """Forwards and chains that changed since the last call, each forward before its chain.

        Options stamped before `oldest_ns` are forgotten. An expiry whose underlying has no price yet waits.
        """
        drawn: list[ForwardQuote | ChainSnapshot] = []
        for series in sorted(self._changed & self._underlyings.keys()):
            self._changed.discard(series)
            underlying = self._underlyings[series]
            if series not in self._dated:
                price = underlying.price_uusd
                drawn.append(ForwardQuote(*series, underlying.time_ns, price, price))
            quotes = self._options.get(series, {})
            fresh = {key: quote for key, quote in quotes.items() if quote.time_ns >= oldest_ns}
            if fresh:
                self._options[series] = fresh
                drawn.append(self._chain(series, fresh, underlying))
        return drawn

    def _chain(
        self, series: Series, quotes: dict[tuple[int, int], OptionQuote], underlying: UnderlyingPrice
    ) -> ChainSnapshot:
        """Bids rounded down and asks up; an option whose premium exceeds every limit is left out."""
        worth = underlying.price_uusd if self._in_coin else USD
        rows = [
            (*key, quote.bid_pico * worth // PICO, ceil_div(quote.ask_pico * worth, PICO))
            for key, quote in sorted(quotes.items())
        ]
        rows = [row for row in rows if max(row[2], row[3]) <= PRICE_UUSD_MAX]
        strikes, kinds, bids, asks = (tuple(row[column] for row in rows) for column in range(4))
        time_ns = max(underlying.time_ns, *(quote.time_ns for quote in quotes.values()))
        return ChainSnapshot(*series, time_ns, strikes, kinds, bids, asks)
