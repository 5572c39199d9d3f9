"""What an account may do, from its margin excesses: open, only reduce, or be liquidated. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Clients read a health without the kernel, which costs numpy to import.
    from ledger.pricing.kernel import Ints


class Health(IntEnum):
    """Source: market.md sections 3 and 5; an excess of exactly 0 is still good."""

    HEALTHY = 0
    """Initial excess at or above 0: may open positions."""
    REDUCE_ONLY = 1
    """Between initial and maintenance: may only reduce."""
    LIQUIDATION = 2
    """Maintenance excess below 0."""


def health_of(im_excess_uusd: int, mm_excess_uusd: int) -> Health:
    """Health of one account."""
    if mm_excess_uusd < 0:
        return Health.LIQUIDATION
    return Health.HEALTHY if im_excess_uusd >= 0 else Health.REDUCE_ONLY


def health_of_all(im_excess_uusd: Ints, mm_excess_uusd: Ints) -> Ints:
    """Health of all accounts as int64 codes, shape (A,)."""
    codes: Ints = 2 * (mm_excess_uusd < 0) + ((im_excess_uusd < 0) & (mm_excess_uusd >= 0))
    return codes
