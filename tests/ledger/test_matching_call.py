"""The uniform-price call, against examples and against its obvious version."""

from __future__ import annotations

import json
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.matching.book import EMPTY_BOOK, Book
from ledger.matching.call import CallResult, Clearing, Fill, Match, run_call, share_pro_rata
from ledger.matching.orders import RestingOrder, next_tick
from ledger.transactions import Side, TimeInForce
from tests.ledger.matching_builders import a_bid, an_ask, an_order, naive_call

VECTORS = Path("../shared/data/test_vectors.json")
TICK = ((0, 1),)
HALF_DOLLAR = ((0, 5),)
"""The examples count in tenths of a dollar."""

EXAMPLE = [
    *(
        a_bid(i, size, price)
        for i, (size, price) in enumerate([(10, 1050), (5, 1020), (8, 1000), (4, 980)], 1)
    ),
    *(
        an_ask(i, size, price)
        for i, (size, price) in enumerate([(6, 970), (7, 990), (6, 1010), (5, 1030)], 5)
    ),
]


def call(orders: list[RestingOrder], mark: int = 100, book: Book = EMPTY_BOOK) -> CallResult:
    return run_call(book, orders, mark, TICK)


def filled(result: CallResult) -> dict[int, int]:
    return {fill.order.order_id: fill.size_lots for fill in result.fills}


@pytest.mark.parametrize(("mark", "price"), [(990, 1010), (1016, 1015), (1060, 1020)])
def test_the_worked_example_clears_15_lots_nearest_to_the_mark(mark: int, price: int) -> None:
    result = run_call(EMPTY_BOOK, EXAMPLE, mark, HALF_DOLLAR)
    assert result.clearing == Clearing(price, 15, -4)
    assert filled(result) == {1: 10, 2: 5, 5: 6, 6: 7, 7: 2}


@pytest.mark.skipif(not VECTORS.exists(), reason="the shared test vectors are not beside this clone")
@pytest.mark.parametrize("mark", [990, 1016, 1060])
def test_the_published_vectors_of_the_call_hold(mark: int) -> None:
    expected = json.loads(VECTORS.read_text())["own_other"][f"auction_mark_{mark}"]
    assert run_call(EMPTY_BOOK, EXAMPLE, mark, HALF_DOLLAR).clearing == Clearing(*expected)


def test_orders_that_do_not_cross_rest_and_nothing_trades() -> None:
    bid, ask = a_bid(1, 5, 99), an_ask(2, 5, 100)
    assert call([ask, bid]) == CallResult(None, (), (), (), (), Book((bid,), (ask,)))


def test_most_volume_wins_over_a_price_at_the_mark() -> None:
    result = call([a_bid(1, 10, 110), a_bid(2, 5, 100), an_ask(3, 15, 90)], mark=110)
    assert result.clearing == Clearing(100, 15, 0)


def test_of_equal_volumes_the_least_imbalance_wins() -> None:
    """10 trade at any price from 90 to 110; from 101 on the extra bid of 3 no longer waits in vain."""
    result = call([a_bid(1, 10, 110), a_bid(2, 3, 100), an_ask(3, 10, 90)], mark=90)
    assert result.clearing == Clearing(101, 10, 0)


def test_imbalances_of_opposite_sign_are_equally_bad_and_the_mark_decides() -> None:
    """At 100 buyers exceed by 5, at 101 sellers do."""
    orders = [a_bid(1, 10, 101), a_bid(2, 5, 100), an_ask(3, 10, 100), an_ask(4, 5, 101)]
    assert [call(orders, mark).clearing for mark in (90, 110)] == [
        Clearing(100, 10, 5),
        Clearing(101, 10, -5),
    ]


def test_of_prices_equally_near_to_the_mark_the_lower_wins() -> None:
    orders = [a_bid(1, 1, 110), an_ask(2, 1, 100)]
    assert run_call(EMPTY_BOOK, orders, 105, ((0, 10),)).clearing == Clearing(100, 1, 0)


@pytest.mark.parametrize(("mark", "price"), [(101, 103), (104, 103), (105, 103), (106, 107), (109, 107)])
def test_limits_between_grid_prices_are_kept_when_no_grid_price_lies_between_them(
    mark: int, price: int
) -> None:
    orders = [a_bid(1, 1, 107), an_ask(2, 1, 103)]
    assert run_call(EMPTY_BOOK, orders, mark, ((0, 10),)).clearing == Clearing(price, 1, 0)


def test_an_older_block_is_served_before_a_newer_one_at_the_same_price() -> None:
    old, new = a_bid(1, 4, 100, height=1), a_bid(2, 4, 100, height=2)
    assert filled(call([new, an_ask(3, 5, 100, height=2)], book=Book((old,), ()))) == {1: 4, 2: 1, 3: 5}


def test_a_better_price_is_served_before_an_older_block() -> None:
    orders = [a_bid(1, 4, 100, height=1), a_bid(2, 4, 101, height=2), an_ask(3, 5, 100)]
    assert filled(call(orders)) == {1: 1, 2: 4, 3: 5}


def test_equals_of_one_block_share_in_proportion() -> None:
    orders = [a_bid(1, 5, 100), a_bid(2, 5, 100), a_bid(3, 3, 100), an_ask(4, 7, 100)]
    assert filled(call(orders)) == {1: 3, 2: 3, 3: 1, 4: 7}


@pytest.mark.parametrize(
    ("sizes", "total", "shares"),
    [
        ([5, 5, 3], 7, [3, 3, 1]),
        ([3, 2, 1], 2, [1, 1, 0]),
        ([1, 1, 1], 2, [1, 1, 0]),
        ([1, 3], 2, [0, 2]),
        ([4, 4], 8, [4, 4]),
        ([4, 4], 9, [4, 4]),
        ([1, 1], 0, [0, 0]),
    ],
)
def test_remainders_go_to_the_largest_then_the_larger_then_the_lower_id(
    sizes: list[int], total: int, shares: list[int]
) -> None:
    assert share_pro_rata(sizes, total) == shares


def test_buyers_and_sellers_are_paired_in_priority_order() -> None:
    first, second = a_bid(1, 5, 102), a_bid(2, 5, 101)
    cheap, dear = an_ask(3, 3, 99), an_ask(4, 7, 100)
    result = call([dear, second, cheap, first])
    assert result.matches == (Match(first, cheap, 3), Match(first, dear, 2), Match(second, dear, 5))
    assert result.fills == (Fill(first, 5), Fill(second, 5), Fill(cheap, 3), Fill(dear, 7))


def test_what_is_left_of_a_good_till_cancelled_order_rests() -> None:
    bid = a_bid(1, 9, 100)
    assert call([bid, an_ask(2, 4, 100)]).book == Book((msgspec.structs.replace(bid, left_lots=5),), ())


@pytest.mark.parametrize(("offered", "left"), [(4, 5), (0, 9)])
def test_what_is_left_of_an_immediate_or_cancel_order_does_not_rest(offered: int, left: int) -> None:
    bid = a_bid(1, 9, 100, time_in_force=TimeInForce.IOC)
    asks = (an_ask(2, offered, 100),) if offered else ()
    result = call([bid], book=Book((), asks))
    assert (result.unfilled, result.book) == ((msgspec.structs.replace(bid, left_lots=left),), EMPTY_BOOK)


def test_an_accounts_newer_order_goes_when_it_would_trade_with_its_own() -> None:
    resting = a_bid(1, 5, 100, account="alice")
    newer = an_ask(2, 9, 99, height=2, account="alice")
    result = call([newer, an_ask(3, 2, 100, height=2)], book=Book((resting,), ()))
    assert (result.self_crossed, filled(result)) == ((newer,), {1: 2, 3: 2})


def test_a_self_crossing_alone_leaves_no_call() -> None:
    resting, newer = an_ask(1, 5, 100, account="alice"), a_bid(2, 5, 100, height=2, account="alice")
    result = call([newer], book=Book((), (resting,)))
    assert result == CallResult(None, (), (), (newer,), (), Book((), (resting,)))


def test_only_the_orders_that_cross_go() -> None:
    """Alice's bid of 100 meets her ask of 100; her bid of 99 does not, nor do others' orders matter to it."""
    orders = [a_bid(2, 1, 99, account="alice"), a_bid(3, 1, 100, account="alice")]
    result = call(orders, book=Book((), (an_ask(1, 1, 100, account="alice"),)))
    assert ([order.order_id for order in result.self_crossed], len(result.book)) == ([3], 2)


def test_two_subaccounts_of_one_owner_may_trade_with_each_other() -> None:
    bid = a_bid(1, 1, 100, account="alice")
    ask = msgspec.structs.replace(an_ask(2, 1, 100, account="alice"), subaccount=1)
    assert call([bid, ask]).matches == (Match(bid, ask, 1),)


GRIDS = [((0, 1),), ((0, 3),), ((30, 5), (20, 2), (0, 1))]
HEIGHT = 4
MIDDLE = 24


def grid_of(ticks: tuple[tuple[int, int], ...]) -> list[int]:
    grid = [next_tick(ticks, 0)]
    while grid[-1] < 50:
        grid.append(next_tick(ticks, grid[-1]))
    return grid


@st.composite
def markets(draw: st.DrawFn) -> tuple[Book, list[RestingOrder], int, tuple[tuple[int, int], ...]]:
    """An uncrossed book below and above MIDDLE, a block's orders anywhere, a mark, and a grid."""
    ticks = draw(st.sampled_from(GRIDS))
    prices, book, incoming = grid_of(ticks), [], []
    shapes = st.tuples(
        st.sampled_from(Side),
        st.integers(1, 7),
        st.sampled_from(prices),
        st.integers(1, HEIGHT),
        st.sampled_from("abcdef"),
        st.sampled_from(TimeInForce),
    )
    for order_id, (side, size, price, height, account, force) in enumerate(
        draw(st.lists(shapes, max_size=16))
    ):
        if height == HEIGHT:
            order = an_order(order_id, side, size, price, height=height, account=account, time_in_force=force)
            incoming.append(order)
        else:
            side = Side.BUY if price < MIDDLE else Side.SELL  # noqa: PLW2901
            book.append(an_order(order_id, side, size, price, height=height, account=account))
    return EMPTY_BOOK.with_orders(book), incoming, draw(st.integers(0, 60)), ticks


@given(markets())
def test_the_call_equals_its_obvious_version(market: tuple) -> None:
    book, incoming, mark, ticks = market
    result = run_call(book, incoming, mark, ticks)
    is_kill = {order.order_id for order in incoming if order.time_in_force == TimeInForce.FOK}
    killed = {order.order_id for order in result.unfilled} & is_kill
    taking = [order for order in incoming if order.order_id not in killed]
    clearing, fills, removed = naive_call([*book.bids, *book.asks, *taking], mark, grid_of(ticks))
    assert all(
        fills.get(order.order_id, 0) == order.left_lots
        for order in taking
        if order.order_id in is_kill - removed
    )
    seen = (result.clearing, filled(result), {order.order_id for order in result.self_crossed})
    assert seen == (clearing, fills, removed)


@given(markets())
def test_nobody_fills_through_a_limit_and_what_is_bought_is_sold(market: tuple) -> None:
    book, incoming, mark, ticks = market
    result = run_call(book, incoming, mark, ticks)
    volume = result.clearing.volume_lots if result.clearing else 0
    by_side = {side: sum(f.size_lots for f in result.fills if f.order.side == side) for side in Side}
    assert by_side == {Side.BUY: volume, Side.SELL: volume}
    for order, size in result.fills:
        assert 0 < size <= order.left_lots
        price = result.clearing.price_uusd
        assert order.price_uusd >= price if order.side == Side.BUY else order.price_uusd <= price


@given(markets())
def test_trades_add_up_to_the_fills_and_nobody_trades_with_itself(market: tuple) -> None:
    result = run_call(*market)
    bought: dict[int, int] = {}
    for buy, sell, size in result.matches:
        assert buy.account != sell.account
        for order in (buy, sell):
            bought[order.order_id] = bought.get(order.order_id, 0) + size
    assert bought == filled(result)


@given(markets())
def test_afterwards_the_book_is_uncrossed_and_holds_every_lot_that_neither_traded_nor_left(
    market: tuple,
) -> None:
    book, incoming, mark, ticks = market
    result = run_call(book, incoming, mark, ticks)
    fills, gone = filled(result), {order.order_id for order in (*result.self_crossed, *result.unfilled)}
    left = {o.order_id: o.left_lots - fills.get(o.order_id, 0) for o in (*book.bids, *book.asks, *incoming)}
    resting = {order.order_id: order.left_lots for order in (*result.book.bids, *result.book.asks)}
    assert resting == {order_id: lots for order_id, lots in left.items() if lots and order_id not in gone}
    assert all(lots > 0 for lots in resting.values())
    assert not result.book.is_crossed
    assert EMPTY_BOOK.with_orders([*result.book.bids, *result.book.asks]) == result.book


@given(markets(), st.randoms(use_true_random=False))
def test_the_sequence_of_incoming_orders_has_no_effect(market: tuple, shuffler: random.Random) -> None:
    book, incoming, mark, ticks = market
    shuffled = list(incoming)
    shuffler.shuffle(shuffled)
    assert run_call(book, shuffled, mark, ticks) == run_call(book, incoming, mark, ticks)
