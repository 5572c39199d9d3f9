"""The obvious version of the kernel: pure Python integers at a fixed scale, 1e27 unless told otherwise. Pure.

Slow and short; tests hold the fast kernel to it (1e-12), and the listing schedule widens strikes with it once a
day. Every value is an integer numerator over `scale`; results carry an error of some units of the last place. A
larger scale reaches further into tails.
"""

from __future__ import annotations

from math import isqrt

from primitives.errors import ensure

SCALE = 10**27


def _atanh_series(numerator: int, denominator: int, scale: int) -> int:
    """2 atanh(numerator / denominator) = 2 (s + s^3/3 + s^5/5 + ...), s >= 0."""
    term = 2 * numerator * scale // denominator
    total, n = 0, 1
    while term:
        total += term // n
        term = term * numerator * numerator // (denominator * denominator)
        n += 2
    return total


def ln(x: int, scale: int = SCALE) -> int:
    """Natural logarithm of x / scale, x > 0: a power of two times a number in [1, 2)."""
    ensure(x > 0, "a logarithm's argument is positive")
    power = x.bit_length() - scale.bit_length()
    power -= x << max(0, -power) < scale << max(0, power)
    shifted, unit = x << max(0, -power), scale << max(0, power)
    return power * _atanh_series(1, 3, scale) + _atanh_series(shifted - unit, shifted + unit, scale)


def exp(y: int, scale: int = SCALE) -> int:
    """Exponential of y / scale: halve the argument until it is small, Taylor, square back."""
    if y < 0:
        return scale * scale // exp(-y, scale)
    halvings = max(0, y.bit_length() - scale.bit_length() + 8)
    unit = scale << (2 * halvings + 64)
    reduced = y * (unit // scale) >> halvings
    total, term, n = 0, unit, 0
    while term:
        total += term
        n += 1
        term = term * reduced // (unit * n)
    for _ in range(halvings):
        total = total * total // unit
    return total * scale // unit


def normal_pdf(x: int, scale: int = SCALE) -> int:
    """Density exp(-x^2/2) / sqrt(2 pi)."""
    return exp(-x * x // (2 * scale), scale) * scale // isqrt(2 * _pi(scale) * scale)


def _pi(scale: int) -> int:
    """Machin: pi/4 = 4 atan(1/5) - atan(1/239)."""

    def atan_inverse(n: int) -> int:
        total, term, k, sign = 0, scale // n, 1, 1
        while term:
            total += sign * (term // k)
            term //= n * n
            k, sign = k + 2, -sign
        return total

    return 4 * (4 * atan_inverse(5) - atan_inverse(239))


def normal_cdf(x: int, scale: int = SCALE) -> int:
    """N(x) = 1/2 + pdf(x) (x + x^3/3 + x^5/15 + ...); absolute error of some units of the last place.

    The sum grows as the density falls, so both are taken at a scale finer by the density's bits, 0.72 x^2. A
    tail below the last place is 0: N(-38) needs a scale above 1e330 to be seen at all.
    """
    if x < 0:
        return scale - normal_cdf(-x, scale)
    if 2 * x * x > 3 * scale * scale * scale.bit_length():
        return scale
    finer = 16 + 3 * x * x // (4 * scale * scale)
    x, unit = x << finer, scale << finer
    term, total, n = x, 0, 1
    while term:
        total += term
        n += 2
        term = term * x * x // (unit * unit * n)
    return (unit // 2 + normal_pdf(x, unit) * total // unit) >> finer


def black76(forward: int, strike: int, deviation: int, is_call: bool, scale: int = SCALE) -> int:
    """Undiscounted value of a European option; `deviation` is volatility times the root of time.

    Every number is over `scale`; a deviation of 0 gives the intrinsic value.
    """
    sign = 1 if is_call else -1
    if deviation == 0:
        return max(0, sign * (forward - strike))
    moneyness = ln(forward * scale // strike, scale) * scale // deviation
    d1 = moneyness + deviation // 2
    d2 = d1 - deviation
    value = forward * normal_cdf(sign * d1, scale) - strike * normal_cdf(sign * d2, scale)
    return sign * value // scale


def total_variance(theta: int, rho: int, psi: int, wings: int, k: int, scale: int = SCALE) -> int:
    """theta/2 (1 + rho phi k + sqrt((phi k + rho)^2 + 1 - rho^2)) + wings k^2; |k| is held to 4 sqrt(theta)."""
    bound = 4 * isqrt(theta * scale)
    k = max(-bound, min(bound, k))
    phi_k = psi * k // theta
    root = isqrt((phi_k + rho) ** 2 + scale * scale - rho * rho)
    ssvi = theta * (scale + rho * phi_k // scale + root) // (2 * scale)
    return ssvi + wings * k // scale * k // scale
