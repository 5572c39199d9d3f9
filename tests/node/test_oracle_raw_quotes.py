"""The raw view of the venues that a report carries: middles, half-spreads, and premiums moved to the forward of now."""

from __future__ import annotations

import numpy as np
import pytest

from ledger.instruments import Instrument, Kind
from ledger.transactions import QuotesReport
from node.oracle.aggregate import AggregationRules, build_view
from node.oracle.black import price_and_vega
from node.oracle.quotes import ChainSnapshot, ForwardQuote, IndexQuote
from node.oracle.raw_quotes import raw_quotes
from node.oracle.venue_book import VenueBook
from primitives.amounts import NS, SECONDS_PER_YEAR, USD

NOW = 1_770_000_000 * NS
EXPIRY = NOW + 7 * 86_400 * NS
TAU = 7 * 86_400 / SECONDS_PER_YEAR
STRIKES = (90_000, 100_000, 110_000)
PERPETUAL = Instrument(0, 0, Kind.PERPETUAL, 0, 0, 100)
CALLS = tuple(Instrument(1 + n, 0, Kind.CALL, EXPIRY, k * USD, 100) for n, k in enumerate(STRIKES))
ASKED = (PERPETUAL, *CALLS)


def value_usd(forward_usd: float) -> list[float]:
    """What the calls are worth at 60 % volatility."""
    strikes = np.array(STRIKES, dtype=float)
    return price_and_vega(forward_usd, strikes, TAU, np.full(3, 0.6), np.full(3, True))[0].tolist()


def a_book(name: str, index_usd: int, *, half_usd: int = 5, off_usd: float = 0) -> VenueBook:
    """A venue that quoted its chain when the forward was 100,000."""
    book = VenueBook(name, [(0, EXPIRY)])
    book.add(IndexQuote(0, NOW, (index_usd - half_usd) * USD, (index_usd + half_usd) * USD), NOW)
    book.add(ForwardQuote(0, EXPIRY, NOW, 99_999 * USD, 100_001 * USD), NOW)
    mids = [round((one + off_usd) * USD) for one in value_usd(100_000)]
    strikes, kinds = tuple(k * USD for k in STRIKES), (int(Kind.CALL),) * 3
    bids, asks = tuple(mid - 10 * USD for mid in mids), tuple(mid + 10 * USD for mid in mids)
    book.add(ChainSnapshot(0, EXPIRY, NOW, strikes, kinds, bids, asks), NOW)
    return book


def told(books: list[VenueBook], now_ns: int = NOW) -> QuotesReport:
    view = build_view(0, books, now_ns, AggregationRules())
    assert view is not None
    return raw_quotes([view], books, ASKED, now_ns - 3 * NS)


def test_a_report_tells_middles_and_half_spreads_in_cents() -> None:
    report = told([a_book("north", 100_000), a_book("south", 100_002, half_usd=7), a_book("east", 99_998)])
    assert report.instruments == (0, 1, 2, 3)
    assert report.marks_cents[0] == 10_000_000
    assert report.marks_cents[1:] == tuple(pytest.approx(one * 100, abs=1) for one in value_usd(100_000))
    assert report.half_spreads_cents == (500, 1_000, 1_000, 1_000)


def test_a_premium_is_moved_to_the_forward_of_now() -> None:
    books = [a_book("north", 100_000), a_book("south", 100_000)]
    for book in books:
        book.add(ForwardQuote(0, EXPIRY, NOW + NS, 100_499 * USD, 100_501 * USD), NOW + NS)
    report = told(books, NOW + NS)
    assert report.marks_cents[1:] == tuple(pytest.approx(one * 100, rel=1e-4) for one in value_usd(100_500))


def test_what_nobody_quotes_is_left_out() -> None:
    book = VenueBook("north", [(0, EXPIRY)])
    book.add(IndexQuote(0, NOW, 99_995 * USD, 100_005 * USD), NOW)
    assert told([book]) == QuotesReport((0,), (10_000_000,), (500,))


def test_one_lying_venue_of_four_moves_a_raw_mark_by_less_than_the_spread() -> None:
    honest = [a_book(name, 100_000 + n, off_usd=n) for n, name in enumerate(("north", "south", "east"))]
    alone, with_liar = told(honest), told([*honest, a_book("mirage", 103_000, off_usd=900)])
    for before, after, half in zip(
        alone.marks_cents, with_liar.marks_cents, alone.half_spreads_cents, strict=True
    ):
        assert abs(after - before) < half
