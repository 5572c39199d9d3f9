"""Volatility surface: SSVI slices, their clamps against arbitrage, and limits on change. Pure.

Everything here but `total_variances_e15` is integer arithmetic on the slices' own units.
Source: market.md section 2; Gatheral and Jacquier, "Arbitrage-free SVI volatility surfaces" (2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
from msgspec.structs import replace

from ledger.market import Slice
from ledger.pricing import kernel
from ledger.pricing.kernel import Ints
from primitives.amounts import PPM, ceil_div, clamp
from primitives.errors import ensure

THETA_E12_MIN = 10**4
THETA_E12_MAX = 9 * 10**12
RHO_E6_MAX = 900_000


def total_variances_e15(
    forward_uusd: Ints, strike_uusd: Ints, theta_e12: Ints, rho_e6: Ints, psi_e9: Ints
) -> Ints:
    """SSVI total variance per instrument in 1e-15; every argument has shape (N,)."""
    return kernel.ssvi_total_variance_e15(forward_uusd, strike_uusd, theta_e12, rho_e6, psi_e9)


def implied_volatilities_e9(market_slice: Slice, strikes_uusd: Sequence[int], now_ns: int) -> tuple[int, ...]:
    """Annual implied volatilities (1e-9) of one expiry at the given strikes: the smile."""
    strikes = np.array(strikes_uusd, dtype=np.int64)
    columns = (
        np.full_like(strikes, value)
        for value in (market_slice.theta_e12, market_slice.rho_e6, market_slice.psi_e9)
    )
    forward = np.full_like(strikes, market_slice.forward_uusd)
    variances = total_variances_e15(forward, strikes, *columns)
    time_ns = np.full_like(strikes, max(0, market_slice.expiry_ns - now_ns))
    return tuple(int(value) for value in kernel.volatility_e9(variances, time_ns))


def clamp_slices(slices: Sequence[Slice]) -> tuple[Slice, ...]:
    """Slices moved as little as the rules ask, so that no static arbitrage is left.

    `slices` are in strictly increasing order of expiry; the other fields stay as they are.
    """
    clamped: list[Slice] = []
    for market_slice in slices:
        previous = clamped[-1] if clamped else None
        ensure(
            previous is None or previous.expiry_ns < market_slice.expiry_ns, "slices are in order of expiry"
        )
        clamped.append(_clamp_slice(market_slice, previous))
    return tuple(clamped)


def _clamp_slice(market_slice: Slice, previous: Slice | None) -> Slice:
    theta = clamp(market_slice.theta_e12, THETA_E12_MIN, THETA_E12_MAX)
    rho = clamp(market_slice.rho_e6, -RHO_E6_MAX, RHO_E6_MAX)
    if previous is None:
        psi = min(market_slice.psi_e9, _butterfly_psi_e9(theta, rho))
        return replace(market_slice, theta_e12=theta, rho_e6=rho, psi_e9=psi)
    theta = max(theta, previous.theta_e12)
    low, high = _psi_interval_e9(theta, rho, previous)
    if low > high:
        # With the previous rho the interval holds at least the previous psi: every bound grows with theta.
        rho = previous.rho_e6
        low, high = _psi_interval_e9(theta, rho, previous)
    return replace(market_slice, theta_e12=theta, rho_e6=rho, psi_e9=clamp(market_slice.psi_e9, low, high))


def _butterfly_psi_e9(theta_e12: int, rho_e6: int) -> int:
    """min(4 / (1 + |rho|), 2 sqrt(theta / (1 + |rho|))), rounded down: no negative density."""
    one_plus_rho_e6 = PPM + abs(rho_e6)
    return min(4 * 10**15 // one_plus_rho_e6, isqrt(4 * 10**12 * theta_e12 // one_plus_rho_e6))


def _psi_interval_e9(theta_e12: int, rho_e6: int, previous: Slice) -> tuple[int, int]:
    """Lowest (rounded up) and highest (rounded down) psi that crosses no earlier slice nor itself."""
    low = max(
        ceil_div(previous.psi_e9 * (PPM + previous.rho_e6), PPM + rho_e6),
        ceil_div(previous.psi_e9 * (PPM - previous.rho_e6), PPM - rho_e6),
    )
    high = previous.psi_e9 * theta_e12 // previous.theta_e12
    return low, min(high, _butterfly_psi_e9(theta_e12, rho_e6))


def limit_slice_change(
    previous: Slice, proposed: Slice, theta_limit_ppm: int, forward_limit_ppm: int
) -> Slice:
    """`proposed` with theta and forward held within the limits around `previous`.

    The lowest allowed value rounds up and the highest down, so no limit is passed. Run `clamp_slices` after.
    """
    return replace(
        proposed,
        theta_e12=_limit(previous.theta_e12, proposed.theta_e12, theta_limit_ppm),
        forward_uusd=_limit(previous.forward_uusd, proposed.forward_uusd, forward_limit_ppm),
    )


def _limit(previous: int, proposed: int, limit_ppm: int) -> int:
    low = ceil_div(previous * (PPM - limit_ppm), PPM)
    high = previous * (PPM + limit_ppm) // PPM
    return clamp(proposed, low, high)
