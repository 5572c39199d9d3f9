"""The uniform-price call: everything of one block that crosses trades at one price. Pure.

Clearing price: most volume; then least imbalance; then nearest to the mark; then lower. Allocation at the
margin: price, then older block, then pro rata within the block by largest remainder.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import msgspec

from ledger.matching.book import Book
from ledger.matching.orders import AccountKey, RestingOrder, Ticks, ceil_to_tick, floor_to_tick, next_tick
from ledger.transactions import TimeInForce


class Fill(NamedTuple):
    """One order's part in the call; `order` is as it was before, order.left_lots - size_lots remain."""

    order: RestingOrder
    size_lots: int


class Match(NamedTuple):
    """One trade: a buyer and a seller, never the same account. Orders are as they were before the call."""

    buy: RestingOrder
    sell: RestingOrder
    size_lots: int


class Clearing(NamedTuple):
    """The price, what trades at it, and by how much buyers (+) or sellers (-) exceed the other side there."""

    price_uusd: int
    volume_lots: int
    imbalance_lots: int


@dataclass(frozen=True, slots=True)
class CallResult:
    """What one call did.

    Attributes:
        clearing: None when nothing crossed.
        fills: buys, then sells, each in priority order; size_lots at least 1.
        matches: the same lots as trades, buyers and sellers paired in priority order.
        self_crossed: newer orders removed because their account would have traded with itself; as they were.
        unfilled: what is left of immediate-or-cancel orders (left_lots after the fills), and fill-or-kill orders
            that could not be filled whole; they do not rest.
        book: resting orders afterwards, uncrossed.
    """

    clearing: Clearing | None
    fills: tuple[Fill, ...]
    matches: tuple[Match, ...]
    self_crossed: tuple[RestingOrder, ...]
    unfilled: tuple[RestingOrder, ...]
    book: Book


KILL_PASSES_MAX = 3
"""Calls tried with fill-or-kill orders; if one would still be left partial, the last call is without any."""


def run_call(book: Book, incoming: Iterable[RestingOrder], mark_uusd: int, ticks: Ticks) -> CallResult:
    """Match an uncrossed book and a block's incoming orders at one price.

    The result depends on the set of orders only, not on their sequence. Without a crossing the cost is that
    of adding `incoming` to the book. Fill-or-kill orders that get nothing, and the newest of those that would
    be left partial, are dropped and the call is run again, at most KILL_PASSES_MAX times.

    Args:
        book: resting orders; left as it is.
        incoming: this block's new orders. Prices off the grid are kept to, but the ledger takes none.
        mark_uusd: breaks ties among prices.
        ticks: the instrument's price grid.
    """
    orders = tuple(incoming)
    result = _run_once(book, orders, mark_uusd, ticks)
    killed: list[RestingOrder] = []
    for tried in range(1, KILL_PASSES_MAX + 1):
        dropped = _to_kill(orders, result, is_last=tried == KILL_PASSES_MAX)
        if not dropped:
            break
        killed += dropped
        orders = tuple(order for order in orders if order not in dropped)
        result = _run_once(book, orders, mark_uusd, ticks)
    if not killed:
        return result
    unfilled = sorted((*result.unfilled, *killed), key=lambda order: order.order_id)
    return dataclasses.replace(result, unfilled=tuple(unfilled))


def _to_kill(orders: Sequence[RestingOrder], result: CallResult, *, is_last: bool) -> list[RestingOrder]:
    """Fill-or-kill orders to drop before the next pass; none when all that are left were filled whole."""
    kills = [order for order in orders if order.time_in_force == TimeInForce.FOK]
    if not kills:
        return []
    filled = {order.order_id: size for order, size in result.fills}
    gone = {order.order_id for order in result.self_crossed}
    partial = [
        order
        for order in kills
        if order.order_id not in gone and filled.get(order.order_id, 0) < order.left_lots
    ]
    if is_last:
        return kills if partial else []
    newest = max((order.order_id for order in partial if order.order_id in filled), default=0)
    return [order for order in partial if order.order_id not in filled or order.order_id == newest]


def _run_once(book: Book, incoming: tuple[RestingOrder, ...], mark_uusd: int, ticks: Ticks) -> CallResult:
    crossing = book.with_orders(incoming) if incoming else book
    bids, asks, self_crossed = _without_self_crossing(*_crossing_zone(crossing))
    clearing = compute_clearing(bids, asks, mark_uusd, ticks)
    buys: tuple[Fill, ...] = ()
    sells: tuple[Fill, ...] = ()
    if clearing is not None:
        price, volume, _ = clearing
        buys = allocate([order for order in bids if order.price_uusd >= price], volume)
        sells = allocate([order for order in asks if order.price_uusd <= price], volume)
    rest, unfilled = _leftovers(crossing, incoming, buys + sells, self_crossed)
    return CallResult(clearing, buys + sells, pair(buys, sells), self_crossed, unfilled, rest)


def compute_clearing(
    bids: Sequence[RestingOrder], asks: Sequence[RestingOrder], mark_uusd: int, ticks: Ticks
) -> Clearing | None:
    """The clearing price of two sides, each best first; None when they do not cross.

    Volume and imbalance are constant between neighbouring order prices, so only order prices and the gaps
    between them are looked at, upwards. The best of them are neighbours: volume has one peak, and demand less
    supply only falls.
    """
    if not bids or not asks or bids[0].price_uusd < asks[0].price_uusd:
        return None
    best: list[tuple[int, int, int]] = []
    best_rank = (0, 0)
    volume = 0
    for low, high, demand, supply in _segments(bids, asks, ticks):
        rank = (-min(demand, supply), abs(demand - supply))
        if rank < best_rank:
            best, best_rank, volume = [], rank, -rank[0]
        if rank == best_rank:
            best.append((low, high, demand - supply))
    price = _nearest_to_mark(best[0][0], best[-1][1], mark_uusd, ticks)
    imbalance = next(excess for low, high, excess in best if low <= price <= high)
    return Clearing(price, volume, imbalance)


def _segments(
    bids: Sequence[RestingOrder], asks: Sequence[RestingOrder], ticks: Ticks
) -> Iterable[tuple[int, int, int, int]]:
    """(lowest price, highest price, demand, supply) where neither changes, from best ask to best bid."""
    bid_lots: dict[int, int] = defaultdict(int)
    ask_lots: dict[int, int] = defaultdict(int)
    lowest, highest = asks[0].price_uusd, bids[0].price_uusd
    for order in bids:
        if order.price_uusd >= lowest:
            bid_lots[order.price_uusd] += order.left_lots
    for order in asks:
        if order.price_uusd <= highest:
            ask_lots[order.price_uusd] += order.left_lots
    demand, supply = sum(bid_lots.values()), 0
    prices = sorted(bid_lots.keys() | ask_lots.keys())
    for price, following in zip(prices, [*prices[1:], highest], strict=True):
        supply += ask_lots.get(price, 0)
        yield price, price, demand, supply
        demand -= bid_lots.get(price, 0)
        above = next_tick(ticks, price)
        if above < following:
            yield above, floor_to_tick(ticks, following - 1), demand, supply


def _nearest_to_mark(low: int, high: int, mark_uusd: int, ticks: Ticks) -> int:
    """The grid price within [low, high] nearest to the mark; the lower of two equally near."""
    if mark_uusd <= low:
        return low
    if mark_uusd >= high:
        return high
    below = max(low, floor_to_tick(ticks, mark_uusd))
    above = min(high, ceil_to_tick(ticks, mark_uusd))
    return below if mark_uusd - below <= above - mark_uusd else above


def allocate(orders: Sequence[RestingOrder], volume_lots: int) -> tuple[Fill, ...]:
    """Share `volume_lots` among orders in priority order: price, older block, then pro rata in the block."""
    fills: list[Fill] = []
    for _, level in groupby(orders, key=lambda order: (order.price_uusd, order.placed_height)):
        equals = list(level)
        lots = share_pro_rata([order.left_lots for order in equals], volume_lots)
        fills += [Fill(order, size) for order, size in zip(equals, lots, strict=True) if size]
        volume_lots -= sum(lots)
        if not volume_lots:
            break
    return tuple(fills)


def share_pro_rata(sizes: Sequence[int], total: int) -> list[int]:
    """Shares of `total` in proportion to `sizes` (earlier means lower id), none above its size.

    Each share is rounded down, and the lots left over go one each to the largest remainders, ties to the
    larger size, then to the earlier one.
    """
    available = sum(sizes)
    if total >= available:
        return list(sizes)
    shares = [size * total // available for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: (-(sizes[i] * total % available), -sizes[i], i))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares


def pair(buys: Sequence[Fill], sells: Sequence[Fill]) -> tuple[Match, ...]:
    """Trades between buyers and sellers of equal total, walking both in priority order."""
    matches: list[Match] = []
    buy_index = sell_index = bought = sold = 0
    while buy_index < len(buys):
        (buy, wanted), (sell, offered) = buys[buy_index], sells[sell_index]
        size = min(wanted - bought, offered - sold)
        matches.append(Match(buy, sell, size))
        bought, sold = bought + size, sold + size
        if bought == wanted:
            buy_index, bought = buy_index + 1, 0
        if sold == offered:
            sell_index, sold = sell_index + 1, 0
    return tuple(matches)


def _crossing_zone(book: Book) -> tuple[list[RestingOrder], list[RestingOrder]]:
    """The bids at or above the best ask and the asks at or below the best bid: all that can trade."""
    if not book.is_crossed:
        return [], []
    lowest, highest = book.asks[0].price_uusd, book.bids[0].price_uusd
    return (
        [order for order in book.bids if order.price_uusd >= lowest],
        [order for order in book.asks if order.price_uusd <= highest],
    )


def _without_self_crossing(
    bids: list[RestingOrder], asks: list[RestingOrder]
) -> tuple[list[RestingOrder], list[RestingOrder], tuple[RestingOrder, ...]]:
    """Remove newer orders until no account's bid reaches its own ask.

    Whole orders go: as long as one lot of each remained, the account could buy and sell at the one price.
    With none left that cross, whatever the price is, an account fills on one side at most.
    """
    own_asks: dict[AccountKey, list[RestingOrder]] = defaultdict(list)
    for ask in asks:
        own_asks[ask.account].append(ask)
    own_bids: dict[AccountKey, list[RestingOrder]] = defaultdict(list)
    for bid in bids:
        if bid.account in own_asks:
            own_bids[bid.account].append(bid)
    removed: list[RestingOrder] = []
    for account, account_bids in own_bids.items():
        removed += _newer_of_crossing(account_bids, own_asks[account])
    if not removed:
        return bids, asks, ()
    gone = {order.order_id for order in removed}
    return (
        [order for order in bids if order.order_id not in gone],
        [order for order in asks if order.order_id not in gone],
        tuple(sorted(removed, key=lambda order: order.order_id)),
    )


def _newer_of_crossing(bids: list[RestingOrder], asks: list[RestingOrder]) -> list[RestingOrder]:
    """One account's orders, best first on each side: while the best two cross, the newer of them goes."""
    removed: list[RestingOrder] = []
    bid, ask = 0, 0
    while bid < len(bids) and ask < len(asks) and bids[bid].price_uusd >= asks[ask].price_uusd:
        if bids[bid].age > asks[ask].age:
            removed.append(bids[bid])
            bid += 1
        else:
            removed.append(asks[ask])
            ask += 1
    return removed


def _leftovers(
    book: Book, incoming: Sequence[RestingOrder], fills: Sequence[Fill], removed: Sequence[RestingOrder]
) -> tuple[Book, tuple[RestingOrder, ...]]:
    """What rests after the call, and what is left of immediate-or-cancel orders, by id."""
    left = {order.order_id: order.left_lots - size for order, size in fills}
    left |= {order.order_id: 0 for order in removed}
    unfilled: list[RestingOrder] = []
    for order in sorted(incoming, key=lambda order: order.order_id):
        if order.time_in_force != TimeInForce.GTC:
            lots = left.get(order.order_id, order.left_lots)
            left[order.order_id] = 0
            if lots:
                unfilled.append(msgspec.structs.replace(order, left_lots=lots))
    return book.with_left(left) if left else book, tuple(unfilled)
