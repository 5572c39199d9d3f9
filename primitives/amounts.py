"""Integer money and the few roundings we use. Pure.

All money is micro-USD (1e-6 USD). Debits round up, credits round down; every rounding is named at its call.
"""

from __future__ import annotations

from typing import NewType

MicroUsd = NewType("MicroUsd", int)

USD = 1_000_000
"""One US dollar in micro-USD."""
PPM = 1_000_000
"""Parts per million: the unit of every rate, factor and fraction."""
NS = 1_000_000_000
"""Nanoseconds in a second."""
SECONDS_PER_YEAR = 31_536_000
"""365 days: the year of every time to expiry."""
INT64_MAX = 2**63 - 1


def ceil_div(numerator: int, denominator: int) -> int:
    """Quotient rounded towards plus infinity. `denominator` must be positive."""
    return -(-numerator // denominator)


def floor_div(numerator: int, denominator: int) -> int:
    """Quotient rounded towards minus infinity. `denominator` must be positive."""
    return numerator // denominator


def clamp(value: int, low: int, high: int) -> int:
    """`value` moved into [low, high]."""
    return max(low, min(high, value))
