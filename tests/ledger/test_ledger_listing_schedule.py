"""New series at 08:00: which expiries, which strikes, how many, and when old ones are forgotten."""

from __future__ import annotations

from itertools import pairwise
from math import exp

import pytest
from msgspec.structs import replace

from ledger.breakers.state import drift_key
from ledger.events import ExpirySettled, OrderCancelled, SeriesListed
from ledger.instruments import Kind, Underlying, date_of
from ledger.listing_schedule import (
    HOUR_NS,
    band_around,
    get_next_id,
    missing_strikes,
    scheduled_expiries,
    strikes_around,
)
from ledger.settlement.parameters import ListingParameters
from ledger.state import State
from ledger.state_keys import window_key
from ledger.trading.state import AccountTrading
from ledger.transactions import PlaceTrigger, Side, TimeInForce
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


def strikes_of(exchange: Exchange, expiry_ns: int) -> list[int]:
    """Bitcoin's, whole dollars, of calls; puts have the same."""
    listed = exchange.state.instruments.values()
    items = [item for item in listed if (item.underlying, item.expiry_ns) == (0, expiry_ns)]
    calls, puts = (
        sorted(item.strike_uusd for item in items if item.kind == kind) for kind in (Kind.CALL, Kind.PUT)
    )
    assert calls == puts
    assert len(set(calls)) == len(calls)
    return [strike // USD for strike in calls]


def test_strikes_follow_a_price_that_has_moved_far() -> None:
    """The next hour lists what is missing on the side where the price went; what is there stays."""
    exchange = an_exchange()
    (first, *_) = events_of(exchange.block(5), SeriesListed)
    expiry_ns = first.expiry_ns
    exchange.expiries = sorted({*exchange.expiries, expiry_ns})
    exchange.block(5)
    before = strikes_of(exchange, expiry_ns)
    for _ in range(8):
        exchange.btc_usd *= 1.019
        exchange.block(5)
    exchange.block(5)
    assert strikes_of(exchange, expiry_ns) == before
    result = exchange.block((MORNING_NS + HOUR_NS - exchange.now_ns) // NS + 1)
    added = [
        item
        for item in events_of(result, SeriesListed)
        if (item.underlying, item.expiry_ns) == (0, expiry_ns)
    ]
    after = strikes_of(exchange, expiry_ns)
    assert set(before) < set(after)
    assert len(added) == 1
    assert added[0].count == 2 * (len(after) - len(before))
    slice_ = next(item for item in exchange.state.oracle(0).slices if item.slice.expiry_ns == expiry_ns).slice
    band = band_around(slice_.forward_uusd, slice_.theta_e12, SCHEDULE)
    assert max(before) * USD < band.high_uusd - band.step_uusd
    assert missing_strikes(band, [strike * USD for strike in after]) == []
    assert events_of(exchange.block(), SeriesListed) == []


def test_strikes_are_filled_in_when_little_time_is_left_and_none_is_near_another() -> None:
    wide = band_around(100_000 * USD, 40_000_000_000, SCHEDULE)
    narrow = band_around(100_000 * USD, 700_000_000, SCHEDULE)
    assert (wide.step_uusd, narrow.step_uusd) == (20_000 * USD, 2_000 * USD)
    added = missing_strikes(narrow, wide.strikes_uusd)
    assert [item // USD for item in added] == [94_000, 96_000, 98_000, 102_000, 104_000, 106_000, 108_000]
    uneven = [97_500 * USD, 102_500 * USD]
    assert 98_000 * USD not in missing_strikes(narrow, uneven)
    assert 100_000 * USD in missing_strikes(narrow, uneven)


def test_an_expiry_has_at_most_twice_as_many_strikes_in_its_life_and_the_nearest_come_first() -> None:
    exchange = an_exchange(replace(SCHEDULE, strikes_max=3))
    exchange.block(5)
    expiry_ns = sorted(item.slice.expiry_ns for item in exchange.state.oracle(0).slices)[-1]
    exchange.expiries = [expiry_ns]
    for _ in range(6):
        exchange.btc_usd *= 1.25
        exchange.block(3_600)
        exchange.block(5)
    strikes = strikes_of(exchange, expiry_ns)
    assert len(strikes) == 6
    exchange.btc_usd *= 1.25
    exchange.block(3_600)
    assert strikes_of(exchange, expiry_ns) == strikes


def test_no_strikes_are_added_once_the_settlement_average_has_begun() -> None:
    exchange = an_exchange()
    exchange.block(5)
    nearest = next(
        iter(
            sorted(
                item.slice.expiry_ns
                for item in exchange.state.oracle(0).slices
                if item.slice.expiry_ns > exchange.now_ns
            )
        )
    )
    exchange.expiries = [nearest]
    exchange.block((nearest - 1_801 * NS - exchange.now_ns) // NS)
    exchange.block(5)
    before = strikes_of(exchange, nearest)
    exchange.btc_usd *= 1.1
    for _ in range(4):
        exchange.block(600)
    assert strikes_of(exchange, nearest) == before


def test_open_orders_of_an_expired_series_are_cancelled_and_nothing_of_it_is_left_when_it_is_forgotten() -> (
    None
):
    exchange = an_exchange(replace(SCHEDULE, keep_settled_ns=DAY_NS))
    (first, *_) = events_of(exchange.block(5), SeriesListed)
    expiry_ns, call = first.expiry_ns, first.first_id
    exchange.expiries = sorted({*exchange.expiries, expiry_ns})
    exchange.block(5)
    mark = dict(exchange.state.marks.marks)[call] if exchange.state.marks else 0
    exchange.does("alice", sell(call, mark // (5 * USD) * 5 + 100, 2))
    exchange.does(
        "bob", PlaceTrigger(call, Side.BUY, False, True, mark * 3, None, 1, TimeInForce.IOC, False, 0)
    )
    assert reasons(exchange.block()) == []
    exchange.block((expiry_ns - 1_801 * NS - exchange.now_ns) // NS)
    results = []
    while exchange.now_ns <= expiry_ns:
        results.append(exchange.block(4))
    (cancelled,) = [item for result in results for item in events_of(result, OrderCancelled)]
    assert (cancelled.instrument, cancelled.reason) == (call, "expired")
    assert any(events_of(result, ExpirySettled) for result in results)
    exchange.block((expiry_ns + DAY_NS - exchange.now_ns) // NS + 5)
    exchange.block((expiry_ns + 2 * DAY_NS - exchange.now_ns) // NS + 5)
    assert call not in exchange.state.instruments
    ids = set(range(call, call + first.count))
    for key, leaf in exchange.state.leaves.values.items():
        assert not (key[:1] in b"bi" and int.from_bytes(key[1:], "big") in ids), key
        assert key not in (window_key(0, expiry_ns), drift_key(0, expiry_ns))
        assert not (isinstance(leaf, AccountTrading) and leaf.triggers), leaf


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
