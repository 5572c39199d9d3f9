"""Volatility surface: SSVI slices with wings, their clamps against arbitrage, and limits on change. Pure.

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
WINGS_E9_MAX = 500_000_000
"""Wings beyond a half are no smile: a report with more is refused."""
CELLS = 16
STEPS = 8
ROUNDING_E18 = 100
"""More than all roundings of a comparison together, and no variance to speak of."""


def total_variances_e15(
    forward_uusd: Ints, strike_uusd: Ints, theta_e12: Ints, rho_e6: Ints, psi_e9: Ints, wings_e9: Ints
) -> Ints:
    """Total variance per instrument in 1e-15; every argument has shape (N,)."""
    return kernel.total_variance_e15(forward_uusd, strike_uusd, theta_e12, rho_e6, psi_e9, wings_e9)


def implied_volatilities_e9(market_slice: Slice, strikes_uusd: Sequence[int], now_ns: int) -> tuple[int, ...]:
    """Annual implied volatilities (1e-9) of one expiry at the given strikes: the smile."""
    strikes = np.array(strikes_uusd, dtype=np.int64)
    columns = (
        np.full_like(strikes, value)
        for value in (
            market_slice.theta_e12,
            market_slice.rho_e6,
            market_slice.psi_e9,
            market_slice.wings_e9,
        )
    )
    forward = np.full_like(strikes, market_slice.forward_uusd)
    variances = total_variances_e15(forward, strikes, *columns)
    time_ns = np.full_like(strikes, max(0, market_slice.expiry_ns - now_ns))
    return tuple(int(value) for value in kernel.volatility_e9(variances, time_ns))


def clamp_slices(slices: Sequence[Slice]) -> tuple[Slice, ...]:
    """Slices moved little, so that within the wings no density is negative and no two slices cross.

    First every SSVI part, from near to far; then the wings, from far to near, which only become smaller.
    `slices` are in strictly increasing order of expiry; the other fields stay as they are.
    """
    clamped: list[Slice] = []
    for market_slice in slices:
        previous = clamped[-1] if clamped else None
        ensure(
            previous is None or previous.expiry_ns < market_slice.expiry_ns, "slices are in order of expiry"
        )
        clamped.append(_clamp_ssvi(market_slice, previous))
    for place in reversed(range(len(clamped))):
        item = clamped[place]
        wings = min(item.wings_e9, wings_max_e9(item.theta_e12, item.rho_e6))
        if place + 1 < len(clamped):
            room = _room_e9(item, clamped[place + 1])
            wings = min(wings, clamped[place + 1].wings_e9 + (room or 0))
        clamped[place] = replace(item, wings_e9=wings)
    return tuple(clamped)


def wings_max_e9(theta_e12: int, rho_e6: int) -> int:
    """(0.07 - 0.04 |rho|) / sqrt(theta), fading to 0 as theta goes from 1 to 2; at most WINGS_E9_MAX; rounded down.

    Up to it the density is positive within the wings whatever psi is under its own bound (a grid in the tests).
    """
    most = (70 * PPM - 40 * abs(rho_e6)) * 10**9 // isqrt(theta_e12 * PPM)
    fading_e12 = clamp(2 * 10**12 - theta_e12, 0, 10**12)
    return min(most * fading_e12 // 10**12, WINGS_E9_MAX)


def _clamp_ssvi(market_slice: Slice, previous: Slice | None) -> Slice:
    """Theta not below the earlier slice's, psi under the butterfly bound, and no crossing of the SSVI parts.

    Rho and psi go towards the earlier ones' by eighths until none is found; with the earlier ones there is
    none, because variance grows with theta everywhere.
    """
    theta = clamp(market_slice.theta_e12, THETA_E12_MIN, THETA_E12_MAX)
    rho = clamp(market_slice.rho_e6, -RHO_E6_MAX, RHO_E6_MAX)
    psi = market_slice.psi_e9
    if previous is None:
        return replace(
            market_slice, theta_e12=theta, rho_e6=rho, psi_e9=min(psi, _butterfly_psi_e9(theta, rho))
        )
    theta = max(theta, previous.theta_e12)
    moved = market_slice
    for step in range(STEPS + 1):
        part_rho = (rho * (STEPS - step) + previous.rho_e6 * step) // STEPS
        part_psi = (psi * (STEPS - step) + previous.psi_e9 * step) // STEPS
        part_psi = min(part_psi, _butterfly_psi_e9(theta, part_rho))
        moved = replace(market_slice, theta_e12=theta, rho_e6=part_rho, psi_e9=part_psi)
        if _room_e9(previous, moved) is not None:
            break
    return moved


def _butterfly_psi_e9(theta_e12: int, rho_e6: int) -> int:
    """min(4 / (1 + |rho|), 2 sqrt(theta / (1 + |rho|))), rounded down: no negative density."""
    one_plus_rho_e6 = PPM + abs(rho_e6)
    return min(4 * 10**15 // one_plus_rho_e6, isqrt(4 * 10**12 * theta_e12 // one_plus_rho_e6))


def _room_e9(near: Slice, far: Slice) -> int | None:
    """How much larger `near`'s wings may be than `far`'s; None when the SSVI parts may cross.

    The near wings are cut into CELLS. Within one, the far variance is above its tangent at the middle and the
    near one, like k^2, below its chord, both being convex: so comparing the two lines at the ends is enough.
    """
    half = 4 * isqrt(near.theta_e12 * PPM) // CELLS
    room = WINGS_E9_MAX
    near_values = [_twice_variance_e18(near, (2 * cell - CELLS) * half)[0] for cell in range(CELLS + 1)]
    for cell in range(CELLS):
        middle = (2 * cell + 1 - CELLS) * half
        value, slope_e27 = _twice_variance_e18(far, middle)
        for side in (0, 1):
            gap = (
                value + (2 * side - 1) * slope_e27 * half // 10**18 - near_values[cell + side] - ROUNDING_E18
            )
            if gap < 0:
                return None
            k = middle + (2 * side - 1) * half
            if k:
                room = min(room, gap * 10**9 // (2 * k * k))
    return room


def _twice_variance_e18(item: Slice, k_e9: int) -> tuple[int, int]:
    """2 w of the SSVI part at k and its slope in k, 1e-18 and 1e-27, rounded down."""
    theta, tilted = item.theta_e12 * PPM, item.psi_e9 * k_e9
    root = isqrt(tilted * tilted + 2 * item.rho_e6 * tilted * theta // PPM + theta * theta)
    lean = item.rho_e6 * theta // PPM + tilted
    slope = item.psi_e9 * (item.rho_e6 * 10**12 + lean * 10**18 // root)
    return theta + item.rho_e6 * tilted // PPM + root, slope


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
