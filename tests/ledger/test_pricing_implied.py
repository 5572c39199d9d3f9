"""Implied volatilities: round trips on wide grids, quotes no volatility gives, and the last resort of each branch."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import isqrt

import numpy as np
import pytest

from ledger.pricing import black76, fixed_math, kernel_implied
from ledger.pricing.kernel import OptionTerms
from ledger.pricing.kernel_implied import NO_VOLATILITY

SCALE = 10**45
USD = 10**6
FORWARD = 100_000 * USD
TICK = USD // 10
"""The smallest premium tick, $0.10."""
YEAR_NS = 31_536_000 * 10**9
DAY_NS = 86_400 * 10**9


def exact_time_value(strike: int, volatility_e9: int, time_ns: int) -> Fraction:
    """Undiscounted time value in micro-USD at FORWARD, of the obvious version; the root of time to 45 digits."""
    root = isqrt(time_ns * SCALE * SCALE // YEAR_NS)
    deviation = volatility_e9 * root // 10**9
    is_call = strike >= FORWARD
    value = fixed_math.black76(FORWARD * SCALE, strike * SCALE, deviation, is_call, SCALE)
    return Fraction(value, SCALE)


def cases() -> list[tuple[int, int, int, Fraction]]:
    """(strike, volatility 1e-9, time, time value) wherever the quote is a tick from both of its bounds."""
    strikes = [
        FORWARD * part // 1000 for part in (100, 400, 700, 900, 970, 999, 1000, 1001, 1050, 1200, 2000, 9000)
    ]
    volatilities = [10**7, 10**8, 5 * 10**8, 10**9, 3 * 10**9, 8 * 10**9]
    times = [60 * 10**9, 3600 * 10**9, DAY_NS, 30 * DAY_NS, YEAR_NS, 5 * YEAR_NS]
    found = []
    for strike, volatility, time_ns in product(strikes, volatilities, times):
        value = exact_time_value(strike, volatility, time_ns)
        if TICK <= value <= min(strike, FORWARD) - TICK:
            found.append((strike, volatility, time_ns, value))
    return found


CASES = cases()


def test_round_trip_from_an_exact_price_is_within_1e_8() -> None:
    assert len(CASES) > 200
    near = np.array([float(value / min(strike, FORWARD)) for strike, _, _, value in CASES])
    far = np.array([max(strike, FORWARD) / min(strike, FORWARD) for strike, *_ in CASES])
    root = np.array([np.sqrt(time_ns / YEAR_NS) for _, _, time_ns, _ in CASES])
    volatility = np.array([volatility / 1e9 for _, volatility, _, _ in CASES])
    implied = kernel_implied.implied_deviations(near, far) / root
    assert np.abs(implied - volatility).max() <= 1e-8


@pytest.mark.parametrize("is_call", [True, False])
@pytest.mark.parametrize("discount_ppm", [10**6, 912_345])
def test_a_quote_in_micro_dollars_gives_its_volatility_as_far_as_it_says(
    is_call: bool, discount_ppm: int
) -> None:
    strikes, volatilities, times, time_values = zip(*CASES, strict=True)
    discount = Fraction(discount_ppm, 10**6)
    sign = 1 if is_call else -1
    quotes = [
        round(discount * (value + max(0, sign * (FORWARD - strike))))
        for strike, value in zip(strikes, time_values, strict=True)
    ]
    terms = OptionTerms(np.array(strikes), np.full(len(CASES), is_call), np.full(len(CASES), discount_ppm))
    columns = (np.full(len(CASES), FORWARD), np.array(quotes), np.array(times))
    implied = black76.implied_volatilities_e9(terms, *columns)
    variances = np.array([v * v * t // YEAR_NS // 1000 for v, t in zip(volatilities, times, strict=True)])
    vega = black76.compute_greeks(terms, columns[0], variances, columns[2]).vega_uusd
    # Half a micro-dollar of the quote, in volatility 1e-9: a point (1e7) per vega; and 1e-8 besides.
    allowed = 10 + 0.5 * 1e7 / np.maximum(vega, 1)
    assert (np.abs(implied - np.array(volatilities)) <= allowed).all()


def test_quotes_are_repriced_to_the_micro_dollar() -> None:
    strike = np.arange(60, 161, 5) * 1000 * USD
    terms = OptionTerms(strike, strike > FORWARD, np.full(len(strike), 990_000))
    forward, time_ns = np.full(len(strike), FORWARD), np.full(len(strike), 30 * DAY_NS)
    quotes = black76.compute_values(terms, forward, np.full(len(strike), 5 * 10**13)) + TICK
    implied = black76.implied_volatilities_e9(terms, forward, quotes, time_ns)
    variance = np.array([int(v) ** 2 * 30 * DAY_NS // YEAR_NS // 1000 for v in implied])
    vega = black76.compute_greeks(terms, forward, variance, time_ns).vega_uusd
    error = np.abs(black76.compute_values(terms, forward, variance) - quotes)
    # The answer's own last digit, 1e-9, is worth vega / 1e7.
    assert (error <= 1 + vega / 1e7).all()


def one(
    strike: int, value: int, *, is_call: bool = True, discount: int = 10**6, time_ns: int = DAY_NS
) -> int:
    terms = OptionTerms(np.array([strike]), np.array([is_call]), np.array([discount]))
    columns = (np.array([number]) for number in (FORWARD, value, time_ns))
    return int(black76.implied_volatilities_e9(terms, *columns)[0])


def test_a_quote_at_intrinsic_value_has_volatility_0() -> None:
    assert [one(90_000 * USD, 9_500 * USD, discount=950_000), one(110_000 * USD, 0)] == [0, 0]


@pytest.mark.parametrize(
    ("strike", "value", "is_call", "time_ns"),
    [
        (90_000 * USD, 10_000 * USD - 1, True, DAY_NS),
        (90_000 * USD, FORWARD, True, DAY_NS),
        (90_000 * USD, 90_000 * USD, False, DAY_NS),
        (90_000 * USD, -1, False, DAY_NS),
        (110_000 * USD, 5 * USD, True, 0),
    ],
)
def test_a_quote_no_volatility_gives_has_none(strike: int, value: int, is_call: bool, time_ns: int) -> None:
    assert one(strike, value, is_call=is_call, time_ns=time_ns) == NO_VOLATILITY


def test_two_steps_more_change_nothing_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    powers = 10.0 ** -np.arange(0.05, 12.0, 0.25)
    prices = np.concatenate((powers, 1.0 - powers[1:36]))
    ratios = 1.0 + np.concatenate(([0.0], 10.0 ** np.arange(-9.0, 2.0, 0.25)))
    price, ratio = (axis.reshape(-1) for axis in np.meshgrid(prices, ratios))
    solved = kernel_implied.implied_deviations(price, ratio)
    monkeypatch.setattr(kernel_implied, "STEPS", kernel_implied.STEPS + 2)
    again = kernel_implied.implied_deviations(price, ratio)
    # Below a total deviation of 1e-7 the price of an option at the money is itself rounding.
    assert (np.abs(again - solved) <= 1e-8 * solved + 1e-15).all()


def test_chunks_do_not_change_a_volatility(monkeypatch: pytest.MonkeyPatch) -> None:
    price, ratio = np.linspace(0.01, 0.9, 100), np.linspace(1.0, 3.0, 100)
    whole = kernel_implied.implied_deviations(price, ratio)
    monkeypatch.setattr(kernel_implied, "CHUNK", 7)
    assert np.array_equal(whole, kernel_implied.implied_deviations(price, ratio))
