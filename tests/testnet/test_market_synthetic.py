"""The synthetic market: one seed one path, a scripted shock, a sorted listing, no arbitrage in its smiles."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import numpy as np
import pytest

from ledger.instruments import Kind, Underlying
from node.oracle import ssvi
from primitives.amounts import NS, PPM
from testnet.market.source import DAY_NS, EXPIRY_OF_DAY_NS, Shock, listing, years_between
from testnet.market.synthetic import DYNAMICS, SyntheticMarket, suggest_start_ns

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


def test_an_expired_chain_is_gone() -> None:
    market = SyntheticMarket(7, START)
    first, *others = market.expiries(Underlying.ETH)
    market.advance_to(first)
    assert market.expiries(Underlying.ETH) == tuple(others)
    assert [chain.expiry_ns for chain in market.chain(Underlying.ETH)] == others


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
    instruments = listing(SyntheticMarket(7, START), expiries_max=4, strikes_max=8)
    assert [item.id for item in instruments] == list(range(2 + 2 * 4 * 8 * 2))
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
