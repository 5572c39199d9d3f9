"""A surface after its clamps offers no static arbitrage, and moves no further than it may."""

from __future__ import annotations

import itertools
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.market import Slice
from ledger.pricing import fixed_math, kernel
from ledger.pricing.surface import clamp_slices, implied_volatilities_e9, limit_slice_change, wings_max_e9

DAY_NS = 86_400 * 10**9
FORWARD = 10**11


def a_slice(
    day: int = 30, theta_e12: int = 20_547_945_205, rho_e6: int = 0, psi_e9: int = 0, wings_e9: int = 0
) -> Slice:
    return Slice(day * DAY_NS, FORWARD, 10**6, theta_e12, rho_e6, psi_e9, wings_e9, 10**6)


any_slices = st.lists(
    st.builds(
        lambda *row: row,
        st.integers(0, 10**13) | st.integers(10**9, 10**12),
        st.integers(-1_000_000, 1_000_000),
        st.integers(0, 5 * 10**9) | st.integers(0, 10**9),
        st.integers(0, 10**9) | st.integers(0, 2 * 10**8),
    ),
    min_size=1,
    max_size=4,
).map(lambda rows: [a_slice(7 * day + 7, *row) for day, row in enumerate(rows)])


def variance(market_slice: Slice, k: float) -> tuple[float, float, float]:
    """(w, w', w'') at log-moneyness k, from the formula's own derivatives."""
    theta, rho = market_slice.theta_e12 / 1e12, market_slice.rho_e6 / 1e6
    phi = market_slice.psi_e9 / 1e9 / theta
    wings = market_slice.wings_e9 / 1e9
    root = sqrt((phi * k + rho) ** 2 + 1 - rho * rho)
    w = theta / 2 * (1 + rho * phi * k + root) + wings * k * k
    return (
        w,
        theta * phi / 2 * (rho + (phi * k + rho) / root) + 2 * wings * k,
        theta * phi * phi / 2 * (1 - rho * rho) / root**3 + 2 * wings,
    )


def durrleman(market_slice: Slice, k: float) -> float:
    w, first, second = variance(market_slice, k)
    return (1 - k * first / (2 * w)) ** 2 - first * first / 4 * (1 / w + 0.25) + second / 2


def sampled(market_slice: Slice) -> list[float]:
    bound = 4 * sqrt(market_slice.theta_e12 / 1e12)
    return [bound * step / 50 for step in range(-50, 51)]


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
        points = sampled(near)
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


def test_rho_and_psi_go_towards_the_nearer_slice_by_eighths_until_nothing_crosses() -> None:
    near, far = a_slice(7, 10**10, -400_000, 80_000_000), a_slice(8, 13 * 10**9, 0, 60_000_000)
    clamped = clamp_slices((near, far))
    assert clamped == (near, a_slice(8, 13 * 10**9, -350_000, 77_500_000))
    assert crossing(near, far)
    assert not crossing(*clamped)


def test_the_nearer_slice_gives_up_wings_that_would_reach_through_the_farther_one() -> None:
    near, far = (
        a_slice(7, 10**10, -200_000, 40_000_000, 150_000_000),
        a_slice(8, 11 * 10**9, -200_000, 40_000_000),
    )
    held, kept = clamp_slices((near, far))
    assert (0 < held.wings_e9 < 150_000_000, kept) == (True, far)
    assert crossing(near, far)
    assert not crossing(held, far)
    assert clamp_slices((near, a_slice(60, 80 * 10**9, -200_000, 120_000_000)))[0] == near


@pytest.mark.parametrize("theta_e12", [10**4, 10**8, 4 * 10**9, 10**11, 10**12, 15 * 10**11, 3 * 10**12])
@pytest.mark.parametrize("rho_e6", [-900_000, -500_000, 0, 700_000])
def test_the_largest_wings_leave_the_density_positive_under_every_psi(theta_e12: int, rho_e6: int) -> None:
    wings_e9 = wings_max_e9(theta_e12, rho_e6)
    for psi_share, wings_share in itertools.product(range(0, 11, 2), range(1, 5)):
        (bound,) = clamp_slices((a_slice(30, theta_e12, rho_e6, 5 * 10**9),))
        item = a_slice(30, theta_e12, rho_e6, bound.psi_e9 * psi_share // 10, wings_e9 * wings_share // 4)
        assert min(durrleman(item, k) for k in sampled(item)) >= -1e-6


def crossing(near: Slice, far: Slice) -> bool:
    return min(variance(far, k)[0] - variance(near, k)[0] for k in sampled(near)) < 0


def test_psi_is_held_to_the_butterfly_bound_and_rho_to_its_range() -> None:
    # 2 sqrt(0.04 / 1.9) = 0.290190..., rounded down in 1e-9.
    assert clamp_slices((a_slice(30, 4 * 10**10, 950_000, 3 * 10**9),)) == (
        a_slice(30, 4 * 10**10, 900_000, 290_190_500),
    )


def test_a_change_is_held_to_its_limits_rounded_inwards() -> None:
    previous = a_slice(theta_e12=10_001)
    proposed = Slice(30 * DAY_NS, 2 * FORWARD, 10**6, 1, 100, 200, 250, 300)
    limited = limit_slice_change(previous, proposed, 150_000, 20_000)
    # 10,001 less 15 % is 8,500.85.
    assert limited == Slice(30 * DAY_NS, 102_000_000_000, 10**6, 8_501, 100, 200, 250, 300)


def test_a_flat_slice_has_one_volatility() -> None:
    volatilities = implied_volatilities_e9(a_slice(), [80 * 10**9, FORWARD, 120 * 10**9], 0)
    assert volatilities == (500_000_000,) * 3


def test_total_variance_agrees_with_the_obvious_integers() -> None:
    scale = fixed_math.SCALE
    theta, rho, psi, wings = 20_547_945_205, -150_000, 150_000_000, 120_000_000
    strikes = [40, 70, 95, 100, 130, 300]
    arrays = [np.full(len(strikes), value) for value in (FORWARD, theta, rho, psi, wings)]
    fast = kernel.total_variance_e15(arrays[0], np.array(strikes) * 10**9, *arrays[1:])
    exact = [
        fixed_math.total_variance(
            theta * scale // 10**12,
            rho * scale // 10**6,
            psi * scale // 10**9,
            wings * scale // 10**9,
            fixed_math.ln(strike * scale // 100),
        )
        for strike in strikes
    ]
    assert [abs(v * scale - e * 10**15) <= 2 * scale for v, e in zip(fast.tolist(), exact, strict=True)] == [
        True
    ] * 6
