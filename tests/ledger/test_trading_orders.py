"""Order types beyond the limit order: market, trigger, good till time, fill or kill, replace, mass quote."""

from __future__ import annotations

import pytest

from ledger.events import OrderAccepted, OrderCancelled, Trade
from ledger.matching.book import Book
from ledger.matching.call import KILL_PASSES_MAX, run_call
from ledger.state import State
from ledger.trading.events import OrderReduced, TriggerCancelled, TriggerFired, TriggerPlaced
from ledger.transactions import (
    Action,
    CancelAll,
    CancelLabel,
    CancelOrder,
    MassQuote,
    PlaceMarket,
    PlaceTrigger,
    PlaceUntil,
    Quote,
    ReplaceOrder,
    SetCancelTime,
    Side,
    TimeInForce,
)
from primitives.amounts import NS, USD
from tests.ledger.exchange import (
    BTC_PERP,
    CALL_110,
    CHAIN,
    PUT_90,
    Exchange,
    a_genesis,
    buy,
    events_of,
    reasons,
    sell,
)
from tests.ledger.matching_builders import a_bid, an_ask

FOK = TimeInForce.FOK
TICKS = ((0, 1),)


def an_exchange() -> Exchange:
    cash = {"alice": 100_000, "bob": 100_000, "carol": 1_000_000}
    exchange = Exchange().start(a_genesis(cash))
    exchange.block()
    return exchange


def market(side: Side, lots: int, time_in_force: TimeInForce = TimeInForce.IOC) -> PlaceMarket:
    return PlaceMarket(BTC_PERP, side, lots, time_in_force, False, 0)


def a_stop(trigger_usd: int, lots: int = 5, *, is_above: bool = False, **changes: object) -> PlaceTrigger:
    """Sell at the market when the mark is at or below (above) a price."""
    fields: dict[str, object] = {
        "instrument": BTC_PERP,
        "side": Side.SELL,
        "by_index": False,
        "is_above": is_above,
        "trigger_uusd": trigger_usd * USD,
        "price_uusd": None,
        "size_lots": lots,
        "time_in_force": 1,
        "reduce_only": False,
        "label": 0,
    }
    return PlaceTrigger(**{**fields, **changes})  # type: ignore[arg-type]


def resting(exchange: Exchange, name: str) -> list[int]:
    """Ids of a trader's open orders."""
    account = exchange.state.account(exchange.key(name))
    assert account is not None
    return [order.order_id for order in account.orders]


# --- market ---


def test_a_market_order_trades_at_the_books_price_and_never_rests() -> None:
    exchange = an_exchange()
    exchange.does("alice", sell(BTC_PERP, 100_200, 3))
    exchange.block()
    exchange.does("bob", market(Side.BUY, 5))
    result = exchange.block()
    (trade,) = events_of(result, Trade)
    (cancelled,) = events_of(result, OrderCancelled)
    assert (trade.price_uusd, trade.size_lots) == (100_200 * USD, 3)
    assert (cancelled.left_lots, cancelled.reason) == (2, "immediate_or_cancel")


def test_a_market_order_pays_no_more_than_the_band() -> None:
    exchange = an_exchange()
    exchange.does("carol", sell(BTC_PERP, 126_000, 3))
    exchange.block()
    exchange.does("bob", market(Side.BUY, 3))
    result = exchange.block()
    (accepted,) = events_of(result, OrderAccepted)
    assert accepted.price_uusd == 125_000 * USD
    assert events_of(result, Trade) == []


# --- fill or kill ---


def test_fill_or_kill_fills_whole_or_not_at_all() -> None:
    exchange = an_exchange()
    exchange.does("alice", sell(BTC_PERP, 100_000, 3))
    exchange.block()
    exchange.does("bob", market(Side.BUY, 4, FOK))
    result = exchange.block()
    assert [event.reason for event in events_of(result, OrderCancelled)] == ["fill_or_kill"]
    assert events_of(result, Trade) == []
    exchange.does("bob", market(Side.BUY, 3, FOK))
    assert [event.size_lots for event in events_of(exchange.block(), Trade)] == [3]


def test_the_newest_partial_fill_or_kill_goes_first_so_that_the_older_fills() -> None:
    book = Book((), (an_ask(1, 10, 100),))
    kills = [a_bid(number, 7, 100, height=2, time_in_force=FOK) for number in (2, 3)]
    result = run_call(book, kills, 100, TICKS)
    assert [(order.order_id, size) for order, size in result.fills] == [(2, 7), (1, 7)]
    assert [order.order_id for order in result.unfilled] == [3]
    assert [order.left_lots for order in result.book.asks] == [3]


def test_after_the_last_pass_no_fill_or_kill_is_left_and_others_still_trade() -> None:
    book = Book((), (an_ask(1, 10, 100),))
    kills = [a_bid(number, 11, 100, height=2, time_in_force=FOK) for number in range(3, 8)]
    result = run_call(book, [a_bid(2, 4, 100, height=2), *kills], 100, TICKS)
    assert len(kills) > KILL_PASSES_MAX
    assert [(order.order_id, size) for order, size in result.fills] == [(2, 4), (1, 4)]
    assert [order.order_id for order in result.unfilled] == [3, 4, 5, 6, 7]


def test_a_fill_or_kill_far_from_the_market_costs_the_others_no_pass() -> None:
    book = Book((), (an_ask(1, 10, 100),))
    far = [a_bid(number, 5, 50, height=2, time_in_force=FOK) for number in range(3, 9)]
    result = run_call(book, [a_bid(2, 10, 100, height=2, time_in_force=FOK), *far], 100, TICKS)
    assert [(order.order_id, size) for order, size in result.fills] == [(2, 10), (1, 10)]


# --- good till time ---


def test_an_order_with_a_time_goes_in_the_first_block_at_or_after_it() -> None:
    exchange = an_exchange()
    expires_ns = exchange.now_ns + 3 * NS
    exchange.does("alice", PlaceUntil(buy(BTC_PERP, 99_000, 5), expires_ns))
    exchange.block()
    assert len(resting(exchange, "alice")) == 1
    exchange.block()
    (cancelled,) = events_of(exchange.block(), OrderCancelled)
    assert (cancelled.reason, exchange.state.clock.time_ns >= expires_ns) == ("good_till_time", True)
    assert exchange.state.watched.values == {}


def test_times_survive_undo_and_restore() -> None:
    exchange = an_exchange()
    exchange.does("alice", PlaceUntil(buy(BTC_PERP, 99_000, 5), exchange.now_ns + 3 * NS), a_stop(95_000))
    exchange.does("bob", SetCancelTime(exchange.now_ns + 3 * NS), sell(BTC_PERP, 101_000, 1))
    exchange.block()
    watched = dict(exchange.state.watched.values)
    exchange.btc_usd = 94_000
    content = exchange.transactions(3)
    first = exchange.apply(content)
    exchange.state.rollback_block()
    assert exchange.state.watched.values == watched
    assert exchange.apply(content).root == first.root
    exchange.state.rollback_block()
    exchange.state = State.from_leaves(CHAIN, exchange.genesis, exchange.state.all_leaves())
    assert exchange.state.watched.values == watched
    assert exchange.apply(content).events == first.events


# --- triggers ---


def test_a_trigger_waits_fires_at_its_price_and_trades_in_that_block() -> None:
    exchange = an_exchange()
    exchange.does("carol", buy(BTC_PERP, 94_000, 50))
    exchange.does("alice", a_stop(95_000))
    (placed,) = events_of(exchange.block(), TriggerPlaced)
    exchange.btc_usd = 95_500
    assert events_of(exchange.block(), TriggerFired) == []
    exchange.btc_usd = 95_000
    result = exchange.block()
    (fired,) = events_of(result, TriggerFired)
    assert (fired.trigger_id, fired.observed_uusd) == (placed.trigger_id, 95_000 * USD)
    assert [event.transaction_id for event in events_of(result, OrderAccepted)] == [placed.transaction_id]
    assert exchange.lots("alice", BTC_PERP) == -5
    assert exchange.state.watched.values == {}


def test_a_trigger_by_index_with_a_limit_rests_when_the_book_is_empty() -> None:
    exchange = an_exchange()
    stop = a_stop(105_000, is_above=True, by_index=True, price_uusd=105_500 * USD, time_in_force=0)
    exchange.does("alice", stop)
    exchange.block()
    exchange.btc_usd = 105_100
    exchange.block()
    assert exchange.state.book(BTC_PERP).depth(Side.SELL, 1) == [(105_500 * USD, 5)]


def test_a_fired_trigger_without_margin_is_refused_under_its_transactions_name() -> None:
    exchange = an_exchange()
    raw = a_stop(95_000, lots=5_000)
    exchange.does("alice", raw)
    (placed,) = events_of(exchange.block(), TriggerPlaced)
    exchange.btc_usd = 94_000
    result = exchange.block()
    assert reasons(result) == ["insufficient_margin"]
    assert len(events_of(result, TriggerFired)) == 1
    assert placed.index == 0


@pytest.mark.parametrize("how", ["id", "label", "all", "instrument"])
def test_triggers_are_cancelled_like_orders(how: str) -> None:
    exchange = an_exchange()
    exchange.does("alice", a_stop(95_000, label=9))
    (placed,) = events_of(exchange.block(), TriggerPlaced)
    cancels: dict[str, Action] = {
        "id": CancelOrder(placed.trigger_id),
        "label": CancelLabel(9),
        "all": CancelAll(None),
        "instrument": CancelAll(BTC_PERP),
    }
    exchange.does("alice", cancels[how])
    result = exchange.block()
    assert [event.trigger_id for event in events_of(result, TriggerCancelled)] == [placed.trigger_id]
    assert reasons(result) == []


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (PlaceUntil(buy(BTC_PERP, 99_000, 1), 5), "time_passed"),
        (PlaceUntil(buy(BTC_PERP, 99_000, 1, ioc=True), 2**62), "good_till_time_not_gtc"),
        (PlaceUntil(buy(BTC_PERP, 99_000.25, 1), 2**62), "off_tick"),
        (PlaceMarket(99, Side.BUY, 1, TimeInForce.IOC, False, 0), "unknown_instrument"),
        (market(Side.BUY, 100_000), "insufficient_margin"),
        (a_stop(101_000), "trigger_already_met"),
        (a_stop(99_000, is_above=True), "trigger_already_met"),
        (a_stop(95_000, instrument=99), "unknown_instrument"),
        (a_stop(95_000, price_uusd=1), "off_tick"),
        (ReplaceOrder(77, 100 * USD, 1), "unknown_order"),
        (MassQuote((Quote(BTC_PERP, 100 * USD, 1, 100 * USD, 1),)), "empty_quote"),
        (MassQuote((Quote(BTC_PERP, 1, 0, 1, 0),)), "empty_quote"),
        (MassQuote((Quote(BTC_PERP, 1, 1, 2, 0),) * 2), "duplicate_quote"),
        (SetCancelTime(5), "time_passed"),
    ],
)
def test_every_refusal_has_its_reason(action: Action, reason: str) -> None:
    exchange = an_exchange()
    before = exchange.state.account(exchange.key("alice"))
    assert before is not None
    exchange.does("alice", action)
    result = exchange.block()
    assert reasons(result) == [reason]
    after = exchange.state.account(exchange.key("alice"))
    assert after is not None
    assert (after.cash_uusd, after.positions, after.orders) == (before.cash_uusd, (), ())


def test_one_trigger_more_than_the_limit_is_refused() -> None:
    exchange = an_exchange()
    exchange.does("alice", *[a_stop(90_000 - place) for place in range(21)])
    result = exchange.block()
    assert (len(events_of(result, TriggerPlaced)), reasons(result)) == (20, ["too_many_triggers"])


# --- replace ---


def test_fewer_lots_at_the_same_price_keep_id_and_age() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 99_000, 5))
    exchange.block()
    (order_id,) = resting(exchange, "alice")
    height = exchange.state.clock.height
    exchange.does("alice", ReplaceOrder(order_id, 99_000 * USD, 2))
    result = exchange.block()
    assert [(event.order_id, event.left_lots) for event in events_of(result, OrderReduced)] == [(order_id, 2)]
    (order,) = exchange.state.book(BTC_PERP).bids
    assert (order.order_id, order.placed_height, order.left_lots) == (order_id, height, 2)


@pytest.mark.parametrize(("price_usd", "lots"), [(99_000, 6), (99_001, 5), (98_000, 1)])
def test_any_other_replacement_is_a_new_order_with_the_old_ones_label(price_usd: int, lots: int) -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 99_000, 5, label=7))
    exchange.block()
    (order_id,) = resting(exchange, "alice")
    exchange.does("alice", ReplaceOrder(order_id, price_usd * USD, lots))
    result = exchange.block()
    assert [event.reason for event in events_of(result, OrderCancelled)] == ["replaced"]
    (order,) = exchange.state.book(BTC_PERP).bids
    assert (order.price_uusd, order.left_lots, order.label) == (price_usd * USD, lots, 7)
    assert order.order_id > order_id
    assert order.placed_height == exchange.state.clock.height


def test_a_replacement_that_is_refused_leaves_the_old_order() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 99_000, 5), buy(BTC_PERP, 98_000, 5))
    exchange.block()
    first, second = resting(exchange, "alice")
    exchange.does("alice", ReplaceOrder(first, 99_000 * USD, 90_000), ReplaceOrder(second, 130_000 * USD, 5))
    result = exchange.block()
    assert reasons(result) == ["price_outside_band", "insufficient_margin"]
    assert resting(exchange, "alice") == [first, second]


def test_a_replaced_order_frees_its_margin_for_the_new_one() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 99_000, 450))
    exchange.block()
    (order_id,) = resting(exchange, "alice")
    exchange.does("alice", ReplaceOrder(order_id, 99_100 * USD, 455))
    assert reasons(exchange.block()) == []


def test_an_order_is_replaced_once_in_a_batch() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 99_000, 5))
    exchange.block()
    (order_id,) = resting(exchange, "alice")
    new = [ReplaceOrder(order_id, price * USD, 5) for price in (99_001, 99_002)]
    exchange.does("alice", *new)
    assert reasons(exchange.block()) == ["unknown_order"]
    assert [order.price_uusd for order in exchange.state.book(BTC_PERP).bids] == [99_001 * USD]


def test_a_replaced_order_keeps_its_time() -> None:
    exchange = an_exchange()
    exchange.does("alice", PlaceUntil(buy(BTC_PERP, 99_000, 5), exchange.now_ns + 3 * NS))
    exchange.block()
    (order_id,) = resting(exchange, "alice")
    exchange.does("alice", ReplaceOrder(order_id, 98_000 * USD, 5))
    exchange.block()
    assert [event.reason for event in events_of(exchange.block(), OrderCancelled)] == ["good_till_time"]


# --- mass quotes and the dead-man switch ---


def quotes(bid_usd: int, ask_usd: int, lots: int = 5) -> MassQuote:
    """Both sides of the perpetual, and one of each of two options."""
    return MassQuote(
        (
            Quote(BTC_PERP, bid_usd * USD, lots, ask_usd * USD, lots),
            Quote(CALL_110, 2_000 * USD, lots, 1, 0),
            Quote(PUT_90, 1, 0, 3_000 * USD, lots),
        )
    )


def test_a_mass_quote_replaces_all_quotes_and_no_other_order() -> None:
    exchange = an_exchange()
    exchange.does("carol", quotes(99_000, 101_000), buy(BTC_PERP, 98_000, 1))
    result = exchange.block()
    assert len(events_of(result, OrderAccepted)) == 5
    exchange.does("carol", quotes(99_100, 101_100))
    result = exchange.block()
    assert [event.reason for event in events_of(result, OrderCancelled)] == ["replaced"] * 4
    assert exchange.state.book(BTC_PERP).depth(Side.BUY, 9) == [(99_100 * USD, 5), (98_000 * USD, 1)]
    exchange.does("carol", MassQuote(()))
    exchange.block()
    assert exchange.state.book(BTC_PERP).depth(Side.BUY, 9) == [(98_000 * USD, 1)]


def test_a_quote_that_would_cross_is_refused_alone() -> None:
    exchange = an_exchange()
    exchange.does("alice", sell(BTC_PERP, 99_500, 1))
    exchange.block()
    exchange.does("carol", quotes(99_500, 101_000))
    result = exchange.block()
    assert reasons(result) == ["post_only_would_cross"]
    assert len(events_of(result, OrderAccepted)) == 3


def test_a_mass_quote_refused_as_a_whole_replaces_nothing() -> None:
    exchange = an_exchange()
    exchange.does("carol", quotes(99_000, 101_000))
    exchange.block()
    open_before = resting(exchange, "carol")
    exchange.does("carol", MassQuote((Quote(BTC_PERP, 5 * USD, 1, 5 * USD, 1),)))
    assert reasons(exchange.block()) == ["empty_quote"]
    assert resting(exchange, "carol") == open_before


def test_without_a_renewal_the_dead_man_switch_cancels_orders_and_triggers() -> None:
    exchange = an_exchange()
    exchange.does("alice", SetCancelTime(exchange.now_ns + 3 * NS), buy(BTC_PERP, 99_000, 1), a_stop(90_000))
    exchange.block()
    exchange.does("alice", SetCancelTime(exchange.now_ns + 5 * NS))
    exchange.block(2)
    assert len(resting(exchange, "alice")) == 1
    result = exchange.block(3)
    assert [event.reason for event in events_of(result, OrderCancelled)] == ["dead_man_switch"]
    assert [event.reason for event in events_of(result, TriggerCancelled)] == ["dead_man_switch"]
    exchange.does("alice", buy(BTC_PERP, 99_000, 1))
    exchange.block()
    assert len(resting(exchange, "alice")) == 1


def test_a_dead_man_switch_does_not_take_back_what_the_ledger_offers_to_liquidate() -> None:
    exchange = Exchange(alice=20_000, bob=1_000_000)
    exchange.block()
    exchange.does("alice", buy(BTC_PERP, 100_000, 100))
    exchange.does("bob", sell(BTC_PERP, 100_000, 100), buy(BTC_PERP, 92_000, 20))
    exchange.block()
    exchange.does("alice", SetCancelTime(exchange.now_ns + 2 * NS))
    exchange.block()
    exchange.btc_usd = 93_000
    (trade,) = events_of(exchange.block(2), Trade)
    assert trade.size_lots == 20


def test_a_dead_man_switch_set_to_zero_never_acts() -> None:
    exchange = an_exchange()
    exchange.does("alice", SetCancelTime(exchange.now_ns + 2 * NS), buy(BTC_PERP, 99_000, 1))
    exchange.block()
    exchange.does("alice", SetCancelTime(0))
    exchange.block()
    exchange.block(5)
    assert len(resting(exchange, "alice")) == 1
