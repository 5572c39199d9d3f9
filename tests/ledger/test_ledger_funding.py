"""Funding: who is on the dearer side of a perpetual pays the other, exactly, and only when looked at."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ledger.funding import accrue_funding, funding_uusd, funding_uusd_max
from ledger.queries import get_account
from ledger.settlement.state import Funding, funding_key
from ledger.transactions import CancelAll
from primitives.amounts import NS, USD
from tests.ledger.exchange import BTC_PERP, CALL_110, INSTRUMENTS, Exchange, buy, sell

PERPETUAL = INSTRUMENTS[BTC_PERP]
HOUR_S = 3_600
GRID_UUSD = 100
"""One step of the number for a contract of 100 lots: what it rounds to."""


def a_dear_perpetual(middle_usd: int = 100_200) -> Exchange:
    """Alice is long 1 bitcoin against Bob, and Carol quotes around `middle_usd` with the index at 100,000."""
    exchange = Exchange(alice=500_000, bob=500_000, carol=5_000_000)
    exchange.block()
    exchange.does("alice", buy(BTC_PERP, 100_000, 100))
    exchange.does("bob", sell(BTC_PERP, 100_000, 100))
    exchange.block()
    exchange.does(
        "carol", buy(BTC_PERP, middle_usd - 50, 1, post_only=True), sell(BTC_PERP, middle_usd + 50, 1)
    )
    exchange.block()
    exchange.block()
    return exchange


def equity(exchange: Exchange, name: str) -> int:
    view = get_account(exchange.state, exchange.key(name))
    assert view is not None
    return view.equity_uusd


def minutes_pass(exchange: Exchange, minutes: int) -> None:
    for _ in range(minutes):
        exchange.block(60)


def test_longs_pay_a_premium_of_a_fifth_of_a_percent_once_in_eight_hours() -> None:
    exchange = a_dear_perpetual()
    before = {name: equity(exchange, name) for name in ("alice", "bob")}
    minutes_pass(exchange, 48)
    paid = before["alice"] - equity(exchange, "alice")
    assert paid == equity(exchange, "bob") - before["bob"]
    assert abs(paid - 200 * USD // 10) <= GRID_UUSD


def test_no_account_changes_until_it_trades_and_then_the_funding_is_cash() -> None:
    exchange = a_dear_perpetual()
    stored = exchange.state.account(exchange.key("alice"))
    minutes_pass(exchange, 48)
    assert exchange.state.account(exchange.key("alice")) == stored
    cash, paid = exchange.cash("alice"), funding_uusd(exchange.state, PERPETUAL)
    exchange.does("carol", CancelAll(None))
    exchange.block()
    exchange.does("alice", sell(BTC_PERP, 100_000, 100))
    exchange.does("carol", buy(BTC_PERP, 100_000, 100))
    exchange.block()
    fee = 30 * USD
    assert exchange.lots("alice", BTC_PERP) == 0
    assert paid == pytest.approx(20 * USD, rel=0.01)
    assert cash - exchange.cash("alice") - fee == pytest.approx(paid, rel=0.03)


def test_below_the_index_shorts_pay() -> None:
    exchange = a_dear_perpetual(99_900)
    before = equity(exchange, "alice")
    minutes_pass(exchange, 48)
    assert abs(equity(exchange, "alice") - before - 100 * USD // 10) <= GRID_UUSD


def test_a_premium_is_clamped_to_half_a_percent() -> None:
    exchange = a_dear_perpetual(102_000)
    before = equity(exchange, "alice")
    minutes_pass(exchange, 48)
    assert abs(before - equity(exchange, "alice") - 500 * USD // 10) <= GRID_UUSD


def test_without_both_sides_of_a_book_nobody_pays() -> None:
    exchange = a_dear_perpetual()
    exchange.does("carol", CancelAll(None))
    exchange.block()
    exchange.block()
    before = equity(exchange, "alice")
    minutes_pass(exchange, 10)
    assert equity(exchange, "alice") == before


def test_a_gap_between_blocks_is_charged_for_a_minute_at_most() -> None:
    exchange = a_dear_perpetual()
    before = equity(exchange, "alice")
    exchange.block(4 * HOUR_S)
    assert before - equity(exchange, "alice") == pytest.approx(200 * USD / 480, abs=100)


def test_blocks_without_reports_accrue_nothing_of_their_own() -> None:
    exchange = a_dear_perpetual()
    leaf = exchange.state.leaves.get(funding_key(BTC_PERP))
    exchange.block(oracle=False)
    assert exchange.state.leaves.get(funding_key(BTC_PERP)) == leaf


def test_options_have_no_funding() -> None:
    assert funding_uusd(a_dear_perpetual().state, INSTRUMENTS[CALL_110]) == 0


def test_a_short_side_that_closes_gets_what_the_long_side_pays() -> None:
    """Conservation is checked by every block; here both close after the number moved, and nothing is left."""
    exchange = a_dear_perpetual()
    minutes_pass(exchange, 37)
    exchange.does("carol", CancelAll(None))
    exchange.block()
    exchange.does("alice", sell(BTC_PERP, 100_000, 100))
    exchange.does("bob", buy(BTC_PERP, 100_000, 100))
    exchange.block()
    assert exchange.state.totals.cost_uusd == 0
    assert exchange.cash("alice") < 500_000 * USD - 60 * USD < exchange.cash("bob")


def test_the_number_stops_where_values_would_not_be_exact() -> None:
    exchange = a_dear_perpetual()
    leaf: Funding = exchange.state.leaves.values[funding_key(BTC_PERP)]
    most = funding_uusd_max(PERPETUAL)
    exchange.state.put(funding_key(BTC_PERP), replace(leaf, cumulative_e6=most * 10**6 - 1))
    accrue_funding(exchange.state, leaf.time_ns + 60 * NS)
    assert funding_uusd(exchange.state, PERPETUAL) == most == 2_000_000 * USD
