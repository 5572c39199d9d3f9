"""Margins of many accounts are those of each alone; orders, health, limits and homogeneity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from msgspec.structs import replace

from ledger.instruments import Underlying
from ledger.margin import requirements
from ledger.margin.health import Health, health_of, health_of_all
from ledger.margin.parameters import default_margin_parameters
from ledger.margin.portfolio import ACCOUNT_LOTS_MAX, PortfolioTable, Position
from ledger.margin.reasons import MarginReason
from ledger.margin.requirements import (
    Margin,
    OpenOrder,
    Stretch,
    compute_margin,
    compute_margins,
    compute_order_margin,
    margin_at,
)
from ledger.margin.scenarios import RiskArrays, build_risk_arrays
from ledger.market import UnderlyingMarket
from primitives.errors import InvariantViolation, ProtocolViolation
from tests.ledger.margin_builders import (
    CALL,
    INDEX,
    NOW_NS,
    PERPETUAL,
    PUT,
    USD,
    Leg,
    a_slice,
    an_instrument,
    margin_of,
    risk_of,
)


def two_markets(discount_ppm: int = 10**6) -> RiskArrays:
    """BTC at 100,000 and ETH at 3,000, each with a perpetual and options of two expiries; ids 1..26."""
    legs = [Leg(1, PERPETUAL)] + [
        Leg(1, kind, strike, days) for days, strike, kind in product((7, 60), (90, 100, 110), (CALL, PUT))
    ]
    instruments = [an_instrument(number, leg) for number, leg in enumerate(legs, 1)]
    for number, leg in enumerate(legs, 14):
        scaled = an_instrument(number, leg, Underlying.ETH)
        instruments.append(
            type(scaled)(number, 1, scaled.kind, scaled.expiry_ns, scaled.strike_uusd * 3 // 100, 10)
        )
    markets = {}
    for underlying, index in ((Underlying.BTC, INDEX), (Underlying.ETH, 3000 * USD + 7)):
        slices = (a_slice(7, 60, forward=index), a_slice(60, 50, forward=index, confidence_ppm=500_000))
        discounted = tuple(replace(s, discount_ppm=discount_ppm) for s in slices)
        markets[underlying] = UnderlyingMarket(index, discounted)
    parameters = {underlying: default_margin_parameters(underlying) for underlying in Underlying}
    return build_risk_arrays(NOW_NS, instruments, markets, parameters)


def random_positions(generator: np.random.Generator, most: int = 12) -> list[Position]:
    ids = generator.choice(np.arange(1, 27), generator.integers(0, most + 1), replace=False)
    return [
        Position(int(number), int(generator.integers(-500, 500)), int(generator.integers(-(10**12), 10**12)))
        for number in ids
    ]


def filled_table(accounts: int) -> tuple[PortfolioTable[int], dict[int, tuple[int, list[Position]]]]:
    generator = np.random.default_rng(5)
    table: PortfolioTable[int] = PortfolioTable()
    plain = {
        account: (int(generator.integers(0, 10**12)), random_positions(generator))
        for account in range(accounts)
    }
    for account, (cash, positions) in plain.items():
        table.replace(account, cash, positions)
    return table, plain


def test_all_accounts_together_are_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.margin.requirements.CHUNK_POSITIONS", 37)
    risk = two_markets(980_000)
    table, plain = filled_table(60)
    arrays = compute_margins(risk, table)
    together = [margin_at(arrays, table.place_of(account)) for account in plain]
    assert together == [compute_margin(risk, *portfolio) for portfolio in plain.values()]


def test_sums_in_floats_are_those_of_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    risk = two_markets(980_000)
    table, _ = filled_table(60)
    fast = compute_margins(risk, table)
    monkeypatch.setattr("ledger.pricing.kernel_sums.SUM_MAX", 0)
    assert all(
        np.array_equal(one, other) for one, other in zip(fast, compute_margins(risk, table), strict=True)
    )


def test_a_whale_among_others_is_summed_in_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.margin.requirements.CHUNK_POSITIONS", 37)
    risk = two_markets(980_000)
    table, _ = filled_table(20)
    whale = [Position(number, (-1) ** number * ACCOUNT_LOTS_MAX // 26) for number in range(1, 27)]
    table.replace(7, 10**12, whale)
    arrays = compute_margins(risk, table)
    assert requirements._gross_max(risk) < ACCOUNT_LOTS_MAX // 2
    assert margin_at(arrays, table.place_of(7)) == compute_margin(risk, 10**12, whale)


@pytest.mark.parametrize("stretches", [reversed, sorted])
def test_neither_order_nor_threads_change_a_margin(
    monkeypatch: pytest.MonkeyPatch, stretches: Callable[[list[Stretch]], Iterable[Stretch]]
) -> None:
    monkeypatch.setattr("ledger.margin.requirements.CHUNK_POSITIONS", 37)
    risk = two_markets(980_000)
    table, _ = filled_table(60)

    def spread(compute: Callable[[Stretch], None], work: Iterable[Stretch]) -> Iterable[None]:
        with ThreadPoolExecutor(3) as threads:
            return threads.map(compute, stretches(list(work)))

    alone, together = compute_margins(risk, table), compute_margins(risk, table, spread)
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_replacing_accounts_leaves_the_others_and_moves_only_those() -> None:
    risk = two_markets()
    table, plain = filled_table(20)
    compute_margins(risk, table)
    generator = np.random.default_rng(6)
    for account in (0, 7, 8, 19, 20, 21):
        plain[account] = (10**9, random_positions(generator))
        table.replace(account, *plain[account])
    table.set_cash(3, 77)
    plain[3] = (77, plain[3][1])
    arrays = compute_margins(risk, table)
    together = [margin_at(arrays, table.place_of(account)) for account in plain]
    assert together == [compute_margin(risk, *portfolio) for portfolio in plain.values()]


def test_the_order_of_positions_does_not_matter() -> None:
    risk, positions = two_markets(), random_positions(np.random.default_rng(7), 20)
    assert compute_margin(risk, 5, positions) == compute_margin(risk, 5, positions[::-1])


def test_an_empty_account_has_its_cash_as_excess() -> None:
    assert compute_margin(two_markets(), 123, []) == Margin(0, 0, (0, 0), 0, 0, 0, 0, 123, 123)


@pytest.mark.parametrize("factor", [2, 7, 100])
def test_margin_is_homogeneous_of_degree_one(factor: int) -> None:
    risk, generator = two_markets(), np.random.default_rng(8)
    for _ in range(10):
        positions, cash = random_positions(generator), 10**10
        scaled = [Position(p.instrument_id, factor * p.lots, factor * p.cost_uusd) for p in positions]
        one, many = compute_margin(risk, cash, positions), compute_margin(risk, factor * cash, scaled)
        # Each position's mark and each total round once, by less than one micro-USD before scaling.
        slack = factor * (len(positions) + 8)
        assert many.im_excess_uusd == pytest.approx(factor * one.im_excess_uusd, abs=slack)
        assert many.mm_excess_uusd == pytest.approx(factor * one.mm_excess_uusd, abs=slack)


def test_underlyings_do_not_offset_each_other() -> None:
    risk = two_markets()
    btc, eth = Position(1, 100, INDEX), Position(14, -300, -90_000 * USD)
    both, first, second = (compute_margin(risk, 0, held) for held in ([btc, eth], [btc], [eth]))
    assert both.worst_pnl_uusd == first.worst_pnl_uusd + second.worst_pnl_uusd


def test_a_synthetic_forward_owes_no_short_option_contingency() -> None:
    legs = [Leg(1, CALL, 100, 30), Leg(-1, PUT, 100, 30)]
    assert margin_of(legs, [a_slice(30)]).mm_contingency_uusd == 0


def test_only_shorts_beyond_their_strike_owe_the_contingency() -> None:
    legs = [Leg(3, CALL, 100, 30), Leg(-1, PUT, 100, 30), Leg(-2, CALL, 110, 30), Leg(4, PUT, 90, 30)]
    margin = margin_of(legs, [a_slice(30)])
    assert (margin.mm_contingency_uusd, margin.im_contingency_uusd) == (600 * USD, 400 * USD)


def test_orders_cost_at_most_what_their_worst_fills_do() -> None:
    risk, generator = two_markets(990_000), np.random.default_rng(9)
    for _ in range(15):
        positions, cash = random_positions(generator, 6), 10**12
        orders = [
            OpenOrder(int(number), int(generator.choice((-30, 30))), int(risk.mark_uusd[number - 1]))
            for number in generator.choice(np.arange(1, 27), 5, replace=False)
        ]
        needed = compute_order_margin(risk, cash, positions, orders)
        assert needed <= min(after_fills(risk, cash, positions, orders, side) for side in (1, -1))


def after_fills(
    risk: RiskArrays, cash: int, positions: list[Position], orders: list[OpenOrder], side: int
) -> int:
    """Initial excess once all orders of one side traded at the mark."""
    held = {position.instrument_id: position for position in positions}
    for order in orders:
        if order.lots * side > 0:
            row = order.instrument_id - 1
            paid = order.lots * order.price_uusd // int(risk.lots_per_contract[row])
            position = held.get(order.instrument_id, Position(order.instrument_id, 0, 0))
            # Exact cost keeps cash out of the rounding: value less cost is what counts.
            held[order.instrument_id] = position._replace(
                lots=position.lots + order.lots, cost_uusd=position.cost_uusd + paid
            )
    return compute_margin(risk, cash, list(held.values())).im_excess_uusd + len(orders)


def test_orders_on_one_side_cost_what_their_fill_costs() -> None:
    legs, slices = [Leg(-1, CALL, 110, 30)], [a_slice(30)]
    risk = risk_of(legs, slices)
    order = OpenOrder(1, -100, int(risk.mark_uusd[0]) - 10 * USD)
    filled = compute_margin(risk, 0, [Position(1, -100)])
    # Sold 10 USD below the mark: the account receives the premium and owes the mark.
    assert compute_order_margin(risk, 0, [], [order]) == filled.im_excess_uusd - filled.mtm_uusd - 10 * USD


def test_a_better_price_than_the_mark_earns_nothing_before_it_trades() -> None:
    risk = risk_of([Leg(1, PERPETUAL)], [])
    at_mark, above = (
        compute_order_margin(risk, 0, [], [OpenOrder(1, -100, INDEX + gain)]) for gain in (0, 10**9)
    )
    assert (at_mark, above) == (-18_000 * USD, -18_000 * USD)


def test_order_margin_without_orders_is_the_initial_excess() -> None:
    risk, positions = two_markets(), random_positions(np.random.default_rng(10))
    assert compute_order_margin(risk, 9, positions, []) == compute_margin(risk, 9, positions).im_excess_uusd


def test_more_lots_than_an_account_may_hold_are_refused_and_change_nothing() -> None:
    table: PortfolioTable[str] = PortfolioTable()
    with pytest.raises(ProtocolViolation) as refusal:
        table.replace("whale", 0, [Position(1, ACCOUNT_LOTS_MAX), Position(2, -1)])
    assert (refusal.value.reason, table.accounts) == (MarginReason.POSITION_LIMIT, [])


def test_orders_that_could_fill_past_the_limit_are_refused() -> None:
    risk = risk_of([Leg(1, PERPETUAL)], [])
    with pytest.raises(ProtocolViolation, match="at most"):
        compute_order_margin(risk, 0, [Position(1, ACCOUNT_LOTS_MAX)], [OpenOrder(1, 1, INDEX)])


def test_the_largest_account_is_still_exact() -> None:
    risk = risk_of([Leg(1, PERPETUAL)], [])
    lots = ACCOUNT_LOTS_MAX
    margin = compute_margin(risk, 0, [Position(1, lots, lots // 100 * INDEX)])
    assert margin.worst_pnl_uusd == -16_000 * USD * lots // 100


def test_a_position_in_an_unlisted_instrument_is_our_error() -> None:
    with pytest.raises(InvariantViolation):
        compute_margin(risk_of([Leg(1, PERPETUAL)], []), 0, [Position(9, 1)])


def test_an_expiry_without_a_slice_is_our_error() -> None:
    with pytest.raises(InvariantViolation):
        risk_of([Leg(1, CALL, 100, 30)], [a_slice(7)])


def test_a_perpetual_is_marked_at_the_index_to_a_multiple_of_its_lots() -> None:
    risk = two_markets()
    assert (risk.mark_uusd[0], risk.mark_uusd[13]) == (INDEX, 3000 * USD + 10)


def test_an_option_at_expiry_is_worth_its_intrinsic_value_in_every_volatility() -> None:
    risk = risk_of([Leg(1, CALL, 90, 0)], [a_slice(0)])
    flat = risk.scenario_pnl_uusd()[0, 12:15].tolist()
    assert (int(risk.mark_uusd[0]), flat) == (10_000 * USD, [0, 0, 0])


@pytest.mark.parametrize(
    ("excesses", "health"),
    [((0, 0), Health.HEALTHY), ((-1, 0), Health.REDUCE_ONLY), ((-1, -1), Health.LIQUIDATION)],
)
def test_health_by_excess(excesses: tuple[int, int], health: Health) -> None:
    arrays = (np.array([excess]) for excess in excesses)
    assert (health_of(*excesses), health_of_all(*arrays).tolist()) == (health, [health])
