"""Bonding, delegating, unbonding and what operators say."""

from __future__ import annotations

import pytest

from ledger.staking.events import Bonded, Unbonded, UnbondingStarted
from ledger.staking.reasons import StakingReason
from ledger.staking.state import NO_TARGET, get_totals
from ledger.transactions import (
    Action,
    AttestReadiness,
    Delegate,
    LeaveValidatorSet,
    Redelegate,
    RegisterValidator,
    RotateConsensusKey,
    SetCommission,
    Unbond,
    Unjail,
)
from primitives.amounts import NS, USD
from tests.ledger.exchange import BTC_PERP, Exchange, a_key, buy, events_of, reasons, sell
from tests.ledger.staking_builders import OPERATORS, STAKE, StakedExchange


def a_registration(name: str = "erin", stake_usd: int = 500_000) -> RegisterValidator:
    return RegisterValidator(
        a_key(f"{name} votes").public_key,
        a_key(f"{name} reports").public_key,
        "peer",
        100_000,
        stake_usd * USD,
    )


def test_delegated_cash_becomes_stake_and_shares() -> None:
    exchange = StakedExchange(carol=5_000)
    exchange.does("carol", Delegate(1, 2_000 * USD))
    result = exchange.block()
    assert events_of(result, Bonded) == [Bonded(1, *exchange.key("carol"), 2_000 * USD, 2_000 * USD)]
    assert (exchange.cash("carol"), exchange.stake(1)) == (3_000 * USD, STAKE + 2_000 * USD)
    assert get_totals(exchange.state).staked_uusd == 4 * STAKE + 2_000 * USD


def test_unbonded_stake_is_paid_out_after_epochs_and_time_and_not_before() -> None:
    exchange = StakedExchange(carol=5_000)
    exchange.does("carol", Delegate(1, 2_000 * USD))
    exchange.block()
    exchange.does("carol", Unbond(1, 1_500 * USD))
    begun = exchange.block()
    assert events_of(begun, UnbondingStarted) == [
        UnbondingStarted(1, *exchange.key("carol"), NO_TARGET, 1_500 * USD, 1_500 * USD)
    ]
    exchange.passes_epochs(4, seconds=20)
    assert (exchange.cash("carol"), exchange.unbonding("carol")) == (3_000 * USD, [1_500 * USD])
    paid = exchange.ends_epoch(seconds=20)
    assert events_of(paid, Unbonded) == [Unbonded(1, *exchange.key("carol"), 1_500 * USD)]
    assert (exchange.cash("carol"), exchange.unbonding("carol")) == (4_500 * USD, [])


def test_epochs_alone_do_not_end_an_unbonding() -> None:
    exchange = StakedExchange({"unbonding_ns": 1_000 * NS}, carol=5_000)
    exchange.does("carol", Delegate(1, 2_000 * USD))
    exchange.block()
    exchange.does("carol", Unbond(1, 2_000 * USD))
    exchange.passes_epochs(7)
    assert exchange.unbonding("carol") == [2_000 * USD]
    exchange.ends_epoch(seconds=300)
    assert exchange.unbonding("carol") == []


def test_unbondings_of_one_epoch_are_one_entry_and_of_two_are_two() -> None:
    exchange = StakedExchange(carol=5_000)
    exchange.does("carol", Delegate(1, 2_000 * USD))
    exchange.block()
    exchange.does("carol", Unbond(1, 200 * USD), Unbond(1, 300 * USD))
    exchange.ends_epoch()
    exchange.does("carol", Unbond(1, 400 * USD))
    exchange.block()
    assert exchange.unbonding("carol") == [500 * USD, 400 * USD]


def test_redelegated_stake_arrives_when_its_unbonding_is_over() -> None:
    exchange = StakedExchange(carol=5_000)
    exchange.does("carol", Delegate(1, 2_000 * USD))
    exchange.block()
    exchange.does("carol", Redelegate(1, 2, 2_000 * USD))
    exchange.block()
    assert (exchange.stake(1), exchange.stake(2)) == (STAKE, STAKE)
    result = exchange.passes_epochs(5, seconds=20)
    assert events_of(result, Bonded) == [Bonded(2, *exchange.key("carol"), 2_000 * USD, 2_000 * USD)]
    assert (exchange.stake(2), exchange.cash("carol")) == (STAKE + 2_000 * USD, 3_000 * USD)


def test_stake_no_longer_carries_positions() -> None:
    exchange = StakedExchange(alice=20_000, bob=1_000_000)
    exchange.does("alice", buy(BTC_PERP, 100_000, 100))
    exchange.does("bob", sell(BTC_PERP, 100_000, 100))
    exchange.block()
    exchange.does("alice", Delegate(0, 19_000 * USD))
    assert reasons(exchange.block()) == ["insufficient_margin"]
    assert exchange.lots("alice", BTC_PERP) == 100


def test_a_registration_bonds_its_stake_and_gives_the_next_number() -> None:
    exchange = StakedExchange(erin=600_000)
    exchange.does("erin", a_registration())
    exchange.block()
    validator = exchange.validator(4)
    assert (validator.operator, validator.stake_uusd) == (exchange.key("erin")[0], 500_000 * USD)
    assert (validator.is_ready, validator.commission_ppm) == (False, 100_000)
    assert exchange.cash("erin") == 100_000 * USD


@pytest.mark.parametrize(
    ("name", "action", "reason"),
    [
        ("erin", a_registration(stake_usd=99_999), StakingReason.STAKE_TOO_SMALL),
        (
            "erin",
            RegisterValidator(a_key("consensus 1").public_key, bytes(32), "", 0, 500_000 * USD),
            StakingReason.KEY_IN_USE,
        ),
        (
            "erin",
            RegisterValidator(bytes(32), a_key("x").public_key, "", 0, 500_000 * USD),
            StakingReason.BAD_VALIDATOR_KEY,
        ),
        (
            "erin",
            RegisterValidator(a_key("x").public_key, a_key("y").public_key, "", 500_001, 500_000 * USD),
            StakingReason.COMMISSION_LIMIT,
        ),
        ("erin", Delegate(9, 1_000 * USD), StakingReason.UNKNOWN_VALIDATOR),
        ("erin", Delegate(0, 99 * USD), StakingReason.STAKE_TOO_SMALL),
        ("erin", Unbond(0, 1_000 * USD), StakingReason.INSUFFICIENT_STAKE),
        (OPERATORS[0], Unbond(0, STAKE + 1), StakingReason.INSUFFICIENT_STAKE),
        (OPERATORS[0], Unbond(0, 99 * USD), StakingReason.STAKE_TOO_SMALL),
        (OPERATORS[0], Redelegate(0, 0, STAKE), StakingReason.SAME_VALIDATOR),
        (OPERATORS[0], Redelegate(0, 9, STAKE), StakingReason.UNKNOWN_VALIDATOR),
        ("erin", SetCommission(0, 1), StakingReason.NOT_OPERATOR),
        (OPERATORS[0], SetCommission(0, 10_001), StakingReason.COMMISSION_LIMIT),
        (OPERATORS[0], AttestReadiness(0), StakingReason.ALREADY_READY),
        (OPERATORS[0], Unjail(0), StakingReason.NOT_JAILED),
        (OPERATORS[0], RotateConsensusKey(0, a_key("consensus 0").public_key), StakingReason.KEY_IN_USE),
        ("erin", LeaveValidatorSet(0), StakingReason.NOT_OPERATOR),
    ],
)
def test_a_staking_action_is_refused_with_its_reason_and_changes_nothing(
    name: str, action: Action, reason: StakingReason
) -> None:
    exchange = StakedExchange(erin=600_000)
    before = get_totals(exchange.state)
    exchange.does(name, action)
    assert reasons(exchange.block()) == [reason]
    assert get_totals(exchange.state) == before


def test_a_key_that_a_validator_gave_up_stays_its_own() -> None:
    exchange = StakedExchange(erin=600_000)
    exchange.does(OPERATORS[0], RotateConsensusKey(0, a_key("fresh").public_key))
    exchange.block()
    taken = RegisterValidator(a_key("consensus 0").public_key, a_key("y").public_key, "", 0, 500_000 * USD)
    exchange.does("erin", taken)
    assert reasons(exchange.block()) == [StakingReason.KEY_IN_USE]


def test_a_key_that_a_validator_rotated_to_is_its_own() -> None:
    exchange = StakedExchange(erin=600_000)
    exchange.does(OPERATORS[0], RotateConsensusKey(0, a_key("fresh").public_key))
    exchange.block()
    taken = RegisterValidator(a_key("fresh").public_key, a_key("y").public_key, "", 0, 500_000 * USD)
    exchange.does("erin", taken)
    assert reasons(exchange.block()) == [StakingReason.KEY_IN_USE]


def test_a_registration_needs_the_cash() -> None:
    exchange = StakedExchange(erin=400_000)
    exchange.does("erin", a_registration())
    assert reasons(exchange.block()) == ["insufficient_margin"]


def test_whoever_left_attests_anew_in_a_later_epoch() -> None:
    exchange = StakedExchange()
    exchange.passes_epochs(2)
    exchange.does(OPERATORS[0], LeaveValidatorSet(0))
    exchange.block()
    exchange.does(OPERATORS[0], AttestReadiness(0))
    assert reasons(exchange.block()) == [StakingReason.TOO_EARLY_TO_ATTEST]


def test_a_commission_rises_a_little_each_epoch_and_from_the_next_on() -> None:
    exchange = StakedExchange(carol=1)
    exchange.does(OPERATORS[0], SetCommission(0, 10_000))
    exchange.block()
    assert exchange.validator(0).commission_ppm == 0
    exchange.ends_epoch()
    assert exchange.validator(0).commission_ppm == 10_000
    exchange.does(OPERATORS[0], SetCommission(0, 20_000))
    exchange.ends_epoch()
    assert exchange.validator(0).commission_ppm == 20_000


def test_a_chain_without_staking_takes_no_stake() -> None:
    exchange = Exchange(carol=5_000)
    exchange.does("carol", Delegate(0, 1_000 * USD))
    assert reasons(exchange.block()) == [StakingReason.NO_STAKING]
