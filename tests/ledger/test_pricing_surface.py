"""A surface after its clamps offers no static arbitrage, and moves no further than it may."""

from __future__ import annotations

import itertools
from math import sqrt

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.market import Slice
from ledger.pricing import fixed_math, kernel
from ledger.pricing.surface import clamp_slices, implied_volatilities_e9, limit_slice_change

DAY_NS = 86_400 * 10**9
FORWARD = 10**11


def a_slice(day: int = 30, theta_e12: int = 20_547_945_205, rho_e6: int = 0, psi_e9: int = 0) -> Slice:
    return Slice(day * DAY_NS, FORWARD, 10**6, theta_e12, rho_e6, psi_e9, 10**6)


any_slices = st.lists(
    st.builds(
        lambda theta, rho, psi: (theta, rho, psi),
        st.integers(0, 10**13),
        st.integers(-1_000_000, 1_000_000),
        st.integers(0, 5 * 10**9),
    ),
    min_size=1,
    max_size=4,
).map(lambda rows: [a_slice(7 * day + 7, *row) for day, row in enumerate(rows)])


def variance(market_slice: Slice, k: float) -> tuple[float, float, float]:
    """(w, w', w'') at log-moneyness k, from the formula's own derivatives."""
    theta, rho = market_slice.theta_e12 / 1e12, market_slice.rho_e6 / 1e6
    phi = market_slice.psi_e9 / 1e9 / theta
    root = sqrt((phi * k + rho) ** 2 + 1 - rho * rho)
    w = theta / 2 * (1 + rho * phi * k + root)
    return (
        w,
        theta * phi / 2 * (rho + (phi * k + rho) / root),
        theta * phi * phi / 2 * (1 - rho * rho) / root**3,
    )


def durrleman(market_slice: Slice, k: float) -> float:
    w, first, second = variance(market_slice, k)
    return (1 - k * first / (2 * w)) ** 2 - first * first / 4 * (1 / w + 0.25) + second / 2


def sampled(market_slice: Slice) -> list[float]:
    bound = 4 * sqrt(market_slice.theta_e12 / 1e12)
    return [bound * step / 20 for step in range(-20, 21)]


@settings(max_examples=150, deadline=None)
@given(any_slices)
def test_clamped_slices_have_no_negative_density(slices: list[Slice]) -> None:
    for market_slice in clamp_slices(slices):
        assert min(durrleman(market_slice, k) for k in sampled(market_slice)) >= -1e-6


@settings(max_examples=150, deadline=None)
@given(any_slices)
def test_clamped_slices_do_not_cross(slices: list[Slice]) -> None:
    clamped = clamp_slices(slices)
    for near, far in itertools.pairwise(clamped):
        points = sampled(far)
        assert min(variance(far, k)[0] - variance(near, k)[0] for k in points) >= -1e-8


@settings(max_examples=100, deadline=None)
@given(any_slices)
def test_clamping_twice_is_clamping_once(slices: list[Slice]) -> None:
    clamped = clamp_slices(slices)
    assert clamp_slices(clamped) == clamped


def test_slices_without_arbitrage_stay_as_they_are() -> None:
    slices = (
        a_slice(30, 20_547_945_205, -150_000, 150_000_000),
        a_slice(60, 41 * 10**9, -150_000, 200_000_000),
    )
    assert clamp_slices(slices) == slices


def test_a_far_slice_takes_the_near_theta_when_its_own_is_lower() -> None:
    near, far = a_slice(30, 2 * 10**10), a_slice(60, 10**10)
    assert clamp_slices((near, far)) == (near, a_slice(60, 2 * 10**10))


def test_psi_is_held_to_the_butterfly_bound_and_rho_to_its_range() -> None:
    # 2 sqrt(0.04 / 1.9) = 0.290190..., rounded down in 1e-9.
    assert clamp_slices((a_slice(30, 4 * 10**10, 950_000, 3 * 10**9),)) == (
        a_slice(30, 4 * 10**10, 900_000, 290_190_500),
    )


def test_a_change_is_held_to_its_limits_rounded_inwards() -> None:
    previous = a_slice(theta_e12=10_001)
    proposed = Slice(30 * DAY_NS, 2 * FORWARD, 10**6, 1, 100, 200, 300)
    limited = limit_slice_change(previous, proposed, 150_000, 20_000)
    # 10,001 less 15 % is 8,500.85.
    assert limited == Slice(30 * DAY_NS, 102_000_000_000, 10**6, 8_501, 100, 200, 300)


def test_a_flat_slice_has_one_volatility() -> None:
    volatilities = implied_volatilities_e9(a_slice(), [80 * 10**9, FORWARD, 120 * 10**9], 0)
    assert volatilities == (500_000_000,) * 3


def test_total_variance_agrees_with_the_obvious_integers() -> None:
    scale = fixed_math.SCALE
    theta, rho, psi = 20_547_945_205, -150_000, 150_000_000
    strikes = [40, 70, 95, 100, 130, 300]
    arrays = [np.full(len(strikes), value) for value in (FORWARD, theta, rho, psi)]
    fast = kernel.ssvi_total_variance_e15(arrays[0], np.array(strikes) * 10**9, *arrays[1:])
    exact = [
        fixed_math.ssvi_total_variance(
            theta * scale // 10**12,
            rho * scale // 10**6,
            psi * scale // 10**9,
            fixed_math.ln(strike * scale // 100),
        )
        for strike in strikes
    ]
    assert [abs(v * scale - e * 10**15) <= 2 * scale for v, e in zip(fast.tolist(), exact, strict=True)] == [
        True
    ] * 6
