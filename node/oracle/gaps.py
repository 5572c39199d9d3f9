"""Slices of expiries that none of our venues lists, between those that they do. Pure.

Without one the chain would roll what it believed when it listed the series, for as long as that lives. Total variance
is linear in time, so no calendar arbitrage appears; confidence is so low that the chain takes only post-only and
reduce-only orders there: the mark is right enough for margins, and nobody can take a price that nobody quotes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from ledger.market import Slice

CONFIDENCE_PPM_MAX = 200_000
"""The chain's own limit for post-only and reduce-only orders."""


def fill_gaps(slices: Sequence[Slice], expiries: Iterable[int]) -> tuple[Slice, ...]:
    """`slices`, ascending by expiry, and one more for each of `expiries` that lies between two of them.

    Before the first and beyond the last nothing is made up.
    """
    filled = [
        _between(before, after, expiry_ns)
        for expiry_ns in expiries
        for before, after in pairwise(slices)
        if before.expiry_ns < expiry_ns < after.expiry_ns
    ]
    return tuple(sorted((*slices, *filled), key=lambda item: item.expiry_ns))


def _between(before: Slice, after: Slice, expiry_ns: int) -> Slice:
    """Variance, slopes and wings linear in time; the forward too: its carry hardly bends."""
    done, span = expiry_ns - before.expiry_ns, after.expiry_ns - before.expiry_ns

    def mean(first: int, second: int) -> int:
        return first + (second - first) * done // span

    psi_e9 = max(1, mean(before.psi_e9, after.psi_e9))
    slope = mean(before.rho_e6 * before.psi_e9, after.rho_e6 * after.psi_e9)
    return Slice(
        expiry_ns,
        mean(before.forward_uusd, after.forward_uusd),
        mean(before.discount_ppm, after.discount_ppm),
        mean(before.theta_e12, after.theta_e12),
        max(-900_000, min(900_000, slope // psi_e9)),
        psi_e9,
        mean(before.wings_e9, after.wings_e9),
        min(CONFIDENCE_PPM_MAX, before.confidence_ppm, after.confidence_ppm),
    )
