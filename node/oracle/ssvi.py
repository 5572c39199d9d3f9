"""The SSVI slice in floating point, its derivatives and the butterfly bound, for fits. Pure.

w(k) = (theta + rho psi k + sqrt(psi^2 k^2 + 2 rho psi theta k + theta^2)) / 2, with psi = theta * phi.
Source: market.md section 2.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

THETA_MIN, THETA_MAX = 1e-8, 9.0
RHO_MAX = 0.90
WINGS = 4.0
"""Log-moneyness is clamped to this many sqrt(theta), as the chain does."""


def total_variance(theta: float, rho: float, psi: float, log_moneyness: Floats) -> Floats:
    """w at k = ln(strike / forward), clamped at the wings."""
    reach = WINGS * sqrt(theta)
    tilted = psi * np.clip(log_moneyness, -reach, reach)
    variance: Floats = 0.5 * (
        theta + rho * tilted + np.sqrt(tilted * tilted + 2 * rho * theta * tilted + theta**2)
    )
    return variance


def jacobian(theta: float, rho: float, psi: float, log_moneyness: Floats) -> Floats:
    """dw / d(theta, rho, psi), shape (n, 3), away from the wings."""
    k = log_moneyness
    tilted = psi * k
    root = np.sqrt(tilted * tilted + 2 * rho * theta * tilted + theta**2)
    slopes: Floats = 0.5 * np.stack(
        (
            1 + (rho * tilted + theta) / root,
            tilted + theta * tilted / root,
            rho * k + (tilted + rho * theta) * k / root,
        ),
        axis=1,
    )
    return slopes


def psi_max(theta: float, rho: float) -> float:
    """Largest psi without butterfly arbitrage."""
    return min(4 / (1 + abs(rho)), 2 * sqrt(theta / (1 + abs(rho))))
