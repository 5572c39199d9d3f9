"""Integer roundings go the way their names say, for either sign."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.amounts import ceil_div, clamp, floor_div

numerators = st.integers(-(2**130), 2**130)
denominators = st.integers(1, 2**70)


@pytest.mark.parametrize(
    ("numerator", "denominator", "down", "up"),
    [
        (7, 2, 3, 4),
        (-7, 2, -4, -3),
        (8, 2, 4, 4),
        (-8, 2, -4, -4),
        (0, 5, 0, 0),
        (1, 10**18, 0, 1),
        (-1, 10**18, -1, 0),
    ],
)
def test_roundings_spelled_out(numerator: int, denominator: int, down: int, up: int) -> None:
    assert (floor_div(numerator, denominator), ceil_div(numerator, denominator)) == (down, up)


@given(numerators, denominators)
def test_roundings_equal_the_exact_fraction_rounded(numerator: int, denominator: int) -> None:
    exact = Fraction(numerator, denominator)
    assert (floor_div(numerator, denominator), ceil_div(numerator, denominator)) == (
        floor(exact),
        ceil(exact),
    )


@given(numerators, denominators)
def test_a_debit_never_falls_short_of_a_credit(numerator: int, denominator: int) -> None:
    gap = ceil_div(numerator, denominator) - floor_div(numerator, denominator)
    assert gap == (numerator % denominator != 0)


def test_dividing_by_nothing_raises() -> None:
    for divide in (ceil_div, floor_div):
        with pytest.raises(ZeroDivisionError):
            divide(1, 0)


def test_clamp_moves_a_value_into_its_range() -> None:
    assert [clamp(value, -2, 3) for value in (-9, -2, 0, 3, 9)] == [-2, -2, 0, 3, 3]
