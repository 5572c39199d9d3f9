"""One digest over everything the kernels give on a wide grid; needs numpy alone, so any Python can compute it."""

from __future__ import annotations

import hashlib

import numpy as np

from ledger.pricing import kernel, kernel_implied, kernel_margin
from ledger.pricing.kernel import OptionTerms


def option_grid() -> tuple[OptionTerms, np.ndarray, np.ndarray]:
    """Deterministic options from deep in to far out of the money, from minutes to years; all integers."""
    strikes = [2 * 10**9 * 137**n // 100**n for n in range(24)]
    widths = [10**11 * 272**n // 100**n for n in range(12)]
    strike, deviation = (np.array(axis).reshape(-1) for axis in np.meshgrid(strikes, widths))
    terms = OptionTerms(strike, np.arange(len(strike)) % 2 == 0, np.full(len(strike), 10**6))
    return terms, np.full(len(strike), 98_765_432_100), deviation


def digest_of_everything() -> str:
    """Hex digest of all outputs."""
    outputs = (*_prices(), *_shocks(), *_elementary())
    return hashlib.sha256(b"".join(array.tobytes() for array in outputs)).hexdigest()


def _prices() -> list[np.ndarray]:
    terms, forward, deviation = option_grid()
    discounted = OptionTerms(terms.strike_uusd, terms.is_call, np.arange(len(forward)) * 3000 + 100_000)
    time_ns = np.linspace(1e9, 9e16, len(forward)).astype(np.int64)
    values, *greeks = kernel.option_greeks(discounted, forward, deviation, time_ns)
    implied = kernel_implied.implied_volatilities_e9(discounted, forward, values, time_ns)
    theta, rho, psi = _slices(len(forward))
    wings = np.linspace(0, 5e8, len(forward)).astype(np.int64)
    surface = kernel.total_variance_e15(forward, terms.strike_uusd, theta, rho, psi, wings)
    return [
        kernel.option_values(discounted, forward, deviation),
        *(values, *greeks, implied, surface),
        kernel.volatility_e9(theta * 1000, time_ns),
    ]


def _shocks() -> list[np.ndarray]:
    terms, forward, deviation = option_grid()
    time_ns = np.linspace(1e9, 9e16, len(forward)).astype(np.int64)
    shocked = kernel_margin.shocked_deviations_e15(
        deviation,
        time_ns,
        up_ppm=650_000,
        down_ppm=400_000,
        down_floor_ppm=250_000,
        up_volatility_floor_ppm=400_000,
        short_exponent_ppm=300_000,
        long_exponent_ppm=130_000,
        reference_days=30,
    )
    skewed = kernel_margin.skewed_deviations_e15(
        deviation,
        time_ns,
        forward,
        terms.strike_uusd,
        cap_ppm=250_000,
        cap_slope_ppm=100_000,
        width_ppm=600_000,
        width_slope_ppm=100_000,
        width_multiplier=4,
        width_minimum_ppm=10_000,
    )
    discounts = kernel_margin.expiry_discounts(
        time_ns, terms.discount_ppm, asset_ppm=980_000, liability_ppm=1_020_000, rate_ppm=100_000
    )
    return [*shocked, *skewed, *discounts]


def _slices(count: int) -> list[np.ndarray]:
    """theta, rho and psi of so many slices."""
    return [np.linspace(a, b, count).astype(np.int64) for a, b in ((1e4, 9e11), (-9e5, 9e5), (0, 1e9))]


def _elementary() -> list[np.ndarray]:
    theta, rho, _ = _slices(288)
    # Inputs are made by exact operations only: np.geomspace has other last bits on other processors.
    step = np.arange(1, 289) / 289.0
    price, ratio = step * step * step, 1.0 + 49.0 * step * step * step * step
    return [
        kernel.ln(theta / 7.0),
        kernel.exp(rho / 2e3),
        kernel.normal_cdf(rho / 3e4),
        kernel_implied.implied_deviations(price, ratio[::-1].copy()),
    ]


if __name__ == "__main__":
    print(digest_of_everything())
