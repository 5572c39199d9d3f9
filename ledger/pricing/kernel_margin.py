"""What margin asks of binary64: shocked deviations, expiry discounts, products by factor. Pure.

Under the rules of `kernel`: exactly defined elementwise operations only, integers in and integers out, each
output rounded once. Units: deviation (volatility times sqrt of time) 1e-15; time ns; rates ppm.
"""

from __future__ import annotations

import numpy as np

from ledger.pricing.kernel import DAYS_PER_YEAR, NS_PER_YEAR, Ints, exp, ln, to_int


def shocked_deviations_e15(
    deviation_e15: Ints,
    time_ns: Ints,
    *,
    up_ppm: int,
    down_ppm: int,
    down_floor_ppm: int,
    up_volatility_floor_ppm: int,
    short_exponent_ppm: int,
    long_exponent_ppm: int,
    reference_days: int,
) -> tuple[Ints, Ints]:
    """(up, down) total deviations of market.md section 3.

    up: factor 1 + up * h, and a volatility of at least the floor; down: factor max(floor, 1 - down * h);
    h = (reference / max(1, days)) ^ exponent, the short exponent up to `reference_days`.
    """
    years = np.maximum(time_ns, 0).astype(np.float64) / NS_PER_YEAR
    days = np.maximum(years * DAYS_PER_YEAR, 1.0)
    exponent = np.where(days <= reference_days, float(short_exponent_ppm), float(long_exponent_ppm)) / 1e6
    h = exp(exponent * ln(float(reference_days) / days))
    s = deviation_e15.astype(np.float64)
    floor = (up_volatility_floor_ppm / 1e6) * np.sqrt(years) * 1e15
    up = np.maximum(s * (1.0 + (up_ppm / 1e6) * h), floor)
    down = s * np.maximum(1.0 - (down_ppm / 1e6) * h, down_floor_ppm / 1e6)
    return to_int(up), to_int(down)


def skewed_deviations_e15(
    deviation_e15: Ints,
    time_ns: Ints,
    forward_uusd: Ints,
    strike_uusd: Ints,
    *,
    cap_ppm: int,
    cap_slope_ppm: int,
    width_ppm: int,
    width_slope_ppm: int,
    width_multiplier: int,
    width_minimum_ppm: int,
) -> tuple[Ints, Ints]:
    """(LINEAR, ABS) skewed deviations: factor 1 + clip(x cap / k*, +-cap), x = ln(K/F) or |ln(K/F)|.

    cap = cap - slope sqrt(tau), at least 0; k* = max(minimum, times sqrt(tau) (width - slope sqrt(tau))).
    """
    root = np.sqrt(np.maximum(time_ns, 0).astype(np.float64) / NS_PER_YEAR)
    cap = np.maximum(cap_ppm / 1e6 - (cap_slope_ppm / 1e6) * root, 0.0)
    width = float(width_multiplier) * root * (width_ppm / 1e6 - (width_slope_ppm / 1e6) * root)
    slope = cap / np.maximum(width, width_minimum_ppm / 1e6)
    x = ln(np.maximum(strike_uusd, 1).astype(np.float64) / np.maximum(forward_uusd, 1).astype(np.float64))
    s = deviation_e15.astype(np.float64)
    linear = s * (1.0 + np.maximum(np.minimum(x * slope, cap), -cap))
    absolute = s * (1.0 + np.minimum(np.abs(x) * slope, cap))
    return to_int(linear), to_int(absolute)


def expiry_discounts(
    time_ns: Ints, discount_ppm: Ints, *, asset_ppm: int, liability_ppm: int, rate_ppm: int
) -> tuple[Ints, Ints]:
    """(positive, negative) factors on an expiry's value, 1e-15.

    positive: asset * e^(-rate tau); negative: min(1/D, liability * e^(rate tau)).
    """
    years = np.maximum(time_ns, 0).astype(np.float64) / NS_PER_YEAR
    growth = exp((rate_ppm / 1e6) * years)
    positive = (asset_ppm / 1e6) / growth
    undo = 1e6 / np.maximum(discount_ppm, 1).astype(np.float64)
    negative = np.minimum(undo, (liability_ppm / 1e6) * growth)
    return to_int(positive * 1e15), to_int(negative * 1e15)


def scale(values: Ints, factor_e12: Ints) -> Ints:
    """values * factor / 1e12, elementwise with broadcasting."""
    return to_int(values.astype(np.float64) * (factor_e12.astype(np.float64) / 1e12))


def discount_by_sign(values: Ints, positive_e15: Ints, negative_e15: Ints) -> Ints:
    """floor(values * factor): `positive` for values above 0 and `negative` below.

    `values` has shape (n, C); factors have shape (n,) with positive <= 1e15 <= negative, so that the factor by
    sign is the one that gives the smaller product. Values up to 2^53 are taken exactly; larger ones to 16 digits.
    """
    number = values.astype(np.float64)
    reduced = number * (positive_e15.astype(np.float64) / 1e15)[:, None]
    number *= (negative_e15.astype(np.float64) / 1e15)[:, None]
    return np.floor(np.minimum(number, reduced)).astype(np.int64)
