"""The price grid and priority of orders."""

from __future__ import annotations

import pytest

from ledger.matching.orders import ceil_to_tick, floor_to_tick, is_on_tick, next_tick, tick_at
from primitives.amounts import USD
from tests.ledger.matching_builders import a_bid, an_ask

BTC_TICKS = ((1_000 * USD, 5 * USD), (50 * USD, 1 * USD), (0, USD // 10))
"""$5 at or above $1,000, $1 at or above $50, else $0.10."""


@pytest.mark.parametrize(
    ("price", "tick"),
    [
        (1, USD // 10),
        (50 * USD - 1, USD // 10),
        (50 * USD, USD),
        (1_000 * USD - 1, USD),
        (1_000 * USD, 5 * USD),
    ],
)
def test_a_tick_holds_from_the_start_of_its_step(price: int, tick: int) -> None:
    assert tick_at(BTC_TICKS, price) == tick


@pytest.mark.parametrize(
    ("price", "floor", "ceiling", "following"),
    [
        (49_950_000, 49_900_000, 50_000_000, 50_000_000),
        (50_000_000, 50_000_000, 50_000_000, 51_000_000),
        (999_000_001, 999_000_000, 1_000_000_000, 1_000_000_000),
        (1_000_000_000, 1_000_000_000, 1_000_000_000, 1_005_000_000),
        (1_004_999_999, 1_000_000_000, 1_005_000_000, 1_005_000_000),
        (0, 0, 0, 100_000),
    ],
)
def test_prices_move_to_the_grid_on_either_side(price: int, floor: int, ceiling: int, following: int) -> None:
    moved = (
        floor_to_tick(BTC_TICKS, price),
        ceil_to_tick(BTC_TICKS, price),
        next_tick(BTC_TICKS, price),
    )
    assert moved == (floor, ceiling, following)


def test_a_step_that_its_tick_does_not_divide_still_ends_where_the_next_begins() -> None:
    assert [next_tick(((10, 5), (0, 4)), price) for price in (0, 4, 8, 9, 10)] == [4, 8, 10, 10, 15]


def test_only_grid_prices_are_on_tick() -> None:
    assert [is_on_tick(BTC_TICKS, price * USD) for price in (49, 50, 999, 1_001, 1_005)] == [
        True,
        True,
        True,
        False,
        True,
    ]


def test_priority_is_price_then_older_block_then_lower_id() -> None:
    bids = [
        a_bid(4, 1, 100, height=2),
        a_bid(3, 1, 100, height=1),
        a_bid(2, 1, 101, height=3),
        a_bid(1, 1, 100),
    ]
    asks = [an_ask(7, 1, 100, height=2), an_ask(6, 1, 99, height=3), an_ask(5, 1, 100, height=2)]
    assert [order.order_id for order in sorted(bids, key=lambda order: order.priority)] == [2, 1, 3, 4]
    assert [order.order_id for order in sorted(asks, key=lambda order: order.priority)] == [6, 5, 7]
