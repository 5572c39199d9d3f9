"""Implied volatility: Black-76 inverted, for arrays, to the precision of the price. Pure.

Under the rules of `kernel`. After P. Jaeckel, "Let's Be Rational" (Wilmott, 2015): the price is split at its
inflection point s_c = sqrt(2 |ln F/K|), where d1 = 0; below it the logarithm of the price is solved, above it
the logarithm of what is missing to the price's upper bound; a guess is refined by a fixed number of
Householder steps of fourth order. With T(a) = N(-a) exp(a^2/2) both logarithms are
-d1^2/2 + ln(T(|d1|) -+ T(|d2|)), so no step needs an exponential and no tail underflows.

The guess is our own where the option is far from the money (a polynomial in the price of a normal model) and
Corrado and Miller's (Journal of Banking and Finance 20, 1996) near it; it is within 17 %, and three steps leave
rounding. An option is first turned into the out-of-the-money one of the same time value, a call on near =
min(F, K) struck at far = max(F, K), measured in units of near: its price lies between 0 and 1.
"""

from __future__ import annotations

import numpy as np

from ledger.pricing.kernel import (
    INV_SQRT_2PI,
    NS_PER_YEAR,
    Floats,
    Ints,
    OptionTerms,
    Work,
    ln,
    positive,
    to_int,
)

CHUNK = 8192
"""Options solved at a time."""
STEPS = 3
NO_VOLATILITY = -1
"""The answer for a quote below its intrinsic value, at or above its upper bound, or without time left."""

_SQRT_2PI = 2.506628274631000502416
_SQRT_HALF_PI = 1.253314137315500251208
_PI = 3.141592653589793238463
_FAR_POLYNOMIAL = (-4.82824768, 11.33334381, -7.55269803, -0.12153812, 1.42765751)
"""z u in u = (1 - ln(N'(z)/z - N(-z)))^-1/2 for z = |ln F/K|/s from 0.3 to 30; error 1 %."""
_NEAR_DISCRIMINANT = 0.02
"""Corrado and Miller's root is trusted above this part of the moneyness squared."""
_STEP_FACTOR_MAX = 4.0
_TINY = 1e-300


def implied_volatilities_e9(terms: OptionTerms, forward_uusd: Ints, value_uusd: Ints, time_ns: Ints) -> Ints:
    """Annual volatilities in 1e-9 that give the quotes `value_uusd` (per contract); every array has shape (N,).

    A quote at its intrinsic value has volatility 0; one no volatility can give has NO_VOLATILITY.
    """
    forward, strike = positive(forward_uusd), positive(terms.strike_uusd)
    near, far = np.minimum(forward, strike), np.maximum(forward, strike)
    time_value = _time_values(terms, forward_uusd, value_uusd)
    price = time_value / (near * (np.maximum(terms.discount_ppm, 1).astype(np.float64) / 1e6))
    has_volatility = (price > 0.0) & (price < 1.0) & (time_ns > 0)
    deviation = implied_deviations(np.where(has_volatility, price, 0.5), far / near)
    volatility = to_int(deviation / np.sqrt(positive(time_ns) / NS_PER_YEAR) * 1e9)
    at_intrinsic = (price == 0.0) & (time_ns > 0)
    return np.where(has_volatility, volatility, np.where(at_intrinsic, 0, NO_VOLATILITY))


def _time_values(terms: OptionTerms, forward_uusd: Ints, value_uusd: Ints) -> Floats:
    """Quote less discounted intrinsic value, which is taken off as integers up to its last micro-USD."""
    signed = np.where(terms.is_call, forward_uusd - terms.strike_uusd, terms.strike_uusd - forward_uusd)
    whole, rest = np.divmod(np.maximum(signed, 0), 1_000_000)
    fraction = (rest * terms.discount_ppm).astype(np.float64) / 1e6
    return (value_uusd - whole * terms.discount_ppm).astype(np.float64) - fraction


def implied_deviations(price: Floats, far_by_near: Floats) -> Floats:
    """Total deviations of out-of-the-money calls from prices in units of `near`, 0 < price < 1; shape (N,)."""
    out = np.empty_like(price)
    work = Work(2 * min(len(price), CHUNK))
    for start in range(0, len(price), CHUNK):
        at = slice(start, start + CHUNK)
        out[at] = _solve(work, price[at], far_by_near[at])
    return out


def _solve(work: Work, price: Floats, far_by_near: Floats) -> Floats:
    """One chunk of `implied_deviations`."""
    distance = ln(far_by_near)
    inflection = np.sqrt(2.0 * distance)
    tail = work.tail_ratios(inflection).copy()
    # Below the inflection +1: the price itself is solved; above -1: its complement to 1.
    sign = np.where(price < 0.5 - tail, 1.0, -1.0)
    target = ln(np.where(sign > 0.0, price, 1.0 - price))
    far = _low_guess(price, far_by_near, distance, target)
    s = np.where(sign > 0.0, np.minimum(far, inflection), _high_guess(inflection, tail, target))
    low, high = np.where(sign > 0.0, 0.0, inflection), np.where(sign > 0.0, inflection, np.inf)
    for _ in range(STEPS):
        step = _householder_step(work, s, distance, sign, target)
        s = np.maximum(np.minimum(s + step, s * _STEP_FACTOR_MAX), s / _STEP_FACTOR_MAX)
        s = np.maximum(np.minimum(s, high), low)
    return s


def _high_guess(inflection: Floats, tail: Floats, target: Floats) -> Floats:
    """Above the inflection: a parabola in s with the slope there and nearly the curvature of large s."""
    slope = INV_SQRT_2PI / (0.5 + tail)
    fall = np.maximum(ln(0.5 + tail) - target, 0.0)
    return inflection + (np.sqrt(slope * slope + 0.45 * fall) - slope) * (4.0 / 0.9)


def _low_guess(price: Floats, far_by_near: Floats, distance: Floats, log_price: Floats) -> Floats:
    """Below the inflection: Corrado and Miller near the money, else the normal model, corrected once for s."""
    excess = far_by_near - 1.0
    middle = price + 0.5 * excess
    square = middle * middle - excess * excess / _PI
    is_near = square > _NEAR_DISCRIMINANT * excess * excess
    near = _SQRT_2PI / (2.0 + excess) * (middle + np.sqrt(np.maximum(square, 0.0)))
    apart = np.maximum(distance, _TINY)
    # Price over moneyness, both in units of sqrt(near far), as the normal model has it.
    ratio = ln(apart) + 0.5 * distance - log_price
    first = apart / _far_from_money(ratio)
    return np.where(is_near, near, apart / _far_from_money(ratio - 0.125 * first * first))


def _far_from_money(ratio: Floats) -> Floats:
    """z with ln(N'(z)/z - N(-z)) = -ratio."""
    u = 1.0 / np.sqrt(np.maximum(ratio, 0.0) + 1.0)
    polynomial = np.full_like(u, _FAR_POLYNOMIAL[0])
    for coefficient in _FAR_POLYNOMIAL[1:]:
        polynomial = polynomial * u + coefficient
    return polynomial / u


def _householder_step(work: Work, s: Floats, distance: Floats, sign: Floats, target: Floats) -> Floats:
    """The step towards target = -d1^2/2 + ln(T(|d1|) - sign T(|d2|)), from its first three derivatives.

    With q = d1 d2/s the price's are: second over first q, third over first q^2 + q'.
    """
    count = len(s)
    d = np.empty((2, count))
    np.divide(distance, -s, out=d[0])
    half = 0.5 * s
    np.subtract(d[0], half, out=d[1])
    np.add(d[0], half, out=d[0])
    tails = work.tail_ratios(d.reshape(-1))
    width = tails[:count] - sign * tails[count:]
    slope = sign * INV_SQRT_2PI / width
    newton = (target - ln(width) + 0.5 * d[0] * d[0]) / slope
    q = d[0] * d[1] / s
    by_s = distance / (s * s)
    q_slope = -3.0 * by_s * by_s - 0.25
    second = q - slope
    third = q * q + q_slope - slope * (3.0 * q - 2.0 * slope)
    step: Floats = newton * (1.0 + 0.5 * second * newton) / (1.0 + newton * (second + third * newton / 6.0))
    return step
