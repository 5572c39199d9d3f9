"""The phase of an underlying: what moves it, what it allows, and that one call follows every pause."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.apply import BlockResult
from ledger.breakers.events import PhaseChanged
from ledger.breakers.monitors import BUCKETS, is_moved, observed, watch
from ledger.breakers.parameters import (
    BreakerParameters,
    GapRule,
    PriceMonitor,
    UnderlyingMonitors,
    breaker_rules,
)
from ledger.breakers.phases import after_gap, latency_of, usual_move_ppm
from ledger.breakers.reasons import BreakerReason
from ledger.breakers.state import NO_RESTART, Bucket, Phase, get_phase, get_restart
from ledger.events import LiquidationStep, Trade
from ledger.genesis import check_genesis
from ledger.oracle import AgreedSlice, UnderlyingOracle
from ledger.reasons import LedgerReason
from ledger.settlement.state import funding_key, get_liquidation
from ledger.state import State
from ledger.transactions import (
    BlockTerms,
    BlockTrade,
    CancelAll,
    Deposit,
    Leg,
    PlaceMarket,
    PlaceTrigger,
    Side,
    TimeInForce,
    Withdraw,
    block_terms_sign_bytes,
)
from node.genesis_defaults import default_breakers
from primitives.amounts import NS, PPM, USD
from primitives.errors import ProtocolViolation
from tests.ledger.exchange import (
    BTC_PERP,
    CHAIN,
    ETH_PERP,
    START_NS,
    Exchange,
    a_genesis,
    a_key,
    a_slice,
    buy,
    events_of,
    no_breakers,
    reasons,
    sell,
)
from tests.ledger.test_breakers_drift import marks, quotes

MINUTE = PriceMonitor(60 * NS, 25_000, 60 * NS)
QUARTER = PriceMonitor(900 * NS, 70_000, 180 * NS)


def watched() -> BreakerParameters:
    """Only price monitors of bitcoin."""
    return replace(no_breakers(), monitors=(UnderlyingMonitors(0, (MINUTE, QUARTER)),))


def gapped() -> BreakerParameters:
    """Only the rule of gaps."""
    return replace(no_breakers(), gaps=default_breakers().gaps)


def an_exchange(breakers: BreakerParameters, **cash_usd: int) -> Exchange:
    exchange = Exchange().start(a_genesis(cash_usd, breakers=breakers))
    exchange.block()
    return exchange


def phases(result: BlockResult) -> list[tuple[int, str, tuple[str, ...]]]:
    return [(event.underlying, event.phase, event.causes) for event in events_of(result, PhaseChanged)]


def phase(exchange: Exchange, underlying: int = 0) -> Phase:
    return Phase(get_phase(exchange.state, underlying).phase)


def seconds(result: BlockResult, until_ns: int) -> int:
    return round((until_ns - result.time_ns) / NS)


# --- price monitors ---


def test_a_move_is_measured_from_the_lowest_and_the_highest_of_the_window() -> None:
    buckets = [Bucket(1, 98_000, 100_000), Bucket(2, 99_000, 101_000)]
    assert [is_moved(buckets, MINUTE, index) for index in (98_475, 98_476, 100_449, 100_450)] == [
        True,
        False,
        False,
        True,
    ]


def test_a_window_is_a_dozen_lows_and_highs_and_forgets_the_oldest() -> None:
    buckets: tuple[Bucket, ...] = ()
    for second in range(65):
        buckets = observed(buckets, MINUTE, 1_000 + second, second * NS)
    assert len(buckets) == BUCKETS
    assert (buckets[0], buckets[-1]) == (Bucket(1, 1_005, 1_009), Bucket(12, 1_060, 1_064))


def test_a_trip_begins_its_own_and_shorter_windows_anew_and_leaves_longer_ones() -> None:
    windows, auction_ns = watch((), (MINUTE, QUARTER), 100_000, NS)
    assert auction_ns == 0
    windows, auction_ns = watch(windows, (MINUTE, QUARTER), 97_500, 6 * NS)
    assert auction_ns == 60 * NS
    assert windows[0] == (Bucket(1, 97_500, 97_500),)
    assert windows[1] == (Bucket(0, 97_500, 100_000),)
    windows, auction_ns = watch(windows, (MINUTE, QUARTER), 93_000, 12 * NS)
    assert auction_ns == 180 * NS
    assert windows == ((Bucket(2, 93_000, 93_000),), (Bucket(0, 93_000, 93_000),))


@given(prices=st.lists(st.integers(90_000, 110_000), min_size=1, max_size=40), step=st.integers(1, 70))
def test_monitors_see_what_the_raw_history_shows(prices: list[int], step: int) -> None:
    """Without trips in between: a window never reaches further back than it says, nor less than eleven twelfths."""
    calm = replace(MINUTE, move_ppm=PPM)
    buckets: tuple[Bucket, ...] = ()
    for place, price in enumerate(prices):
        now = place * step
        buckets = observed(buckets, calm, price, now * NS)
        low, high = min(item.low_uusd for item in buckets), max(item.high_uusd for item in buckets)
        inner = [one for at, one in enumerate(prices[: place + 1]) if now - at * step < 55]
        outer = [one for at, one in enumerate(prices[: place + 1]) if now - at * step < 60]
        assert min(outer) <= low <= min(inner)
        assert max(inner) <= high <= max(outer)


def test_a_fall_of_two_and_a_half_percent_collects_orders_for_a_minute_and_calls_them_once() -> None:
    exchange = an_exchange(watched(), maker=1_000_000, alice=1_000_000)
    exchange.does("maker", buy(BTC_PERP, 97_000, 10))
    exchange.block()
    exchange.btc_usd = 97_500
    result = exchange.block()
    [event] = events_of(result, PhaseChanged)
    assert (event.phase, event.causes, seconds(result, event.until_ns)) == ("auction", ("price",), 60)
    exchange.does("alice", sell(BTC_PERP, 96_000, 5))
    exchange.does("maker", buy(BTC_PERP, 98_000, 4))
    for _ in range(5):
        assert events_of(exchange.block(10), Trade) == []
    book = exchange.state.book(BTC_PERP)
    assert (book.is_crossed, len(book)) == (True, 3)
    result = exchange.block(10)
    assert phases(result) == [(0, "open", ())]
    # 5 lots offered; at 97,000 14 are wanted, above it 4: most volume at 97,000.
    assert [(item.price_uusd, item.size_lots) for item in events_of(result, Trade)] == [
        (97_000 * USD, 4),
        (97_000 * USD, 1),
    ]


def test_ether_has_its_own_monitor_and_bitcoin_trades_on() -> None:
    exchange = an_exchange(watched(), maker=1_000_000, alice=1_000_000)
    exchange.btc_usd = 90_000
    exchange.block()
    assert (phase(exchange, 0), phase(exchange, 1)) == (Phase.AUCTION, Phase.OPEN)
    exchange.does("maker", sell(ETH_PERP, 4_000, 10))
    exchange.does("alice", buy(ETH_PERP, 4_000, 10))
    assert len(events_of(exchange.block(), Trade)) == 1


def test_during_an_auction_immediate_orders_are_refused_and_triggers_wait_for_its_end() -> None:
    exchange = an_exchange(watched(), maker=1_000_000, alice=1_000_000)
    stop = PlaceTrigger(BTC_PERP, Side.SELL, True, False, 98_000 * USD, None, 2, TimeInForce.IOC, False, 0)
    exchange.does("alice", stop)
    exchange.does("maker", buy(BTC_PERP, 95_000, 10))
    exchange.block()
    exchange.btc_usd = 97_000
    assert len(exchange.block().events) == 1
    exchange.does("alice", buy(BTC_PERP, 97_000, 1, ioc=True), PlaceMarket(BTC_PERP, 0, 1, 1, False, 0))
    exchange.does("maker", buy(BTC_PERP, 96_000, 10, post_only=True))
    result = exchange.block(10)
    assert reasons(result) == [BreakerReason.ONLY_RESTING] * 2
    result = exchange.block(51)
    assert [(item.price_uusd, item.size_lots) for item in events_of(result, Trade)] == [(96_000 * USD, 2)]


def test_a_package_waits_while_matching_of_a_leg_pauses() -> None:
    exchange = an_exchange(watched(), maker=1_000_000, alice=1_000_000)
    exchange.btc_usd = 97_000
    exchange.block()
    maker, taker = a_key("maker"), exchange.key("alice")

    def offer(instrument: int, price_usd: int, nonce: int) -> BlockTrade:
        expires_ns = exchange.now_ns + 60 * NS
        legs = (Leg(instrument, 10),)
        terms = BlockTerms(CHAIN, *taker, 0, legs, Side.BUY, price_usd * USD, expires_ns, nonce)
        return BlockTrade(terms, maker.public_key, maker.sign(block_terms_sign_bytes(terms)))

    exchange.does("alice", offer(BTC_PERP, 9_700, 7), offer(ETH_PERP, 4_000, 8))
    result = exchange.block()
    assert reasons(result) == [BreakerReason.MATCHING_PAUSED]
    assert (exchange.lots("alice", BTC_PERP), exchange.lots("alice", ETH_PERP)) == (0, 10)


# --- liquidation ---


def test_nobody_is_liquidated_while_orders_are_collected_and_patience_begins_anew_afterwards() -> None:
    exchange = an_exchange(watched(), maker=10_000_000, alice=20_000)
    exchange.does("maker", sell(BTC_PERP, 100_000, 100))
    exchange.does("alice", buy(BTC_PERP, 100_000, 100))
    exchange.block()
    exchange.btc_usd = 84_000
    result = exchange.block()
    alice = exchange.key("alice")
    assert get_phase(exchange.state, 0).phase == Phase.AUCTION
    assert events_of(result, LiquidationStep) == [] and get_liquidation(exchange.state, alice) is None
    for _ in range(17):
        assert events_of(exchange.block(10), LiquidationStep) == []
    result = exchange.block(11)
    assert phases(result) == [(0, "open", ())]
    assert len(events_of(result, LiquidationStep)) == 1
    leaf = get_liquidation(exchange.state, alice)
    assert leaf is not None and (leaf.since_ns, leaf.auction_ns) == (result.time_ns, 0)


# --- gaps and the restart ---


@pytest.mark.parametrize(("gap_s", "auction_s"), [(11, 60), (61, 300), (601, 3_600)])
def test_the_longer_the_gap_the_longer_the_auction_that_ends_the_halt(gap_s: int, auction_s: int) -> None:
    rules, epoch = default_breakers(), 5 * NS
    before = replace(NO_RESTART, priced_ns=START_NS)
    first = after_gap(before, rules, epoch, START_NS + gap_s * NS)
    assert (first.fresh_left, first.auction_ns) == (1, auction_s * NS)
    waiting = after_gap(first, rules, epoch, first.priced_ns + 4 * NS)
    assert waiting.fresh_left == 1
    second = after_gap(waiting, rules, epoch, first.priced_ns + 5 * NS)
    now = second.priced_ns
    assert (second.fresh_left, second.post_only_until_ns) == (0, now + 60 * NS)
    assert second.auction_until_ns == now + (60 + auction_s) * NS


def test_ten_seconds_are_no_gap_and_another_one_keeps_the_longer_auction() -> None:
    rules, epoch = default_breakers(), 5 * NS
    before = replace(NO_RESTART, priced_ns=START_NS)
    assert after_gap(before, rules, epoch, START_NS + 10 * NS).fresh_left == 0
    long = after_gap(before, rules, epoch, START_NS + 601 * NS)
    again = after_gap(long, rules, epoch, long.priced_ns + 11 * NS)
    assert (again.fresh_left, again.auction_ns) == (1, 3_600 * NS)


def restart(exchange: Exchange, gap_s: int) -> Iterable[tuple[str, BlockResult]]:
    """Blocks from a gap on, until trading is open again, each with the phase it had."""
    result = exchange.block(gap_s)
    while phase(exchange) != Phase.OPEN:
        yield phase(exchange).name.lower(), result
        result = exchange.block(5)
    yield "open", result


def test_after_a_halt_prices_then_post_only_then_the_call() -> None:
    exchange = an_exchange(gapped(), maker=1_000_000, alice=1_000_000)
    exchange.does("maker", buy(BTC_PERP, 99_000, 10), sell(BTC_PERP, 101_000, 10))
    exchange.block()
    exchange.btc_usd = 103_000
    path = []
    for name, result in restart(exchange, 30):
        path.append((name, tuple(reasons(result)), len(events_of(result, Trade))))
        exchange.does(
            "alice", buy(BTC_PERP, 102_000, 1), buy(BTC_PERP, 99_500, 1, post_only=True), Withdraw(USD)
        )
        exchange.does("custodian", Deposit(*exchange.key("alice"), USD))
    refused = (BreakerReason.TRADING_HALTED, LedgerReason.ONLY_POST_ONLY)
    assert path[0] == ("halted", (), 0)
    assert path[1:13] == [("post_only", refused, 0)] * 12
    assert {name for name, _, _ in path[13:-1]} == {"auction"} and len(path[13:-1]) == 12
    assert sum(trades for _, _, trades in path[:-1]) == 0 and path[-1][2] > 0


def test_while_halted_there_is_neither_order_nor_money_out_nor_settlement_nor_funding() -> None:
    exchange = an_exchange(gapped(), maker=1_000_000, alice=1_000_000)
    exchange.does("maker", buy(BTC_PERP, 100_400, 10), sell(BTC_PERP, 100_500, 10))
    exchange.block()
    exchange.block()
    before = exchange.state.leaves.get(funding_key(BTC_PERP))
    exchange.does("alice", buy(BTC_PERP, 99_500, 1, post_only=True), Withdraw(USD))
    exchange.does("maker", CancelAll(None))
    result = exchange.block(30)
    assert reasons(result) == [BreakerReason.TRADING_HALTED] * 2
    after = exchange.state.leaves.get(funding_key(BTC_PERP))
    assert before.premium_ppm > 0 and after.cumulative_e6 == before.cumulative_e6
    assert (after.premium_ppm, after.time_ns) == (0, result.time_ns)
    assert len(exchange.state.book(BTC_PERP)) == 0


def test_an_expiry_that_falls_into_a_halt_is_settled_once_it_is_over() -> None:
    exchange = an_exchange(gapped(), maker=1_000_000)
    for _ in range(360):
        exchange.block(9.9)
    exchange.block(60)
    assert exchange.state.oracle(0).slices[0].slice.expiry_ns < exchange.now_ns
    assert get_restart(exchange.state).fresh_left == 1
    exchange.block(5)
    assert exchange.state.oracle(0).slices[0].slice.expiry_ns > exchange.now_ns


# --- drift ---


def test_a_drifting_underlying_is_post_only_until_five_green_epochs_then_collects_for_a_minute() -> None:
    exchange = an_exchange(no_breakers(), maker=1_000_000, alice=1_000_000)
    told: list[tuple[int, str, tuple[str, ...]]] = []
    for off_usd in (600, 600, 600, *[0] * 4, 300, *[0] * 5):
        at = marks(exchange)[BTC_PERP]
        exchange.quotes = quotes((BTC_PERP, at + off_usd, 5), (ETH_PERP, 4_000, 1))
        told += phases(exchange.block(5))
    assert told == [(0, "post_only", ("drift",)), (0, "auction", ("drift",))]
    exchange.quotes = None
    assert phases(exchange.block(60)) == [(0, "open", ())]


# --- latency ---


def test_the_usual_move_is_that_of_the_nearest_expiry_at_least_a_day_ahead() -> None:
    now, day = START_NS, 86_400 * NS
    near, far = a_slice(now + day // 2, now, USD, 900_000), a_slice(now + 30 * day, now, USD, 500_000)
    oracle = UnderlyingOracle(USD, now, tuple(AgreedSlice(item, USD, now, 0) for item in (near, far)))
    assert usual_move_ppm(oracle, 4 * NS, now) == 178
    assert usual_move_ppm(replace(oracle, slices=oracle.slices[:1]), 4 * NS, now) == 320
    assert usual_move_ppm(replace(oracle, slices=()), 4 * NS, now) == 213


@pytest.mark.parametrize(
    ("moved_ppm", "factor", "is_late"),
    [(150, 1.0, False), (200, 1.0, False), (300, 1.5, False), (1_000, 5.0, False), (1_001, 5.0, True)],
)
def test_bands_widen_in_proportion_and_matching_pauses_past_five_half_spreads(
    moved_ppm: int, factor: float, is_late: bool
) -> None:
    assert latency_of(moved_ppm, 200, default_breakers()) == (round(factor * PPM), is_late)


def test_slow_blocks_widen_bands_then_pause_matching_and_fast_ones_end_it() -> None:
    slow = replace(no_breakers(), latency=replace(default_breakers().latency, samples=3))
    exchange = an_exchange(slow, maker=1_000_000, alice=1_000_000)
    exchange.quotes = quotes((BTC_PERP, 100_000, 2), (ETH_PERP, 4_000, 1))
    exchange.block(0.5)
    assert get_phase(exchange.state, 0).widening_ppm == PPM
    told, factors = [], []
    for wait_s in (9, 9, 60, 60, 60, 1, 1):
        result = exchange.block(wait_s)
        told += [(name, causes) for number, name, causes in phases(result) if number == 0]
        factors.append(get_phase(exchange.state, 0).widening_ppm)
        instrument = exchange.state.instruments[BTC_PERP]
        assert result.valuation.band_uusd(instrument) == 25_000 * USD * factors[-1] // PPM
    assert told == [("auction", ("latency",)), ("open", ())]
    assert factors == [PPM, 2_670_000, 2_670_000, 5_000_000, 5_000_000, 5_000_000, PPM]


# --- bands ---


def test_a_wide_spread_widens_the_price_band_to_three_half_spreads() -> None:
    exchange = an_exchange(no_breakers(), maker=1_000_000, alice=1_000_000)
    exchange.quotes = quotes((BTC_PERP, 100_000, 10_000))
    result = exchange.block()
    instrument = exchange.state.instruments[BTC_PERP]
    assert result.valuation.band_uusd(instrument) == 30_000 * USD
    exchange.does("alice", buy(BTC_PERP, 130_000, 1), buy(BTC_PERP, 130_001, 1))
    assert reasons(exchange.block()) == [LedgerReason.PRICE_OUTSIDE_BAND]


# --- the state ---


def test_undoing_a_block_undoes_phases_and_what_follows_from_them() -> None:
    exchange = an_exchange(watched(), maker=1_000_000, alice=1_000_000)
    root, leaves = exchange.state.root(), exchange.state.all_leaves()
    exchange.btc_usd = 90_000
    exchange.quotes = quotes((BTC_PERP, 95_000, 5))
    exchange.does("alice", buy(BTC_PERP, 91_000, 5))
    exchange.does("maker", sell(BTC_PERP, 89_000, 5))
    content = exchange.transactions()
    first = exchange.apply(content).root
    exchange.state.rollback_block()
    assert (exchange.state.root(), exchange.state.all_leaves()) == (root, leaves)
    assert exchange.apply(content).root == first
    assert exchange.state.book(BTC_PERP).is_crossed
    again = State.from_leaves(CHAIN, exchange.genesis, exchange.state.all_leaves())
    assert again.root() == first


@pytest.mark.parametrize(
    "changes",
    [
        {"gaps": (GapRule(NS, NS), GapRule(NS, NS))},
        {"gaps": (GapRule(NS // 2, NS),)},
        {"fresh_epochs": 0},
        {"monitors": (UnderlyingMonitors(0, (QUARTER, MINUTE)),)},
        {"monitors": (UnderlyingMonitors(0, (replace(MINUTE, move_ppm=1),)),)},
        {"band_spreads": 101},
        {"drift": replace(default_breakers().drift, green_spreads=6)},
        {"latency": replace(default_breakers().latency, samples=0)},
    ],
)
def test_a_genesis_with_a_number_out_of_bounds_is_refused(changes: dict[str, Any]) -> None:
    assert all(holds for holds, _ in breaker_rules(default_breakers()))
    with pytest.raises(ProtocolViolation) as refused:
        check_genesis(a_genesis({}, breakers=replace(default_breakers(), **changes)))
    assert refused.value.reason is LedgerReason.BAD_GENESIS
