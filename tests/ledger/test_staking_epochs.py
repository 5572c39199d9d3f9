"""Who is in which epoch's set, from when on, and with what weight."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.genesis import check_genesis
from ledger.oracle import check_report, reporters_of
from ledger.staking.epochs import choose_members, compute_weights, next_validator_set
from ledger.staking.events import ValidatorSetChanged
from ledger.staking.reasons import StakingReason
from ledger.staking.state import get_epoch_set
from ledger.state import State
from ledger.transactions import (
    AttestReadiness,
    Delegate,
    LeaveValidatorSet,
    RegisterValidator,
    RotateConsensusKey,
    Unbond,
)
from primitives.amounts import NS, USD
from primitives.errors import ProtocolViolation
from tests.ledger.exchange import CHAIN, REPORTERS, a_key, a_report, events_of, reasons
from tests.ledger.staking_builders import (
    EPOCH_BLOCKS,
    OPERATORS,
    STAKE,
    StakedExchange,
    a_staking,
    a_staking_genesis,
)


def numbers(exchange: StakedExchange, epoch: int) -> list[int]:
    """Who is in an epoch's set."""
    found = get_epoch_set(exchange.state, epoch)
    assert found is not None
    return [item.validator for item in found.members]


def weights(exchange: StakedExchange, epoch: int) -> list[int]:
    found = get_epoch_set(exchange.state, epoch)
    assert found is not None
    return [item.weight for item in found.members]


def registers(exchange: StakedExchange, name: str = "erin", stake_usd: int = 500_000) -> None:
    votes, reports = a_key(f"{name} votes").public_key, a_key(f"{name} reports").public_key
    exchange.does(name, RegisterValidator(votes, reports, "peer", 0, stake_usd * USD))


def test_the_first_epochs_have_the_genesis_validators_with_their_genesis_weights() -> None:
    exchange = StakedExchange()
    keys = [item.consensus_key for item in exchange.genesis.staking.validators]
    for epoch in (0, 1):
        found = get_epoch_set(exchange.state, epoch)
        assert found is not None
        assert [(item.consensus_key, item.weight) for item in found.members] == [(key, 100) for key in keys]


def test_the_next_set_is_the_same_for_every_block_of_an_epoch() -> None:
    exchange = StakedExchange()
    exchange.does(OPERATORS[0], LeaveValidatorSet(0))
    seen = []
    for _ in range(3 * EPOCH_BLOCKS):
        found = next_validator_set(exchange.state)
        seen.append((exchange.epoch, found.epoch, len(found.members)))
        exchange.block()
    assert sorted(set(seen)) == [(0, 1, 4), (1, 2, 3), (2, 3, 3)]
    assert seen == sorted(seen)


def test_a_registered_validator_is_in_no_set_before_it_attests_readiness() -> None:
    exchange = StakedExchange(erin=600_000)
    registers(exchange)
    exchange.passes_epochs(4)
    assert numbers(exchange, 5) == [0, 1, 2, 3]


def test_readiness_is_attested_in_an_epoch_after_the_registration() -> None:
    exchange = StakedExchange(erin=600_000)
    registers(exchange)
    exchange.block()
    exchange.does("erin", AttestReadiness(4))
    assert reasons(exchange.block()) == [StakingReason.TOO_EARLY_TO_ATTEST]


def test_a_ready_validator_joins_after_one_epoch_of_notice() -> None:
    exchange = StakedExchange(erin=600_000)
    registers(exchange)
    exchange.ends_epoch()
    exchange.does("erin", AttestReadiness(4))
    result = exchange.ends_epoch()
    assert [numbers(exchange, epoch) for epoch in (2, 3)] == [[0, 1, 2, 3], [0, 1, 2, 3, 4]]
    [changed] = events_of(result, ValidatorSetChanged)
    assert changed.epoch == 3
    assert [(place, number, weight) for place, number, _, weight in changed.members] == [
        (0, 0, 2),
        (1, 1, 2),
        (2, 2, 2),
        (3, 3, 2),
        (4, 4, 1),
    ]


def test_who_votes_in_an_epoch_reports_prices_in_it_and_nobody_else() -> None:
    exchange = StakedExchange(erin=600_000)
    registers(exchange)
    exchange.ends_epoch()
    exchange.does("erin", AttestReadiness(4))
    exchange.does(OPERATORS[3], LeaveValidatorSet(3))
    exchange.ends_epoch()
    assert sorted(reporters_of(exchange.state)) == [0, 1, 2, 3]
    exchange.ends_epoch()
    assert exchange.epoch == 3
    oracle_key = exchange.validator(4).oracle_key
    found = {number: (item.oracle_key, item.weight) for number, item in reporters_of(exchange.state).items()}
    assert found == {
        **{number: (REPORTERS[number].public_key, 2) for number in range(3)},
        4: (oracle_key, 1),
    }
    joined, left = (a_report(number, exchange.state.clock.time_ns + NS) for number in (0, 3))
    assert check_report(exchange.state, joined).reporter == 0
    with pytest.raises(ProtocolViolation, match="no reporter 3"):
        check_report(exchange.state, left)


def test_a_validator_that_leaves_is_in_the_sets_that_were_decided_before_and_in_no_other() -> None:
    exchange = StakedExchange()
    exchange.does(OPERATORS[3], LeaveValidatorSet(3))
    exchange.passes_epochs(2)
    assert [numbers(exchange, epoch) for epoch in (1, 2, 3)] == [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2]]
    exchange.does(OPERATORS[3], AttestReadiness(3))
    exchange.ends_epoch()
    assert numbers(exchange, 4) == [0, 1, 2, 3]


def test_a_rotated_key_votes_in_the_sets_decided_afterwards() -> None:
    exchange = StakedExchange()
    fresh = a_key("fresh").public_key
    exchange.does(OPERATORS[1], RotateConsensusKey(1, fresh))
    exchange.ends_epoch()
    old, new = get_epoch_set(exchange.state, 1), get_epoch_set(exchange.state, 2)
    assert old is not None and new is not None
    assert old.members[1].consensus_key == a_key("consensus 1").public_key
    assert new.members[1].consensus_key == fresh


def test_an_offence_under_the_old_key_still_finds_its_validator() -> None:
    exchange = StakedExchange()
    exchange.does(OPERATORS[1], RotateConsensusKey(1, a_key("fresh").public_key))
    exchange.passes_epochs(2)
    exchange.sees(offences=((1, 0, "E1", 5),)).block()
    assert exchange.stake(1) == STAKE * 99 // 100


def test_a_validator_below_the_least_stake_drops_out() -> None:
    exchange = StakedExchange()
    exchange.does(OPERATORS[0], Unbond(0, STAKE - 99_999 * USD))
    exchange.ends_epoch()
    assert numbers(exchange, 2) == [1, 2, 3]


def test_delegation_gives_weight() -> None:
    exchange = StakedExchange(carol=2_000_000)
    exchange.does("carol", Delegate(2, 2_000_000 * USD))
    exchange.ends_epoch()
    assert weights(exchange, 2) == [1, 1, 3, 1]


def test_a_jailed_validator_is_left_out_while_enough_others_are_there() -> None:
    exchange = StakedExchange()
    for _ in range(7):
        exchange.sees(signers=(0, 1, 3)).block()
    exchange.ends_epoch()
    assert numbers(exchange, 3) == [0, 1, 3]


def test_jailed_validators_fill_a_set_that_would_be_too_small() -> None:
    exchange = StakedExchange({"validators_min": 4})
    for _ in range(7):
        exchange.sees(signers=(0, 1, 3)).block()
    exchange.ends_epoch()
    assert numbers(exchange, 3) == [0, 1, 2, 3]


def test_a_tombstoned_validator_is_never_in_a_set_again() -> None:
    exchange = StakedExchange({"validators_min": 4})
    exchange.sees(offences=((2, 0, "E1", 5),)).block()
    exchange.passes_epochs(3)
    assert [numbers(exchange, epoch) for epoch in (2, 3, 4)] == [[0, 1, 3]] * 3


def test_when_nobody_is_left_the_set_before_stays() -> None:
    exchange = StakedExchange()
    for number, name in enumerate(OPERATORS):
        exchange.does(name, LeaveValidatorSet(number))
    exchange.ends_epoch()
    assert numbers(exchange, 2) == [0, 1, 2, 3]


def test_sets_are_kept_while_their_evidence_is_taken() -> None:
    exchange = StakedExchange()
    exchange.passes_epochs(4)
    assert [get_epoch_set(exchange.state, epoch) is None for epoch in range(7)] == [
        True,
        False,
        False,
        False,
        False,
        False,
        True,
    ]


# --- choosing and weighing ---


def test_the_most_stake_is_chosen_and_ties_go_by_key() -> None:
    exchange = StakedExchange()
    four = [exchange.validator(number) for number in range(4)]
    rich = replace(four[3], stake_uusd=2 * STAKE)
    by_key = sorted(four[:3], key=lambda item: item.consensus_key)
    staking = a_staking(validators_max=2, validators_min=1)
    assert choose_members(staking, [*four[:3], rich]) == [rich, by_key[0]]


def test_a_validator_keeps_its_place_and_a_place_is_given_anew_when_no_kept_set_has_it() -> None:
    exchange = StakedExchange(erin=600_000)
    exchange.does(OPERATORS[1], LeaveValidatorSet(1))
    registers(exchange)
    exchange.ends_epoch()
    exchange.does("erin", AttestReadiness(4))
    exchange.ends_epoch()
    assert places(exchange, 3) == {0: 0, 2: 2, 3: 3, 4: 4}
    assert exchange.epoch == 2
    exchange.does("erin", LeaveValidatorSet(4))
    exchange.passes_epochs(5)
    exchange.does("erin", AttestReadiness(4))
    exchange.ends_epoch()
    assert places(exchange, 9) == {0: 0, 1: 4, 2: 2, 3: 3}


def places(exchange: StakedExchange, epoch: int) -> dict[int, int]:
    """Place to validator in an epoch's set."""
    found = get_epoch_set(exchange.state, epoch)
    assert found is not None
    return {item.place: item.validator for item in found.members}


@pytest.mark.parametrize(
    ("stakes_usd", "expected"),
    [
        ([], []),
        ([5_000, 5_000, 5_000], [1, 1, 1]),
        ([1_000, 2_999, 4_000], [1, 2, 4]),
        ([6_000, 9_000], [2, 3]),
        ([1, 1_000], [1, 1]),
        ([10_000_000, 5_000_000, 1], [100, 50, 1]),
        ([10_100_500, 10_000_000], [100, 99]),
    ],
)
def test_weights_follow_stake_rounded_down_within_their_bounds(
    stakes_usd: list[int], expected: list[int]
) -> None:
    staking = a_staking(weight_max=100)
    assert compute_weights(staking, [stake * USD for stake in stakes_usd]) == expected


# --- genesis and leaves ---


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"epoch_blocks": 0}, "an epoch has blocks"),
        ({"validators_max": 3}, "validators_max bounds"),
        ({"validators_max": 257}, "validators_max bounds"),
        ({"validators_min": 101}, "validators_min is at most"),
        ({"min_delegation_uusd": 0}, "least delegation"),
        ({"min_stake_uusd": STAKE + 1}, "everyone has stake"),
        ({"weight_unit_uusd": 0}, "gives voting power"),
        ({"slash_base_ppm": 1_000_001}, "at most the whole"),
        ({"unbonding_epochs": 4}, "expires before"),
        ({"unbonding_ns": 50_000_000_000}, "expires before"),
        ({"window_blocks": 17}, "buckets divide"),
        ({"validators": a_staking().validators[:3]}, "reporters"),
        ({"validators": (a_staking().validators[0],) * 4}, "listed once"),
    ],
)
def test_a_genesis_with_unsound_staking_is_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ProtocolViolation, match=rule):
        check_genesis(a_staking_genesis({}, **changes))


def test_every_leaf_of_staking_survives_a_snapshot() -> None:
    exchange = StakedExchange(carol=5_000, alice=1_000_000, bob=1_000_000)
    exchange.does("carol", Delegate(1, 2_000 * USD))
    exchange.sees(delays=((1, 900_000),), signers=(0, 1, 3)).block()
    exchange.does("carol", Unbond(1, 1_000 * USD))
    exchange.sees(offences=((1, 0, "E1", 5),)).block()
    exchange.trades()
    leaves = exchange.state.all_leaves()
    assert {key[:2] for key, _ in leaves if key[:1] == b"k"} == {
        b"k" + letter.to_bytes(1, "big") for letter in b"adehkoptuv"
    }
    assert State.from_leaves(CHAIN, exchange.genesis, leaves).root() == exchange.state.root()
