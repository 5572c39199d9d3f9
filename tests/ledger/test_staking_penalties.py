"""Slashing, tombstones, jail, and what evidence a block may carry."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.staking.events import Jailed, Slashed, Unjailed
from ledger.staking.pools import value_of
from ledger.staking.reasons import StakingReason
from ledger.staking.state import get_activity, get_punishment, get_totals
from ledger.transactions import AttestReadiness, Delegate, Redelegate, RotateConsensusKey, Unbond, Unjail
from primitives.amounts import PPM, USD, ceil_div
from primitives.errors import ProtocolViolation
from tests.ledger.exchange import a_key, events_of, reasons
from tests.ledger.staking_builders import OPERATORS, STAKE, StakedExchange

PERCENT = PPM // 100


def an_offence(offender: int, epoch: int = 0, kind: str = "E1", view: int = 9) -> tuple[int, int, str, int]:
    return offender, epoch, kind, view


def slashed(exchange: StakedExchange, *offences: tuple[int, int, str, int]) -> list[Slashed]:
    return events_of(exchange.sees(offences=offences).block(), Slashed)


# --- how much ---


def test_an_offence_alone_costs_one_percent_which_goes_to_the_fund() -> None:
    exchange = StakedExchange()
    fund = exchange.fund
    assert slashed(exchange, an_offence(1)) == [Slashed(1, 0, "E1", STAKE // 100, 0, PERCENT)]
    assert (exchange.stake(1), exchange.fund - fund) == (STAKE - STAKE // 100, STAKE // 100)
    assert get_totals(exchange.state).staked_uusd == 4 * STAKE - STAKE // 100


def test_what_is_slashed_rounds_up() -> None:
    exchange = StakedExchange(carol=1_000)
    exchange.does("carol", Delegate(1, 100 * USD + 1))
    exchange.block()
    assert slashed(exchange, an_offence(1))[0].bonded_uusd == ceil_div(STAKE + 100 * USD + 1, 100)
    assert (STAKE + 100 * USD + 1) % 100 != 0


@pytest.mark.parametrize("kind", ["E6", "FORK"])
def test_a_vote_for_the_unjustified_and_a_fork_are_correlated_even_alone(kind: str) -> None:
    exchange = StakedExchange()
    assert slashed(exchange, an_offence(1, kind=kind))[0].slashed_ppm == PERCENT + 3 * PPM // 4
    assert exchange.stake(1) == STAKE * 24 // 100


def test_the_correlated_share_of_stake_rounds_up() -> None:
    exchange = StakedExchange(carol=1_000_000)
    exchange.does("carol", Delegate(0, 333_333 * USD))
    exchange.passes_epochs(3)
    share = ceil_div(STAKE * PPM, 4 * STAKE + 333_333 * USD)
    assert STAKE * PPM % (4 * STAKE + 333_333 * USD) != 0
    assert slashed(exchange, an_offence(1, epoch=3, kind="E6"))[0].slashed_ppm == PERCENT + 3 * share


def test_two_offenders_of_four_lose_everything_and_never_more() -> None:
    exchange = StakedExchange()
    events = slashed(exchange, an_offence(1), an_offence(2))
    assert [(item.validator, item.slashed_ppm, item.bonded_uusd) for item in events] == [
        (1, PPM, STAKE),
        (2, PPM, STAKE),
    ]
    assert slashed(exchange, an_offence(3)) == [Slashed(3, 0, "E1", STAKE, 0, PPM)]
    assert get_totals(exchange.state).staked_uusd == STAKE


def test_a_later_offender_raises_the_penalty_of_the_earlier_one_by_the_difference() -> None:
    exchange = StakedExchange({"slash_correlation_factor": 1})
    slashed(exchange, an_offence(1))
    assert exchange.stake(1) == STAKE * 99 // 100
    events = slashed(exchange, an_offence(2))
    assert [(item.validator, item.slashed_ppm) for item in events] == [(1, 51 * PERCENT), (2, 51 * PERCENT)]
    assert (exchange.stake(1), exchange.stake(2)) == (STAKE * 49 // 100, STAKE * 49 // 100)


def test_offenders_further_apart_than_an_unbonding_window_are_not_correlated() -> None:
    exchange = StakedExchange()
    slashed(exchange, an_offence(1))
    exchange.passes_epochs(6)
    assert exchange.epoch == 6
    assert [item.slashed_ppm for item in slashed(exchange, an_offence(2, epoch=6))] == [PERCENT]


def test_offenders_exactly_an_unbonding_window_apart_are_correlated() -> None:
    exchange = StakedExchange()
    slashed(exchange, an_offence(1))
    exchange.passes_epochs(5)
    assert [item.slashed_ppm for item in slashed(exchange, an_offence(2, epoch=5))] == [PPM, PPM]


def test_of_two_kinds_in_one_block_the_same_is_kept_in_any_order() -> None:
    pair = an_offence(1, kind="E1"), an_offence(1, kind="E3")
    roots = {StakedExchange().sees(offences=offences).block().root for offences in (pair, pair[::-1])}
    assert len(roots) == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_order_of_evidence_in_a_block_has_no_effect(order: tuple[int, int]) -> None:
    exchange = StakedExchange()
    offences = an_offence(1), an_offence(2, kind="E6")
    result = exchange.sees(offences=tuple(offences[place] for place in order)).block()
    other = StakedExchange()
    assert result.root == other.sees(offences=offences).block().root


# --- once ---


def test_nobody_is_punished_twice_for_one_epoch() -> None:
    exchange = StakedExchange()
    slashed(exchange, an_offence(1))
    assert slashed(exchange, an_offence(1, view=10), an_offence(1, kind="E3")) == []
    assert exchange.stake(1) == STAKE * 99 // 100


def test_an_offence_in_another_epoch_costs_the_base_again_as_a_part_of_the_original_stake() -> None:
    exchange = StakedExchange()
    slashed(exchange, an_offence(1))
    exchange.ends_epoch()
    assert slashed(exchange, an_offence(1, epoch=1))[0].slashed_ppm == 2 * PERCENT
    assert exchange.stake(1) == STAKE * 98 // 100


def test_the_worst_kind_of_an_epoch_is_kept_and_its_correlation_taken_once() -> None:
    exchange = StakedExchange()
    slashed(exchange, an_offence(1))
    assert slashed(exchange, an_offence(1, kind="E6"))[0].slashed_ppm == 76 * PERCENT
    punishment = get_punishment(exchange.state, 1)
    assert punishment is not None and punishment.offences == ((0, "E6"),)
    assert slashed(exchange, an_offence(1, kind="E1")) == []
    assert exchange.stake(1) == STAKE * 24 // 100


# --- stake on its way out ---


def leaving(exchange: StakedExchange) -> None:
    """Carol takes half of her stake with validator 1 out."""
    exchange.does("carol", Delegate(1, 2_000 * USD))
    exchange.block()
    exchange.does("carol", Unbond(1, 1_000 * USD))
    exchange.block()


def test_unbonding_stake_is_slashed_like_stake_at_work() -> None:
    exchange = StakedExchange(carol=2_000)
    leaving(exchange)
    event = slashed(exchange, an_offence(1))[0]
    assert (event.bonded_uusd, event.unbonding_uusd) == ((STAKE + 1_000 * USD) // 100, 10 * USD)
    assert exchange.unbonding("carol") == [990 * USD]


def test_each_unbonding_is_slashed_rounded_up() -> None:
    exchange = StakedExchange(carol=2_000)
    exchange.does("carol", Delegate(1, 1_000 * USD))
    exchange.block()
    exchange.does("carol", Unbond(1, 100 * USD + 1))
    exchange.block()
    assert slashed(exchange, an_offence(1))[0].unbonding_uusd == USD + 1


@pytest.mark.parametrize(("epoch", "left_usd"), [(1, 990), (2, 1_000)])
def test_stake_is_liable_for_the_sets_that_still_counted_it_and_for_no_later_one(
    epoch: int, left_usd: int
) -> None:
    exchange = StakedExchange(carol=2_000)
    leaving(exchange)
    exchange.passes_epochs(2)
    slashed(exchange, an_offence(1, epoch=epoch))
    assert exchange.unbonding("carol") == [left_usd * USD]


def test_all_of_an_unbonding_may_go() -> None:
    exchange = StakedExchange(carol=2_000)
    leaving(exchange)
    slashed(exchange, an_offence(1), an_offence(2))
    assert exchange.unbonding("carol") == []
    assert get_totals(exchange.state).unbonding_uusd == 0


def test_redelegated_stake_stays_liable_where_it_came_from() -> None:
    exchange = StakedExchange(carol=2_000)
    exchange.does("carol", Delegate(1, 2_000 * USD))
    exchange.block()
    exchange.does("carol", Redelegate(1, 2, 2_000 * USD))
    exchange.block()
    slashed(exchange, an_offence(2))
    assert exchange.unbonding("carol") == [2_000 * USD]
    slashed(exchange, an_offence(1))
    assert exchange.unbonding("carol") == []


def test_a_redelegation_to_a_validator_that_fell_meanwhile_becomes_cash() -> None:
    exchange = StakedExchange(carol=2_000)
    exchange.does("carol", Delegate(1, 2_000 * USD))
    exchange.block()
    exchange.does("carol", Redelegate(1, 2, 2_000 * USD))
    exchange.block()
    slashed(exchange, an_offence(2))
    exchange.passes_epochs(5, seconds=20)
    assert (exchange.cash("carol"), exchange.unbonding("carol")) == (2_000 * USD, [])


def test_the_whole_value_of_a_slashed_delegation_takes_its_last_share() -> None:
    exchange = StakedExchange(carol=2_000)
    exchange.does("carol", Delegate(1, 1_000 * USD + 7))
    exchange.block()
    slashed(exchange, an_offence(1, kind="E6"))
    worth = value_of(exchange.validator(1), exchange.shares("carol", 1))
    exchange.does("carol", Unbond(1, worth))
    exchange.block()
    assert (exchange.shares("carol", 1), exchange.unbonding("carol")) == (0, [worth])


# --- tombstones ---


def test_a_tombstone_stays() -> None:
    exchange = StakedExchange(carol=5_000)
    result = exchange.sees(offences=(an_offence(1),)).block()
    assert events_of(result, Jailed) == [Jailed(1, "offence", 0)]
    exchange.passes_epochs(3, seconds=30)
    exchange.does(OPERATORS[1], Unjail(1), AttestReadiness(1), RotateConsensusKey(1, a_key("new").public_key))
    exchange.does("carol", Delegate(1, 1_000 * USD))
    assert reasons(exchange.block()) == [StakingReason.TOMBSTONED] * 4
    assert exchange.validator(1).is_tombstoned


def test_what_a_tombstoned_validator_has_left_can_be_taken_out() -> None:
    exchange = StakedExchange()
    slashed(exchange, an_offence(1))
    exchange.does(OPERATORS[1], Unbond(1, STAKE * 99 // 100))
    assert reasons(exchange.block()) == []
    assert (exchange.stake(1), exchange.unbonding(OPERATORS[1])) == (0, [STAKE * 99 // 100])


# --- evidence ---


@pytest.mark.parametrize(
    ("offence", "reason"),
    [
        (an_offence(4), StakingReason.UNKNOWN_OFFENDER),
        (an_offence(-1), StakingReason.UNKNOWN_OFFENDER),
        (an_offence(0, epoch=1), StakingReason.UNKNOWN_OFFENDER),
    ],
)
def test_evidence_that_names_nobody_makes_a_block_invalid(
    offence: tuple[int, int, str, int], reason: StakingReason
) -> None:
    exchange = StakedExchange()
    with pytest.raises(ProtocolViolation) as refused:
        exchange.sees(offences=(offence,)).block()
    assert refused.value.reason == reason


@pytest.mark.parametrize(("epochs", "seconds"), [(4, 1), (2, 60)])
def test_evidence_is_too_old_after_its_epochs_or_its_time(epochs: int, seconds: int) -> None:
    exchange = StakedExchange()
    exchange.passes_epochs(epochs, seconds=seconds)
    with pytest.raises(ProtocolViolation) as refused:
        exchange.sees(offences=(an_offence(1),)).block()
    assert refused.value.reason == StakingReason.EVIDENCE_TOO_OLD


def test_evidence_is_taken_up_to_its_last_epoch() -> None:
    exchange = StakedExchange()
    exchange.passes_epochs(3)
    assert exchange.epoch == 3
    assert [item.slashed_ppm for item in slashed(exchange, an_offence(1))] == [PERCENT]


@pytest.mark.parametrize(
    "observed",
    [{"signers": (0, 4)}, {"signers": (1, 0)}, {"signers": (0, 0)}],
)
def test_observations_of_strangers_make_a_block_invalid(observed: dict[str, Any]) -> None:
    exchange = StakedExchange()
    with pytest.raises(ProtocolViolation) as refused:
        exchange.sees(**observed).block()
    assert refused.value.reason == StakingReason.BAD_OBSERVATION


# --- jail ---


def goes_silent(exchange: StakedExchange, blocks: int) -> list[Jailed]:
    """Validator 2's vote is missing from so many certificates; what follows."""
    return [
        event for _ in range(blocks) for event in events_of(exchange.sees(signers=(0, 1, 3)).block(), Jailed)
    ]


def test_a_validator_whose_vote_is_missing_too_often_is_jailed_without_slash() -> None:
    exchange = StakedExchange()
    assert goes_silent(exchange, 6) == []
    assert exchange.validator(2).is_jailed is False
    [jailed] = goes_silent(exchange, 1)
    assert (jailed.validator, jailed.reason) == (2, "downtime")
    assert (exchange.validator(2).is_jailed, exchange.stake(2)) == (True, STAKE)


def test_a_vote_that_is_missing_now_and_then_is_forgotten_with_the_window() -> None:
    exchange = StakedExchange()
    assert goes_silent(exchange, 6) == []
    for _ in range(16):
        exchange.sees(signers=(0, 1, 2, 3)).block()
    assert goes_silent(exchange, 6) == []


def test_a_jailed_member_of_a_set_is_not_jailed_anew() -> None:
    exchange = StakedExchange({"validators_min": 4})
    assert len(goes_silent(exchange, 7)) == 1
    until_ns = exchange.validator(2).jailed_until_ns
    assert goes_silent(exchange, 8) == []
    assert exchange.validator(2).jailed_until_ns == until_ns


def test_a_window_holds_no_more_than_its_buckets() -> None:
    exchange = StakedExchange({"missed_blocks_max": 100})
    goes_silent(exchange, 40)
    assert [times for _, times in get_activity(exchange.state, 2).missed] == [1] * 16


def test_the_first_block_has_no_certificate_and_blames_nobody() -> None:
    exchange = StakedExchange()
    exchange.sees(signers=()).block()
    assert get_activity(exchange.state, 2).missed == ()


def test_an_operator_returns_from_jail_when_the_time_is_over() -> None:
    exchange = StakedExchange()
    goes_silent(exchange, 7)
    exchange.does(OPERATORS[2], Unjail(2))
    assert reasons(exchange.block()) == [StakingReason.STILL_JAILED]
    exchange.block(20)
    exchange.does(OPERATORS[2], Unjail(2))
    assert events_of(exchange.block(), Unjailed) == [Unjailed(2)]
    assert exchange.validator(2).is_jailed is False


def test_whoever_returns_starts_with_a_clean_window() -> None:
    exchange = StakedExchange({"validators_min": 4})
    goes_silent(exchange, 7)
    exchange.block(20)
    exchange.does(OPERATORS[2], Unjail(2))
    exchange.block()
    assert goes_silent(exchange, 6) == []


def test_too_little_stake_keeps_a_validator_in_jail() -> None:
    exchange = StakedExchange()
    goes_silent(exchange, 7)
    exchange.does(OPERATORS[2], Unbond(2, STAKE - 99_999 * USD))
    exchange.block(20)
    exchange.does(OPERATORS[2], Unjail(2))
    assert reasons(exchange.block()) == [StakingReason.STAKE_TOO_SMALL]


def test_a_jailed_validator_earns_nothing() -> None:
    exchange = StakedExchange(alice=1_000_000, bob=1_000_000)
    goes_silent(exchange, 7)
    exchange.trades()
    exchange.ends_epoch()
    assert exchange.stake(2) == STAKE < exchange.stake(1)
