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

CHUNK = 25_600
"""Option values computed at a time: few enough to stay cached, enough to make NumPy worth calling."""
DEVIATION_E15_MAX = 24 * 10**15
"""Total deviation is capped at 24, as lyra-utils' Black76 does; a call is then worth its forward."""
OUTPUT_MAX = 1 << 62
"""Outputs are clipped to this magnitude (a Greek of a worthless or expiring option may diverge)."""


def _numbers(*values: float) -> tuple[Floats, ...]:
    """Constants as arrays of no dimension, which a ufunc takes with half the overhead of a Python float."""
    return tuple(np.array(value) for value in values)


_EPS_DEVIATION = 1e-15
_EXPONENT_MIN, _LN2_HIGH, _LN2_LOW, _INV_LN2 = _numbers(
    -648.0, 6.93147180369123816490e-01, 1.90821492927058770002e-10, 1.442695040888963407359925
)  # fmt: skip
_MINUS_TWO, _MINUS_HALF, _ZERO, _ONE, _TWO, _MIDDLE = _numbers(-2.0, -0.5, 0.0, 1.0, 2.0, 5.5)
INV_SQRT_2PI = 0.3989422804014326779399461
NS_PER_YEAR = 31_536_000e9
DAYS_PER_YEAR = 365.0
_SQRT_HALF_BITS = np.int64(0x3FE6A09E667F3BCD)

_LN_POLYNOMIAL = _numbers(
    1.479819860511658591e-01, 1.531383769920937332e-01, 1.818357216161805012e-01, 2.222219843214978396e-01,
    2.857142874366239149e-01, 3.999999999940941908e-01, 6.666666666666735130e-01,
)  # fmt: skip
"""2 atanh(s) = 2s + s z (2/3 + 2/5 z + ...), z = s^2 <= 0.0295; minimax of fdlibm's e_log.c, error 2^-58."""

_EXP_POLYNOMIAL = _numbers(
    4.13813679705723846039e-08, -1.65339022054652515390e-06, 6.61375632143793436117e-05,
    -2.77777777770155933842e-03, 1.66666666666666019037e-01,
)  # fmt: skip
"""r (e^r + 1)/(e^r - 1) = 2 + z (1/6 - z/360 + ...), z = r^2; minimax of fdlibm's e_exp.c, error 2^-59."""

_TAIL_POLYNOMIAL = _numbers(
    -6.184695940396316e-08, -1.5761501829750098e-07, 5.089812463943625e-07, 1.0227939589045906e-06,
    -4.756580069235798e-06, -4.775413044548238e-07, 3.8891991991636815e-05, -9.055695705138797e-05,
    -8.148077706264906e-05, 0.0011587118048363174, -0.004252399226884857, 0.010221481691821523,
    -0.01822996647693201, 0.024305078438705455, -0.021413634560758846, 0.0022150251255829757,
    0.03618652602913829, -0.08833898904449024, 0.4572275111633315,
)  # fmt: skip
"""Chebyshev fit of (1 + a) N(-a) exp(a^2/2) in t = (a - 5.5)/(a + 5.5), 0 <= a <= 38; error 2e-14, none at a = 0."""


def _horner(variable: Floats, coefficients: Sequence[Floats], out: Floats) -> None:
    """Polynomial with the highest power first, written into `out`."""
    np.multiply(variable, coefficients[0], out)
    for coefficient in coefficients[1:-1]:
        np.add(out, coefficient, out)
        np.multiply(out, variable, out)
    np.add(out, coefficients[-1], out)


def ln(x: Floats) -> Floats:
    """Natural logarithm of positive normal numbers; relative error below 1e-15; finite for any finite x >= 0.

    x = 2^n m with m in [sqrt(1/2), sqrt(2)): the bits are cut where they pass those of sqrt(1/2).
    """
    bits = np.ascontiguousarray(x, dtype=np.float64).view(np.int64)
    power = np.subtract(bits, _SQRT_HALF_BITS)
    np.right_shift(power, 52, power)
    exponent = power.astype(np.float64)
    np.left_shift(power, 52, power)
    mantissa = np.subtract(bits, power, power).view(np.float64)
    s = np.subtract(mantissa, _ONE)
    np.add(mantissa, _ONE, mantissa)
    np.divide(s, mantissa, s)
    z = np.multiply(s, s, mantissa)
    series = np.empty_like(z)
    _horner(z, _LN_POLYNOMIAL, series)
    np.multiply(series, z, series)
    np.multiply(series, s, series)
    low = np.multiply(exponent, _LN2_LOW, z)
    np.add(series, low, series)
    np.multiply(s, _TWO, s)
    np.add(series, s, series)
    np.multiply(exponent, _LN2_HIGH, exponent)
    np.add(series, exponent, series)
    return series


def _ln_of_runs(x: Floats) -> Floats:
    """`ln`, taken once for equal neighbours where they are many, as the discounts of one expiry are."""
    edges = np.flatnonzero(x[1:] != x[:-1])
    if len(edges) > len(x) // 8:
        return ln(x)
    starts = np.concatenate((np.zeros(1, dtype=np.int64), edges + 1))
    return np.repeat(ln(x[starts]), np.diff(starts, append=len(x)))


def _exp_into(y: Floats, out: Floats, power: Floats, bits: Ints) -> None:
    """exp(y) into `out` for -708 <= y <= 709; `y`, `power` and `bits` are destroyed.

    With y = n ln 2 + r: e^r = 1 + r + r c / (2 - c), c = r - z P(z), z = r^2.
    """
    np.multiply(y, _INV_LN2, power)
    np.rint(power, power)
    np.copyto(bits, power, casting="unsafe")
    np.multiply(power, _LN2_HIGH, out)
    np.subtract(y, out, y)
    np.multiply(power, _LN2_LOW, out)
    np.subtract(y, out, y)
    np.multiply(y, y, power)
    _horner(power, _EXP_POLYNOMIAL, out)
    np.multiply(out, power, out)
    np.subtract(y, out, out)
    np.subtract(_TWO, out, power)
    np.multiply(out, y, out)
    np.divide(out, power, out)
    np.add(out, y, out)
    np.add(out, _ONE, out)
    np.add(bits, 1023, bits)
    np.left_shift(bits, 52, bits)
    np.multiply(out, bits.view(np.float64), out)


def exp(y: Floats) -> Floats:
    """Exponential; arguments are clipped to [-708, 709]; relative error below 1e-15."""
    argument = np.maximum(np.minimum(np.asarray(y, dtype=np.float64), 709.0), -708.0)
    out = np.empty_like(argument)
    _exp_into(argument, out, np.empty_like(argument), np.empty(argument.shape, dtype=np.int64))
    return out


class OptionTerms(NamedTuple):
    """What does not move: strike, side and discount of I options, each of shape (I,)."""

    strike_uusd: Ints
    is_call: Bools
    discount_ppm: Ints

    def part(self, at: slice) -> OptionTerms:
        """The options at `at`."""
        return OptionTerms(self.strike_uusd[at], self.is_call[at], self.discount_ppm[at])


class Work:
    """Work arrays for `size` numbers, reused from chunk to chunk so that they stay cached."""

    def __init__(self, size: int) -> None:
        self._distance, self._ratio, self._power, self._bell, self._tail = np.empty((5, size))
        self._bits = np.empty(size, dtype=np.int64)

    def tail_ratios(self, x: Floats) -> Floats:
        """N(-a) exp(a^2/2), a = |x|, x of one dimension; valid until the next call."""
        n = len(x)
        a, t, power, tail = (work[:n] for work in (self._distance, self._ratio, self._power, self._tail))
        np.abs(x, a)
        np.add(a, _MIDDLE, power)
        np.subtract(a, _MIDDLE, t)
        np.divide(t, power, t)
        _horner(t, _TAIL_POLYNOMIAL, tail)
        np.add(a, _ONE, power)
        np.divide(tail, power, tail)
        return tail

    def bells(self, n: int) -> Floats:
        """exp(-a^2/2) for the first n numbers of the last `tail_ratios`, as of 36 beyond; valid until the next call.

        There it is 1e-282: nothing that prices divide it by makes it leave the normal numbers, which are fast.
        """
        a, y, bell = self._distance[:n], self._ratio[:n], self._bell[:n]
        np.multiply(a, a, y)
        np.multiply(y, _MINUS_HALF, y)
        np.clip(y, _EXPONENT_MIN, _ZERO, y)
        _exp_into(y, bell, self._power[:n], self._bits[:n])
        return bell

    def probabilities(self, d: Floats, forward_by_strike: Floats) -> Floats:
        """N(d1) and N(d2) in place of the two rows of `d`; gives exp(-d1^2/2), valid until the next call.

        d1 and d2 are those of Black-76, so exp(-d2^2/2) = exp(-d1^2/2) F/K: one exponential serves both.
        """
        tails = self.tail_ratios(d.reshape(-1)).reshape(d.shape)
        bell = self.bells(d.shape[1])
        np.multiply(tails, bell, tails)
        np.multiply(tails[1], forward_by_strike, tails[1])
        # The tail below 0 and one minus the tail above, without a masked loop: `below` is -1 or 0.
        below = self._ratio[: d.size].reshape(d.shape)
        np.copyto(below, np.right_shift(d.view(np.int64), 63, self._bits[: d.size].reshape(d.shape)))
        np.add(below, _ONE, d)
        np.multiply(below, _MINUS_TWO, below)
        np.subtract(below, _ONE, below)
        np.multiply(tails, below, tails)
        np.add(d, tails, d)
        return bell


def normal_cdf(x: Floats) -> Floats:
    """Standard normal distribution, also in its tails; relative error below 1e-12; x is clipped to +-36."""
    flat = np.ascontiguousarray(x, dtype=np.float64).reshape(-1)
    work = Work(len(flat))
    tails = work.tail_ratios(flat) * work.bells(len(flat))
    result: Floats = np.where(flat > 0.0, 1.0 - tails, tails).reshape(np.shape(x))
    return result


def to_int(values: Floats) -> Ints:
    """Round to nearest, ties to even, clipped to +-OUTPUT_MAX; `values` are destroyed."""
    np.clip(values, -float(OUTPUT_MAX), float(OUTPUT_MAX), out=values)
    return np.rint(values, out=values).astype(np.int64)


def positive(values: Ints) -> Floats:
    """As numbers of at least 1: what is divided by, or whose logarithm is taken."""
    return np.maximum(values, 1).astype(np.float64)


def _deviation(deviation_e15: Ints) -> Floats:
    """Total deviation as a number, at least 1e-15 so that an expired option divides by something."""
    deviation = deviation_e15.astype(np.float64)
    np.divide(deviation, 1e15, out=deviation)
    return np.clip(deviation, _EPS_DEVIATION, DEVIATION_E15_MAX // 10**15, out=deviation)


def _discount_and_side(terms: OptionTerms) -> tuple[Floats, Floats]:
    """Discount factors, and 1 for puts and 0 for calls."""
    return terms.discount_ppm.astype(np.float64) / 1e6, np.logical_not(terms.is_call).astype(np.float64)


def option_values(terms: OptionTerms, forward_uusd: Ints, deviation_e15: Ints) -> Ints:
    """Black-76 values in micro-USD per contract; every array has shape (I,).

    Forward and strike below one micro-USD count as one micro-USD; a deviation of 0 gives the intrinsic value.
    """
    first = np.zeros(1, dtype=np.int64)
    out = np.empty(len(forward_uusd), dtype=np.int64)
    for start in range(0, len(out), CHUNK):
        at = slice(start, start + CHUNK)
        out[at] = scenario_values(
            terms.part(at), forward_uusd[None, at], deviation_e15[None, at], first, first
        )
    return out


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
    strike, forward = positive(terms.strike_uusd), positive(forward_uusd)
    forward_by_strike = forward / strike
    moneyness = ln(forward_by_strike)
    deviation = _deviation(deviation_e15)
    discount, is_put = _discount_and_side(terms)
    out = np.empty((scenarios, options), dtype=np.int64)
    rows = max(1, CHUNK // max(1, options))
    work = Work(2 * rows * options)
    for start in range(0, scenarios, rows):
        f = forward_index[start : start + rows]
        s = deviation[deviation_index[start : start + rows]]
        d = np.empty((2, len(f), options))
        np.divide(moneyness[f], s, out=d[0])
        np.multiply(s, 0.5, out=s)
        np.subtract(d[0], s, out=d[1])
        np.add(d[0], s, out=d[0])
        work.probabilities(d.reshape(2, -1), forward_by_strike[f].reshape(-1))
        values = _values(discount, is_put, strike, forward[f], d)
        np.copyto(out[start : start + rows], np.rint(values, values), casting="unsafe")
    return out


def _values(
    discount: Floats, is_put: Floats, strike: Floats, forward: Floats, probabilities: Floats
) -> Floats:
    """discount * (F N(d1) - K N(d2)), less F - K for puts (parity), within 0 and OUTPUT_MAX.

    `is_put` is 1 or 0. The result takes the place of N(d1); `forward` and `probabilities` are destroyed.
    """
    value, second = probabilities
    np.multiply(value, forward, out=value)
    np.multiply(second, strike, out=second)
    np.subtract(value, second, out=value)
    np.subtract(forward, strike, out=forward)
    np.multiply(forward, is_put, out=forward)
    np.subtract(value, forward, out=value)
    np.multiply(value, discount, out=value)
    np.clip(value, 0.0, float(OUTPUT_MAX), out=value)
    result: Floats = value
    return result


def option_greeks(terms: OptionTerms, forward_uusd: Ints, deviation_e15: Ints, time_ns: Ints) -> Ints:
    """Value, delta, gamma, vega, theta and rho of Black-76, shape (6, I); see `black76.Greeks` for units.

    Arguments are as in `option_values`, whose values these are to the last unit.
    """
    count = len(forward_uusd)
    out = np.empty((6, count), dtype=np.int64)
    work = Work(2 * min(count, CHUNK))
    for start in range(0, count, CHUNK):
        at = slice(start, start + CHUNK)
        forward, deviation = positive(forward_uusd[at]), _deviation(deviation_e15[at])
        _greeks_into(work, terms.part(at), forward, deviation, time_ns[at], out[:, at])
    return out


def _greeks_into(
    work: Work, terms: OptionTerms, forward: Floats, s: Floats, time_ns: Ints, out: Ints
) -> None:
    """One chunk of `option_greeks`; `forward` is destroyed."""
    strike = positive(terms.strike_uusd)
    discount, is_put = _discount_and_side(terms)
    years = positive(time_ns) / NS_PER_YEAR
    forward_by_strike = forward / strike
    half = 0.5 * s
    d = np.empty((2, len(s)))
    np.divide(ln(forward_by_strike), s, out=d[0])
    np.subtract(d[0], half, out=d[1])
    np.add(d[0], half, out=d[0])
    bell = work.probabilities(d, forward_by_strike)
    density = np.multiply(bell, discount, out=bell)
    np.multiply(density, INV_SQRT_2PI, out=density)
    slope = forward * density
    np.divide(density, forward, out=density)
    np.subtract(d[0], is_put, out=half)
    delta = np.multiply(half, discount, out=half)
    value = _values(discount, is_put, strike, forward, d)
    carry = np.multiply(value, _ln_of_runs(discount), out=strike)
    theta_per_year = (slope * s * -0.5 - carry) / (years * DAYS_PER_YEAR)
    np.copyto(out[0], np.rint(value), casting="unsafe")
    np.copyto(out[1], np.rint(np.multiply(delta, 1e9, out=delta)), casting="unsafe")
    out[2] = to_int(density / s * 1e18)
    np.copyto(out[3], np.rint(slope * np.sqrt(years) / 100.0), casting="unsafe")
    out[4] = to_int(theta_per_year)
    out[5] = to_int(value * years / -100.0)


def total_variance_e15(
    forward_uusd: Ints, strike_uusd: Ints, theta_e12: Ints, rho_e6: Ints, psi_e9: Ints, wings_e9: Ints
) -> Ints:
    """Total variance at k = ln(K/F) held to +-4 sqrt(theta); never negative; arrays of one length.

    w = (theta + rho psi k + sqrt((psi k + rho theta)^2 + theta^2 (1 - rho^2))) / 2 + wings k^2: SSVI's
    theta/2 (1 + rho phi k + sqrt((phi k + rho)^2 + 1 - rho^2)) with psi = theta phi multiplied in, and the wings.
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
    bent = wings_e9.astype(np.float64) / 1e9 * k * k
    return to_int(np.maximum(0.5 * (theta + rho * wing + root) + bent, 0.0) * 1e15)


def deviation_e15(variance_e15: Ints) -> Ints:
    """Square root of a total variance."""
    return to_int(np.sqrt(variance_e15.astype(np.float64) / 1e15) * 1e15)


def volatility_e9(variance_e15: Ints, time_ns: Ints) -> Ints:
    """Annual volatility sqrt(w / tau); an expired option's time counts as one nanosecond."""
    years = np.maximum(time_ns, 1).astype(np.float64) / NS_PER_YEAR
    return to_int(np.sqrt(variance_e15.astype(np.float64) / 1e15 / years) * 1e9)
