"""Black-76 values, Greeks and implied volatilities of European options: integers in, integers out. Pure."""

from __future__ import annotations

from typing import NamedTuple

from ledger.pricing import kernel, kernel_implied
from ledger.pricing.kernel import Ints, OptionTerms


class Greeks(NamedTuple):
    """Sensitivities of one contract, each int64 of shape (N,), rounded to nearest.

    delta_e9: change of value per change of forward, 1e-9 (call 0..1e9, put -1e9..0, times the discount).
    gamma_e12: change of delta per USD of forward, 1e-12.
    vega_uusd: micro-USD per volatility point (0.01).
    theta_uusd: micro-USD per day at a fixed forward, with the discount running off.
    rho_uusd: micro-USD per percentage point (0.01) of the rate in the discount at a fixed forward: -tau V / 100.
    """

    delta_e9: Ints
    gamma_e12: Ints
    vega_uusd: Ints
    theta_uusd: Ints
    rho_uusd: Ints


def compute_values(terms: OptionTerms, forward_uusd: Ints, variance_e15: Ints) -> Ints:
    """Values in micro-USD per contract, rounded to nearest; every array has shape (N,).

    `variance_e15` is the total variance sigma^2 tau in 1e-15; 0 gives the discounted intrinsic value.
    """
    return kernel.option_values(terms, forward_uusd, kernel.deviation_e15(variance_e15))


def compute_values_and_greeks(
    terms: OptionTerms, forward_uusd: Ints, variance_e15: Ints, time_ns: Ints
) -> tuple[Ints, Greeks]:
    """Values as of `compute_values`, and Greeks, of contracts with `time_ns` left; arrays of shape (N,)."""
    rows = kernel.option_greeks(terms, forward_uusd, kernel.deviation_e15(variance_e15), time_ns)
    return rows[0], Greeks(*rows[1:])


def compute_greeks(terms: OptionTerms, forward_uusd: Ints, variance_e15: Ints, time_ns: Ints) -> Greeks:
    """The Greeks of `compute_values_and_greeks` alone."""
    return compute_values_and_greeks(terms, forward_uusd, variance_e15, time_ns)[1]


def implied_volatilities_e9(terms: OptionTerms, forward_uusd: Ints, value_uusd: Ints, time_ns: Ints) -> Ints:
    """Annual volatilities (1e-9) at which contracts have the given values (micro-USD); every array of shape (N,).

    0 for a value that is exactly the discounted intrinsic one; kernel_implied.NO_VOLATILITY (-1) for one below
    it, at or above the discounted forward (call) or strike (put), or of an option that has expired. The
    nearer a value to such a bound, the less a rounded micro-USD says about its volatility.
    """
    return kernel_implied.implied_volatilities_e9(terms, forward_uusd, value_uusd, time_ns)
