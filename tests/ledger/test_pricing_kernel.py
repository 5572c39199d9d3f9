"""The fast kernel against the obvious integers, and against itself on other hardware."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__  # type: ignore[import-not-found]

from ledger.pricing import fixed_math, kernel, kernel_margin
from ledger.pricing.kernel import OptionTerms

SCALE = fixed_math.SCALE
TAIL_SCALE = 10**345


def integer(value: float, scale: int = SCALE) -> int:
    """The exact binary number, as an integer over `scale`, rounded down."""
    exact = Fraction(value)
    return exact.numerator * scale // exact.denominator


def relative_error(computed: float, exact: int, scale: int = SCALE) -> Fraction:
    return abs(Fraction(computed) * scale / exact - 1)


LIMIT = Fraction(1, 10**12)


def test_logarithm_is_within_1e_12_of_the_obvious_one() -> None:
    x = np.concatenate((np.linspace(1e-3, 0.999, 60), np.linspace(1.001, 9.0, 60), 10.0 ** np.arange(1, 15)))
    errors = [relative_error(y, fixed_math.ln(integer(z))) for z, y in zip(x, kernel.ln(x), strict=True)]
    assert max(errors) < LIMIT


def test_exponential_is_within_1e_12_of_the_obvious_one() -> None:
    y = np.linspace(-690.0, 700.0, 140)
    pairs = zip(y, kernel.exp(y), strict=True)
    errors = [
        relative_error(v, fixed_math.exp(integer(z, TAIL_SCALE), TAIL_SCALE), TAIL_SCALE) for z, v in pairs
    ]
    assert max(errors) < LIMIT


def test_normal_distribution_is_within_1e_12_of_the_obvious_one_also_in_its_tails() -> None:
    x = np.linspace(-36.0, 9.0, 91)
    pairs = zip(x, kernel.normal_cdf(x), strict=True)
    errors = [
        relative_error(v, fixed_math.normal_cdf(integer(z, TAIL_SCALE), TAIL_SCALE), TAIL_SCALE)
        for z, v in pairs
    ]
    assert max(errors) < LIMIT


def option_grid() -> tuple[OptionTerms, np.ndarray, np.ndarray]:
    """Deterministic options from deep in to far out of the money, from minutes to years."""
    strikes, deviations = np.meshgrid(np.geomspace(2e9, 3e12, 24), np.geomspace(1e-4, 6.0, 12))
    strike = np.rint(strikes.reshape(-1)).astype(np.int64)
    deviation = np.rint(deviations.reshape(-1) * 1e15).astype(np.int64)
    terms = OptionTerms(strike, np.arange(len(strike)) % 2 == 0, np.full(len(strike), 10**6))
    return terms, np.full(len(strike), 98_765_432_100), deviation


def test_prices_are_within_a_micro_dollar_of_the_obvious_ones() -> None:
    terms, forward, deviation = option_grid()
    values = kernel.option_values(terms, forward, deviation)
    exact = [
        fixed_math.black76(f * SCALE, k * SCALE, s * SCALE // 10**15, bool(is_call))
        for f, k, s, is_call in zip(
            forward.tolist(), terms.strike_uusd.tolist(), deviation.tolist(), terms.is_call, strict=True
        )
    ]
    assert max(abs(v * SCALE - e) for v, e in zip(values.tolist(), exact, strict=True)) <= SCALE


def test_chunking_does_not_change_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    terms, forward, deviation = option_grid()
    forwards = np.stack([forward, forward * 9 // 10, forward * 6])
    index = np.array([0, 1, 2, 1, 0]), np.array([0, 0, 0, 0, 0])
    whole = kernel.scenario_values(terms, forwards, deviation[None, :], *index)
    monkeypatch.setattr(kernel, "CHUNK", 2 * len(forward))
    assert np.array_equal(whole, kernel.scenario_values(terms, forwards, deviation[None, :], *index))


def test_an_expiry_value_is_discounted_by_its_sign_and_rounded_down() -> None:
    values = np.array([[100_000_000_001, -100_000_000_001, 0]])
    positive, negative = np.array([980_000_000_000_000]), np.array([1_010_000_000_000_000])
    kernel_margin.discount_by_sign(values, positive, negative, (np.empty_like(values), np.empty_like(values)))
    assert values.tolist() == [[98_000_000_000, -101_000_000_002, 0]]


def digest_of_everything() -> str:
    """One digest over all integer outputs on the grid; also run in the subprocesses below."""
    terms, forward, deviation = option_grid()
    time_ns = np.linspace(1e9, 9e16, len(forward)).astype(np.int64)
    theta, rho, psi = (
        np.linspace(a, b, len(forward)).astype(np.int64) for a, b in ((1e4, 9e11), (-9e5, 9e5), (0, 1e9))
    )
    shocks = {
        "up_ppm": 650_000,
        "down_ppm": 400_000,
        "down_floor_ppm": 250_000,
        "up_volatility_floor_ppm": 400_000,
    }
    terms_of = {"short_exponent_ppm": 300_000, "long_exponent_ppm": 130_000, "reference_days": 30}
    skew = {"cap_ppm": 250_000, "cap_slope_ppm": 100_000, "width_ppm": 600_000, "width_slope_ppm": 100_000}
    outputs = (
        kernel.option_values(terms, forward, deviation),
        *kernel.option_greeks(terms, forward, deviation, time_ns),
        kernel.ssvi_total_variance_e15(forward, terms.strike_uusd, theta, rho, psi),
        kernel.volatility_e9(theta * 1000, time_ns),
        *kernel_margin.shocked_deviations_e15(deviation, time_ns, **shocks, **terms_of),
        *kernel_margin.skewed_deviations_e15(
            deviation,
            time_ns,
            forward,
            terms.strike_uusd,
            **skew,
            width_multiplier=4,
            width_minimum_ppm=10_000,
        ),
        *kernel_margin.expiry_discounts(
            time_ns, terms.discount_ppm, asset_ppm=980_000, liability_ppm=1_020_000, rate_ppm=100_000
        ),
    )
    floats = (kernel.ln(theta / 7.0), kernel.exp(rho / 2e3), kernel.normal_cdf(rho / 3e4))
    return hashlib.sha256(b"".join(array.tobytes() for array in (*outputs, *floats))).hexdigest()


def feature_sets() -> list[str]:
    """Nothing off, then each dispatched feature off alone, then all of them; only what this machine has."""
    present = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    return ["", *present, " ".join(present)] if present else [""]


@pytest.mark.parametrize(("disabled", "seed"), [(f, str(n % 2)) for n, f in enumerate(feature_sets())])
def test_every_instruction_set_and_hash_seed_gives_the_same_bits(disabled: str, seed: str) -> None:
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled, "PYTHONHASHSEED": seed}
    program = "from tests.ledger.test_pricing_kernel import digest_of_everything as d; print(d())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == digest_of_everything()
