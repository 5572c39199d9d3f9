"""New series at 08:00: which expiries, which strikes, how many, and when old ones are forgotten."""

from __future__ import annotations

from itertools import pairwise
from math import exp

import pytest
from msgspec.structs import replace

from ledger.events import ExpirySettled, SeriesListed
from ledger.instruments import Kind, Underlying, date_of
from ledger.listing_schedule import get_next_id, scheduled_expiries, strikes_around
from ledger.settlement.parameters import ListingParameters
from ledger.state import State
from node.genesis_defaults import default_listing
from primitives.amounts import NS, USD
from tests.ledger.exchange import (
    CHAIN,
    DAY_NS,
    INSTRUMENTS,
    START_NS,
    Exchange,
    a_genesis,
    buy,
    events_of,
    reasons,
    sell,
)

SCHEDULE = replace(default_listing(), strikes_max=9)
MORNING_NS = START_NS // DAY_NS * DAY_NS + DAY_NS // 3
"""The start is Monday, 2 February 2026, 02:40 UTC; this is 08:00."""


def an_exchange(schedule: ListingParameters = SCHEDULE) -> Exchange:
    """Just before 08:00."""
    names = {"alice": 500_000, "bob": 500_000}
    exchange = Exchange().start(a_genesis(names, INSTRUMENTS, listing=schedule))
    exchange.block()
    exchange.block((MORNING_NS - exchange.now_ns) // NS - 5)
    return exchange


def dates(expiries: list[int]) -> list[tuple[int, int, int]]:
    return [date_of(item) for item in expiries]


def test_two_days_three_fridays_three_months_and_three_quarters_are_listed() -> None:
    """From Monday, 2 February 2026, 08:00."""
    assert dates(scheduled_expiries(MORNING_NS, SCHEDULE)) == [
        (2026, 2, 3),
        (2026, 2, 4),
        (2026, 2, 6),
        (2026, 2, 13),
        (2026, 2, 20),
        (2026, 2, 27),
        (2026, 3, 27),
        (2026, 4, 24),
        (2026, 6, 26),
        (2026, 9, 25),
    ]


def test_every_expiry_is_at_eight_and_later_than_now() -> None:
    for offset in (0, 1, DAY_NS // 2, DAY_NS - 1):
        expiries = scheduled_expiries(MORNING_NS + offset, SCHEDULE)
        assert all(item % DAY_NS == DAY_NS // 3 for item in expiries)
        assert MORNING_NS + offset < expiries[0] <= MORNING_NS + offset + DAY_NS


@pytest.mark.parametrize(
    ("theta_e12", "expected_step_usd"),
    [(684_931_506, 2_000), (20_547_945_205, 10_000), (250_000_000_000, 50_000)],
)
def test_strikes_lie_within_three_deviations_on_round_steps(theta_e12: int, expected_step_usd: int) -> None:
    strikes = strikes_around(100_000 * USD, theta_e12, SCHEDULE)
    width = 3 * (theta_e12 / 1e12) ** 0.5
    assert 100_000 * exp(-width) <= strikes[0] / USD
    assert strikes[-1] / USD <= 100_000 * exp(width)
    assert {b - a for a, b in pairwise(strikes)} == {expected_step_usd * USD}
    assert strikes[0] / USD - expected_step_usd < max(100_000 * exp(-width), 1)
    assert strikes[-1] / USD + expected_step_usd > 100_000 * exp(width)
    assert 2 <= len(strikes) <= SCHEDULE.strikes_max


def test_at_eight_new_series_exist_once_and_can_be_traded_post_only() -> None:
    exchange = an_exchange()
    assert events_of(exchange.block(4), SeriesListed) == []
    listed = events_of(exchange.block(1), SeriesListed)
    assert len(listed) == 20
    assert listed[0].first_id == len(INSTRUMENTS)
    assert events_of(exchange.block(), SeriesListed) == []
    first = exchange.state.instruments[listed[0].first_id]
    assert (first.underlying, first.kind, date_of(first.expiry_ns)) == (
        Underlying.BTC,
        Kind.CALL,
        (2026, 2, 3),
    )
    mark = dict(exchange.state.marks.marks)[first.id] if exchange.state.marks else 0
    exchange.does("alice", sell(first.id, mark // (5 * USD) * 5 + 5, 1))
    assert reasons(exchange.block()) == ["only_post_only"]


def test_what_validators_report_makes_a_new_series_trade() -> None:
    exchange = an_exchange()
    (first, *_) = events_of(exchange.block(5), SeriesListed)
    exchange.expiries = sorted({*exchange.expiries, first.expiry_ns})
    exchange.block(5)
    call = first.first_id
    price = dict(exchange.state.marks.marks)[call] // (5 * USD) * 5 if exchange.state.marks else 0
    exchange.does("alice", sell(call, price, 3))
    exchange.does("bob", buy(call, price, 3))
    assert reasons(exchange.block()) == []
    assert exchange.lots("bob", call) == 3


def test_undoing_the_block_forgets_the_series_and_restoring_knows_them() -> None:
    exchange = an_exchange()
    before = dict(exchange.state.instruments)
    root = exchange.block(5).root
    listed = dict(exchange.state.instruments)
    restored = State.from_leaves(CHAIN, exchange.genesis, exchange.state.all_leaves())
    assert (restored.root(), restored.instruments) == (root, listed)
    exchange.state.rollback_block()
    assert exchange.state.instruments == before
    assert len(listed) > len(before)


def test_settled_series_are_forgotten_after_a_while_and_no_id_comes_back() -> None:
    exchange = an_exchange(replace(SCHEDULE, keep_settled_ns=DAY_NS))
    settled = exchange.expiries[0]
    assert settled < exchange.now_ns
    results = [exchange.block(4) for _ in range(3)]
    next_id = get_next_id(exchange.state)
    while not any(events_of(result, ExpirySettled) for result in results):
        results = [exchange.block(4)]
    exchange.block((MORNING_NS + 2 * DAY_NS - exchange.now_ns) // NS + 1)
    known = {item.expiry_ns for item in exchange.state.instruments.values()}
    assert settled not in known
    assert get_next_id(exchange.state) > next_id
    assert max(exchange.state.instruments) < get_next_id(exchange.state)


def test_a_full_list_takes_no_more() -> None:
    exchange = an_exchange(replace(SCHEDULE, instruments_max=40))
    listed = events_of(exchange.block(5), SeriesListed)
    assert 0 < len(listed) < 20
    assert len(exchange.state.instruments) <= 40


def test_without_a_schedule_the_series_of_genesis_are_all_there_are() -> None:
    exchange = an_exchange(default_listing(strikes_max=0))
    assert events_of(exchange.block(5), SeriesListed) == []
