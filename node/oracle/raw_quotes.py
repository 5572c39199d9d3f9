"""What a validator's venues show of each instrument right now: the raw view that its reports carry. Pure.

Neither fitted nor taken from the chain. An option's premiums are as old as its venues' last chains; their middle is
moved to the forward of now at the volatility that it implies, so that the age of a quote is not taken for drift.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ledger.instruments import Instrument, Kind
from ledger.transactions import UUSD_PER_CENT, QuotesReport
from node.oracle.aggregate import ChainView, UnderlyingView
from node.oracle.black import Floats, implied_vol, price_and_vega
from node.oracle.venue_book import VenueBook
from primitives.amounts import NS, PPM, SECONDS_PER_YEAR

_CENTS = PPM // UUSD_PER_CENT
Quoted = dict[tuple[int, int, int, int], tuple[int, int]]
"""(underlying, expiry, strike, kind) -> (middle, half-spread) in cents."""


def raw_quotes(
    views: Sequence[UnderlyingView], books: Sequence[VenueBook], asked: Sequence[Instrument], oldest_ns: int
) -> QuotesReport:
    """The columns of what is asked for and quoted; `asked` ascends by id, `oldest_ns` bounds indices."""
    quoted: Quoted = {}
    for view in views:
        quoted |= _perpetual(view, books, oldest_ns)
        for chain in view.chains:
            quoted |= _options(view, chain)
    rows = [
        (item.id, *quoted[key])
        for item in asked
        if (key := (item.underlying, item.expiry_ns, item.strike_uusd, item.kind)) in quoted
    ]
    return QuotesReport(*(tuple(row[column] for row in rows) for column in range(3)))


def _perpetual(view: UnderlyingView, books: Sequence[VenueBook], oldest_ns: int) -> Quoted:
    """The index, which is a perpetual's mark here, with the median half-spread of its venues."""
    quotes = [quote for book in books if (quote := book.indexes.get(view.underlying)) is not None]
    halves = sorted(quote.ask_uusd - quote.bid_uusd for quote in quotes if quote.time_ns >= oldest_ns)
    if not halves:
        return {}
    half_cents = halves[len(halves) // 2] // (2 * UUSD_PER_CENT)
    key = (view.underlying, 0, 0, int(Kind.PERPETUAL))
    return {key: (round(view.index_uusd / UUSD_PER_CENT), half_cents)}


def _options(view: UnderlyingView, chain: ChainView) -> Quoted:
    usable = np.flatnonzero(chain.mids > 0)
    strikes, kinds = chain.strikes_uusd[usable], chain.kinds[usable]
    mids = _moved(chain, usable, (chain.expiry_ns - view.time_ns) / (NS * SECONDS_PER_YEAR))
    halves = (chain.asks - chain.bids)[usable] / 2
    columns = zip(strikes.tolist(), kinds.tolist(), mids.tolist(), halves.tolist(), strict=True)
    return {
        (view.underlying, chain.expiry_ns, strike, kind): (max(0, round(mid * _CENTS)), round(half * _CENTS))
        for strike, kind, mid, half in columns
    }


def _moved(chain: ChainView, usable: NDArray[np.intp], tau_years: float) -> Floats:
    """The middles at the forward of now; where they imply no volatility, by intrinsic value."""
    then, now = chain.quoted_forward_uusd / PPM, chain.forward_uusd / PPM
    strikes, mids = chain.strikes_uusd[usable] / PPM, chain.mids[usable]
    is_call = chain.kinds[usable] == Kind.CALL
    if then == now or not len(usable):
        return mids
    sign = np.where(is_call, 1.0, -1.0)
    change = np.maximum(sign * (now - strikes), 0) - np.maximum(sign * (then - strikes), 0)
    vols, _ = implied_vol(then, strikes, tau_years, mids, is_call)
    sound = ~np.isnan(vols)
    if sound.any():
        of = (strikes[sound], tau_years, vols[sound], is_call[sound])
        change[sound] = price_and_vega(now, *of)[0] - price_and_vega(then, *of)[0]
    moved: Floats = mids + change
    return moved
