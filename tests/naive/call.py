"""The uniform-price call by trying prices and dealing out single lots. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

Ticks = tuple[tuple[int, int], ...]


@dataclass
class Order:
    """An open order: resting when an earlier block placed it, incoming when this one did."""

    id: int
    account: tuple[bytes, int]
    instrument: int
    is_buy: bool
    price_uusd: int
    lots: int
    height: int
    label: int
    time_in_force: int
    post_only: bool
    reduce_only: bool
    is_quote: bool = False
    expires_ns: int = 0
    """When it goes; 0: never by itself."""

    @property
    def priority(self) -> tuple[int, int, int]:
        """Smaller is served first."""
        return (-self.price_uusd if self.is_buy else self.price_uusd), self.height, self.id


class NaiveCall(NamedTuple):
    """`removed` crossed their own account; `price_uusd` None: nothing trades; (buy id, sell id) per lot."""

    removed: list[int]
    price_uusd: int | None
    lots: list[tuple[int, int]]


def on_grid(ticks: Ticks, price: int) -> bool:
    """Whether an order may carry this price."""
    return below_or_at(ticks, price) == price


def below_or_at(ticks: Ticks, price: int) -> int:
    """Highest grid price at or below."""
    start, tick = next(step for step in ticks if price >= step[0])
    return start + (price - start) // tick * tick


def above_or_at(ticks: Ticks, price: int) -> int:
    """Lowest grid price at or above."""
    low = below_or_at(ticks, price)
    if low == price:
        return price
    _, tick = next(step for step in ticks if price >= step[0])
    starts = [start for start, _ in ticks if start > price]
    return min([low + tick, *starts])


def call_with_kills(orders: list[Order], height: int, mark_uusd: int, ticks: Ticks) -> NaiveCall:
    """The call without the fill-or-kill orders it cannot fill whole; the fourth try is without any of them."""
    for tries_left in (2, 1, 0):
        result = naive_call(orders, mark_uusd, ticks)
        kills = [item for item in orders if item.time_in_force == 2 and item.height == height]
        filled = {item.id: sum(item.id in lot for lot in result.lots) for item in kills}
        partial = [item for item in kills if item.id not in result.removed and filled[item.id] < item.lots]
        if not partial:
            return result
        newest = max(partial, key=lambda item: (filled[item.id] > 0, item.id))
        dropped = [item for item in partial if not filled[item.id] or item is newest] if tries_left else kills
        orders = [item for item in orders if item not in dropped]
    return naive_call(orders, mark_uusd, ticks)


def naive_call(orders: list[Order], mark_uusd: int, ticks: Ticks) -> NaiveCall:
    """What one instrument's open orders do in this block's call."""
    orders = list(orders)
    removed = _remove_self_crossing(orders)
    buys = sorted((item for item in orders if item.is_buy), key=lambda item: item.priority)
    sells = sorted((item for item in orders if not item.is_buy), key=lambda item: item.priority)
    if not buys or not sells or buys[0].price_uusd < sells[0].price_uusd:
        return NaiveCall(sorted(removed), None, [])
    price = _clearing_price(buys, sells, mark_uusd, ticks)
    buyers = [item for item in buys if item.price_uusd >= price]
    sellers = [item for item in sells if item.price_uusd <= price]
    volume = min(sum(item.lots for item in buyers), sum(item.lots for item in sellers))
    return NaiveCall(
        sorted(removed), price, list(zip(_dealt(buyers, volume), _dealt(sellers, volume), strict=True))
    )


def _remove_self_crossing(orders: list[Order]) -> list[int]:
    """While an account's best buy reaches its own best sell, the younger of the two goes."""
    removed = []
    for account in sorted({item.account for item in orders}):
        while True:
            own = [item for item in orders if item.account == account]
            buy = min((item for item in own if item.is_buy), key=lambda item: item.priority, default=None)
            sell = min(
                (item for item in own if not item.is_buy), key=lambda item: item.priority, default=None
            )
            if buy is None or sell is None or buy.price_uusd < sell.price_uusd:
                break
            younger = max(buy, sell, key=lambda item: (item.height, item.id))
            orders.remove(younger)
            removed.append(younger.id)
    return removed


def _clearing_price(buys: list[Order], sells: list[Order], mark_uusd: int, ticks: Ticks) -> int:
    """Most volume, then least imbalance, then nearest to the mark, then lower.

    Volume and imbalance change at order prices only. So within a gap between two of them the best price is
    that nearest to the mark: one of the gap's ends, or the mark's own neighbours on the grid.
    """
    low, high = sells[0].price_uusd, buys[0].price_uusd
    stops = {item.price_uusd for item in (*buys, *sells)}
    stops |= {below_or_at(ticks, max(0, price - 1)) for price in stops}
    stops |= {above_or_at(ticks, price + 1) for price in stops}
    stops |= {below_or_at(ticks, mark_uusd), above_or_at(ticks, mark_uusd)}

    def rank(price: int) -> tuple[int, int, int, int]:
        demand = sum(item.lots for item in buys if item.price_uusd >= price)
        supply = sum(item.lots for item in sells if item.price_uusd <= price)
        return -min(demand, supply), abs(demand - supply), abs(price - mark_uusd), price

    return min((price for price in stops if low <= price <= high), key=rank)


def _dealt(orders: list[Order], volume: int) -> list[int]:
    """Ids of the orders that get the volume, one entry per lot, in priority order."""
    dealt: list[int] = []
    while orders and volume:
        first = orders[0]
        level = [item for item in orders if item.priority[:2] == first.priority[:2]]
        orders = orders[len(level) :]
        wanted = sum(item.lots for item in level)
        share = min(volume, wanted)
        exact = {item.id: Fraction(item.lots * share, wanted) for item in level}
        lots = {item.id: int(exact[item.id]) for item in level}
        by_claim = sorted(level, key=lambda item: (lots[item.id] - exact[item.id], -item.lots, item.id))
        for item in by_claim[: share - sum(lots.values())]:
            lots[item.id] += 1
        for item in level:
            dealt += [item.id] * lots[item.id]
        volume -= share
    return dealt
