"""Orders in the words of the matching tests, and the obvious version of the call. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from ledger.matching.orders import RestingOrder
from ledger.transactions import Side, TimeInForce

Outcome = tuple[tuple[int, int, int] | None, dict[int, int], set[int]]
"""(price, volume, imbalance) or None; lots filled by order id; ids removed against self-trading."""


def an_order(
    order_id: int,
    side: Side,
    size_lots: int,
    price_uusd: int,
    *,
    height: int = 1,
    account: str | None = None,
    time_in_force: TimeInForce = TimeInForce.GTC,
) -> RestingOrder:
    """An order of its own account unless `account` names one."""
    owner = (account or f"account {order_id}").encode().ljust(20, b".")
    return RestingOrder(
        order_id, owner, 0, side, price_uusd, size_lots, height, 0, time_in_force, False, False
    )


def a_bid(order_id: int, size_lots: int, price_uusd: int, **more: object) -> RestingOrder:
    return an_order(order_id, Side.BUY, size_lots, price_uusd, **more)  # type: ignore[arg-type]


def an_ask(order_id: int, size_lots: int, price_uusd: int, **more: object) -> RestingOrder:
    return an_order(order_id, Side.SELL, size_lots, price_uusd, **more)  # type: ignore[arg-type]


def naive_call(orders: Iterable[RestingOrder], mark: int, grid: Iterable[int]) -> Outcome:
    """The call as market.md states it: try every grid price, then share out the volume group by group."""
    orders = list(orders)
    removed: set[int] = set()
    while (newer := naive_self_crossing(orders)) is not None:
        orders.remove(newer)
        removed.add(newer.order_id)
    candidates = []
    for price in grid:
        demand = sum(o.left_lots for o in orders if o.side == Side.BUY and o.price_uusd >= price)
        supply = sum(o.left_lots for o in orders if o.side == Side.SELL and o.price_uusd <= price)
        volume = min(demand, supply)
        candidates.append((-volume, abs(demand - supply), abs(price - mark), price, demand - supply))
    minus_volume, _, _, price, imbalance = min(candidates)
    if minus_volume == 0:
        return None, {}, removed
    buys = [o for o in orders if o.side == Side.BUY and o.price_uusd >= price]
    sells = [o for o in orders if o.side == Side.SELL and o.price_uusd <= price]
    filled = naive_shares(buys, -minus_volume) | naive_shares(sells, -minus_volume)
    return (price, -minus_volume, imbalance), filled, removed


def naive_self_crossing(orders: list[RestingOrder]) -> RestingOrder | None:
    """The newer of some account's best bid and best ask that cross; None when there are no such."""
    for account in sorted({o.account for o in orders}):
        bids = sorted((o for o in orders if o.account == account and o.side == Side.BUY), key=naive_priority)
        asks = sorted((o for o in orders if o.account == account and o.side == Side.SELL), key=naive_priority)
        if bids and asks and bids[0].price_uusd >= asks[0].price_uusd:
            return max(bids[0], asks[0], key=lambda o: (o.placed_height, o.order_id))
    return None


def naive_priority(order: RestingOrder) -> tuple[int, int, int]:
    worse = -1 if order.side == Side.BUY else 1
    return worse * order.price_uusd, order.placed_height, order.order_id


def naive_shares(orders: list[RestingOrder], volume: int) -> dict[int, int]:
    """Lots by order id: best price first, then older blocks, then in proportion with largest remainders."""
    shares: dict[int, int] = {}
    groups = sorted({naive_priority(o)[:2] for o in orders})
    for group in groups:
        members = [o for o in orders if naive_priority(o)[:2] == group]
        available = sum(o.left_lots for o in members)
        given = min(volume, available)
        exact = {o.order_id: Fraction(o.left_lots * given, available) for o in members}
        lots = {order_id: int(share) for order_id, share in exact.items()}
        by_remainder = sorted(
            members, key=lambda o: (lots[o.order_id] - exact[o.order_id], -o.left_lots, o.order_id)
        )
        for o in by_remainder[: given - sum(lots.values())]:
            lots[o.order_id] += 1
        shares |= {order_id: size for order_id, size in lots.items() if size}
        volume -= given
    return shares
