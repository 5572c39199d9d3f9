"""The one module with floats: binary64 through exactly defined elementwise operations only. Pure.

Allowed here: + - * / sqrt, comparisons, min, max, where, rint, integer and bit operations. IEEE 754 defines
their results to the last bit, so every CPU, NumPy and Python computes the same. Never: np.exp, np.log, **, or
any float reduction (sum, dot), whose last bits vary with the SIMD path. ln, exp and the normal distribution
are built below by range reduction and a polynomial; `fixed_math` is the obvious version they are held to.

Integers come in and integers go out, except for the four functions ln, exp, normal_pdf and normal_cdf, which
nothing but this module and its tests calls. Each output is rounded once, to nearest (ties to even).
Units: money micro-USD; deviation (volatility times sqrt of time) 1e-15; total variance 1e-15; time ns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CHUNK = 16_384
"""Option values computed at a time: few enough to stay cached, enough to make NumPy worth calling."""
DEVIATION_E15_MAX = 24 * 10**15
"""Total deviation is capped at 24, as lyra-utils' Black76 does; a call is then worth its forward."""
OUTPUT_MAX = 1 << 62
"""Outputs are clipped to this magnitude (a Greek of a worthless or expiring option may diverge)."""

_EPS_DEVIATION = 1e-15
_TAIL_MAX = 37.5
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_INV_LN2 = 1.442695040888963407359925
_SQRT2 = 1.414213562373095048801689
_INV_SQRT_2PI = 0.3989422804014326779399461
_NS_PER_YEAR = 31_536_000e9
_DAYS_PER_YEAR = 365.0
_MANTISSA = np.int64((1 << 52) - 1)
_ONE_BITS = np.int64(1023 << 52)

_LN_SERIES = tuple(2.0 / n for n in range(21, 1, -2))
"""2 atanh(s) = 2s + s z (2/3 + 2/5 z + ...), z = s^2 <= 0.0295: the eleventh term is below 1e-17."""

_EXP_SERIES = tuple(
    1.0 / factorial for factorial in (39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2, 1, 1)
)
"""Taylor, highest power first; |r| <= ln(2)/2 leaves a remainder below 7e-15."""

_TAIL_POLYNOMIAL = (
    -3.86333379532984862e-8, -2.02703849424996413e-8, 4.15516191238865365e-7, 4.0457044166088631e-7,
    -2.47154408583432469e-6, -3.41426093541291773e-6, 0.0000135393927968209031, 0.0000212344620450195655,
    -0.0000878198653109789434, -0.0000944240023627553336, 0.000694889373412983038, -0.000285624419101721345,
    -0.00500237755454644878, 0.0179360976217872228, -0.0321978374993584948, 0.0286003640469075041,
    0.0139996347263509218, -0.0967034773264383105, 0.472053206509835971,
)  # fmt: skip
"""Chebyshev fit of (1 + a) N(-a) exp(a^2/2) in t = (a - 4)/(a + 4), 0 <= a <= 38; error 1e-14."""


def _horner(variable: Floats, coefficients: Sequence[float], out: Floats) -> None:
    """Polynomial with the highest power first, written into `out`."""
    np.multiply(variable, coefficients[0], out=out)
    for coefficient in coefficients[1:-1]:
        np.add(out, coefficient, out=out)
        np.multiply(out, variable, out=out)
    np.add(out, coefficients[-1], out=out)


def ln(x: Floats) -> Floats:
    """Natural logarithm of positive normal numbers; relative error below 1e-14."""
    bits = np.ascontiguousarray(x, dtype=np.float64).view(np.int64)
    mantissa = ((bits & _MANTISSA) | _ONE_BITS).view(np.float64)
    is_high = mantissa > _SQRT2
    mantissa = np.where(is_high, mantissa * 0.5, mantissa)
    exponent = ((bits >> 52) - 1023 + is_high).astype(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    series = np.empty_like(z)
    _horner(z, _LN_SERIES, series)
    result: Floats = exponent * _LN2_HIGH + (2.0 * s + (s * z * series + exponent * _LN2_LOW))
    return result


def _exp_into(y: Floats, out: Floats, power: Floats, bits: Ints) -> None:
    """exp(y) into `out` for -708 <= y <= 709; `y`, `power` and `bits` are destroyed."""
    np.multiply(y, _INV_LN2, out=power)
    np.rint(power, out=power)
    np.multiply(power, _LN2_HIGH, out=out)
    np.subtract(y, out, out=y)
    np.multiply(power, _LN2_LOW, out=out)
    np.subtract(y, out, out=y)
    _horner(y, _EXP_SERIES, out)
    np.copyto(bits, power, casting="unsafe")
    np.add(bits, 1023, out=bits)
    np.left_shift(bits, 52, out=bits)
    np.multiply(out, bits.view(np.float64), out=out)


def exp(y: Floats) -> Floats:
    """Exponential; arguments are clipped to [-708, 709]; relative error below 2e-14."""
    argument = np.maximum(np.minimum(np.asarray(y, dtype=np.float64), 709.0), -708.0)
    out = np.empty_like(argument)
    _exp_into(argument, out, np.empty_like(argument), np.empty(argument.shape, dtype=np.int64))
    return out


def normal_pdf(x: Floats) -> Floats:
    """Standard normal density; |x| is clipped to 37.5."""
    a = np.minimum(np.abs(x), _TAIL_MAX)
    result: Floats = exp(a * a * -0.5) * _INV_SQRT_2PI
    return result


class OptionTerms(NamedTuple):
    """What does not move: strike, side and discount of I options, each of shape (I,)."""

    strike_uusd: Ints
    is_call: Bools
    discount_ppm: Ints


class _Scratch:
    """Work arrays of one length, reused from chunk to chunk."""

    def __init__(self, size: int) -> None:
        self.distance, self.ratio, self.power, self.square, self.tail = np.empty((5, size))
        self.bits = np.empty(size, dtype=np.int64)

    def normal_cdf(self, x: Floats, out: Floats) -> None:
        """N(x) into `out` (which may be `x`) for x of at most the scratch's length."""
        n = len(x)
        a, t, power, y, tail = (
            work[:n] for work in (self.distance, self.ratio, self.power, self.square, self.tail)
        )
        np.abs(x, out=a)
        np.minimum(a, _TAIL_MAX, out=a)
        np.add(a, 4.0, out=power)
        np.subtract(a, 4.0, out=t)
        np.divide(t, power, out=t)
        np.multiply(a, a, out=y)
        np.multiply(y, -0.5, out=y)
        _exp_into(y, tail, power, self.bits[:n])
        _horner(t, _TAIL_POLYNOMIAL, power)
        np.multiply(tail, power, out=tail)
        np.add(a, 1.0, out=a)
        np.divide(tail, a, out=tail)
        is_positive = x > 0.0
        np.copyto(out, tail)
        np.subtract(1.0, tail, out=tail)
        np.copyto(out, tail, where=is_positive)


def normal_cdf(x: Floats) -> Floats:
    """Standard normal distribution, also in its tails; relative error below 1e-12; x is clipped to +-37.5."""
    flat = np.ascontiguousarray(x, dtype=np.float64).reshape(-1)
    out = np.empty_like(flat)
    _Scratch(len(flat)).normal_cdf(flat, out)
    return out.reshape(np.shape(x))


def _to_int(values: Floats) -> Ints:
    """Round to nearest, ties to even, clipped to +-OUTPUT_MAX."""
    limit = float(OUTPUT_MAX)
    return np.rint(np.maximum(np.minimum(values, limit), -limit)).astype(np.int64)


def _deviation(deviation_e15: Ints) -> Floats:
    """Total deviation as a number, at least 1e-15 so that an expired option divides by something."""
    capped = np.minimum(deviation_e15, DEVIATION_E15_MAX)
    return np.maximum(capped.astype(np.float64) / 1e15, _EPS_DEVIATION)


def option_values(terms: OptionTerms, forward_uusd: Ints, deviation_e15: Ints) -> Ints:
    """Black-76 values in micro-USD per contract; every array has shape (I,).

    Forward and strike below one micro-USD count as one micro-USD; a deviation of 0 gives the intrinsic value.
    """
    first = np.zeros(1, dtype=np.int64)
    row: Ints = scenario_values(terms, forward_uusd[None, :], deviation_e15[None, :], first, first)[0]
    return row


def scenario_values(
    terms: OptionTerms,
    forward_uusd: Ints,
    deviation_e15: Ints,
    forward_index: Ints,
    deviation_index: Ints,
) -> Ints:
    """Values of I options under C scenarios, each a pair of one forward and one deviation.

    Args:
        terms: arrays of shape (I,).
        forward_uusd: shape (M, I), the forward of each option under each price move.
        deviation_e15: shape (V, I), the total deviation of each option under each volatility shock.
        forward_index, deviation_index: shape (C,), rows of the two tables that make each scenario.

    Returns:
        Shape (C, I), micro-USD per contract, never negative, rounded to nearest.
    """
    scenarios, options = len(forward_index), len(terms.strike_uusd)
    strike = np.maximum(terms.strike_uusd, 1).astype(np.float64)
    forward = np.maximum(forward_uusd, 1).astype(np.float64)
    moneyness = ln(forward / strike)
    deviation = _deviation(deviation_e15)
    out = np.empty((scenarios, options), dtype=np.int64)
    rows = max(1, CHUNK // max(1, options))
    scratch = _Scratch(2 * rows * options)
    work = np.empty((2 * rows, options))
    for start in range(0, scenarios, rows):
        f = forward_index[start : start + rows]
        s = deviation[deviation_index[start : start + rows]]
        d1, d2 = work[: len(f)], work[len(f) : 2 * len(f)]
        np.divide(moneyness[f], s, out=d1)
        np.multiply(s, 0.5, out=s)
        np.subtract(d1, s, out=d2)
        np.add(d1, s, out=d1)
        both = work[: 2 * len(f)].reshape(-1)
        scratch.normal_cdf(both, both)
        _values_into(terms, strike, forward[f], (d1, d2), out[start : start + rows])
    return out


def _values_into(
    terms: OptionTerms, strike: Floats, forward: Floats, probabilities: tuple[Floats, Floats], out: Ints
) -> None:
    """discount * (F N(d1) - K N(d2)), less F - K for puts (parity), floored at 0 and rounded into `out`.

    `forward` and `probabilities` are destroyed.
    """
    value, second = probabilities
    np.multiply(value, forward, out=value)
    np.multiply(second, strike, out=second)
    np.subtract(value, second, out=value)
    np.multiply(forward, np.where(terms.is_call, 0.0, 1.0), out=forward)
    np.subtract(value, forward, out=value)
    np.add(value, np.where(terms.is_call, 0.0, strike), out=value)
    np.multiply(value, terms.discount_ppm.astype(np.float64) / 1e6, out=value)
    np.maximum(value, 0.0, out=value)
    np.minimum(value, float(OUTPUT_MAX), out=value)
    np.rint(value, out=value)
    np.copyto(out, value, casting="unsafe")


def option_greeks(
    terms: OptionTerms, forward_uusd: Ints, deviation_e15: Ints, time_ns: Ints
) -> tuple[Ints, Ints, Ints, Ints]:
    """Delta, gamma, vega and theta of Black-76 for arrays of one length; see `black76.Greeks` for units."""
    forward = np.maximum(forward_uusd, 1).astype(np.float64)
    strike = np.maximum(terms.strike_uusd, 1).astype(np.float64)
    discount = terms.discount_ppm.astype(np.float64) / 1e6
    s = _deviation(deviation_e15)
    years = np.maximum(time_ns, 1).astype(np.float64) / _NS_PER_YEAR
    d1 = ln(forward / strike) / s + 0.5 * s
    first, second = normal_cdf(d1), normal_cdf(d1 - s)
    density = discount * normal_pdf(d1)
    put = np.where(terms.is_call, 0.0, 1.0)
    delta = discount * (first - put)
    gamma_per_uusd = density / (forward * s)
    vega_per_unit = forward * density * np.sqrt(years)
    value = discount * (forward * (first - put) - strike * (second - put))
    carry = value * ln(np.maximum(discount, 1e-6)) / years
    theta_per_year = -0.5 * forward * density * s / years - carry
    return (
        _to_int(delta * 1e9),
        _to_int(gamma_per_uusd * 1e18),
        _to_int(vega_per_unit / 100.0),
        _to_int(theta_per_year / _DAYS_PER_YEAR),
    )


def ssvi_total_variance_e15(
    forward_uusd: Ints, strike_uusd: Ints, theta_e12: Ints, rho_e6: Ints, psi_e9: Ints
) -> Ints:
    """SSVI total variance at ln(K/F), k clamped to +-4 sqrt(theta); never negative; arrays of one length.

    w = (theta + rho psi k + sqrt((psi k + rho theta)^2 + theta^2 (1 - rho^2))) / 2, which is market.md's
    theta/2 (1 + rho phi k + sqrt((phi k + rho)^2 + 1 - rho^2)) with psi = theta phi multiplied in.
    """
    theta = theta_e12.astype(np.float64) / 1e12
    rho = rho_e6.astype(np.float64) / 1e6
    psi = psi_e9.astype(np.float64) / 1e9
    bound = 4.0 * np.sqrt(theta)
    k = ln(np.maximum(strike_uusd, 1).astype(np.float64) / np.maximum(forward_uusd, 1).astype(np.float64))
    k = np.maximum(np.minimum(k, bound), -bound)
    wing = psi * k
    shifted = wing + rho * theta
    root = np.sqrt(shifted * shifted + theta * theta * (1.0 - rho * rho))
    return _to_int(np.maximum(0.5 * (theta + rho * wing + root), 0.0) * 1e15)


def deviation_e15(variance_e15: Ints) -> Ints:
    """Square root of a total variance."""
    return _to_int(np.sqrt(variance_e15.astype(np.float64) / 1e15) * 1e15)


def volatility_e9(variance_e15: Ints, time_ns: Ints) -> Ints:
    """Annual volatility sqrt(w / tau); an expired option's time counts as one nanosecond."""
    years = np.maximum(time_ns, 1).astype(np.float64) / _NS_PER_YEAR
    return _to_int(np.sqrt(variance_e15.astype(np.float64) / 1e15 / years) * 1e9)


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
    years = np.maximum(time_ns, 0).astype(np.float64) / _NS_PER_YEAR
    days = np.maximum(years * _DAYS_PER_YEAR, 1.0)
    exponent = np.where(days <= reference_days, float(short_exponent_ppm), float(long_exponent_ppm)) / 1e6
    h = exp(exponent * ln(float(reference_days) / days))
    s = deviation_e15.astype(np.float64)
    floor = (up_volatility_floor_ppm / 1e6) * np.sqrt(years) * 1e15
    up = np.maximum(s * (1.0 + (up_ppm / 1e6) * h), floor)
    down = s * np.maximum(1.0 - (down_ppm / 1e6) * h, down_floor_ppm / 1e6)
    return _to_int(up), _to_int(down)


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
    root = np.sqrt(np.maximum(time_ns, 0).astype(np.float64) / _NS_PER_YEAR)
    cap = np.maximum(cap_ppm / 1e6 - (cap_slope_ppm / 1e6) * root, 0.0)
    width = float(width_multiplier) * root * (width_ppm / 1e6 - (width_slope_ppm / 1e6) * root)
    slope = cap / np.maximum(width, width_minimum_ppm / 1e6)
    x = ln(np.maximum(strike_uusd, 1).astype(np.float64) / np.maximum(forward_uusd, 1).astype(np.float64))
    s = deviation_e15.astype(np.float64)
    linear = s * (1.0 + np.maximum(np.minimum(x * slope, cap), -cap))
    absolute = s * (1.0 + np.minimum(np.abs(x) * slope, cap))
    return _to_int(linear), _to_int(absolute)


def expiry_discounts(
    time_ns: Ints, discount_ppm: Ints, *, asset_ppm: int, liability_ppm: int, rate_ppm: int
) -> tuple[Ints, Ints]:
    """(positive, negative) factors on an expiry's value, 1e-15.

    positive: asset * e^(-rate tau); negative: min(1/D, liability * e^(rate tau)).
    """
    years = np.maximum(time_ns, 0).astype(np.float64) / _NS_PER_YEAR
    growth = exp((rate_ppm / 1e6) * years)
    positive = (asset_ppm / 1e6) / growth
    undo = 1e6 / np.maximum(discount_ppm, 1).astype(np.float64)
    negative = np.minimum(undo, (liability_ppm / 1e6) * growth)
    return _to_int(positive * 1e15), _to_int(negative * 1e15)


def scale(values: Ints, factor_e12: Ints) -> Ints:
    """values * factor / 1e12, elementwise with broadcasting."""
    return _to_int(values.astype(np.float64) * (factor_e12.astype(np.float64) / 1e12))


def discount_by_sign(values: Ints, positive_e15: Ints, negative_e15: Ints, work: tuple[Ints, Ints]) -> None:
    """values = floor(values * factor), in place: `positive` for values above 0 and `negative` below.

    `values` is contiguous, shape (n, C); factors have shape (n,) with positive <= 1e15 <= negative, so that
    the factor by sign is the one that gives the smaller product. `work` is two arrays like it, destroyed.
    Values up to 2^53 are taken exactly; larger ones to 16 digits.
    """
    kept, reduced = (array.view(np.float64) for array in work)
    np.copyto(kept, values)
    np.multiply(kept, (positive_e15.astype(np.float64) / 1e15)[:, None], out=reduced)
    if bool((negative_e15 != 10**15).any()):
        np.multiply(kept, (negative_e15.astype(np.float64) / 1e15)[:, None], out=kept)
    np.minimum(kept, reduced, out=kept)
    np.floor(kept, out=kept)
    np.copyto(values, kept, casting="unsafe")
