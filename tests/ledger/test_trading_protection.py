"""Market-maker protection: limits per interval, frozen time, and what protected quotes reserve."""

from __future__ import annotations

from random import Random

import pytest

from ledger.events import OrderAccepted, OrderCancelled, Trade
from ledger.margin.portfolio import Position
from ledger.margin.requirements import OpenOrder, compute_margin, compute_order_margin
from ledger.placement import SURE_UUSD
from ledger.prices import get_prices
from ledger.trading.events import ProtectionTripped
from ledger.trading.protection import UNTIL_RESET_NS, order_requirement_uusd
from ledger.transactions import MassQuote, Quote, ResetProtection, SetProtection
from primitives.amounts import NS, USD
from tests.ledger.exchange import (
    BTC_PERP,
    CALL_100,
    CALL_110,
    ETH_PERP,
    NEAR_CALL,
    PUT_90,
    Exchange,
    a_genesis,
    buy,
    events_of,
    reasons,
    sell,
)

PPM = 1_000_000


def protection(
    lots: int = 0, delta_ppm: int = 0, vega_usd: int = 0, *, interval_s: int = 10, frozen_s: int = 5
) -> SetProtection:
    return SetProtection(0, interval_s * NS, frozen_s * NS, lots, delta_ppm, vega_usd * USD)


def quotes(lots: int = 10) -> MassQuote:
    """Both sides of the perpetual and of three options."""
    return MassQuote(
        (
            Quote(BTC_PERP, 99_900 * USD, lots, 100_100 * USD, lots),
            Quote(CALL_110, 2_200 * USD, lots, 2_400 * USD, lots),
            Quote(PUT_90, 1_700 * USD, lots, 2_000 * USD, lots),
            Quote(CALL_100, 5_600 * USD, lots, 5_900 * USD, lots),
        )
    )


def a_maker(cash_usd: int = 1_000_000, limits: SetProtection | None = None, lots: int = 10) -> Exchange:
    """Maria quotes under protection; Tom and Tina take."""
    exchange = Exchange().start(a_genesis({"maria": cash_usd, "tom": 1_000_000, "tina": 1_000_000}))
    exchange.block()
    exchange.does("maria", limits or protection(lots=12), quotes(lots))
    exchange.refused = reasons(exchange.block())  # type: ignore[attr-defined]
    return exchange


def open_orders(exchange: Exchange, name: str = "maria") -> int:
    account = exchange.state.account(exchange.key(name))
    assert account is not None
    return len(account.orders)


def test_a_reached_quantity_takes_all_quotes_and_says_until_when() -> None:
    exchange = a_maker()
    exchange.does("tom", buy(BTC_PERP, 100_100, 10, ioc=True))
    assert events_of(exchange.block(), ProtectionTripped) == []
    exchange.does("tom", buy(CALL_110, 2_400, 2, ioc=True))
    result = exchange.block()
    (tripped,) = events_of(result, ProtectionTripped)
    assert (tripped.lots, tripped.frozen_until_ns) == (12, exchange.state.clock.time_ns + 5 * NS)
    assert {event.reason for event in events_of(result, OrderCancelled)} == {"protection"}
    assert open_orders(exchange) == 0


def test_once_tripped_later_calls_of_the_same_block_find_no_quotes() -> None:
    exchange = a_maker(limits=protection(lots=10))
    exchange.does("tom", buy(BTC_PERP, 100_100, 10, ioc=True), buy(CALL_110, 2_400, 10, ioc=True))
    result = exchange.block()
    assert [event.instrument for event in events_of(result, Trade)] == [BTC_PERP]


def test_quotes_placed_in_the_same_block_leave_later_calls_too() -> None:
    exchange = a_maker(limits=protection(lots=10))
    exchange.does("maria", quotes())
    exchange.does("tom", buy(BTC_PERP, 100_100, 10, ioc=True), buy(CALL_110, 2_400, 10, ioc=True))
    result = exchange.block()
    assert [event.instrument for event in events_of(result, Trade)] == [BTC_PERP]
    assert open_orders(exchange) == 0


def test_frozen_quotes_are_refused_until_the_time_is_over() -> None:
    exchange = a_maker()
    exchange.does("tom", buy(BTC_PERP, 100_100, 10, ioc=True), buy(CALL_110, 2_400, 10, ioc=True))
    exchange.block()
    exchange.does("maria", quotes())
    assert set(reasons(exchange.block(3))) == {"quotes_frozen"}
    exchange.does("maria", quotes())
    assert reasons(exchange.block(2)) == []


def test_after_the_frozen_time_the_limit_holds_again_though_the_interval_goes_on() -> None:
    exchange = a_maker(limits=protection(lots=10, interval_s=60))
    exchange.does("tom", buy(BTC_PERP, 100_100, 10, ioc=True))
    exchange.block()
    exchange.does("maria", quotes())
    exchange.block(5)
    exchange.does("tom", buy(CALL_110, 2_400, 10, ioc=True), buy(CALL_100, 5_900, 10, ioc=True))
    result = exchange.block()
    assert [event.instrument for event in events_of(result, Trade)] == [CALL_110]
    (tripped,) = events_of(result, ProtectionTripped)
    assert tripped.lots == 10
    assert open_orders(exchange) == 0


def test_a_reset_takes_quotes_again_at_once() -> None:
    exchange = a_maker(limits=protection(lots=10, frozen_s=0))
    exchange.does("tom", buy(BTC_PERP, 100_100, 10, ioc=True))
    (tripped,) = events_of(exchange.block(), ProtectionTripped)
    assert tripped.frozen_until_ns == UNTIL_RESET_NS
    exchange.does("maria", quotes())
    assert set(reasons(exchange.block(1_000))) == {"quotes_frozen"}
    exchange.does("maria", ResetProtection(0), quotes())
    assert reasons(exchange.block()) == []


def test_what_traded_before_the_interval_does_not_count() -> None:
    exchange = a_maker()
    exchange.does("tom", buy(BTC_PERP, 100_100, 10, ioc=True))
    exchange.block()
    exchange.does("tom", buy(CALL_110, 2_400, 10, ioc=True))
    assert events_of(exchange.block(10), ProtectionTripped) == []


@pytest.mark.parametrize("limits", [protection(delta_ppm=90_000), protection(vega_usd=10)])
def test_net_delta_and_vega_have_limits_of_their_own(limits: SetProtection) -> None:
    exchange = a_maker(limits=limits)
    exchange.does("tom", buy(CALL_100, 5_900, 10, ioc=True), sell(CALL_110, 2_200, 10, ioc=True))
    assert events_of(exchange.block(), ProtectionTripped) == []
    exchange.does("tom", buy(CALL_110, 2_400, 10, ioc=True), buy(BTC_PERP, 100_100, 10, ioc=True))
    assert len(events_of(exchange.block(), ProtectionTripped)) == 1


def test_another_underlying_is_another_protection() -> None:
    exchange = a_maker(limits=protection(lots=5))
    eth = Quote(ETH_PERP, 3_990 * USD, 5, 4_010 * USD, 5)
    exchange.does("maria", MassQuote((eth,)))
    exchange.block()
    exchange.does("tom", buy(ETH_PERP, 4_010, 5, ioc=True))
    assert events_of(exchange.block(), ProtectionTripped) == []


def test_protected_quotes_reserve_at_most_what_one_block_can_fill() -> None:
    wide = 400
    poor = a_maker(40_000, protection(lots=20), lots=wide)
    assert set(poor.refused) == {"insufficient_margin"}  # type: ignore[attr-defined]
    # Four instruments of 60 lots a side: unprotected the worst of all fills is far above the cash.
    exchange = Exchange().start(a_genesis({"maria": 22_000}))
    exchange.block()
    exchange.does("maria", quotes(60))
    refused = reasons(exchange.block())
    assert "insufficient_margin" in refused
    exchange.does("maria", MassQuote(()))
    exchange.block()
    exchange.does("maria", protection(lots=1), quotes(60))
    result = exchange.block()
    assert reasons(result) == []
    assert len(events_of(result, OrderAccepted)) == 8


def test_whatever_is_taken_in_one_block_the_maker_keeps_its_initial_requirement() -> None:
    exchange = Exchange().start(a_genesis({"maria": 22_000, "tom": 10_000_000}))
    exchange.block()
    exchange.does("maria", protection(lots=1), quotes(60))
    exchange.block()
    exchange.does(
        "tom", *[sell(item, price, 60, ioc=True) for item, price in ((BTC_PERP, 99_900), (CALL_110, 2_200))]
    )
    exchange.does(
        "tom", *[sell(item, price, 60, ioc=True) for item, price in ((PUT_90, 1_700), (CALL_100, 5_600))]
    )
    assert len(events_of(exchange.block(), Trade)) == 1
    exchange.block()
    account = exchange.state.account(exchange.key("maria"))
    assert account is not None
    assert account.health == 0


def test_protected_quotes_of_an_account_below_its_initial_requirement_go() -> None:
    exchange = a_maker(60_000, protection(lots=200), lots=100)
    exchange.does("tom", buy(BTC_PERP, 100_100, 100, ioc=True))
    exchange.block()
    exchange.btc_usd = 138_500
    result = exchange.block()
    assert {event.reason for event in events_of(result, OrderCancelled)} == {"protection"}
    assert open_orders(exchange) == 0


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (SetProtection(7, NS, 0, 1, 0, 0), "unknown_underlying"),
        (ResetProtection(1), "no_protection"),
        (protection(lots=5), "quotes_open"),
    ],
)
def test_every_refusal_has_its_reason(action: SetProtection | ResetProtection, reason: str) -> None:
    exchange = a_maker()
    exchange.does("maria", action)
    assert reasons(exchange.block()) == [reason]


def test_protection_is_removed_by_setting_no_limit() -> None:
    exchange = a_maker()
    exchange.does("maria", MassQuote(()))
    exchange.block()
    exchange.does("maria", protection())
    exchange.block()
    assert [key for key, _ in exchange.state.all_leaves() if key[:2] == b"qa"] == []


def test_orders_one_by_one_never_require_less_than_together() -> None:
    """The bound that spares a portfolio computation, against that computation."""
    exchange = a_maker()
    prices, random = get_prices(exchange.state), Random(11)
    ids = (BTC_PERP, CALL_110, PUT_90, CALL_100, NEAR_CALL, ETH_PERP)
    for _ in range(200):
        held = [
            Position(item, lots, lots * prices.mark_uusd(item) // 100 if item in (BTC_PERP, ETH_PERP) else 0)
            for item in random.sample(ids, random.randint(0, 4))
            if (lots := random.choice((-1, 1)) * random.randint(1, 300))
        ]
        orders = [
            OpenOrder(
                item,
                random.choice((-1, 1)) * random.randint(1, 300),
                max(1, prices.mark_uusd(item) * random.randint(80, 120) // 100),
            )
            for item in random.choices(ids, k=random.randint(1, 6))
        ]
        alone = compute_margin(prices.risk, 10**12, held).im_excess_uusd
        bound = alone - sum(
            order_requirement_uusd(prices, item.instrument_id, item.lots > 0, item.price_uusd, abs(item.lots))
            for item in orders
        )
        assert bound <= compute_order_margin(prices.risk, 10**12, held, orders) + SURE_UUSD // 100
