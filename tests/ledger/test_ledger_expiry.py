"""The settlement average, its missing buckets, and what options pay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.events import ExpirySettled, OrderCancelled
from ledger.settlement.expiry import (
    NO_BUCKETS,
    SettlementWindow,
    buckets_needed,
    exercise,
    observe,
    payoff_uusd,
    settlement_price,
)
from primitives.amounts import USD
from tests.ledger.exchange import NEAR_CALL, NEAR_NS, NEAR_PUT, Exchange, buy, events_of, reasons, sell

VECTORS = Path(__file__).parents[3] / "shared/data/test_vectors.json"
TOTAL, CARRY = 450, 3


def average(samples: dict[int, int]) -> SettlementWindow:
    """The window after samples by bucket."""
    window = NO_BUCKETS
    for bucket, index_uusd in sorted(samples.items()):
        window = observe(window, bucket, index_uusd, TOTAL, CARRY)
    return window


def test_a_full_window_is_the_mean_of_450_buckets_half_up() -> None:
    samples = {bucket: 100 + bucket % 2 for bucket in range(451)}
    assert settlement_price(average(samples), TOTAL) == (100 * 450 + 225 + 225) // 450


@pytest.mark.skipif(not VECTORS.exists(), reason="the shared test vectors are not here")
def test_the_published_example_of_a_settlement() -> None:
    expected = json.loads(VECTORS.read_text())["own_other"]["settle"]
    fixed = dict.fromkeys(range(225), 100000 * USD)
    rising = {225 + step: 100_000 * USD + 1_000 * USD * (step + 1) // 225 for step in range(226)}
    price = settlement_price(average(fixed | rising), TOTAL)
    assert price is not None
    assert abs(price - expected["twap_uusd"]) <= 1
    assert payoff_uusd(True, 100_000 * USD, expected["twap_uusd"]) == expected["call100k_payout"]
    assert payoff_uusd(False, 100_500 * USD, expected["twap_uusd"]) == expected["put100500"]
    assert average(fixed).sum_uusd // 225 == expected["after_225"]


def test_the_first_index_of_a_bucket_is_its_value() -> None:
    window = observe(average({0: 100}), 0, 999, TOTAL, CARRY)
    assert window == SettlementWindow(sum_uusd=100, valid=1, next_bucket=1, last_index_uusd=100)


def test_up_to_three_empty_buckets_repeat_the_last_and_more_are_missing() -> None:
    assert average({0: 100, 4: 200}) == SettlementWindow(600, 5, 5, 200)
    assert average({0: 100, 6: 200}) == SettlementWindow(600, 5, 7, 200)


def test_nothing_is_carried_into_the_window_from_before_it() -> None:
    assert average({2: 100}) == SettlementWindow(100, 1, 3, 100)


def test_there_is_no_price_before_the_expiry() -> None:
    assert settlement_price(average(dict.fromkeys(range(450), 100)), TOTAL) is None


def test_a_tenth_may_be_missing_and_one_more_extends_the_window() -> None:
    enough = dict.fromkeys(range(48, 451), 100)
    assert buckets_needed(TOTAL) == 405
    assert settlement_price(average(dict.fromkeys(range(45, 451), 100)), TOTAL) == 100
    assert settlement_price(average(enough), TOTAL) is None
    longer = enough | {451: 400}
    assert average(longer).valid == 404
    longer |= {452: 400}
    assert settlement_price(average(longer), TOTAL) == (402 * 100 + 100 + 2 * 400 + 202) // 405


def test_past_the_expiry_nothing_is_added_to_an_average_that_is_complete() -> None:
    window = average(dict.fromkeys(range(450), 100))
    assert observe(window, 460, 900, TOTAL, CARRY).sum_uusd == window.sum_uusd


@given(st.integers(1, 10**6), st.integers(0, 10**13), st.sampled_from([10, 100]))
def test_the_holder_gets_at_most_what_the_writer_pays_and_less_than_one_unit_is_left(
    lots: int, payoff: int, lots_per_contract: int
) -> None:
    assert exercise(lots, payoff, lots_per_contract) + exercise(-lots, payoff, lots_per_contract) in (-1, 0)


def an_exchange_before_expiry() -> Exchange:
    """Alice has written a call and a put of the near expiry, and Bob holds them; an hour is left."""
    exchange = Exchange(alice=200_000, bob=200_000)
    exchange.block()
    exchange.does("alice", sell(NEAR_CALL, 210, 7), sell(NEAR_PUT, 550, 3))
    exchange.does("bob", buy(NEAR_CALL, 210, 7), buy(NEAR_PUT, 550, 3))
    exchange.block()
    assert (exchange.lots("bob", NEAR_CALL), exchange.lots("bob", NEAR_PUT)) == (7, 3)
    return exchange


def run_until(exchange: Exchange, time_ns: int, seconds: int = 12) -> list[object]:
    """Blocks every so many seconds until the time has come; all events."""
    seen: list[object] = []
    while exchange.now_ns < time_ns:
        seen += exchange.block(min(seconds, (time_ns - exchange.now_ns) / 1e9 + 0.1)).events
    return seen


def test_in_the_money_options_exercise_at_the_average_and_the_rest_lapses() -> None:
    exchange = an_exchange_before_expiry()
    exchange.btc_usd = 101_000.03
    run_until(exchange, NEAR_NS - 1_801 * 10**9, seconds=600)
    alice, bob = exchange.cash("alice"), exchange.cash("bob")
    settled = [event for event in run_until(exchange, NEAR_NS) if isinstance(event, ExpirySettled)]
    assert settled == [ExpirySettled(0, NEAR_NS, 101_000_030_000, 4, 70_002_100)]
    assert exchange.cash("bob") - bob == 70_002_100 == alice - exchange.cash("alice")
    account = exchange.state.account(exchange.key("bob"))
    assert account is not None
    assert account.positions == ()
    exchange.block()
    assert {instrument for instrument, _ in exchange.state.marks.marks}.isdisjoint({NEAR_CALL, NEAR_PUT})


def test_at_the_expiry_open_orders_are_cancelled_and_new_ones_refused() -> None:
    exchange = an_exchange_before_expiry()
    exchange.does("alice", sell(NEAR_CALL, 260, 1))
    seen = run_until(exchange, NEAR_NS, seconds=3_000)
    assert [event.reason for event in seen if isinstance(event, OrderCancelled)] == ["expired"]
    exchange.does("alice", sell(NEAR_CALL, 260, 1))
    assert reasons(exchange.block()) == ["instrument_expired"]


def test_a_window_with_too_few_prices_stays_open_after_the_expiry_with_positions_kept() -> None:
    exchange = an_exchange_before_expiry()
    exchange.block((NEAR_NS - exchange.now_ns) / 1e9 + 60)
    assert exchange.lots("bob", NEAR_CALL) == 7
    assert exchange.state.window(0, NEAR_NS) is not None
    assert not any(events_of(exchange.block(4), ExpirySettled) for _ in range(5))


def test_what_rounding_leaves_at_settlement_goes_to_the_fund() -> None:
    exchange = an_exchange_before_expiry()
    exchange.btc_usd = 101_000.000033
    run_until(exchange, NEAR_NS - 1_801 * 10**9, seconds=600)
    alice, bob, fund = exchange.cash("alice"), exchange.cash("bob"), exchange.state.supply.fund_uusd
    run_until(exchange, NEAR_NS)
    assert exchange.cash("bob") - bob == 1_000_000_033 * 7 // 100
    assert exchange.cash("alice") - alice == -(1_000_000_033 * 7 // 100) - 1
    assert exchange.state.supply.fund_uusd == fund + 1
