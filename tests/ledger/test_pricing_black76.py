"""Black-76 and the surface on published numbers."""

from __future__ import annotations

from math import exp, sqrt
from typing import Any

import numpy as np
import pytest

from ledger.pricing import black76, kernel
from ledger.pricing.black76 import Greeks
from ledger.pricing.kernel import OptionTerms
from tests.ledger.pricing_vectors import micro, needs_vectors, vectors

UNIT = 10_000
"""Haug's prices of a few dollars are taken times 10,000, since integers hold six decimals."""
YEAR_NS = 31_536_000 * 10**9


def one(*values: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([value], dtype=np.int64) for value in values)


def black_value(forward: float, strike: float, deviation: float, is_call: bool) -> float:
    """Undiscounted value in USD."""
    f, k, w, d = one(micro(forward), micro(strike), round(deviation * deviation * 1e15), 10**6)
    return int(black76.compute_values(OptionTerms(k, np.array([is_call]), d), f, w)[0]) / 1e6


@needs_vectors
def test_haug_values() -> None:
    for side, strike, spot, dividend, rate, years, volatility, value, tolerance in vectors("haug_values")[
        "rows"
    ]:
        forward = spot * exp((rate - dividend) * years)
        computed = black_value(forward * UNIT, strike * UNIT, volatility * sqrt(years), side == "Call") / UNIT
        assert computed * exp(-rate * years) == pytest.approx(value, abs=tolerance)


def haug_greeks(case: dict[str, Any]) -> tuple[Greeks, float, float]:
    """(undiscounted Greeks with prices times UNIT, forward, discount) of one of Haug's examples."""
    rate, years = case["r"], case["t"]
    forward = case["spot"] * exp((rate - case["q"]) * years)
    f, k, w, d, t = one(
        micro(forward * UNIT), micro(case["strike"] * UNIT), round(case["vol"] ** 2 * years * 1e15), 10**6,
        round(years * YEAR_NS),
    )  # fmt: skip
    terms = OptionTerms(k, np.array([case["type"] == "Call"]), d)
    return black76.compute_greeks(terms, f, w, t), forward, exp(-rate * years)


def spot_greek(case: dict[str, Any]) -> float:
    """A Greek per spot with carry, from the forward's Greeks by the chain rule."""
    greeks, forward, discount = haug_greeks(case)
    spot, rate, dividend, years = case["spot"], case["r"], case["q"], case["t"]
    carry = forward / spot
    delta = int(greeks.delta_e9[0]) / 1e9 * discount
    value = (
        discount
        * black_value(
            forward * UNIT, case["strike"] * UNIT, case["vol"] * sqrt(years), case["type"] == "Call"
        )
        / UNIT
    )
    theta_at_forward = int(greeks.theta_uusd[0]) / 1e6 / UNIT * 365 * discount + rate * value
    theta = theta_at_forward - (rate - dividend) * forward * delta
    return {
        "delta": delta * carry,
        "elasticity": delta * carry * spot / value,
        "gamma": int(greeks.gamma_e12[0]) / 1e12 * UNIT * discount * carry * carry,
        "vega": int(greeks.vega_uusd[0]) / 1e6 / UNIT * 100 * discount,
        "theta_per_year": theta,
        "theta_per_day": theta / 365,
        # At a fixed forward, per point of the rate; with the spot fixed the forward moves by years * forward too.
        "rho": years * forward * delta + int(greeks.rho_uusd[0]) / 1e6 / UNIT * 100 * discount,
        "dividendRho": -years * forward * delta,
    }[case["greek"]]


@needs_vectors
def test_haug_greeks() -> None:
    cases = vectors("haug_greeks")
    assert [spot_greek(case) for case in cases] == [pytest.approx(case["value"], abs=1e-4) for case in cases]


@needs_vectors
def test_lyra_black76_also_without_strike_without_forward_and_at_the_capped_deviation() -> None:
    for case in vectors("lyra_utils")["black76"]:
        deviation = case["vol"] * sqrt(case["T_sec"] / 31_536_000)
        call, put = (black_value(case["F"], case["K"], deviation, is_call) for is_call in (True, False))
        # The last decimal is the value's own rounding; a forward or strike of 0 counts as 1e-6.
        assert case["D"] * call == pytest.approx(case["call"], abs=2e-6)
        assert case["D"] * put == pytest.approx(case["put"], abs=2e-6)


@needs_vectors
def test_lyra_call_deltas() -> None:
    for case in vectors("lyra_utils")["black76"]:
        if "call_delta_undiscounted" in case:
            variance = round(case["vol"] ** 2 * case["T_sec"] / 31_536_000 * 1e15)
            f, k, w, d, t = one(micro(case["F"]), micro(case["K"]), variance, 10**6, case["T_sec"] * 10**9)
            delta = black76.compute_greeks(OptionTerms(k, np.array([True]), d), f, w, t).delta_e9[0]
            assert int(delta) / 1e9 == pytest.approx(case["call_delta_undiscounted"], abs=1e-9)


@needs_vectors
def test_ssvi_total_variances_where_the_vectors_lie_inside_our_clamp_of_moneyness() -> None:
    cases = [case for case in vectors("ssvi") if abs(case["k"]) <= 4 * sqrt(case["theta"])]
    assert len(cases) == 19
    for case in cases:
        scaled = (("theta", 1e12), ("rho", 1e6), ("psi", 1e9))
        theta, rho, psi = (round(case[name] * unit) for name, unit in scaled)
        forward = 10**12
        columns = one(forward, round(forward * exp(case["k"])), theta, rho, psi, 0)
        variance, time_ns = kernel.total_variance_e15(*columns), one(round(case["T_years"] * YEAR_NS))[0]
        assert int(variance[0]) / 1e15 == pytest.approx(case["w_1e18"] / 1e18, rel=1e-10)
        assert int(kernel.volatility_e9(variance, time_ns)[0]) / 1e9 == pytest.approx(case["vol_T"], abs=2e-9)


def test_an_expired_option_is_worth_its_intrinsic_value() -> None:
    terms = OptionTerms(
        np.array([90, 110, 100, 110]) * 10**9, np.array([True, True, True, False]), np.full(4, 10**6)
    )
    values = black76.compute_values(terms, np.full(4, 10**11), np.zeros(4, dtype=np.int64))
    assert values.tolist() == [10**10, 0, 0, 10**10]


def test_put_and_call_differ_by_the_discounted_forward_less_strike() -> None:
    f, k, w, d = one(10**11, 9 * 10**10, 2 * 10**13, 950_000)
    call, put = (
        black76.compute_values(OptionTerms(k, np.array([side]), d), f, w)[0] for side in (True, False)
    )
    assert int(call - put) == pytest.approx(9_500_000_000, abs=1)
