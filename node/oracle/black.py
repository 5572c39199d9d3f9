"""Black-76 without discount and its implied volatility, vectorised, for a validator's own fit. Pure.

Not replicated state: `math.erfc` and `np.exp` may differ in the last bit between machines, and the
stake-weighted median of the validators' slices does not mind. The chain's own pricing is ledger.pricing.
"""

from __future__ import annotations

from math import erfc, pi, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

VOL_MIN = 0.01
VOL_MAX = 10.0
"""Implied volatilities outside 1 % to 1000 % are no quotes."""
_ITERATIONS_MAX = 40
_ROOT_HALF = sqrt(0.5)
_ROOT_TWO_PI = sqrt(2 * pi)


def normal_cdf(x: Floats) -> Floats:
    """Standard normal distribution function, full precision in both tails."""
    return np.array([0.5 * erfc(-value * _ROOT_HALF) for value in x.tolist()])


def price_and_vega(
    forward: float | Floats, strikes: Floats, tau_years: float, vols: Floats, is_call: Bools
) -> tuple[Floats, Floats]:
    """Undiscounted values and vegas (per 1.00 of volatility); `forward` is one, or one per strike."""
    deviation = vols * sqrt(tau_years)
    d1 = np.log(forward / strikes) / deviation + 0.5 * deviation
    sign = np.where(is_call, 1.0, -1.0)
    value = sign * (forward * normal_cdf(sign * d1) - strikes * normal_cdf(sign * (d1 - deviation)))
    vega = forward * sqrt(tau_years) / _ROOT_TWO_PI * np.exp(-0.5 * d1 * d1)
    return np.maximum(value, 0.0), vega


def implied_vol(
    forward: float | Floats, strikes: Floats, tau_years: float, prices: Floats, is_call: Bools
) -> tuple[Floats, Floats]:
    """Implied volatilities and vegas; NaN where the price admits none between VOL_MIN and VOL_MAX.

    Newton inside a shrinking bracket, on out-of-the-money values (in-the-money ones go through parity first).
    """
    intrinsic = np.maximum(np.where(is_call, forward - strikes, strikes - forward), 0.0)
    target = prices - intrinsic
    outside = strikes >= forward
    low, high = np.full(len(strikes), VOL_MIN), np.full(len(strikes), VOL_MAX)
    # Manaster-Koehler: from the inflection point Newton cannot overshoot; at the money use the straight line.
    vols = np.sqrt(2 * np.abs(np.log(forward / strikes)) / tau_years)
    vols = np.clip(np.maximum(vols, target / forward * _ROOT_TWO_PI / sqrt(tau_years)), VOL_MIN, VOL_MAX)
    vega = np.zeros_like(vols)
    for _ in range(_ITERATIONS_MAX):
        value, vega = price_and_vega(forward, strikes, tau_years, vols, outside)
        error = value - target
        low, high = np.where(error <= 0, vols, low), np.where(error >= 0, vols, high)
        step = vols - error / np.maximum(vega, 1e-300)
        step = np.where((step > low) & (step < high), step, 0.5 * (low + high))
        done = np.abs(step - vols) <= 1e-10
        vols = step
        if done.all():
            break
    sound = (target > 0) & (vols > VOL_MIN * 1.0001) & (vols < VOL_MAX * 0.9999)
    return np.where(sound, vols, np.nan), vega
