"""One order as the ledger keeps it, its priority, and the price grid it must lie on. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from ledger.transactions import Price, Side, Size
from primitives.codec import U8, U63, Bytes20, Wire
from primitives.errors import InvariantViolation

AccountKey = tuple[bytes, int]
"""(owner, subaccount)."""

Ticks = Sequence[tuple[int, int]]
"""(price at or above, tick) pairs in micro-USD, descending, the last from 0; ((0, tick),) is uniform."""


class RestingOrder(Wire, frozen=True):
    """What is left of an accepted order, on the book or about to take part in its first call.

    `placed_height` is the block that accepted it: its age. Ids grow with acceptance and are never used twice.
    """

    order_id: U63
    owner: Bytes20
    subaccount: U8
    side: U8
    price_uusd: Price
    left_lots: Size
    placed_height: U63
    label: U63
    time_in_force: U8
    post_only: bool
    reduce_only: bool

    @property
    def account(self) -> AccountKey:
        return self.owner, self.subaccount

    @property
    def age(self) -> tuple[int, int]:
        """Smaller is older."""
        return self.placed_height, self.order_id

    @property
    def priority(self) -> tuple[int, int, int]:
        """Smaller is served first within its side: better price, then older block, then lower id."""
        price = -self.price_uusd if self.side == Side.BUY else self.price_uusd
        return price, self.placed_height, self.order_id


def _priority(order: RestingOrder) -> tuple[int, int, int]:
    return order.priority


def tick_at(ticks: Ticks, price_uusd: int) -> int:
    """The tick that holds at a price."""
    return next(tick for start, tick in ticks if price_uusd >= start)


def is_on_tick(ticks: Ticks, price_uusd: int) -> bool:
    """Whether an order may carry this price."""
    return floor_to_tick(ticks, price_uusd) == price_uusd


def floor_to_tick(ticks: Ticks, price_uusd: int) -> int:
    """Highest grid price at or below `price_uusd` (at least 0); each tick counts from its own start."""
    for start, tick in ticks:
        if price_uusd >= start:
            return price_uusd - (price_uusd - start) % tick
    raise InvariantViolation("the last tick holds from 0")


def next_tick(ticks: Ticks, price_uusd: int) -> int:
    """Lowest grid price strictly above `price_uusd` (at least 0)."""
    limit_uusd = None
    for start, tick in ticks:
        if price_uusd >= start:
            above = price_uusd - (price_uusd - start) % tick + tick
            return above if limit_uusd is None else min(above, limit_uusd)
        limit_uusd = start
    raise InvariantViolation("the last tick holds from 0")


def ceil_to_tick(ticks: Ticks, price_uusd: int) -> int:
    """Lowest grid price at or above `price_uusd` (at least 0)."""
    floor = floor_to_tick(ticks, price_uusd)
    return floor if floor == price_uusd else next_tick(ticks, price_uusd)


def insertion_index(orders: Sequence[RestingOrder], order: RestingOrder) -> int:
    """Where `order` belongs in one side of a book, best first."""
    return bisect_right(orders, order.priority, key=_priority)
