"""Black-76 values and Greeks of European options on a forward: integers in, integers out. Pure."""

from __future__ import annotations

from typing import NamedTuple

from ledger.pricing import kernel
from ledger.pricing.kernel import Ints, OptionTerms


class Greeks(NamedTuple):
    """Sensitivities of one contract, each int64 of shape (N,), rounded to nearest.

    delta_e9: change of value per change of forward, 1e-9 (call 0..1e9, put -1e9..0, times the discount).
    gamma_e12: change of delta per USD of forward, 1e-12.
    vega_uusd: micro-USD per volatility point (0.01).
    theta_uusd: micro-USD per day at a fixed forward, with the discount running off.
    """

    delta_e9: Ints
    gamma_e12: Ints
    vega_uusd: Ints
    theta_uusd: Ints


def compute_values(terms: OptionTerms, forward_uusd: Ints, variance_e15: Ints) -> Ints:
    """Values in micro-USD per contract, rounded to nearest; every array has shape (N,).

    `variance_e15` is the total variance sigma^2 tau in 1e-15; 0 gives the discounted intrinsic value.
    """
    return kernel.option_values(terms, forward_uusd, kernel.deviation_e15(variance_e15))


def compute_greeks(terms: OptionTerms, forward_uusd: Ints, variance_e15: Ints, time_ns: Ints) -> Greeks:
    """Greeks of contracts with `time_ns` left; arguments as in `compute_values`, shape (N,)."""
    deviation = kernel.deviation_e15(variance_e15)
    return Greeks(*kernel.option_greeks(terms, forward_uusd, deviation, time_ns))
