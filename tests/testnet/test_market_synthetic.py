"""The synthetic market: one seed one path, a scripted shock, a sorted listing, no arbitrage in its smiles."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import numpy as np
import pytest

from ledger.instruments import Kind, Underlying
from ledger.listing_schedule import scheduled_expiries, strikes_around
from node.oracle import ssvi
from primitives.amounts import NS, PPM
from testnet.market.source import DAY_NS, EXPIRY_OF_DAY_NS, Shock, listing, years_between
from testnet.market.synthetic import DYNAMICS, SCHEDULE, SyntheticMarket, suggest_start_ns

START = suggest_start_ns(60.0, 60.0)


def path_of(market: SyntheticMarket, *steps_ns: int) -> list[float]:
    """BTC's index at these times after the start."""
    prices = []
    for step in steps_ns:
        market.advance_to(START + step)
        prices.append(market.index(Underlying.BTC))
    return prices


def test_the_same_seed_gives_the_same_path_however_it_is_asked() -> None:
    often = path_of(SyntheticMarket(7, START), *range(0, 7_200 * NS, 7 * NS // 3), 7_200 * NS)
    once = path_of(SyntheticMarket(7, START), 7_200 * NS)
    assert often[-1] == once[0]


def test_another_seed_gives_another_path() -> None:
    ends = {path_of(SyntheticMarket(seed, START), 600 * NS)[0] for seed in range(5)}
    assert len(ends) == 5


def test_going_back_in_time_changes_nothing() -> None:
    market = SyntheticMarket(7, START)
    forth, back = path_of(market, 600 * NS, 0)
    assert (back, market.time_ns) == (forth, START + 600 * NS)


def test_the_shock_multiplies_every_price_once_at_its_time() -> None:
    shock = Shock(START + 100 * NS, -60_000)
    calm, shaken = SyntheticMarket(7, START), SyntheticMarket(7, START, shock)
    before = (path_of(calm, 99 * NS), path_of(shaken, 99 * NS))
    after = (path_of(calm, 100 * NS)[0], path_of(shaken, 100 * NS)[0])
    assert before[0] == before[1]
    assert after[1] / after[0] == pytest.approx(1 - 60_000 / PPM, rel=1e-12)
    assert shaken.chain(Underlying.BTC)[1].vols.mean() > calm.chain(Underlying.BTC)[1].vols.mean() * 1.05


def test_returns_have_the_volatility_that_options_are_priced_with() -> None:
    market = SyntheticMarket(3, START)
    logs = np.log(path_of(market, *range(0, 86_400 * NS, 60 * NS)))
    realised = float(np.std(np.diff(logs))) * sqrt(365 * 1_440)
    assert realised == pytest.approx(sqrt(DYNAMICS[Underlying.BTC].long_variance), rel=0.35)


def test_the_suggested_start_puts_an_expiry_into_the_run() -> None:
    for speed, seconds in ((60.0, 60.0), (600.0, 30.0), (3_600.0, 600.0)):
        start = suggest_start_ns(speed, seconds)
        first = SyntheticMarket(1, start).expiries(Underlying.BTC)[0]
        assert (start < first < start + speed * seconds * NS, first % DAY_NS) == (True, EXPIRY_OF_DAY_NS)


def test_a_run_too_short_for_a_settlement_window_gets_no_expiry() -> None:
    start = suggest_start_ns(60.0, 15.0)
    first = SyntheticMarket(1, start).expiries(Underlying.BTC)[0]
    assert (first - start, first % DAY_NS) == (2_000 * NS, EXPIRY_OF_DAY_NS)


def test_at_eight_the_expired_chain_is_gone_and_its_successors_are_there() -> None:
    market = SyntheticMarket(7, START)
    first, *others = market.expiries(Underlying.ETH)
    market.advance_to(first - 1)
    assert market.expiries(Underlying.ETH) == (first, *others)
    market.advance_to(first)
    assert market.expiries(Underlying.ETH) == tuple(scheduled_expiries(first, SCHEDULE))
    assert first not in market.expiries(Underlying.ETH) and set(others) < set(market.expiries(Underlying.ETH))
    assert [chain.expiry_ns for chain in market.chain(Underlying.ETH)] == list(
        market.expiries(Underlying.ETH)
    )


def test_a_new_chain_does_not_depend_on_when_one_looked() -> None:
    at_once, later = SyntheticMarket(7, START), SyntheticMarket(7, START)
    for step in range(0, 4_000, 7):
        at_once.advance_to(START + step * NS)
    later.advance_to(at_once.time_ns)
    for underlying in later.underlyings:
        for one, other in zip(at_once.chain(underlying), later.chain(underlying), strict=True):
            assert (one.strikes_uusd.tolist(), one.mids.tolist()) == (
                other.strikes_uusd.tolist(),
                other.mids.tolist(),
            )


def test_venues_quote_what_the_chain_lists_by_its_rule_and_strikes_in_between() -> None:
    market = SyntheticMarket(7, START)
    for chain in market.chain(Underlying.BTC):
        theta = market._smile(Underlying.BTC, years_between(market.time_ns, chain.expiry_ns))[0]
        listed = strikes_around(round(chain.forward * 1e6), round(theta * 1e12), SCHEDULE)
        assert 3 <= len(listed) <= SCHEDULE.strikes_max
        assert np.unique(chain.strikes_uusd)[::2].tolist() == listed


def test_smiles_bear_no_arbitrage_between_expiries() -> None:
    market = SyntheticMarket(7, START, Shock(START + 10 * NS, -60_000))
    for step in (0, 10, 2_000):
        market.advance_to(START + step * NS)
        for underlying in market.underlyings:
            taus = [years_between(market.time_ns, expiry) for expiry in market.expiries(underlying)]
            smiles = [market._smile(underlying, tau) for tau in taus]
            grid = np.linspace(-0.5, 0.5, 41)
            surface = [ssvi.total_variance(*smile, grid) for smile in smiles]
            assert all((later > sooner).all() for sooner, later in pairwise(surface))
            assert all(psi <= ssvi.psi_max(theta, rho) for theta, rho, psi in smiles)


def test_the_listing_is_sorted_with_perpetuals_first() -> None:
    market = SyntheticMarket(7, START)
    instruments = listing(market, expiries_max=4, strikes_max=8)
    strikes = [len(market.strikes(u, e)) for u in market.underlyings for e in market.expiries(u)]
    assert len(strikes) == 8 and min(strikes) >= 5
    assert [item.id for item in instruments] == list(range(2 + 2 * sum(min(8, count) for count in strikes)))
    assert [item.name for item in instruments[:2]] == ["BTC-PERPETUAL", "ETH-PERPETUAL"]
    keys = [(item.underlying, item.expiry_ns, item.strike_uusd, item.kind) for item in instruments[2:]]
    assert keys == sorted(set(keys))
    assert {item.kind for item in instruments[2:]} == {Kind.CALL, Kind.PUT}


def test_a_listing_holds_strikes_on_both_sides_of_the_forward() -> None:
    market = SyntheticMarket(7, START)
    for chain in market.chain(Underlying.BTC):
        strikes = [
            item.strike_uusd / 1e6
            for item in listing(market)
            if (item.underlying, item.expiry_ns, item.kind) == (Underlying.BTC, chain.expiry_ns, Kind.CALL)
        ]
        assert sum(strike < chain.forward for strike in strikes) >= 3
        assert sum(strike > chain.forward for strike in strikes) >= 3
