"""Epsilon: what the venues show against the chain's marks; colours, medians and liars."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.breakers.drift import (
    agreed_quotes,
    colour_of,
    counted,
    is_paused_after,
    quoted_instruments,
    quotes_that_fit,
    underlying_colour,
)
from ledger.breakers.events import DriftJudged, InstrumentPaused
from ledger.breakers.state import Colour, Drift, get_drift_table, get_restart
from ledger.genesis import OracleReporter
from ledger.instruments import Underlying
from ledger.oracle import UPDATE_BYTES_MAX, build_oracle_update, check_report
from ledger.reasons import LedgerReason
from ledger.state import State
from ledger.transactions import (
    DELAYS_MAX,
    QUOTES_REPORTED_MAX,
    IndexReport,
    OracleReport,
    QuotesReport,
    SeenDelay,
    SurfaceReport,
)
from node.genesis_defaults import default_breakers
from primitives.amounts import USD
from primitives.codec import encode
from primitives.errors import ProtocolViolation
from tests.ledger.exchange import (
    BTC_PERP,
    CALL_100,
    CALL_110,
    CHAIN,
    DAY_NS,
    INSTRUMENTS,
    NEAR_CALL,
    START_NS,
    Exchange,
    a_genesis,
    a_report,
    a_slice,
    buy,
    events_of,
    no_breakers,
    sell,
    sign_report,
)

INDEX = 100_000 * USD
RULES = default_breakers().drift
SEVEN = State.from_genesis(
    replace(a_genesis({}), reporters=tuple(OracleReporter(bytes([n]) * 32, 1) for n in range(7))), CHAIN
)
"""Seven reporters of equal weight."""
GREEN, AMBER, RED = Colour.GREEN, Colour.AMBER, Colour.RED


def quotes(*rows: tuple[int, float, float]) -> QuotesReport:
    """Of (instrument, mark in USD, half-spread in USD)."""
    columns = [(item, round(mark * 100), round(half * 100)) for item, mark, half in rows]
    return QuotesReport(*(tuple(column) for column in zip(*columns, strict=True)))


def marks(exchange: Exchange) -> dict[int, float]:
    assert exchange.state.marks is not None
    return {item: mark / USD for item, mark in exchange.state.marks.marks}


def drift(exchange: Exchange, instrument: int) -> Drift:
    return get_drift_table(exchange.state).drifts[instrument]


@pytest.mark.parametrize(
    ("epsilon_usd", "colour"), [(95, GREEN), (100, GREEN), (101, AMBER), (500, AMBER), (501, RED)]
)
def test_a_perpetual_is_green_within_10_bp_and_red_beyond_50_when_spreads_are_narrow(
    epsilon_usd: int, colour: Colour
) -> None:
    assert colour_of(True, epsilon_usd * USD, 20 * USD, INDEX, RULES) is colour


@pytest.mark.parametrize(("epsilon_usd", "colour"), [(240, GREEN), (241, AMBER), (600, AMBER), (601, RED)])
def test_a_perpetual_is_judged_by_half_spreads_when_they_are_wide(epsilon_usd: int, colour: Colour) -> None:
    assert colour_of(True, epsilon_usd * USD, 120 * USD, INDEX, RULES) is colour


@pytest.mark.parametrize(
    ("epsilon_usd", "colour"), [(60, GREEN), (61, AMBER), (151, AMBER), (500, AMBER), (501, RED)]
)
def test_an_option_is_red_beyond_five_half_spreads_and_50_bp_of_the_index(
    epsilon_usd: int, colour: Colour
) -> None:
    assert colour_of(False, epsilon_usd * USD, 30 * USD, INDEX, RULES) is colour


def test_three_red_epochs_pause_and_five_green_ones_in_a_row_resume() -> None:
    seen, red, green, is_paused = [], 0, 0, False
    for colour in [RED, RED, AMBER, RED, RED, RED, *[GREEN] * 4, AMBER, *[GREEN] * 5]:
        red, green = counted(colour, red, green)
        is_paused = is_paused_after(is_paused, red, green, RULES)
        seen.append(is_paused)
    assert seen == [False] * 5 + [True] * 10 + [False]


def test_an_underlying_is_as_its_perpetual_or_red_with_a_quarter_of_its_options() -> None:
    options = [(False, RED), (False, GREEN), (False, GREEN), (False, AMBER)]
    assert underlying_colour([(True, AMBER), *options], RULES) is RED
    assert underlying_colour([(True, AMBER), *options, (False, GREEN)], RULES) is AMBER
    assert underlying_colour([(False, GREEN)], RULES) is None


def test_epsilon_is_the_distance_of_the_venues_from_the_mark_before_the_block() -> None:
    exchange = Exchange(alice=1_000)
    exchange.block()
    before = marks(exchange)
    exchange.btc_usd = 100_200
    exchange.quotes = quotes((BTC_PERP, 100_200, 12), (CALL_110, before[CALL_110] + 70, 20))
    result = exchange.block()
    assert events_of(result, DriftJudged) == [DriftJudged(0, 0, 2, 0)]
    assert drift(exchange, BTC_PERP) == Drift(
        BTC_PERP, 100_200 * USD, 200 * USD, 12 * USD, AMBER, 0, 0, False, (12 * USD,)
    )
    option = drift(exchange, CALL_110)
    assert abs(option.epsilon_uusd - 70 * USD) <= 10_000
    assert (option.half_spread_uusd, option.colour) == (20 * USD, AMBER)


def test_a_half_spread_is_the_median_of_a_minutes_epochs_and_at_least_two_ticks() -> None:
    exchange = Exchange(alice=1_000)
    exchange.block()
    halves = []
    for half in (10, 30, 20, 1, 0, 0):
        exchange.quotes = quotes((CALL_110, 2_000, half))
        exchange.block(5)
        halves.append(drift(exchange, CALL_110).half_spread_uusd // USD)
    # A tick is 5 USD there, so the least half-spread is 10.
    assert halves == [10, 10, 20, 10, 10, 10]
    assert get_restart(exchange.state).judged_epochs == 6


def test_an_epoch_is_judged_once_and_by_two_thirds_of_the_power() -> None:
    exchange = Exchange(alice=1_000)
    exchange.block()
    exchange.quotes = quotes((BTC_PERP, 100_000, 5))
    assert events_of(exchange.block(5), DriftJudged) == [DriftJudged(0, 1, 0, 0)]
    assert events_of(exchange.block(4), DriftJudged) == []
    assert events_of(exchange.block(1), DriftJudged) == [DriftJudged(0, 1, 0, 0)]
    exchange.now_ns += 5 * 10**9
    reports = [a_report(n, exchange.now_ns + n, quotes=exchange.quotes if n < 2 else None) for n in range(4)]
    result = exchange.apply((encode(build_oracle_update(exchange.state, reports)),))
    assert events_of(result, DriftJudged) == []


def test_one_liar_of_four_moves_neither_external_mark_nor_colour_out_of_the_honest_range() -> None:
    for lie in (0, 1, 99_999, 10_000_000):
        exchange = Exchange(alice=1_000)
        exchange.block()
        exchange.now_ns += 5 * 10**9
        seen = [(100_010, 4), (100_030, 5), (100_020, 6), (lie, lie)]
        reports = [a_report(n, exchange.now_ns + n, quotes=quotes((BTC_PERP, *seen[n]))) for n in range(4)]
        exchange.apply((encode(build_oracle_update(exchange.state, reports)),))
        judged = drift(exchange, BTC_PERP)
        assert 100_010 * USD <= judged.external_uusd <= 100_030 * USD
        assert 4 * USD <= judged.half_spread_uusd <= 6 * USD
        assert judged.colour == GREEN


@given(
    honest=st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**4)), min_size=5, max_size=5),
    lies=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=2, max_size=2),
)
def test_agreed_quotes_lie_within_what_the_honest_see(honest: list[Any], lies: list[Any]) -> None:
    reports = [
        OracleReport(bytes(32), n, 1, (), (), (), QuotesReport((7,), (mark,), (half,)))
        for n, (mark, half) in enumerate([*honest, *lies])
    ]
    agreed = agreed_quotes(SEVEN, reports)[7]
    assert min(honest)[0] * 10_000 <= agreed.mark_uusd <= max(honest)[0] * 10_000
    halves = [half for _, half in honest]
    assert min(halves) * 10_000 <= agreed.half_spread_uusd <= max(halves) * 10_000


@pytest.mark.parametrize("seconds", [1_800, 3_600])
def test_settling_expired_unknown_and_unmarked_instruments_are_not_judged(seconds: int) -> None:
    exchange = Exchange(alice=1_000)
    exchange.block()
    exchange.block(seconds)
    exchange.quotes = quotes((NEAR_CALL, 1, 1), (99, 1, 1))
    result = exchange.block(5)
    assert events_of(result, DriftJudged) == []
    assert get_drift_table(exchange.state).drifts == {}


def test_what_is_asked_for_are_perpetuals_always_and_options_in_turns() -> None:
    numbers = no_breakers()
    narrow = replace(numbers, drift=replace(numbers.drift, quotes_max=4))
    exchange = Exchange().start(a_genesis({}, INSTRUMENTS, breakers=narrow))
    assert quoted_instruments(exchange.state, 0) == []
    exchange.block()
    assert [quoted_instruments(exchange.state, turn) for turn in range(4)] == [
        [0, 1, 2, 6],
        [0, 3, 4, 6],
        [0, 5, 6],
        [0, 1, 2, 6],
    ]


def test_a_doubtful_mark_requires_a_quarter_more_of_what_one_lot_requires() -> None:
    exchange = Exchange(maker=1_000_000, alice=100_000)
    exchange.block()
    exchange.does("maker", sell(BTC_PERP, 100_000, 100))
    exchange.does("alice", buy(BTC_PERP, 100_000, 100))
    before = exchange.block().valuation
    exchange.quotes = quotes((BTC_PERP, 100_400, 5))
    after = exchange.block().valuation
    _, bought, sold, _ = before.lot_terms[BTC_PERP]
    assert drift(exchange, BTC_PERP).colour == AMBER
    key = exchange.key("alice")
    more = -(-max(bought, sold) // 4)
    assert after.margin(key).oracle_contingency_uusd == 100 * more
    assert after.margin(key).mm_excess_uusd == exchange.block(0.1).valuation.margin(key).mm_excess_uusd


def test_an_option_that_stays_red_is_post_only_alone_and_green_again_trades_again() -> None:
    exchange = Exchange(maker=1_000_000, alice=100_000)
    exchange.block()
    told: list[InstrumentPaused] = []
    options = (1, 2, 3, 4, 5)

    def an_epoch(off_usd: float) -> None:
        at = marks(exchange)
        exchange.quotes = quotes(
            (BTC_PERP, at[BTC_PERP], 5),
            *((item, at[item] + (off_usd if item == CALL_110 else 0), 20) for item in options),
        )
        told.extend(events_of(exchange.block(5), InstrumentPaused))

    for _ in range(3):
        an_epoch(900)
    assert [(item.instrument, item.is_paused) for item in told] == [(CALL_110, True)]
    exchange.does(
        "alice", buy(CALL_110, 2_500, 1), buy(CALL_110, 2_300, 1, post_only=True), buy(CALL_100, 5_000, 1)
    )
    result = exchange.block(0.1)
    assert [event.reason for event in result.events if hasattr(event, "detail")] == [
        LedgerReason.ONLY_POST_ONLY
    ]
    for _ in range(5):
        an_epoch(0)
    assert [(item.instrument, item.is_paused) for item in told[1:]] == [(CALL_110, False)]


@pytest.mark.parametrize("reporters", [4, 16, 21, 64, 100])
@pytest.mark.parametrize("expiries", [0, 4, 11])
def test_reports_with_quotes_and_slices_of_all_reporters_fit_one_update(
    reporters: int, expiries: int
) -> None:
    """Eleven expiries are what the default schedule keeps listed, 100 validators what staking admits."""
    count = min(QUOTES_REPORTED_MAX, quotes_that_fit(reporters, 2 * expiries))
    dear = QuotesReport(tuple(range(100_000, 100_000 + count)), (2**31,) * count, (2**31,) * count)
    slices = [START_NS + day * DAY_NS for day in range(1, expiries + 1)]
    shape = {"theta_e12": 9 * 10**12, "rho_e6": -900_000, "psi_e9": 4 * 10**9, "wings_e9": 10**6}
    surfaces = tuple(
        SurfaceReport(item, tuple(a_slice(one, START_NS, 500_000 * USD, **shape) for one in slices))
        for item in Underlying
    )
    indices = tuple(IndexReport(item, 500_000 * USD) for item in Underlying)
    delays = tuple(SeenDelay(10**6 + place, 99, 10**7) for place in range(DELAYS_MAX))
    report = sign_report(OracleReport(CHAIN, 3, START_NS, indices, surfaces, delays, dear))
    assert count >= 20
    assert reporters * len(encode(report)) <= UPDATE_BYTES_MAX - 16


def test_quotes_of_another_shape_are_refused_with_their_report() -> None:
    exchange = Exchange()
    for bad in (
        QuotesReport((1, 2), (5, 5), (1,)),
        QuotesReport((2, 1), (5, 5), (1, 1)),
        QuotesReport((1, 1), (5, 5), (1, 1)),
    ):
        with pytest.raises(ProtocolViolation) as refused:
            check_report(exchange.state, a_report(0, exchange.now_ns + 1, quotes=bad))
        assert refused.value.reason is LedgerReason.ORACLE_CONTENT
