"""The resting orders of one instrument, as an immutable value: one leaf of the state. Pure.

A change gives a new Book that shares its orders with the old one, so undo is keeping the old value. The
canonical bytes are primitives.codec.encode(book). Who may rest, and how many (orders_per_book_max), is the
caller's rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from itertools import groupby

import msgspec

from ledger.matching.orders import RestingOrder, insertion_index
from ledger.transactions import Side
from primitives.codec import Wire
from primitives.errors import ensure

_BULK = 32
"""From so many new orders on a side, sorting it once is cheaper than inserting one by one."""


class Book(Wire, frozen=True):
    """Both sides, best first: price, then older block, then lower id."""

    bids: tuple[RestingOrder, ...]
    asks: tuple[RestingOrder, ...]

    def __len__(self) -> int:
        return len(self.bids) + len(self.asks)

    @property
    def best_bid_uusd(self) -> int | None:
        return self.bids[0].price_uusd if self.bids else None

    @property
    def best_ask_uusd(self) -> int | None:
        return self.asks[0].price_uusd if self.asks else None

    @property
    def is_crossed(self) -> bool:
        """Whether a call would trade."""
        return bool(self.bids and self.asks) and self.bids[0].price_uusd >= self.asks[0].price_uusd

    def side(self, side: int) -> tuple[RestingOrder, ...]:
        return self.bids if side == Side.BUY else self.asks

    def would_cross(self, side: int, price_uusd: int) -> bool:
        """Whether an order at this price would trade with the book: what post-only forbids."""
        if side == Side.BUY:
            return bool(self.asks) and price_uusd >= self.asks[0].price_uusd
        return bool(self.bids) and price_uusd <= self.bids[0].price_uusd

    def find(self, order_id: int) -> RestingOrder | None:
        """The order of that id; looks through the whole book."""
        for orders in (self.bids, self.asks):
            for order in orders:
                if order.order_id == order_id:
                    return order
        return None

    def depth(self, side: int, levels_max: int) -> list[tuple[int, int]]:
        """(price_uusd, lots) of the best levels, best first."""
        levels: list[tuple[int, int]] = []
        for price, orders in groupby(self.side(side), key=lambda order: order.price_uusd):
            if len(levels) == levels_max:
                break
            levels.append((price, sum(order.left_lots for order in orders)))
        return levels

    def with_orders(self, orders: Iterable[RestingOrder]) -> Book:
        """Add orders, each at its place; the result does not depend on their order of arrival."""
        new: tuple[list[RestingOrder], list[RestingOrder]] = ([], [])
        for order in orders:
            new[order.side].append(order)
        return Book(_inserted(self.bids, new[Side.BUY]), _inserted(self.asks, new[Side.SELL]))

    def without(self, order: RestingOrder) -> Book:
        """Take one resting order off; found by its priority, not by search."""
        return self._spliced(order, ())

    def replaced(self, order: RestingOrder) -> Book:
        """Put `order` in the place of the one with the same id, price and age (fewer lots left)."""
        return self._spliced(order, (order,))

    def without_ids(self, order_ids: Set[int]) -> Book:
        """Take off many at once, in one pass; ids that do not rest are ignored."""
        return self.with_left(dict.fromkeys(order_ids, 0))

    def with_left(self, left_lots: Mapping[int, int]) -> Book:
        """Set what is left of many orders, by id, in one pass; those with 0 go, no other moves."""
        return Book(_with_left(self.bids, left_lots), _with_left(self.asks, left_lots))

    def _spliced(self, order: RestingOrder, by: tuple[RestingOrder, ...]) -> Book:
        orders = self.side(order.side)
        index = insertion_index(orders, order) - 1
        ensure(index >= 0 and orders[index].priority == order.priority, "only a resting order is changed")
        changed = orders[:index] + by + orders[index + 1 :]
        return Book(changed, self.asks) if order.side == Side.BUY else Book(self.bids, changed)


EMPTY_BOOK = Book((), ())


def _inserted(orders: tuple[RestingOrder, ...], new: list[RestingOrder]) -> tuple[RestingOrder, ...]:
    if len(new) >= _BULK:
        return tuple(sorted([*orders, *new], key=lambda order: order.priority))
    for order in new:
        index = insertion_index(orders, order)
        orders = (*orders[:index], order, *orders[index:])
    return orders


def _with_left(orders: tuple[RestingOrder, ...], left_lots: Mapping[int, int]) -> tuple[RestingOrder, ...]:
    kept: list[RestingOrder] = []
    for order in orders:
        left = left_lots.get(order.order_id, order.left_lots)
        if left == order.left_lots:
            kept.append(order)
        elif left:
            kept.append(msgspec.structs.replace(order, left_lots=left))
    return tuple(kept)
