"""Several venues, one view: liars held, stale sources dropped, forwards from futures or parity."""

from __future__ import annotations

import numpy as np

from ledger.instruments import Kind, Underlying
from node.oracle.aggregate import (
    AggregationRules,
    aggregate_chain,
    aggregate_forward,
    aggregate_index,
    build_view,
    clipped_mean,
    parity_forward,
)
from node.oracle.quotes import ChainSnapshot, ForwardQuote, IndexQuote
from node.oracle.venue_book import VenueBook
from primitives.amounts import NS, USD

NOW = 1_800_000_000 * NS
EXPIRY = NOW + 86_400 * NS
RULES = AggregationRules()


def index_quotes(*mids: float, age_seconds: int = 0) -> list[IndexQuote]:
    return [IndexQuote(0, NOW - age_seconds * NS, round(mid * USD), round(mid * USD)) for mid in mids]


def a_chain(call: float, put: float, *, strike: int = 90_000, age_seconds: int = 0) -> ChainSnapshot:
    """One strike with a 10-dollar market around a call and a put; a mid of 0 is no quote."""
    sides = [(round((mid - 5) * USD), round((mid + 5) * USD)) if mid else (0, 0) for mid in (call, put)]
    return ChainSnapshot(
        Underlying.BTC,
        EXPIRY,
        NOW - age_seconds * NS,
        (strike * USD, strike * USD),
        (Kind.CALL, Kind.PUT),
        tuple(bid for bid, _ in sides),
        tuple(ask for _, ask in sides),
    )


def test_the_mean_of_agreeing_values_is_their_mean() -> None:
    assert clipped_mean([100_000_000, 100_004_000, 100_002_000], 5_000) == 100_002_000


def test_a_value_far_out_counts_only_up_to_three_usual_deviations() -> None:
    values = [100_000_000, 100_020_000, 100_010_000, 100_030_000, 130_000_000]
    # Median 100,020,000, median deviation 10,000: the liar counts as 100,050,000.
    assert (
        clipped_mean(values, 5_000)
        == (100_000_000 + 100_020_000 + 100_010_000 + 100_030_000 + 100_050_000) // 5
    )


def test_the_reach_never_exceeds_half_a_per_cent() -> None:
    assert clipped_mean([90_000_000, 100_000_000, 120_000_000], 5_000) == 100_000_000
    assert clipped_mean([90_000_000, 100_000_000, 101_000_000], 5_000) == 100_000_000


def test_a_lying_venue_leaves_the_index_among_the_honest_ones() -> None:
    honest = [90_000.0, 90_004.0, 89_997.0, 90_002.0]
    found = aggregate_index(index_quotes(*honest, 92_700.0), NOW, RULES)
    assert found is not None
    assert (min(honest) * USD <= found[0] <= max(honest) * USD, found[1]) == (True, 5)


def test_a_stale_venue_is_dropped_and_age_scales_with_speed() -> None:
    quotes = index_quotes(90_000.0) + index_quotes(80_000.0, age_seconds=4)
    assert aggregate_index(quotes, NOW, RULES) == (90_000 * USD, 1)
    assert aggregate_index(quotes, NOW, AggregationRules(speed=2.0)) == (85_000 * USD, 2)
    assert aggregate_index(index_quotes(80_000.0, age_seconds=4), NOW, RULES) is None


def test_the_forward_comes_from_dated_futures_where_there_are_any() -> None:
    future = ForwardQuote(0, EXPIRY, NOW, 90_100 * USD, 90_120 * USD)
    assert aggregate_forward([future], [a_chain(900, 700)], NOW, RULES) == (90_110 * USD, 1)


def test_the_forward_comes_from_parity_where_no_future_is_fresh() -> None:
    old = ForwardQuote(0, EXPIRY, NOW - 1_201 * NS, 90_100 * USD, 90_120 * USD)
    chains = [a_chain(900, 700), a_chain(910, 700), a_chain(905, 700), a_chain(0, 700)]
    assert aggregate_forward([old], chains, NOW, RULES) == (90_205 * USD, 3)
    assert parity_forward(a_chain(0, 700)) is None


def test_an_option_takes_the_clipped_mean_of_its_two_sided_venues() -> None:
    chains = [a_chain(900, 700), a_chain(902, 700), a_chain(901, 0), a_chain(1_350, 0)]
    view = aggregate_chain(chains, 90_000 * USD, 90_000 * USD, NOW, RULES)
    assert view is not None
    # Calls: median 901.5, deviation 1: the liar counts as 904.5. Puts: two venues agree, two are silent.
    assert view.mids.tolist() == [(900 + 902 + 901 + 904.5) / 4, 700.0]
    assert (view.bids.tolist(), view.asks.tolist(), view.venues) == ([896.5, 695.0], [906.5, 705.0], 4)


def test_an_option_without_any_two_sided_venue_has_no_price() -> None:
    view = aggregate_chain([a_chain(900, 0), a_chain(900, 0)], 90_000 * USD, 90_000 * USD, NOW, RULES)
    assert view is not None
    assert np.isnan(view.mids).tolist() == [False, True]


def test_venues_that_list_different_strikes_are_put_side_by_side() -> None:
    view = aggregate_chain(
        [a_chain(900, 700), a_chain(400, 1_200, strike=91_000)], 90_000 * USD, 90_000 * USD, NOW, RULES
    )
    assert view is not None
    assert (view.strikes_uusd // USD).tolist() == [90_000, 90_000, 91_000, 91_000]
    assert view.mids.tolist() == [900.0, 700.0, 400.0, 1_200.0]


def test_a_chain_remembers_the_forward_it_was_quoted_against() -> None:
    book = VenueBook("north", [(0, EXPIRY)])
    before = ForwardQuote(0, EXPIRY, NOW, 90_000 * USD, 90_000 * USD)
    after = ForwardQuote(0, EXPIRY, NOW + NS, 91_000 * USD, 91_000 * USD)
    for quote in (*index_quotes(90_000.0), before, a_chain(900, 700), after):
        book.add(quote, NOW + NS)
    view = build_view(0, [book], NOW + NS, RULES)
    assert view is not None
    (chain,) = view.chains
    assert (chain.forward_uusd, chain.quoted_forward_uusd) == (91_000 * USD, 90_000 * USD)


def test_a_view_leaves_out_what_is_stale_or_expired() -> None:
    book = VenueBook("north", [(0, EXPIRY), (0, NOW + NS)])
    for quote in (*index_quotes(90_000.0), a_chain(900, 700, age_seconds=60)):
        book.add(quote, NOW)
    view = build_view(0, [book], NOW, RULES)
    assert view is not None
    assert [(chain.expiry_ns, chain.forward_uusd) for chain in view.chains] == [(EXPIRY, 90_200 * USD)]
    assert build_view(0, [book], NOW + 4 * NS, RULES) is None
    late = EXPIRY - NS
    book.add(IndexQuote(0, late, 1, 1), late)
    assert build_view(0, [book], late, RULES) is not None
    assert build_view(0, [book], late, RULES).chains == ()  # type: ignore[union-attr]
