"""Five months of a market that lists by itself: what is listed at every moment, and what is left of what was."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from math import sin

import pytest
from msgspec.structs import replace

from ledger.events import ExpirySettled, SeriesListed, Trade
from ledger.instruments import Kind
from ledger.listing_schedule import LIFETIME_STRIKES, scheduled_expiries
from ledger.market import Slice
from ledger.oracle import current_market
from ledger.prices import live_instruments
from node.genesis_defaults import default_listing
from primitives.amounts import NS, USD
from tests.ledger.exchange import (
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

SCHEDULE = replace(default_listing(), strikes_max=5, keep_settled_ns=2 * DAY_NS)
DAYS = 150
STEP_S = 4 * 3_600
"""Between two blocks. Settlement averages take one index in each of the last four."""
MORNING_NS = START_NS // DAY_NS * DAY_NS + DAY_NS // 3
PERPETUALS = tuple(item for item in INSTRUMENTS if item.kind == Kind.PERPETUAL)


def wanted_dates(now: datetime) -> set[date]:
    """By the calendar: two days, three Fridays, three last Fridays of a month and three of a quarter, all ahead."""
    first = now.date() + timedelta(days=1 if now.hour >= 8 else 0)
    days = [first + timedelta(days=number) for number in range(400)]
    fridays = [day for day in days if day.weekday() == 4]
    monthly = [day for day in fridays if (day + timedelta(days=7)).month != day.month]
    quarterly = [day for day in monthly if day.month in (3, 6, 9, 12)]
    return {*days[:2], *fridays[:3], *monthly[:3], *quarterly[:3]}


def time_of(exchange: Exchange) -> datetime:
    return datetime.fromtimestamp(exchange.state.clock.time_ns // NS, UTC)


def day_of(expiry_ns: int) -> date:
    moment = datetime.fromtimestamp(expiry_ns // NS, UTC)
    assert (moment.hour, moment.minute, moment.second) == (8, 0, 0)
    return moment.date()


def test_for_five_months_exactly_the_series_of_the_calendar_are_listed_trade_settle_and_are_forgotten() -> (
    None
):
    window = {"settlement_window_ns": 4 * STEP_S * NS, "settlement_bucket_ns": STEP_S * NS}
    names = {"alice": 5_000_000, "bob": 5_000_000}
    exchange = Exchange().start(a_genesis(names, PERPETUALS, listing=SCHEDULE, **window))
    exchange.block((MORNING_NS - exchange.now_ns) // NS - STEP_S)
    settled: dict[date, int] = {}
    traded = 0
    leaves: list[int] = []
    for turn in range(DAYS * 6):
        exchange.btc_usd = 100_000 + 20_000 * sin(turn / 200) + 900 * sin(turn / 3)
        exchange.expiries = sorted({item.expiry_ns for item in live_instruments(exchange.state)} - {0})
        if turn % 6 == 1:
            trade_the_newest(exchange)
        result = exchange.block(STEP_S)
        traded += len(events_of(result, Trade))
        assert reasons(result) == []
        now = time_of(exchange)
        for event in events_of(result, ExpirySettled):
            assert (day_of(event.expiry_ns), now.hour) == (now.date(), 8), "in the first block at its time"
            settled[now.date()] = settled.get(now.date(), 0) + 1
        check_listing(exchange, now)
        leaves.append(len(exchange.state.leaves.values))
    morning = date(2026, 2, 2)
    ended = {morning + timedelta(days=number) for number in range(1, DAYS)}
    assert settled == dict.fromkeys(ended, 2), "every day, of both underlyings"
    assert traded == DAYS
    month = 30 * 6
    most = max(leaves[month : 3 * month]) * 11 // 10
    assert max(leaves[-month:]) <= most, "strikes follow the price, and the state does not grow"


def trade_the_newest(exchange: Exchange) -> None:
    """Alice sells Bob the at-the-money call that has just been listed; it is in their accounts until it settles."""
    live = [item for item in live_instruments(exchange.state) if item.underlying == 0 and item.expiry_ns]
    expiry_ns = scheduled_expiries(exchange.state.clock.time_ns, SCHEDULE)[1]
    calls = [item for item in live if item.expiry_ns == expiry_ns and item.kind == Kind.CALL]
    call = min(calls, key=lambda item: abs(item.strike_uusd - exchange.btc_usd * USD))
    marks = dict(exchange.state.marks.marks) if exchange.state.marks else {}
    price = max(5, marks[call.id] // (5 * USD) * 5)
    exchange.does("alice", sell(call.id, price, 1))
    exchange.does("bob", buy(call.id, price, 1))


def check_listing(exchange: Exchange, now: datetime) -> None:
    """Live series are the calendar's; every leaf of a series belongs to one that is live or lately settled."""
    state = exchange.state
    live = live_instruments(state)
    for underlying in (0, 1):
        expiries = {item.expiry_ns for item in live if item.underlying == underlying and item.expiry_ns}
        assert {day_of(item) for item in expiries} == wanted_dates(now)
        assert {agreed.slice.expiry_ns for agreed in state.oracle(underlying).slices} == expiries
    oldest = now.date() - timedelta(days=2)
    kept = {
        item.id
        for item in state.instruments.values()
        if not item.expiry_ns or day_of(item.expiry_ns) >= oldest
    }
    assert state.instruments.keys() == kept, "two days after settlement a series is forgotten"
    of_instrument = {int.from_bytes(key[1:], "big") for key in state.leaves.values if key[:1] in (b"i", b"b")}
    assert of_instrument == state.instruments.keys()
    live_expiries = {(item.underlying, item.expiry_ns) for item in live}
    of_expiry = {
        (key[-9], int.from_bytes(key[-8:], "big"))
        for key in state.leaves.values
        if key[:1] == b"w" or key[:2] == b"yd"
    }
    assert of_expiry <= live_expiries
    assert state.marks is None or {item for item, _ in state.marks.marks} <= {item.id for item in live}


def test_the_default_schedule_always_has_room_for_what_it_lists() -> None:
    """Over two years: live series, and those settled and still kept, both underlyings, all strikes they may get."""
    schedule = default_listing()
    kept = schedule.keep_settled_ns // DAY_NS + 1
    live = max(len(scheduled_expiries(MORNING_NS + day * DAY_NS, schedule)) for day in range(730))
    strikes = LIFETIME_STRIKES * schedule.strikes_max
    assert 2 + (live + kept) * 2 * 2 * strikes <= schedule.instruments_max


def test_a_series_whose_listing_block_came_late_is_listed_in_the_next_block() -> None:
    """Nobody made blocks for three days: one block lists what is due now, and not what has expired meanwhile."""
    exchange = Exchange().start(a_genesis({"alice": 1}, PERPETUALS, listing=SCHEDULE))
    exchange.block((MORNING_NS - exchange.now_ns) // NS - 1)
    listed = events_of(exchange.block(3 * 86_400 + 1), SeriesListed)
    assert {day_of(event.expiry_ns) for event in listed} == wanted_dates(time_of(exchange))


def test_a_series_that_is_never_reported_keeps_a_mark_and_takes_only_orders_that_take_nothing() -> None:
    """Reporters here say nothing of ETH's volatility: what was believed at the listing is rolled, for weeks."""
    exchange = Exchange().start(a_genesis({"alice": 500_000, "bob": 500_000}, PERPETUALS, listing=SCHEDULE))
    exchange.block((MORNING_NS - exchange.now_ns) // NS - 1)
    listed = events_of(exchange.block(2), SeriesListed)
    monthly = next(
        event for event in listed if (event.underlying, day_of(event.expiry_ns)) == (1, date(2026, 2, 27))
    )
    call = middle_of(exchange, monthly)
    slices: list[Slice] = []
    for days in (0, 1, 14):
        exchange.block(days * 86_400 + 1)
        market = current_market(exchange.state, 1, exchange.state.clock.time_ns)
        slices += [item for item in market.slices if item.expiry_ns == monthly.expiry_ns]
        mark = dict(exchange.state.marks.marks)[call] if exchange.state.marks else 0
        assert mark > 0
        price = mark // USD
        exchange.does("alice", sell(call, price + 1, 1, post_only=True))
        exchange.does("bob", buy(call, price + 1, 1))
        assert reasons(exchange.block()) == ["only_post_only"]
    assert {item.confidence_ppm for item in slices} == {0}
    left = [item.theta_e12 / slices[0].theta_e12 for item in slices]
    assert left == pytest.approx([25 / 25, 24 / 25, 10 / 25], abs=0.001), "variance shrinks with time alone"


def middle_of(exchange: Exchange, listed: SeriesListed) -> int:
    """The call nearest to the money of a series."""
    instruments = [exchange.state.instruments[listed.first_id + place] for place in range(0, listed.count, 2)]
    return min(instruments, key=lambda item: abs(item.strike_uusd - 4_000 * USD)).id
