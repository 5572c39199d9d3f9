"""The resting orders of one instrument as a value."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.matching.book import EMPTY_BOOK, Book
from ledger.matching.orders import RestingOrder
from ledger.transactions import Side
from primitives.codec import decode_own, encode
from primitives.errors import InvariantViolation
from tests.ledger.matching_builders import a_bid, an_ask

BID_101, BID_100_OLD, BID_100_NEW = a_bid(3, 5, 101), a_bid(1, 2, 100), a_bid(2, 4, 100, height=2)
ASK_103, ASK_104 = an_ask(4, 7, 103), an_ask(5, 1, 104)
BOOK = Book((BID_101, BID_100_OLD, BID_100_NEW), (ASK_103, ASK_104))


@given(st.permutations([ASK_104, BID_100_NEW, BID_101, ASK_103, BID_100_OLD]))
def test_orders_find_their_place_whatever_their_sequence(orders: list[RestingOrder]) -> None:
    one_by_one = EMPTY_BOOK
    for order in orders:
        one_by_one = one_by_one.with_orders([order])
    assert (EMPTY_BOOK.with_orders(orders), one_by_one) == (BOOK, BOOK)


def test_many_orders_at_once_take_the_places_they_take_one_by_one() -> None:
    orders = [a_bid(i, 1, 50 + i * 37 % 11, height=i % 3) for i in range(100)]
    orders += [an_ask(100 + i, 1, 70 + i * 29 % 13, height=i % 3) for i in range(100)]
    one_by_one = EMPTY_BOOK
    for order in orders:
        one_by_one = one_by_one.with_orders([order])
    assert EMPTY_BOOK.with_orders(orders[:7]).with_orders(orders[7:]) == one_by_one


def test_a_change_leaves_the_old_book_as_it_was() -> None:
    before = encode(BOOK)
    BOOK.without(BID_101).with_orders([a_bid(9, 1, 99)]).without_ids({1, 4})
    assert encode(BOOK) == before


def test_an_order_is_taken_off_by_its_priority() -> None:
    assert BOOK.without(BID_100_OLD) == Book((BID_101, BID_100_NEW), (ASK_103, ASK_104))


def test_many_orders_are_taken_off_and_unknown_ids_are_no_matter() -> None:
    assert BOOK.without_ids({1, 3, 5, 77}) == Book((BID_100_NEW,), (ASK_103,))


def test_a_reduced_order_keeps_its_place() -> None:
    reduced = msgspec.structs.replace(ASK_103, left_lots=3)
    assert BOOK.replaced(reduced) == Book(BOOK.bids, (reduced, ASK_104))


@pytest.mark.parametrize("absent", [a_bid(7, 1, 100), a_bid(7, 1, 200), an_ask(7, 1, 103), an_ask(7, 1, 1)])
def test_changing_an_order_that_does_not_rest_is_our_mistake(absent: RestingOrder) -> None:
    with pytest.raises(InvariantViolation):
        BOOK.without(absent)


def test_what_is_left_of_many_orders_is_set_at_once() -> None:
    reduced = msgspec.structs.replace(BID_100_NEW, left_lots=1)
    assert BOOK.with_left({2: 1, 3: 0, 5: 1, 77: 9}) == Book((BID_100_OLD, reduced), (ASK_103, ASK_104))


def test_an_order_is_found_by_its_id() -> None:
    assert [BOOK.find(order_id) for order_id in (2, 5, 6)] == [BID_100_NEW, ASK_104, None]


def test_best_prices_and_depth_read_from_the_top() -> None:
    assert (BOOK.best_bid_uusd, BOOK.best_ask_uusd) == (101, 103)
    assert BOOK.depth(Side.BUY, 5) == [(101, 5), (100, 6)]
    assert BOOK.depth(Side.BUY, 1) == [(101, 5)]
    assert BOOK.depth(Side.SELL, 5) == [(103, 7), (104, 1)]


def test_an_empty_book_has_no_best_prices_and_crosses_nothing() -> None:
    seen = (EMPTY_BOOK.best_bid_uusd, EMPTY_BOOK.best_ask_uusd, EMPTY_BOOK.is_crossed, len(EMPTY_BOOK))
    assert seen == (None, None, False, 0)
    assert not EMPTY_BOOK.would_cross(Side.BUY, 10**9)
    assert not EMPTY_BOOK.would_cross(Side.SELL, 1)


@pytest.mark.parametrize(
    ("side", "price", "crosses"),
    [(Side.BUY, 102, False), (Side.BUY, 103, True), (Side.SELL, 102, False), (Side.SELL, 101, True)],
)
def test_an_order_crosses_when_it_reaches_the_other_sides_best(side: Side, price: int, crosses: bool) -> None:
    assert BOOK.would_cross(side, price) is crosses


@pytest.mark.parametrize(("best_ask", "crossed"), [(102, False), (101, True), (100, True)])
def test_a_book_is_crossed_when_its_best_prices_meet(best_ask: int, crossed: bool) -> None:
    assert Book((BID_101,), (an_ask(9, 1, best_ask),)).is_crossed is crossed


def test_a_book_is_read_back_from_its_canonical_bytes() -> None:
    assert decode_own(Book, encode(BOOK)) == BOOK
