"""From the first warning to the fund: what happens to an account that loses too much."""

from __future__ import annotations

from ledger.events import CashMoved, HealthChanged, LiquidationStep, OrderCancelled, Trade
from ledger.margin.health import Health
from ledger.queries import get_account
from ledger.transactions import CancelAll, Deposit, Withdraw
from primitives.amounts import USD
from tests.ledger.exchange import BTC_PERP, CALL_110, Exchange, buy, events_of, reasons, sell


def a_leveraged_long(cash_usd: int = 20_000) -> Exchange:
    """Alice is long one bitcoin on little cash; Bob is short; Carol is rich."""
    exchange = Exchange(alice=cash_usd, bob=1_000_000, carol=1_000_000)
    exchange.block()
    exchange.does("alice", buy(BTC_PERP, 100_000, 100))
    exchange.does("bob", sell(BTC_PERP, 100_000, 100))
    exchange.block()
    assert exchange.lots("alice", BTC_PERP) == 100
    return exchange


def health(exchange: Exchange, name: str) -> Health:
    view = get_account(exchange.state, exchange.key(name))
    assert view is not None
    return view.health


def test_between_initial_and_maintenance_an_account_may_only_reduce() -> None:
    exchange = a_leveraged_long()
    exchange.btc_usd = 96_500
    result = exchange.block()
    (changed,) = events_of(result, HealthChanged)
    assert changed.health == "reduce_only"
    assert changed.im_excess_uusd < 0 <= changed.mm_excess_uusd
    assert events_of(result, LiquidationStep) == []
    exchange.does(
        "alice", buy(BTC_PERP, 95_000, 1), sell(BTC_PERP, 97_000, 50, reduce_only=True), Withdraw(1)
    )
    assert reasons(exchange.block()) == ["insufficient_margin", "account_must_reduce"]


def test_below_maintenance_orders_go_and_a_fifth_of_the_position_is_offered() -> None:
    exchange = a_leveraged_long()
    exchange.does("alice", sell(BTC_PERP, 120_000, 10))
    exchange.does("carol", buy(BTC_PERP, 92_000, 2))
    exchange.block()
    exchange.btc_usd = 93_000
    result = exchange.block()
    assert [event.reason for event in events_of(result, OrderCancelled)] == [
        "liquidation",
        "immediate_or_cancel",
    ]
    (step,) = events_of(result, LiquidationStep)
    assert (step.instrument, step.size_lots, step.limit_price_uusd) == (BTC_PERP, -20, 69_750 * USD)
    assert step.mm_excess_uusd < 0
    (trade,) = events_of(result, Trade)
    assert (trade.price_uusd, trade.size_lots) == (92_000 * USD, 2)
    exchange.does("alice", sell(BTC_PERP, 93_000, 1, reduce_only=True))
    assert "account_in_liquidation" in reasons(exchange.block())


def test_liquidation_goes_on_until_the_account_is_healthy_and_no_further() -> None:
    exchange = a_leveraged_long()
    exchange.does("carol", buy(BTC_PERP, 92_990, 300))
    exchange.block()
    exchange.btc_usd = 93_000
    for _ in range(30):
        exchange.block()
    lots = exchange.lots("alice", BTC_PERP)
    assert 0 < lots < 100
    assert health(exchange, "alice") is not Health.LIQUIDATION
    exchange.block()
    assert exchange.lots("alice", BTC_PERP) == lots


def test_a_deposit_ends_a_liquidation() -> None:
    exchange = a_leveraged_long()
    exchange.btc_usd = 93_000
    exchange.block()
    exchange.does("custodian", Deposit(*exchange.key("alice"), 50_000 * USD))
    exchange.block()
    (changed,) = events_of(exchange.block(), HealthChanged)
    assert changed.health == "healthy"


def test_with_an_empty_option_book_the_delta_is_hedged_with_the_perpetual() -> None:
    exchange = Exchange(alice=40_000, bob=1_000_000, carol=1_000_000)
    exchange.block()
    exchange.does("alice", sell(CALL_110, 2_250, 200))
    exchange.does("bob", buy(CALL_110, 2_250, 200))
    exchange.block()
    exchange.does("carol", sell(BTC_PERP, 115_500, 500))
    exchange.block()
    exchange.btc_usd = 115_000
    result = exchange.block()
    hedge, offer = events_of(result, LiquidationStep)
    assert (hedge.instrument, offer.instrument) == (BTC_PERP, CALL_110)
    assert hedge.size_lots > 0
    assert offer.size_lots == 40
    assert exchange.lots("alice", BTC_PERP) == hedge.size_lots


def test_the_fund_pays_the_debt_of_an_account_that_holds_nothing_more() -> None:
    exchange = a_leveraged_long()
    exchange.does("carol", buy(BTC_PERP, 75_000, 500))
    exchange.block()
    exchange.btc_usd = 75_000
    fund = exchange.state.supply.fund_uusd
    moved: list[CashMoved] = []
    for _ in range(60):
        moved += events_of(exchange.block(), CashMoved)
    assert exchange.lots("alice", BTC_PERP) == 0
    assert exchange.cash("alice") == 0
    assert [event.cause for event in moved] == ["insurance_fund"]
    assert exchange.state.supply.fund_uusd == fund - moved[0].amount_uusd
    assert moved[0].amount_uusd > 5_000 * USD


def test_nobody_is_liquidated_on_prices_that_nobody_reports_any_more() -> None:
    exchange = a_leveraged_long()
    exchange.btc_usd = 93_000
    assert events_of(exchange.block(), LiquidationStep)
    steps = [len(events_of(exchange.block(oracle=False), LiquidationStep)) for _ in range(70)]
    assert steps == [1] * 63 + [0] * 7


def test_the_position_that_loses_most_in_the_worst_scenario_is_closed_first() -> None:
    exchange = a_leveraged_long()
    exchange.does("bob", sell(CALL_110, 2_250, 5))
    exchange.does("alice", buy(CALL_110, 2_250, 5))
    exchange.block()
    exchange.btc_usd = 93_000
    (step,) = events_of(exchange.block(), LiquidationStep)
    assert step.instrument == BTC_PERP


def test_the_owner_cannot_cancel_what_the_ledger_offers() -> None:
    exchange = a_leveraged_long()
    exchange.does("carol", buy(BTC_PERP, 92_000, 20))
    exchange.block()
    exchange.btc_usd = 93_000
    exchange.does("alice", CancelAll(None))
    (trade,) = events_of(exchange.block(), Trade)
    assert trade.size_lots == 20
