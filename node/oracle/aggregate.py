"""From several venues' quotes to one view per underlying: median, clip, average; stale sources dropped. Pure.

Stricter than market.md section 2, which clips to +-0.5 % of the median: with five venues a steady liar would
still move the average by 10 bp, more than most spreads, and every validator's by the same. So the clip is
also held to a few of the venues' usual deviations; the liar then moves it by less than they differ anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ledger.instruments import Kind
from node.oracle.quotes import ChainSnapshot, ForwardQuote, IndexQuote
from node.oracle.venue_book import Series, VenueBook
from primitives.amounts import NS, PPM

DEVIATIONS_MAX = 3
"""A value further from the median than this many median absolute deviations is clipped to there."""
CLIP_PPM_MIN = 100
"""Venues that agree to within 1 bp are not told apart."""
PARITY_PAIRS = 5
"""Put-call pairs nearest to the money that give a parity forward."""


@dataclass(frozen=True, slots=True)
class AggregationRules:
    """Ages are real time; `speed` (market time per real time) turns them into market time."""

    speed: float = 1.0
    clip_ppm: int = 5_000
    spot_age_ms_max: int = 3_000
    option_age_ms_max: int = 1_200_000

    @property
    def spot_age_ns_max(self) -> int:
        """Oldest usable index quote, in market nanoseconds."""
        return int(self.spot_age_ms_max * NS // 1_000 * self.speed)

    @property
    def option_age_ns_max(self) -> int:
        """Oldest usable forward or chain, in market nanoseconds."""
        return int(self.option_age_ms_max * NS // 1_000 * self.speed)


@dataclass(frozen=True, slots=True)
class ChainView:
    """One expiry over all venues: arrays aligned, ascending by (strike, kind); prices in USD, NaN where none.

    `time_ns` is the middle one of the venues' stamps: a fit needs the time its premiums were quoted.
    `forward_uusd` is the newest, `quoted_forward_uusd` the one at the time of the premiums.
    `mids` is the validator's raw external mark of each option: what epsilon is measured against.
    """

    expiry_ns: int
    time_ns: int
    forward_uusd: int
    quoted_forward_uusd: int
    venues: int
    strikes_uusd: NDArray[np.int64]
    kinds: NDArray[np.int64]
    bids: NDArray[np.float64]
    asks: NDArray[np.float64]
    mids: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class UnderlyingView:
    """Index and chains of one underlying, ascending by expiry; `index_venues` counts the fresh ones."""

    underlying: int
    time_ns: int
    index_uusd: int
    index_venues: int
    chains: tuple[ChainView, ...]


def clipped_mean(values: Sequence[int], clip_ppm: int) -> int:
    """Average of `values` (at least one) after each was moved to within reach of their median; rounded down.

    The reach is DEVIATIONS_MAX median absolute deviations, between CLIP_PPM_MIN and clip_ppm of the median.
    """
    median = _median(values)
    deviation = _median([abs(value - median) for value in values])
    reach = max(DEVIATIONS_MAX * deviation, median * CLIP_PPM_MIN // PPM)
    reach = min(reach, median * clip_ppm // PPM)
    return sum(min(max(value, median - reach), median + reach) for value in values) // len(values)


def _median(values: Sequence[int]) -> int:
    """Middle value, or the floored mean of the two middle ones."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) // 2


def aggregate_index(
    quotes: Sequence[IndexQuote], now_ns: int, rules: AggregationRules
) -> tuple[int, int] | None:
    """(index in micro-USD, fresh venues), or None when no venue is fresh."""
    return _aggregate_mids(quotes, now_ns - rules.spot_age_ns_max, rules)


def aggregate_forward(
    futures: Sequence[ForwardQuote], chains: Sequence[ChainSnapshot], now_ns: int, rules: AggregationRules
) -> tuple[int, int] | None:
    """(forward in micro-USD, venues) of one expiry: from dated futures, else from the venues' parity."""
    oldest_ns = now_ns - rules.option_age_ns_max
    found = _aggregate_mids(futures, oldest_ns, rules)
    if found is not None:
        return found
    parities = [parity_forward(chain) for chain in chains if chain.time_ns >= oldest_ns]
    known = [parity for parity in parities if parity is not None]
    return (clipped_mean(known, rules.clip_ppm), len(known)) if known else None


def _aggregate_mids(
    quotes: Sequence[IndexQuote] | Sequence[ForwardQuote], oldest_ns: int, rules: AggregationRules
) -> tuple[int, int] | None:
    mids = [(quote.bid_uusd + quote.ask_uusd) // 2 for quote in quotes if quote.time_ns >= oldest_ns]
    return (clipped_mean(mids, rules.clip_ppm), len(mids)) if mids else None


def parity_forward(chain: ChainSnapshot) -> int | None:
    """Median of strike + call - put over the pairs nearest to the money; None without a two-sided pair.

    Nearest to the money is where call and put cost most nearly the same.
    """
    mids = {
        (strike, kind): (bid + ask) // 2
        for strike, kind, bid, ask in zip(
            chain.strikes_uusd, chain.kinds, chain.bids_uusd, chain.asks_uusd, strict=True
        )
        if bid > 0 and ask > 0
    }
    pairs = [
        (abs(call - put), strike + call - put)
        for (strike, kind), call in mids.items()
        if kind == Kind.CALL and (put := mids.get((strike, int(Kind.PUT)))) is not None
    ]
    nearest = sorted(forward for _, forward in sorted(pairs)[:PARITY_PAIRS])
    forward = nearest[len(nearest) // 2] if nearest else 0
    return forward if forward > 0 else None


def aggregate_chain(
    chains: Sequence[ChainSnapshot],
    forward_uusd: int,
    quoted_forward_uusd: int,
    now_ns: int,
    rules: AggregationRules,
) -> ChainView | None:
    """One expiry's options over its fresh venues; None when no fresh venue quotes any.

    An option's mid is the mean of its venues' mids, clipped as in `clipped_mean`; bid and ask are medians.
    A venue without both sides of an option says nothing about it.
    """
    fresh = [chain for chain in chains if chain.time_ns >= now_ns - rules.option_age_ns_max]
    keys = sorted({key for chain in fresh for key in zip(chain.strikes_uusd, chain.kinds, strict=True)})
    if not keys:
        return None
    place = {key: column for column, key in enumerate(keys)}
    bids, asks = np.full((len(fresh), len(keys)), np.nan), np.full((len(fresh), len(keys)), np.nan)
    for row, chain in enumerate(fresh):
        columns = [place[key] for key in zip(chain.strikes_uusd, chain.kinds, strict=True)]
        bids[row, columns], asks[row, columns] = chain.bids_uusd, chain.asks_uusd
    one_sided = ~((bids > 0) & (asks > 0))
    bids[one_sided] = asks[one_sided] = np.nan
    mids = (bids + asks) / 2
    middle = _column_median(mids)
    deviation = _column_median(np.abs(mids - middle))
    reach = np.maximum(DEVIATIONS_MAX * deviation, middle * (CLIP_PPM_MIN / PPM))
    reach = np.minimum(reach, middle * (rules.clip_ppm / PPM))
    clipped = np.clip(mids, middle - reach, middle + reach)
    present = (~one_sided).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.nansum(clipped, axis=0) / present
    return ChainView(
        expiry_ns=fresh[0].expiry_ns,
        time_ns=_median([chain.time_ns for chain in fresh]),
        forward_uusd=forward_uusd,
        quoted_forward_uusd=quoted_forward_uusd,
        venues=len(fresh),
        strikes_uusd=np.array([strike for strike, _ in keys], dtype=np.int64),
        kinds=np.array([kind for _, kind in keys], dtype=np.int64),
        bids=_column_median(bids) / 1e6,
        asks=_column_median(asks) / 1e6,
        mids=means / 1e6,
    )


def _column_median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of each column's numbers, NaN for none (np.nanmedian without its warnings and its slowness)."""
    ordered = np.sort(values, axis=0)  # NaN sorts last.
    count = (~np.isnan(values)).sum(axis=0)
    columns = np.arange(values.shape[1])
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[0] - 1)
    middle: NDArray[np.float64] = (ordered[low, columns] + ordered[high, columns]) / 2
    return middle


def build_view(
    underlying: int, books: Sequence[VenueBook], now_ns: int, rules: AggregationRules
) -> UnderlyingView | None:
    """Everything this validator believes about one underlying now; None when no venue has a fresh index.

    Expiries in the past, or without a forward or a chain, are left out.
    """
    indexes = [quote for book in books if (quote := book.indexes.get(underlying)) is not None]
    index = aggregate_index(indexes, now_ns, rules)
    if index is None:
        return None
    # `list` at once: the event loop may fill the books while a worker thread builds a view.
    held = {key for book in books for key in list(book.chains)}
    series = sorted(key for key in held if key[0] == underlying and key[1] > now_ns)
    chains = [_chain_of(key, books, now_ns, rules) for key in series]
    return UnderlyingView(underlying, now_ns, *index, tuple(chain for chain in chains if chain is not None))


def _chain_of(
    key: Series, books: Sequence[VenueBook], now_ns: int, rules: AggregationRules
) -> ChainView | None:
    chains = [chain for book in books if (chain := book.chains.get(key)) is not None]
    futures = [future for book in books if (future := book.forwards.get(key)) is not None]
    forward = aggregate_forward(futures, chains, now_ns, rules)
    if forward is None:
        return None
    quoted_against = [future for book in books if (future := book.chain_forwards.get(key)) is not None]
    quoted = aggregate_forward(quoted_against, chains, now_ns, rules) or forward
    return aggregate_chain(chains, forward[0], quoted[0], now_ns, rules)
