"""Numbers of policy change by vote: two thirds of the weight, inside hard bounds, after a delay."""

from __future__ import annotations

import pytest

from ledger.breakers.state import get_breakers
from ledger.events import ParameterChanged, ParameterDecided, ParameterDropped, VoteCounted
from ledger.governance import BALLOTS_MAX, BOUNDS, parameter_value
from ledger.settlement.parameters import DAY_NS, ProtocolParameters, protection_rules
from ledger.settlement.state import get_governance, get_protection
from ledger.staking.state import get_epoch_set
from ledger.transactions import VoteParameter
from node.genesis_defaults import default_breakers, default_ledger_parameters, default_protection
from primitives.amounts import NS
from tests.ledger.exchange import events_of, reasons
from tests.ledger.staking_builders import OPERATORS, StakedExchange

NAME = "auction.fee_ppm"
DELAY_S = 2 * DAY_NS // NS


def votes(exchange: StakedExchange, *places: int, name: str = NAME, value: int = 50_000) -> None:
    for place in places:
        exchange.does(OPERATORS[place], VoteParameter(place, name, value))


def test_two_thirds_decide_and_after_the_delay_it_holds() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, 1)
    assert events_of(exchange.block(), ParameterDecided) == []
    votes(exchange, 2)
    (decided,) = events_of(exchange.block(), ParameterDecided)
    assert decided.effective_ns == exchange.state.clock.time_ns + 2 * DAY_NS
    assert events_of(exchange.block(DELAY_S - 2), ParameterChanged) == []
    assert parameter_value(exchange.state, NAME) == 100_000
    (changed,) = events_of(exchange.block(2), ParameterChanged)
    assert changed == ParameterChanged(NAME, 100_000, 50_000)
    assert get_protection(exchange.state).auction.fee_ppm == 50_000
    assert get_governance(exchange.state).decided == ()


def test_half_of_the_weight_decides_nothing_and_votes_are_counted_in_the_open() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, 1)
    counted = events_of(exchange.block(), VoteCounted)
    assert sorted(item.weight * 4 // item.total for item in counted) == [1, 2]
    (ballot,) = get_governance(exchange.state).ballots
    assert (ballot.name, ballot.value, ballot.voters) == (NAME, 50_000, (0, 1))


def test_a_later_vote_replaces_an_earlier_one_and_nobody_counts_twice() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, 1)
    exchange.block()
    votes(exchange, 1, value=60_000)
    votes(exchange, 0)
    exchange.block()
    ballots = [(item.value, item.voters) for item in get_governance(exchange.state).ballots]
    assert ballots == [(50_000, (0,)), (60_000, (1,))]


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_every_number_has_hard_bounds_with_its_default_inside(name: str) -> None:
    exchange = StakedExchange()
    low, high = BOUNDS[name]
    assert low <= parameter_value(exchange.state, name) <= high
    section, field = name.split(".")
    protection, protocol, breakers = default_protection(), ProtocolParameters(1), default_breakers()
    sections = {"ledger": default_ledger_parameters(), "protocol": protocol, "breakers": breakers}
    sections |= {"drift": breakers.drift, "latency": breakers.latency}
    defaults = sections.get(section) or getattr(protection, section)
    assert low <= getattr(defaults, field) <= high
    votes(exchange, 0, name=name, value=high + 1)
    assert reasons(exchange.block()) == ["parameter_out_of_bounds"]


def test_a_value_that_breaks_a_relation_between_numbers_is_refused() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, name="auction.patience_ns", value=2 * NS)
    assert reasons(exchange.block()) == ["parameter_out_of_bounds"]


def test_a_voted_number_of_the_breakers_is_judged_by_their_rules_and_takes_effect() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, name="drift.green_spreads", value=6)
    assert reasons(exchange.block()) == ["parameter_out_of_bounds"]
    votes(exchange, 0, 1, 2, name="drift.green_spreads", value=4)
    exchange.block()
    exchange.block(DELAY_S + 1)
    assert get_breakers(exchange.state).drift.green_spreads == 4


def test_a_decided_value_that_became_impossible_is_dropped_at_its_time() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, 1, 2, name="auction.empty_book_patience_ns", value=29 * NS)
    votes(exchange, 0, 1, 2, name="auction.patience_ns", value=6 * NS)
    exchange.block()
    result = exchange.block(DELAY_S + 1)
    (changed,), (dropped,) = events_of(result, ParameterChanged), events_of(result, ParameterDropped)
    assert {changed.name, dropped.name} == {"auction.patience_ns", "auction.empty_book_patience_ns"}
    assert all(holds for holds, _ in protection_rules(get_protection(exchange.state)))


def test_a_voted_protocol_version_comes_with_a_decided_set_and_never_goes_down() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, 1, 2, name="protocol.version", value=3)
    exchange.block()
    exchange.block(DELAY_S + 1)
    blocks = exchange.state.genesis.staking.epoch_blocks
    first = exchange.state.genesis.staking.epoch_of(exchange.state.clock.height)
    versions = {}
    while exchange.state.clock.height < (first + 3) * blocks:
        exchange.block()
        epoch = exchange.state.genesis.staking.epoch_of(exchange.state.clock.height + 1)
        running = get_epoch_set(exchange.state, epoch)
        assert running is not None
        versions[epoch] = running.version
    assert [versions[epoch] for epoch in sorted(versions)][-3:] == [1, 3, 3]
    votes(exchange, 0, name="protocol.version", value=3)
    votes(exchange, 1, name="protocol.version", value=2)
    assert reasons(exchange.block()) == ["parameter_out_of_bounds"] * 2


def test_only_operators_vote_each_for_its_own_validator() -> None:
    exchange = StakedExchange(alice=1_000)
    exchange.does("alice", VoteParameter(0, NAME, 50_000))
    exchange.does(OPERATORS[1], VoteParameter(0, NAME, 50_000), VoteParameter(99, NAME, 50_000))
    assert reasons(exchange.block()) == ["not_a_voter"] * 3


def test_no_vote_changes_a_number_that_is_not_listed() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, name="ledger.insurance_fund_uusd")
    assert reasons(exchange.block()) == ["unknown_parameter"]


def test_open_ballots_are_limited() -> None:
    exchange = StakedExchange()
    names = [name for name in sorted(BOUNDS) if name.endswith("_ppm")]
    seen: list[str] = []
    for place in range(4):
        for step, name in enumerate(names + names):
            value = BOUNDS[name].high - 1 - place - 10 * (step // len(names))
            votes(exchange, place, name=name, value=value)
    seen += reasons(exchange.block())
    assert len(get_governance(exchange.state).ballots) <= BALLOTS_MAX
    assert set(seen) <= {"too_many_ballots", "parameter_out_of_bounds"}
