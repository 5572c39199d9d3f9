"""The standard model on published examples and against its obvious version."""

from __future__ import annotations

from collections import defaultdict
from itertools import product

import numpy as np
import pytest

from ledger.instruments import Instrument, Kind, Underlying
from ledger.margin.parameters import default_margin_parameters
from ledger.margin.portfolio import PortfolioTable, Position
from ledger.margin.reasons import MarginReason
from ledger.margin.scenarios import RiskArrays, build_risk_arrays
from ledger.margin.standard import (
    DEFAULT_STANDARD_PARAMETERS,
    StandardMargin,
    StandardParameters,
    compute_standard_margin,
    compute_standard_margins,
)
from ledger.market import UnderlyingMarket
from primitives.amounts import PPM, ceil_div
from primitives.errors import ProtocolViolation
from tests.ledger.margin_builders import (
    CALL,
    INDEX,
    NOW_NS,
    PERPETUAL,
    PUT,
    USD,
    Leg,
    a_slice,
    an_instrument,
    positions_of,
    risk_of,
)
from tests.ledger.pricing_vectors import micro, needs_vectors, vectors

STANDARD = dict.fromkeys(Underlying, DEFAULT_STANDARD_PARAMETERS)


def standard_of(legs: list[Leg], cash: int = 0, confidence_ppm: int = PPM) -> StandardMargin:
    slices = [
        a_slice(days, confidence_ppm=confidence_ppm) for days in sorted({leg.days for leg in legs} - {0})
    ]
    return compute_standard_margin(risk_of(legs, slices), cash, positions_of(legs), STANDARD)


@needs_vectors
def test_own_example_of_a_short_call() -> None:
    example = vectors("own_other")["srm_A"]
    margin = standard_of([Leg(-1, CALL, 110, 30)])
    required = (margin.im_requirement_uusd, margin.mm_requirement_uusd)
    assert required == (
        pytest.approx(micro(example["IM"]), abs=5000),
        pytest.approx(micro(example["MM"]), abs=5000),
    )
    mark = int(risk_of([Leg(-1, CALL, 110, 30)], [a_slice(30)]).mark_uusd[0])
    assert required == (13_000 * USD + mark, 9000 * USD + mark)


def marked_at(index: int, strikes: dict[int, int]) -> RiskArrays:
    """One ether contract a lot: calls by number -> strike, with a surface of no width (marks are intrinsic)."""
    instruments = [
        Instrument(number, Underlying.ETH, CALL, NOW_NS, strike * USD, 1)
        for number, strike in strikes.items()
    ]
    markets = {Underlying.ETH: UnderlyingMarket(index * USD, (a_slice(0, forward=index * USD),))}
    return build_risk_arrays(
        NOW_NS, instruments, markets, {Underlying.ETH: default_margin_parameters(Underlying.ETH)}
    )


@needs_vectors
def test_derive_example_of_short_calls_in_the_money() -> None:
    example = vectors("derive_standard")["example1"]
    risk = marked_at(example["S"], {1: example["K"]})
    # The published mark holds 20 of time value over the intrinsic 100 that this surface gives.
    time_value = micro(example["mark"]) - int(risk.mark_uusd[0])
    calls = example["short_calls"]
    cash = micro(example["cash"]) - calls * time_value
    margin = compute_standard_margin(risk, cash, [Position(1, -calls)], STANDARD)
    assert (margin.im_excess_uusd, margin.mm_excess_uusd) == (micro(example["IM"]), micro(example["MM"]))


def test_derive_example_of_a_spread_that_requires_its_largest_loss() -> None:
    risk = marked_at(1900, {1: 1700, 2: 1900})
    margin = compute_standard_margin(risk, 2000 * USD, [Position(1, -8), Position(2, 8)], STANDARD)
    assert (margin.im_requirement_uusd, margin.im_excess_uusd) == (1600 * USD, 400 * USD)


def test_a_long_option_requires_nothing_and_counts_nothing() -> None:
    assert standard_of([Leg(5, CALL, 110, 30)], cash=7) == StandardMargin(7, 0, 0, 7, 7)


def test_a_short_put_requires_at_most_its_strike() -> None:
    assert standard_of([Leg(-1, PUT, 5, 30)]).im_requirement_uusd == 5000 * USD


def test_a_perpetual_requires_its_part_and_counts_its_profit() -> None:
    risk = risk_of([Leg(1, PERPETUAL)], [])
    bought_lower = Position(1, -200, -2 * (INDEX - 1000 * USD))
    margin = compute_standard_margin(risk, 0, [bought_lower], STANDARD)
    assert margin[:3] == (-2000 * USD, 20_000 * USD, 10_000 * USD)


def test_expiries_do_not_offset_each_other() -> None:
    near, far = Leg(-1, CALL, 110, 30), Leg(1, CALL, 110, 60)
    assert standard_of([near, far]).im_requirement_uusd == standard_of([near]).im_requirement_uusd


def test_low_confidence_adds_the_oracle_contingency_to_the_initial_requirement_alone() -> None:
    sure, unsure = (standard_of([Leg(-1, CALL, 110, 30)], confidence_ppm=c) for c in (PPM, 400_000))
    assert unsure.im_requirement_uusd - sure.im_requirement_uusd == 60_000 * USD
    assert unsure.mm_requirement_uusd == sure.mm_requirement_uusd


def test_calls_short_beyond_the_long_ones_count_as_the_dearest_alone() -> None:
    legs = [Leg(-3, CALL, 100, 30), Leg(2, CALL, 105, 30)]
    alone = standard_of([Leg(-1, CALL, 100, 30)]).im_requirement_uusd
    # At the highest strike three calls owe 5,000 each; two of them are bounded from there on.
    assert standard_of(legs).im_requirement_uusd == 15_000 * USD + alone


def obvious_requirements(instruments: list[Instrument], marks: list[int], lots: dict[int, int]) -> list[int]:
    """(initial, maintenance) from the words of the module; `lots` are contracts here."""
    groups: dict[int, list[tuple[Instrument, int, int]]] = defaultdict(list)
    for item, mark in zip(instruments, marks, strict=True):
        if lots.get(item.id):
            groups[item.expiry_ns].append((item, mark, lots[item.id]))
    totals = [0, 0]
    for held, which in product(groups.values(), (0, 1)):

        def alone(item: Instrument, mark: int, which: int = which) -> int:
            if which == 1:
                return INDEX * 9 // 100 + mark
            away = item.strike_uusd - INDEX if item.kind == Kind.CALL else INDEX - item.strike_uusd
            return max(INDEX * 15 // 100 - max(0, away), INDEX * 13 // 100) + mark

        def paid(price: int, held: list[tuple[Instrument, int, int]] = held) -> int:
            sides = [1 if item.kind == Kind.CALL else -1 for item, _, _ in held]
            return sum(
                count * max(0, side * (price - item.strike_uusd))
                for side, (item, _, count) in zip(sides, held, strict=True)
            )

        sum_alone = sum(-count * alone(item, mark) for item, mark, count in held if count < 0)
        calls = [entry for entry in held if entry[0].kind == Kind.CALL]
        naked = max(0, -sum(count for _, _, count in calls))
        dearest = max((alone(item, mark) for item, mark, count in calls if count < 0), default=0)
        loss = max(0, *(-paid(price) for price in (0, *(item.strike_uusd for item, _, _ in held))))
        totals[which] += min(sum_alone, loss + naked * dearest)
    return totals


def test_random_portfolios_are_as_the_obvious_version_has_them() -> None:
    generator = np.random.default_rng(11)
    legs = [
        Leg(1, kind, strike, days) for days, strike, kind in product((7, 60), (80, 95, 100, 130), (CALL, PUT))
    ]
    instruments = [an_instrument(number, leg) for number, leg in enumerate(legs, 1)]
    markets = {Underlying.BTC: UnderlyingMarket(INDEX, (a_slice(7), a_slice(60)))}
    risk = build_risk_arrays(
        NOW_NS, instruments, markets, {Underlying.BTC: default_margin_parameters(Underlying.BTC)}
    )
    marks = [int(mark) for mark in risk.mark_uusd]
    table: PortfolioTable[int] = PortfolioTable()
    expected = []
    for account in range(200):
        ids = generator.choice(np.arange(1, 17), generator.integers(0, 9), replace=False).tolist()
        lots = {number: int(generator.integers(-5, 6)) for number in ids}
        table.replace(account, 0, [Position(number, 100 * count) for number, count in lots.items() if count])
        expected.append(obvious_requirements(instruments, marks, lots))
    margins = compute_standard_margins(risk, *table.portfolios(risk), STANDARD)
    columns = (margins.im_requirement_uusd, margins.mm_requirement_uusd)
    assert np.stack(columns, axis=1).tolist() == expected


def test_requirements_round_up() -> None:
    odd = {Underlying.BTC: StandardParameters(150_000, 130_000, 90_000, 333_333, 50_001)}
    risk = risk_of([Leg(1, PERPETUAL)], [])
    margin = compute_standard_margin(risk, 0, [Position(1, 1, INDEX // 100)], odd)
    assert margin[1:3] == (ceil_div(INDEX * 333_333, 100 * PPM), ceil_div(INDEX * 50_001, 100 * PPM))


@pytest.mark.parametrize(
    "numbers",
    [
        (150_000, 160_000, 90_000, 2, 1),
        (150_000, 130_000, 0, 2, 1),
        (PPM + 1, 130_000, 90_000, 2, 1),
        (3, 2, 1, 1, 2),
    ],
)
def test_a_part_out_of_order_is_refused(numbers: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(ProtocolViolation) as refusal:
        StandardParameters(*numbers)
    assert refusal.value.reason == MarginReason.BAD_PARAMETERS
