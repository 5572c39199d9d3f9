"""What everybody together could lose: the stress shortfall, its consequences, open-interest Greeks and limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from ledger.events import ExposureLimitsChanged, HealthChanged, StressChanged, VaultTook
from ledger.exposure import compute_stress, next_step
from ledger.instruments import Underlying
from ledger.margin.health import Health
from ledger.queries import get_account, get_proof
from ledger.settlement.state import KEY_EXPOSURE, Exposure, get_exposure
from ledger.state_tree import verify_proof
from node.genesis_defaults import default_protection
from primitives.amounts import USD
from tests.ledger.exchange import (
    BTC_PERP,
    CALL_100,
    CALL_110,
    EXPIRY_NS,
    INSTRUMENTS,
    PUT_90,
    Exchange,
    a_genesis,
    buy,
    events_of,
    reasons,
    sell,
)

RULES = default_protection().exposure
HOUR_NS = RULES.step_ns


def an_exchange(critical_from_ppm: int = 0, **cash_usd: int) -> Exchange:
    """Alice is short two calls against Bob, Carol long and Bob short a bitcoin; the fund holds 1,000 dollars."""
    names = {"alice": 80_000, "bob": 400_000, "carol": 60_000, **cash_usd}
    genesis = a_genesis(names, INSTRUMENTS, insurance_fund_uusd=1_000 * USD)
    protection = default_protection(0, critical_from_ppm=critical_from_ppm)
    exchange = Exchange().start(replace(genesis, protection=protection))
    exchange.block()
    exchange.does("alice", sell(CALL_110, 2_250, 200))
    exchange.does("bob", buy(CALL_110, 2_250, 200), sell(BTC_PERP, 100_000, 100))
    exchange.does("carol", buy(BTC_PERP, 100_000, 100), buy(PUT_90, 1_200, 50))
    exchange.does("bob", sell(PUT_90, 1_200, 50))
    exchange.block()
    assert exchange.lots("alice", CALL_110) == -200
    return exchange


def exposure(exchange: Exchange) -> Exposure:
    found = get_exposure(exchange.state)
    assert found is not None
    return found


def naive_shortfalls(exchange: Exchange, valuation: Any) -> list[int]:
    """The obvious version: account by account, scenario by scenario."""
    risk, totals = valuation.risk, [0] * valuation.risk.scenario_count
    for account in exchange.state.accounts():
        view = get_account(exchange.state, account.key)
        assert view is not None
        for scenario in range(risk.scenario_count):
            pnl_e8 = sum(
                item.lots
                * int(
                    risk.table_e8[valuation.row_of(item.instrument), scenario]
                    - risk.table_e8[valuation.row_of(item.instrument), -1]
                )
                for item in account.positions
            )
            totals[scenario] += max(0, -(view.equity_uusd + pnl_e8 // 100))
    return totals


def test_the_stress_shortfall_is_what_every_account_would_owe_in_every_scenario() -> None:
    exchange = an_exchange()
    result = exchange.block()
    shortfalls = list(exposure(exchange).shortfalls_uusd)
    assert shortfalls == naive_shortfalls(exchange, result.valuation)
    worst = exposure(exchange).worst_scenario
    assert shortfalls[worst] == max(shortfalls) > 700_000 * USD, "a five-fold rise, undamped"
    assert min(shortfalls) == 0


def test_an_exchange_without_positions_has_no_shortfall() -> None:
    exchange = Exchange(alice=10)
    exchange.block()
    assert set(exposure(exchange).shortfalls_uusd) == {0}
    assert not exposure(exchange).is_stressed


def test_shortfalls_beyond_64_bits_are_added_exactly() -> None:
    exchange = an_exchange()
    valuation = exchange.block().valuation
    debts = np.full(len(valuation.portfolios.cash_uusd), -(1 << 62), dtype=np.int64)
    held = int((np.diff(valuation.portfolios.offsets) > 0).sum())
    stress = compute_stress(valuation.risk, valuation.portfolios, debts)
    assert stress.maximum_uusd > (held << 62) > 1 << 63


def test_the_leaf_is_in_the_root() -> None:
    exchange = an_exchange()
    root = exchange.block().root
    proven = get_proof(exchange.state, KEY_EXPOSURE)
    assert proven.root == root
    assert proven.value is not None
    verify_proof(root, KEY_EXPOSURE, proven.value, proven.proof)


def test_the_initial_factor_rises_a_step_for_each_hour_of_stress_and_falls_the_same_way() -> None:
    leaf = Exposure((), 0, 0, True, 0, (), (), True)
    assert next_step(None, True, 5, RULES) == (0, 5)
    assert next_step(leaf, True, HOUR_NS - 1, RULES) == (0, 0)
    assert next_step(leaf, True, HOUR_NS, RULES) == (50_000, HOUR_NS)
    assert next_step(replace(leaf, im_extra_ppm=500_000), True, HOUR_NS, RULES) == (500_000, HOUR_NS)
    assert next_step(leaf, False, 7, RULES) == (0, 7)
    calm = replace(leaf, im_extra_ppm=60_000, is_stressed=False)
    assert next_step(calm, False, HOUR_NS, RULES) == (10_000, HOUR_NS)
    assert next_step(replace(calm, im_extra_ppm=20_000), False, HOUR_NS, RULES) == (0, HOUR_NS)


def test_under_stress_everybody_needs_more_initial_margin_an_hour_later() -> None:
    exchange = an_exchange()
    exchange.block()
    assert exposure(exchange).is_stressed
    before = get_account(exchange.state, exchange.key("alice"))
    exchange.block(3_600)
    assert exposure(exchange).im_extra_ppm == 50_000
    after = get_account(exchange.state, exchange.key("alice"))
    exchange.block()
    later = get_account(exchange.state, exchange.key("alice"))
    assert before is not None and after is not None and later is not None
    loss = min(later.margin.worst_pnl_uusd, later.margin.forward_contingency_uusd)
    gap = later.margin.mm_excess_uusd - later.margin.im_excess_uusd - later.margin.im_contingency_uusd
    assert gap == pytest.approx(-loss * 0.25, rel=1e-6)


def test_beyond_the_critical_level_those_who_make_up_the_maximum_may_only_reduce() -> None:
    exchange = an_exchange(critical_from_ppm=1_000_000)
    changed = events_of(exchange.block(), HealthChanged)
    assert {event.owner for event in changed} == {exchange.key("alice")[0]}
    assert changed[0].health == Health.REDUCE_ONLY.name.lower()
    exchange.does("alice", sell(CALL_100, 5_800, 1))
    exchange.does("carol", buy(CALL_110, 2_000, 1))
    assert reasons(exchange.block()) == ["account_must_reduce"]


def test_without_a_critical_level_nobody_is_held_to_reducing() -> None:
    assert events_of(an_exchange().block(), HealthChanged) == []


def test_open_interest_greeks_are_those_of_what_is_held_long() -> None:
    exchange = an_exchange()
    risk = (result := exchange.block()).valuation.risk
    expiries = {(item.underlying, item.expiry_ns): item for item in exposure(exchange).expiries}
    perpetual, month = expiries[Underlying.BTC, 0], expiries[Underlying.BTC, EXPIRY_NS]
    assert perpetual.delta_ppm == 1_000_000
    call, put = (result.valuation.row_of(item) for item in (CALL_110, PUT_90))
    assert month.vega_uusd == 2 * int(risk.vega_uusd[call]) + int(risk.vega_uusd[put]) // 2
    assert month.theta_uusd == 2 * int(risk.theta_uusd[call]) + int(risk.theta_uusd[put] * 50 // 100)
    assert month.delta_ppm == 2 * int(risk.delta_ppm[call]) + int(risk.delta_ppm[put] * 50 // 100)
    assert month.gamma_1pct_ppm > 0
    assert month.rho_uusd < 0


def test_stress_and_each_step_of_the_factor_are_told() -> None:
    exchange = an_exchange()
    (begun,) = events_of(exchange.block(), StressChanged)
    leaf = exposure(exchange)
    assert begun == StressChanged(True, max(leaf.shortfalls_uusd), 1_000 * USD, 0)
    assert events_of(exchange.block(), StressChanged) == []
    (step,) = events_of(exchange.block(3_600), StressChanged)
    assert (step.is_stressed, step.im_extra_ppm) == (True, 50_000)


def test_a_limit_that_is_passed_and_kept_again_is_told_once() -> None:
    """One bitcoin in liquidation: 1 % of it is $930, beyond 5 % of a fund of $1,000, within 5 % of one of $100,000."""
    told = {}
    for fund_usd in (1_000, 100_000):
        genesis = a_genesis({"alice": 20_000, "bob": 1_000_000}, insurance_fund_uusd=fund_usd * USD)
        exchange = Exchange().start(replace(genesis, protection=default_protection(1_000_000 * USD)))
        exchange.block()
        exchange.does("alice", buy(BTC_PERP, 100_000, 100))
        exchange.does("bob", sell(BTC_PERP, 100_000, 100))
        exchange.block()
        exchange.btc_usd = 93_000
        first = events_of(exchange.block(), ExposureLimitsChanged)
        again = events_of(exchange.block(), ExposureLimitsChanged)
        exchange.btc_usd = 100_000
        last = events_of(exchange.block(), ExposureLimitsChanged)
        told[fund_usd] = (first, again, last)
    broken = ExposureLimitsChanged(False, 930 * USD, 0, 1_000 * USD)
    kept = ExposureLimitsChanged(True, 0, 0, 1_000 * USD)
    assert told == {1_000: ([broken], [], [kept]), 100_000: ([], [], [])}, (
        "the vault's million does not count"
    )


def test_the_vault_takes_over_beyond_the_limits_for_that_changes_nothing_of_them() -> None:
    exchange = Exchange().start(
        replace(
            a_genesis({"alice": 20_000, "bob": 1_000_000}, insurance_fund_uusd=1_000 * USD),
            protection=default_protection(1_000_000 * USD),
        )
    )
    exchange.block()
    exchange.does("alice", buy(BTC_PERP, 100_000, 100))
    exchange.does("bob", sell(BTC_PERP, 100_000, 100))
    exchange.block()
    exchange.btc_usd = 79_000
    result = exchange.block()
    assert len(events_of(result, VaultTook)) == 1
    assert exposure(exchange).net[0].delta_uusd == 79_000 * USD
    assert not exposure(exchange).is_within_limits


def test_accounts_in_liquidation_are_the_protocols_own_exposure() -> None:
    exchange = an_exchange()
    exchange.block()
    assert all(item.delta_uusd == item.vega_uusd == 0 for item in exposure(exchange).net)
    assert exposure(exchange).is_within_limits
    exchange.btc_usd = 140_000
    exchange.block()
    btc = exposure(exchange).net[0]
    assert btc.delta_uusd < -200_000 * USD, "Alice's two written calls"
    assert btc.vega_uusd < 0
    assert not exposure(exchange).is_within_limits
