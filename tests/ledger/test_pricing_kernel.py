"""The fast kernel against the obvious integers, also where numbers are extreme."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ledger.pricing import fixed_math, kernel, kernel_margin
from ledger.pricing.kernel import OptionTerms
from tests.ledger.pricing_digest import option_grid

SCALE = fixed_math.SCALE
TAIL_SCALE = 10**345


def integer(value: float, scale: int = SCALE) -> int:
    """The exact binary number, as an integer over `scale`, rounded down."""
    exact = Fraction(value)
    return exact.numerator * scale // exact.denominator


def relative_error(computed: float, exact: int, scale: int = SCALE) -> Fraction:
    return abs(Fraction(computed) * scale / exact - 1)


LIMIT = Fraction(1, 10**12)


def test_logarithm_is_within_1e_12_of_the_obvious_one() -> None:
    near_one = 1.0 + np.array([-1e-3, -1e-9, -1e-15, 1e-15, 1e-9, 1e-3])
    x = np.concatenate(
        (np.linspace(1e-3, 0.999, 60), np.linspace(1.001, 9.0, 60), near_one, np.sqrt([0.5, 2.0]))
    )
    scale = 10**50
    errors = [
        relative_error(y, fixed_math.ln(integer(z, scale), scale), scale)
        for z, y in zip(x, kernel.ln(x), strict=True)
    ]
    assert max(errors) < LIMIT


def test_logarithm_of_the_smallest_and_largest_numbers() -> None:
    x = np.array([2.3e-308, 1e-300, 1e-100, 1e-27, 1e27, 1e100, 1e300, 1.7e308])
    pairs = zip(x, kernel.ln(x), strict=True)
    errors = [
        relative_error(v, fixed_math.ln(integer(z, TAIL_SCALE), TAIL_SCALE), TAIL_SCALE) for z, v in pairs
    ]
    assert max(errors) < LIMIT


def test_exponential_is_within_1e_12_of_the_obvious_one() -> None:
    y = np.concatenate((np.linspace(-708.0, 709.0, 140), [-1e-300, -1e-9, 0.0, 1e-9, 1e-300]))
    pairs = zip(y, kernel.exp(y), strict=True)
    errors = [
        relative_error(v, fixed_math.exp(integer(z, TAIL_SCALE), TAIL_SCALE), TAIL_SCALE) for z, v in pairs
    ]
    assert max(errors) < LIMIT


def test_normal_distribution_is_within_1e_12_of_the_obvious_one_also_in_its_tails() -> None:
    x = np.linspace(-36.0, 9.0, 91)
    pairs = zip(x, kernel.normal_cdf(x), strict=True)
    errors = [
        relative_error(v, fixed_math.normal_cdf(integer(z, TAIL_SCALE), TAIL_SCALE), TAIL_SCALE)
        for z, v in pairs
    ]
    assert max(errors) < LIMIT


def test_normal_distribution_in_the_middle_and_beyond_its_ends() -> None:
    assert kernel.normal_cdf(np.array([0.0, -0.0, 40.0, 1e100])).tolist() == [0.5, 0.5, 1.0, 1.0]
    assert 0.0 < kernel.normal_cdf(np.array([-40.0]))[0] < 1e-280


def test_prices_are_within_a_micro_dollar_of_the_obvious_ones() -> None:
    terms, forward, deviation = option_grid()
    values = kernel.option_values(terms, forward, deviation)
    exact = [
        fixed_math.black76(f * SCALE, k * SCALE, s * SCALE // 10**15, bool(is_call))
        for f, k, s, is_call in zip(
            forward.tolist(), terms.strike_uusd.tolist(), deviation.tolist(), terms.is_call, strict=True
        )
    ]
    assert max(abs(v * SCALE - e) for v, e in zip(values.tolist(), exact, strict=True)) <= SCALE


def test_prices_of_extreme_options_are_within_a_micro_dollar() -> None:
    forwards, ratios, deviations = np.meshgrid(
        [1e6, 3e10, 9e12], [1e-3, 0.5, 1.0, 1.0001, 40.0], [1e-9, 0.02, 1.0, 24.0]
    )
    forward = forwards.reshape(-1).astype(np.int64)
    strike = np.rint(forward * ratios.reshape(-1)).astype(np.int64)
    deviation = np.rint(deviations.reshape(-1) * 1e15).astype(np.int64)
    for side in (True, False):
        terms = OptionTerms(strike, np.full(len(strike), side), np.full(len(strike), 10**6))
        exact = [
            fixed_math.black76(f * SCALE, k * SCALE, s * SCALE // 10**15, side)
            for f, k, s in zip(forward.tolist(), strike.tolist(), deviation.tolist(), strict=True)
        ]
        values = kernel.option_values(terms, forward, deviation).tolist()
        assert max(abs(v * SCALE - e) for v, e in zip(values, exact, strict=True)) <= SCALE


def test_greeks_are_within_rounding_of_the_obvious_ones() -> None:
    forward, strike, deviation, time_ns = 98_765_432_100, 90_000_000_000, 3 * 10**14, 10**16
    terms = OptionTerms(np.array([strike] * 2), np.array([True, False]), np.array([950_000] * 2))
    columns = (np.array([number] * 2) for number in (forward, deviation, time_ns))
    call, put = np.stack(kernel.option_greeks(terms, *columns), axis=1).tolist()
    for greeks, side in ((call, True), (put, False)):
        assert greeks == [pytest.approx(exact, rel=1e-9, abs=1) for exact in obvious_greeks(side)]


def obvious_greeks(is_call: bool) -> list[float]:
    """Value and five Greeks of the option above, from prices of the obvious version a small step apart."""
    forward, strike, years = 98_765_432_100, 90_000_000_000, Fraction(10**16, 31_536_000 * 10**9)
    volatility = Fraction(3, 10) / Fraction(np.sqrt(float(years)))
    rate = -Fraction(float(np.log(0.95))) / years
    scale = 10**50

    def value(df: Fraction = Fraction(0), dv: Fraction = Fraction(0), dt: Fraction = Fraction(0)) -> Fraction:
        root = Fraction(np.sqrt(float(years - dt)))
        # One Newton step makes the float's square root exact to twice its digits.
        root = (root + (years - dt) / root) / 2
        deviation = (volatility + dv) * root
        f = (forward + df) * scale
        raw = fixed_math.black76(int(f), strike * scale, int(deviation * scale), is_call, scale)
        growth = Fraction(fixed_math.exp(int(rate * dt * scale), scale), scale)
        return Fraction(raw, scale) * Fraction(95, 100) * growth

    h, day = Fraction(1000), Fraction(1, 365 * 10**6)
    v = Fraction(1, 10**7)
    up, middle, down = value(h), value(), value(-h)
    greeks = [
        middle,
        (up - down) / (2 * h) * 10**9,
        (up - 2 * middle + down) / (h * h) * 10**18,
        (value(dv=v) - value(dv=-v)) / (2 * v) / 100,
        (value(dt=day) - value(dt=-day)) / (2 * day) / 365,
        -years * middle / 100,
    ]
    return [float(greek) for greek in greeks]


def test_values_and_greeks_are_one() -> None:
    terms, forward, deviation = option_grid()
    values, *_ = kernel.option_greeks(terms, forward, deviation, np.full(len(forward), 10**15))
    assert np.array_equal(values, kernel.option_values(terms, forward, deviation))


def test_a_worthless_option_about_to_expire_has_finite_greeks() -> None:
    terms = OptionTerms(np.array([10**9]), np.array([True]), np.array([0]))
    greeks = kernel.option_greeks(terms, np.array([10**9]), np.array([0]), np.array([0]))
    assert [abs(int(column[0])) <= kernel.OUTPUT_MAX for column in greeks] == [True] * 6


def test_chunking_does_not_change_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    terms, forward, deviation = option_grid()
    forwards = np.stack([forward, forward * 9 // 10, forward * 6])
    index = np.array([0, 1, 2, 1, 0]), np.array([0, 0, 0, 0, 0])
    whole = kernel.scenario_values(terms, forwards, deviation[None, :], *index)
    monkeypatch.setattr(kernel, "CHUNK", 2 * len(forward))
    assert np.array_equal(whole, kernel.scenario_values(terms, forwards, deviation[None, :], *index))


def test_an_expiry_value_is_discounted_by_its_sign_and_rounded_down() -> None:
    values = np.array([[100_000_000_001, -100_000_000_001, 0]])
    positive, negative = np.array([980_000_000_000_000]), np.array([1_010_000_000_000_000])
    counted = kernel_margin.discount_by_sign(values, positive, negative)
    assert counted.tolist() == [[98_000_000_000, -101_000_000_002, 0]]
