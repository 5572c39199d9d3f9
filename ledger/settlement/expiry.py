"""The settlement average of an expiry, and what its options pay. Pure.

The settlement price is the mean of the index over 450 four-second buckets before the expiry. A bucket's value is the
first index agreed inside it; an empty bucket repeats the one before, at most 3 in a row, and is missing beyond that.
With more than a tenth missing the average goes on after the expiry until 405 buckets are there. Source: market.md 6.
"""

from __future__ import annotations

from primitives.codec import U32, U63, Wire

VALID_PPM_MIN = 900_000
"""Share of the buckets that must be there before the price is final."""


class SettlementWindow(Wire):
    """An average under way: `valid` buckets add up to `sum_uusd`; `next_bucket` is the first undecided one."""

    sum_uusd: U63
    valid: U32
    next_bucket: U32
    last_index_uusd: U63


def buckets_total(window_ns: int, bucket_ns: int) -> int:
    """Buckets of a full window (450)."""
    return window_ns // bucket_ns


def buckets_needed(total: int) -> int:
    """Buckets without which there is no settlement price (405 of 450), rounded up."""
    return -(-total * VALID_PPM_MIN // 1_000_000)


def observe(
    window: SettlementWindow, bucket: int, index_uusd: int, total: int, carry_max: int
) -> SettlementWindow:
    """The window after an index agreed inside `bucket` (0 starts the window; `total` and above are after expiry).

    Buckets skipped since the last one repeat its value, at most `carry_max` of them. Beyond the expiry a bucket counts
    only while the needed share is missing, and none is carried into it.
    """
    if bucket < window.next_bucket:
        return window
    needed = buckets_needed(total)
    carried = min(carry_max, min(bucket, total) - min(window.next_bucket, total))
    total_sum = window.sum_uusd + carried * window.last_index_uusd
    valid = window.valid + carried
    if bucket < total or valid < needed:
        total_sum, valid = total_sum + index_uusd, valid + 1
    return SettlementWindow(total_sum, valid, bucket + 1, index_uusd)


def settlement_price(window: SettlementWindow, total: int) -> int | None:
    """The final price, half a micro-dollar rounded up, or None while the average is not complete.

    Complete: the expiry has passed (an index at or after it was seen) and the needed share of buckets is there.
    """
    if window.next_bucket <= total or window.valid < buckets_needed(total):
        return None
    return (window.sum_uusd + window.valid // 2) // window.valid


def payoff_uusd(is_call: bool, strike_uusd: int, price_uusd: int) -> int:
    """What one whole contract pays at settlement."""
    return max(0, price_uusd - strike_uusd if is_call else strike_uusd - price_uusd)


def exercise(lots: int, payoff: int, lots_per_contract: int) -> int:
    """Cash change of a holder (lots > 0, rounded down) or writer (lots < 0, rounded up against the writer)."""
    return lots * payoff // lots_per_contract
