"""Numbers of policy change by vote: two thirds of the weight, inside hard bounds, after a delay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ledger.apply import BlockContext, apply_block
from ledger.breakers.state import KEY_BREAKERS, get_breakers
from ledger.events import (
    ActionRejected,
    ParameterChanged,
    ParameterDecided,
    ParameterDropped,
    VoteCounted,
)
from ledger.genesis import LedgerGenesis, UnderlyingParameters
from ledger.governance import OPEN_VOTES_MAX, VOTES_MAX, parameter_value
from ledger.instruments import Underlying
from ledger.margin.parameters import default_margin_parameters
from ledger.oracle import compute_block_time, decode_update, index_uusd_max
from ledger.policy import Step, numbers_of
from ledger.prices import get_prices
from ledger.queries import get_proof
from ledger.settlement.parameters import DAY_NS
from ledger.settlement.state import (
    KEY_GOVERNANCE,
    KEY_PROTECTION,
    DecidedChange,
    Governance,
    get_governance,
    get_protection,
)
from ledger.staking.state import KEY_STAKING_PARAMETERS, get_epoch_set, get_staking
from ledger.state import State
from ledger.state_keys import KEY_PARAMETERS, underlying_key
from ledger.state_tree import verify_proof
from ledger.trading.parameters import UnderlyingFees
from ledger.trading.state import KEY_TRADING
from ledger.transactions import LeaveValidatorSet, MarginModel, SetMarginModel, VoteParameter
from node.client.policy_commands import in_order
from node.genesis_defaults import default_breakers, default_ledger_genesis
from primitives.amounts import NS, USD
from primitives.codec import decode_own
from tests.ledger.exchange import (
    BTC_PERP,
    CALL_100,
    CHAIN,
    CUSTODIAN,
    START_NS,
    a_genesis,
    buy,
    events_of,
    reasons,
    sell,
)
from tests.ledger.staking_builders import OPERATORS, StakedExchange, a_staking

NAME = "auction.fee_ppm"
DELAY_S = 2 * DAY_NS // NS


def votes(exchange: StakedExchange, *places: int, name: str = NAME, value: int = 50_000) -> None:
    for place in places:
        exchange.does(OPERATORS[place], VoteParameter(place, name, value))


def default_genesis() -> LedgerGenesis:
    """What `quorate init` starts with."""
    return default_ledger_genesis(
        time_ns=START_NS,
        custodian_key=CUSTODIAN.public_key,
        reporters=a_genesis({}).reporters,
        index_uusd={Underlying.BTC: 100_000 * USD, Underlying.ETH: 4_000 * USD},
        instruments=(),
    )


def full_genesis() -> LedgerGenesis:
    """One with something everywhere: staking, breakers, an exception of fees."""
    fees = (UnderlyingFees(Underlying.ETH, 100, 300, 0),)
    genesis = a_genesis({}, breakers=default_breakers())
    return replace(genesis, staking=a_staking(), trading=replace(genesis.trading, fees=fees))


def leaves_of(genesis: LedgerGenesis) -> Iterator[tuple[bytes, Any]]:
    """Every leaf of parameters by its key."""
    yield from (
        (KEY_PARAMETERS, genesis.parameters),
        (KEY_PROTECTION, genesis.protection),
        (KEY_BREAKERS, genesis.breakers),
        (KEY_TRADING, genesis.trading),
        (KEY_STAKING_PARAMETERS, genesis.staking),
        *((underlying_key(item.underlying), item) for item in genesis.underlyings),
    )


def integers_of(item: Any) -> Iterator[tuple[Step, ...]]:
    """The path to every integer inside a struct."""
    if isinstance(item, msgspec.Struct | tuple):
        named = isinstance(item, msgspec.Struct)
        for step in item.__struct_fields__ if named else range(len(item)):
            for rest in integers_of(getattr(item, step) if named else item[step]):
                yield (step, *rest)
    elif isinstance(item, int):
        yield ()


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


def test_every_number_of_policy_can_be_voted_for_and_a_default_chain_stands_within_its_bounds() -> None:
    for genesis in (full_genesis(), default_genesis()):
        state = State.from_genesis(genesis, CHAIN)
        outside = [
            name
            for name, number in numbers_of(genesis).items()
            if not number.bounds.low <= parameter_value(state, name) <= number.bounds.high
        ]
        assert outside == []


def test_a_value_beyond_the_hard_bounds_of_any_number_is_refused() -> None:
    exchange = StakedExchange()
    exchange.start(full_genesis())
    wanted = []
    for name, number in numbers_of(exchange.genesis).items():
        wanted += [
            VoteParameter(0, name, number.bounds.high + 1),
            VoteParameter(0, name, number.bounds.low - 1),
        ]
    assert len(wanted) > 600
    for start in range(0, len(wanted), VOTES_MAX):
        part = wanted[start : start + VOTES_MAX]
        exchange.does(OPERATORS[0], *part[:64])
        exchange.does(OPERATORS[0], *part[64:])
        refused = events_of(exchange.block(), ActionRejected)
        assert [item.detail.split(" is ")[0] for item in refused] == [item.name for item in part]


def test_what_no_vote_changes_is_what_shapes_and_counts_rest_on() -> None:
    """Every integer of the parameters is either in the table or in this list, with its reason in policy.py."""
    genesis = full_genesis()
    named = {(number.key, number.path) for number in numbers_of(genesis).values()}
    fixed = {
        path
        for key, leaf in leaves_of(genesis)
        for path in integers_of(leaf)
        if (key, path) not in named and "scenarios" not in path and "validators" not in path
    }
    assert {".".join(str(step) for step in path if not isinstance(step, int)) for path in fixed} == {
        *("insurance_fund_uusd", "vault_uusd", "nonce_window", "index_uusd", "underlying"),
        *("settlement_window_ns", "settlement_bucket_ns", "ticks", "perpetual_tick_uusd", "fees.underlying"),
        *("drift.spread_epochs", "latency.samples", "monitors.underlying", "monitors.monitors.window_ns"),
        *("epoch_blocks", "window_blocks", "unbonding_epochs", "unbonding_ns"),
        *("evidence_epochs_max", "evidence_ns_max"),
    }


def test_no_value_within_the_bounds_stops_the_ledger() -> None:
    """Every number at its least and its most, alone, at the highest index that is exact: the next blocks execute."""
    exchange = StakedExchange(alice=100_000, bob=100_000)
    exchange.start(replace(full_genesis(), accounts=exchange.genesis.accounts))
    exchange.btc_usd = index_uusd_max(Underlying.BTC) // USD
    exchange.does("alice", buy(CALL_100, 100_000, 1), SetMarginModel(MarginModel.STANDARD))
    exchange.does("bob", sell(CALL_100, 100_000, 1))
    exchange.block()
    assert exchange.state.oracle(Underlying.BTC).index_uusd == exchange.btc_usd * USD
    tried = 0
    for name, number in numbers_of(exchange.genesis).items():
        for value in number.bounds:
            height = exchange.state.clock.height
            exchange.state.begin_block()
            exchange.state.put(KEY_GOVERNANCE, Governance((), (DecidedChange(name, value, 1),)))
            for _ in range(1 if number.key[:1] == b"u" else 2):
                transactions = exchange.transactions()
                time_ns = compute_block_time(exchange.state, decode_update(transactions[0]))
                exchange.state.begin_block()
                apply_block(
                    exchange.state, BlockContext(exchange.state.clock.height + 1, time_ns), transactions
                )
            tried += parameter_value(exchange.state, name) == value
            while exchange.state.clock.height > height:
                exchange.state.rollback_block()
            exchange.state.rollback_block()
    assert tried > 450


def test_names_say_the_underlying_and_the_unit() -> None:
    numbers = numbers_of(full_genesis())
    units = {name: numbers[name].unit for name in numbers}
    assert units["margin.btc.scenarios.34.weight_ppm"] == units["margin.eth.forward.move_ppm"] == "ppm"
    assert units["exposure.step_ns"] == units["trading.request_lifetime_ns_max"] == "ns"
    assert units["staking.min_stake_uusd"] == "uusd"
    assert units["fees.eth.taker_ppm"] == units["monitors.eth.2.move_ppm"] == "ppm"
    assert units["listing.daily"] == units["margin.btc.skew.width_multiplier"] == "count"


def test_a_whole_grid_changes_in_one_block_for_all_accounts_and_survives_a_restart() -> None:
    exchange = StakedExchange(alice=100_000, bob=100_000)
    exchange.does("alice", buy(BTC_PERP, 100_000.5, 97))
    exchange.does("bob", sell(BTC_PERP, 100_000.5, 97))
    exchange.block()
    moves = {
        f"margin.btc.scenarios.{place}.move_ppm": item.move_ppm * 5 // 4
        for place, item in enumerate(default_margin_parameters(Underlying.BTC).scenarios)
        if place < 27 and item.move_ppm
    }
    for operator in range(3):
        exchange.does(
            OPERATORS[operator], *(VoteParameter(operator, name, value) for name, value in moves.items())
        )
    decided = events_of(exchange.block(), ParameterDecided)
    assert [item.name for item in decided] == list(moves)
    last = exchange.block(DELAY_S - 1).valuation
    result = exchange.block(2)
    assert len(events_of(result, ParameterChanged)) == len(moves) == 24
    for name in ("alice", "bob"):
        key = exchange.key(name)
        was, now = last.margin(key), result.valuation.margin(key)
        assert (was.worst_pnl_uusd, now.worst_pnl_uusd) == (-97 * 160 * USD, -97 * 200 * USD)
    assert State.from_leaves(CHAIN, exchange.genesis, exchange.state.all_leaves()).root() == result.root
    restored = State.from_leaves(CHAIN, exchange.genesis, exchange.state.all_leaves())
    block = exchange.transactions()
    context = BlockContext(restored.clock.height + 1, compute_block_time(restored, decode_update(block[0])))
    restored.begin_block()
    assert apply_block(restored, context, block).root == exchange.apply(block).root


@pytest.mark.parametrize("percent", [25, 50, 80, 150, 200, 300])
def test_a_grid_that_is_scaled_is_voted_for_in_an_order_in_which_each_move_fits(percent: int) -> None:
    exchange = StakedExchange()
    now = {name: parameter_value(exchange.state, name) for name in numbers_of(exchange.genesis)}
    grid = [f"margin.btc.scenarios.{place}.move_ppm" for place in range(27)]
    wanted = [VoteParameter(0, name, now[name] * percent // 100) for name in grid if now[name]]
    ordered = in_order([VoteParameter(0, NAME, 50_000), *wanted], now)
    assert ordered[0].name == NAME
    exchange.does(OPERATORS[0], *ordered)
    assert reasons(exchange.block()) == []


def test_numbers_ballots_and_decisions_are_proven_by_the_root() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, 1, 2, name="margin.eth.forward.move_ppm", value=60_000)
    votes(exchange, 3, name="ledger.taker_fee_ppm", value=400)
    root = exchange.block().root
    proven = get_proof(exchange.state, KEY_GOVERNANCE)
    assert proven.root == root
    assert proven.value is not None
    verify_proof(root, KEY_GOVERNANCE, proven.value, proven.proof)
    governance = decode_own(Governance, proven.value)
    assert [(item.name, item.value) for item in governance.ballots] == [("ledger.taker_fee_ppm", 400)]
    assert [(item.name, item.value) for item in governance.decided] == [
        ("margin.eth.forward.move_ppm", 60_000)
    ]
    root = exchange.block(DELAY_S + 1).root
    key = underlying_key(Underlying.ETH)
    proven = get_proof(exchange.state, key)
    assert proven.value is not None
    verify_proof(root, key, proven.value, proven.proof)
    assert decode_own(UnderlyingParameters, proven.value).margin.forward.move_ppm == 60_000


def test_a_changed_number_is_undone_with_its_block() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, 1, 2, name="margin.btc.im_factor_ppm", value=1_200_000)
    exchange.block()
    root = exchange.state.root()
    changed = exchange.block(DELAY_S + 1).valuation
    assert changed.risk.im_factor_ppm.tolist() == [1_200_000, 1_000_000]
    exchange.state.rollback_block()
    assert exchange.state.root() == root
    assert get_prices(exchange.state).risk.im_factor_ppm.tolist() == [1_000_000, 1_000_000]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auction.patience_ns", 2 * NS),
        ("ledger.oracle_epoch_ns", 6 * NS),
        ("margin.btc.mm_factor_ppm", 1_100_000),
        ("margin.btc.scenarios.0.move_ppm", -120_000),
        ("margin.btc.scenarios.36.move_ppm", 10_000),
        ("standard.short_mm_ppm", 140_000),
        ("staking.min_delegation_uusd", 90_000 * USD),
        ("staking.validators_min", 200),
        ("trading.requests_max", 900),
    ],
)
def test_a_value_that_breaks_a_relation_between_numbers_is_refused(name: str, value: int) -> None:
    exchange = StakedExchange({"min_stake_uusd": 80_000 * USD})
    votes(exchange, 0, name=name, value=value)
    assert reasons(exchange.block()) == ["parameter_out_of_bounds"]


def test_a_vote_is_judged_together_with_the_others_of_its_operator_and_what_is_decided() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, name="standard.short_im_ppm", value=250_000)
    votes(exchange, 0, name="standard.short_im_floor_ppm", value=220_000)
    votes(exchange, 1, name="standard.short_im_floor_ppm", value=220_000)
    assert reasons(exchange.block()) == ["parameter_out_of_bounds"]
    votes(exchange, 1, 2, name="standard.short_im_ppm", value=250_000)
    exchange.block()
    votes(exchange, 3, name="standard.short_im_floor_ppm", value=220_000)
    assert reasons(exchange.block()) == []


def test_raised_stake_and_lowered_commission_bind_whoever_comes_not_who_is_there() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, 1, 2, name="staking.min_stake_uusd", value=2_000_000 * USD)
    exchange.block()
    exchange.block(DELAY_S + 1)
    assert get_staking(exchange.state).min_stake_uusd == 2_000_000 * USD
    exchange.passes_epochs(3)
    assert get_epoch_set(exchange.state, exchange.epoch + 1) is not None


def test_a_voted_number_of_the_breakers_is_judged_by_their_rules_and_takes_effect() -> None:
    exchange = StakedExchange()
    votes(exchange, 0, name="drift.green_spreads", value=6)
    assert reasons(exchange.block()) == ["parameter_out_of_bounds"]
    votes(exchange, 0, 1, 2, name="drift.green_spreads", value=4)
    exchange.block()
    exchange.block(DELAY_S + 1)
    assert get_breakers(exchange.state).drift.green_spreads == 4


def test_a_decided_value_that_is_impossible_at_its_time_is_dropped() -> None:
    """Only a shorter delay lets a later decision come before the one it rests on."""
    exchange = StakedExchange()
    votes(exchange, 0, 1, 2, name="protection.governance_delay_ns", value=3_600 * NS)
    exchange.block()
    exchange.block(DELAY_S - 60)
    votes(exchange, 0, 1, 2, name="standard.short_im_ppm", value=250_000)
    exchange.block()
    exchange.block(61)
    votes(exchange, 0, 1, 2, name="standard.short_im_floor_ppm", value=220_000)
    exchange.block()
    result = exchange.block(3_601)
    (dropped,) = events_of(result, ParameterDropped)
    assert (dropped.name, dropped.value) == ("standard.short_im_floor_ppm", 220_000)
    (changed,) = events_of(exchange.block(DELAY_S), ParameterChanged)
    assert changed == ParameterChanged("standard.short_im_ppm", 150_000, 250_000)


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


def test_open_votes_and_votes_in_a_block_are_limited_for_each_validator_alone() -> None:
    exchange = StakedExchange()
    names = [name for name in numbers_of(exchange.genesis) if name.endswith(".weight_ppm")]
    assert len(names) > OPEN_VOTES_MAX
    wanted = [VoteParameter(0, name, 900_000) for name in names * 2]
    exchange.does(OPERATORS[0], *wanted[:80])
    exchange.does(OPERATORS[0], *wanted[80:140])
    votes(exchange, 1, name=names[-1], value=800_000)
    refused = events_of(exchange.block(), ActionRejected)
    ballots = get_governance(exchange.state).ballots
    assert sum(item.voters == (0,) for item in ballots) == OPEN_VOTES_MAX
    assert [item.voters for item in ballots if item.value == 800_000] == [(1,)]
    assert {item.reason for item in refused} == {"too_many_ballots"}
    assert sum("in a block" in item.detail for item in refused) == 140 - VOTES_MAX


def test_votes_of_a_validator_that_has_left_the_set_go() -> None:
    exchange = StakedExchange()
    votes(exchange, 0)
    exchange.does(OPERATORS[0], LeaveValidatorSet(0))
    exchange.passes_epochs(3)
    votes(exchange, 1)
    exchange.block()
    assert [item.voters for item in get_governance(exchange.state).ballots] == [(1,)]
    votes(exchange, 0)
    assert reasons(exchange.block()) == ["not_a_voter"]
