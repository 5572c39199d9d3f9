"""The volatility slice in floating point, its derivatives and its bounds, for fits. Pure.

w(k) = (theta + rho psi k + sqrt(psi^2 k^2 + 2 rho psi theta k + theta^2)) / 2 + wings k^2, with psi = theta * phi:
SSVI of market.md section 2, and the wings of decision 0020.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ledger.pricing.surface import wings_max_e9

Floats = NDArray[np.float64]

THETA_MIN, THETA_MAX = 1e-8, 9.0
RHO_MAX = 0.90
WINGS = 4.0
"""Log-moneyness is clamped to this many sqrt(theta), as the chain does."""


def total_variance(theta: float, rho: float, psi: float, log_moneyness: Floats, wings: float = 0.0) -> Floats:
    """w at k = ln(strike / forward), clamped at the wings."""
    reach = WINGS * sqrt(theta)
    k = np.clip(log_moneyness, -reach, reach)
    tilted = psi * k
    root = np.sqrt(tilted * tilted + 2 * rho * theta * tilted + theta**2)
    variance: Floats = 0.5 * (theta + rho * tilted + root) + wings * k * k
    return variance


def jacobian(theta: float, rho: float, psi: float, log_moneyness: Floats) -> Floats:
    """dw / d(theta, rho, psi, wings), shape (n, 4), as if the wings did not move with theta."""
    reach = WINGS * sqrt(theta)
    k = np.clip(log_moneyness, -reach, reach)
    tilted = psi * k
    root = np.sqrt(tilted * tilted + 2 * rho * theta * tilted + theta**2)
    slopes: Floats = np.stack(
        (
            0.5 + (rho * tilted + theta) / (2 * root),
            0.5 * tilted + theta * tilted / (2 * root),
            0.5 * rho * k + (tilted + rho * theta) * k / (2 * root),
            k * k,
        ),
        axis=1,
    )
    return slopes


def psi_max(theta: float, rho: float) -> float:
    """Largest psi without butterfly arbitrage."""
    return min(4 / (1 + abs(rho)), 2 * sqrt(theta / (1 + abs(rho))))


def wings_max(theta: float, rho: float) -> float:
    """Largest wings that the ledger keeps."""
    return wings_max_e9(round(theta * 1e12), round(rho * 1e6)) * 1e-9
