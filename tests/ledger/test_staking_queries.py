"""What is said about validators and stake."""

from __future__ import annotations

from ledger.staking.queries import DelegationView, get_delegations, get_unbondings, get_validators
from ledger.staking.state import NO_TARGET, Unbonding
from ledger.transactions import Delegate, LeaveValidatorSet, Unbond
from primitives.amounts import USD
from tests.ledger.exchange import Exchange
from tests.ledger.staking_builders import OPERATORS, StakedExchange


def test_a_validators_window_and_power_are_told_together() -> None:
    exchange = StakedExchange()
    exchange.sees(signers=(0, 1, 3), delays=((2, 900_000), (0, 16))).block()
    views = get_validators(exchange.state)
    assert [view.validator for view in views] == [exchange.validator(number) for number in range(4)]
    assert [tuple(view[1:]) for view in views] == [
        (0, 100, 0, 0, 1, 0, 1),
        (1, 100, 0, 0, 0, 0, 0),
        (2, 100, 1, 1, 1, 0, 56_250),
        (3, 100, 0, 0, 0, 0, 0),
    ]


def test_a_validator_outside_the_running_set_has_no_place() -> None:
    exchange = StakedExchange()
    exchange.does(OPERATORS[1], LeaveValidatorSet(1))
    exchange.passes_epochs(2)
    exchange.block()
    assert [view.place for view in get_validators(exchange.state)] == [0, None, 2, 3]


def test_an_accounts_stake_is_what_its_shares_are_worth_and_what_is_on_its_way_out() -> None:
    exchange = StakedExchange(carol=10_000)
    exchange.does("carol", Delegate(1, 3_000 * USD), Delegate(3, 1_000 * USD))
    exchange.block()
    exchange.does("carol", Unbond(1, 500 * USD))
    exchange.sees(offences=((3, 0, "E1", 1),)).block()
    assert get_delegations(exchange.state, exchange.key("carol")) == [
        DelegationView(1, 2_500 * USD, 2_500 * USD),
        DelegationView(3, 1_000 * USD, 990 * USD),
    ]
    assert get_unbondings(exchange.state, exchange.key("carol")) == [
        Unbonding(1, *exchange.key("carol"), NO_TARGET, 500 * USD, 0, exchange.state.clock.time_ns)
    ]


def test_a_chain_without_staking_has_no_validators_to_tell_of() -> None:
    assert get_validators(Exchange(carol=1).state) == []
