"""Whatever delegators, operators and offenders do: money is conserved, and no stake is paid out too early.

StakedExchange.apply recomputes every sum from every pool, delegation and unbonding after each block. Beside that the
machine undoes and redoes blocks, restores the state from its leaves, and watches what must never turn back.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger.staking.epochs import next_validator_set
from ledger.staking.reasons import StakingReason
from ledger.staking.state import get_epoch_set, get_punishment
from ledger.state import State
from ledger.transactions import (
    Action,
    AttestReadiness,
    Delegate,
    LeaveValidatorSet,
    Redelegate,
    SetCommission,
    Unbond,
    Unjail,
)
from primitives.amounts import PPM, USD
from primitives.errors import ProtocolViolation
from tests.ledger.exchange import CHAIN
from tests.ledger.staking_builders import EVERYBODY, OPERATORS, StakedExchange

PEOPLE = st.sampled_from(["carol", "dave", *OPERATORS])
VALIDATORS = st.sampled_from(EVERYBODY)
AMOUNTS = st.one_of(st.integers(1, 2_000_000 * USD), st.sampled_from([100 * USD, 1_000_000 * USD]))


class StakingMachine(RuleBasedStateMachine):
    """Random stake, offences and silence on four validators with commission."""

    @initialize()
    def begin(self) -> None:
        self.exchange = StakedExchange(
            {"validators_min": 2, "fund_fee_share_ppm": 123_457},
            alice=1_000_000,
            bob=1_000_000,
            carol=3_000_000,
            dave=3_000_000,
        )
        self.slashed_ppm = dict.fromkeys(EVERYBODY, 0)

    @rule(name=PEOPLE, validator=VALIDATORS, other=VALIDATORS, amount=AMOUNTS, what=st.integers(0, 3))
    def move_stake(self, name: str, validator: int, other: int, amount: int, what: int) -> None:
        actions: list[Action] = [
            Delegate(validator, amount),
            Unbond(validator, amount),
            Redelegate(validator, other, amount),
            Unbond(validator, max(1, self.exchange.stake(validator) // 4)),
        ]
        self.exchange.does(name, actions[what])

    @rule(validator=VALIDATORS, what=st.integers(0, 3), rate=st.integers(0, 20_000))
    def operate(self, validator: int, what: int, rate: int) -> None:
        actions: list[Action] = [
            Unjail(validator),
            LeaveValidatorSet(validator),
            AttestReadiness(validator),
            SetCommission(validator, rate),
        ]
        self.exchange.does(OPERATORS[validator], actions[what])

    @rule(place=st.integers(0, 3), back=st.integers(0, 3), kind=st.sampled_from(["E1", "E3", "E6", "FORK"]))
    def offend(self, place: int, back: int, kind: str) -> None:
        epoch = max(0, self.exchange.epoch - back)
        found = get_epoch_set(self.exchange.state, epoch)
        assert found is not None
        offence = (found.members[place % len(found.members)].place, epoch, kind, 1)
        try:
            self.exchange.sees(offences=(offence,)).block()
        except ProtocolViolation as violation:
            assert violation.reason == StakingReason.EVIDENCE_TOO_OLD

    @rule(place=st.integers(0, 3), delay_ppm=st.integers(0, 2 * PPM))
    def observe(self, place: int, delay_ppm: int) -> None:
        """Everybody but one signed the parent; that one also leads, more or less late."""
        height = self.exchange.state.clock.height
        found = get_epoch_set(self.exchange.state, self.exchange.genesis.staking.epoch_of(height))
        assert found is not None
        places = [item.place for item in found.members]
        silent = places[place % len(places)]
        signers = tuple(item for item in places if item != silent)
        self.exchange.sees(signers=signers, delays=((silent, delay_ppm),)).block()

    @rule(seconds=st.sampled_from([1, 1, 20]))
    def block(self, seconds: int) -> None:
        self.exchange.block(seconds)

    @rule()
    def trade(self) -> None:
        self.exchange.trades()

    @rule(seconds=st.sampled_from([1, 20]))
    def end_epoch(self, seconds: int) -> None:
        self.exchange.ends_epoch(seconds=seconds)

    @rule()
    def undo_and_redo(self) -> None:
        exchange = self.exchange
        content, before = exchange.transactions(), exchange.state.root()
        root = exchange.apply(content).root
        exchange.state.rollback_block()
        assert exchange.state.root() == before
        assert exchange.apply(content).root == root

    @rule()
    def restore(self) -> None:
        leaves = self.exchange.state.all_leaves()
        restored = State.from_leaves(CHAIN, self.exchange.genesis, leaves)
        assert restored.root() == self.exchange.state.root()
        self.exchange.state = restored

    @invariant()
    def punishment_only_grows(self) -> None:
        for number in EVERYBODY:
            found = get_punishment(self.exchange.state, number)
            taken = 0 if found is None else found.slashed_ppm
            assert self.slashed_ppm[number] <= taken <= PPM
            assert (found is not None) == self.exchange.validator(number).is_tombstoned
            self.slashed_ppm[number] = taken

    @invariant()
    def there_is_always_a_next_set_with_power(self) -> None:
        members = next_validator_set(self.exchange.state).members
        assert members and all(item.weight >= 1 for item in members)


StakingMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStaking = StakingMachine.TestCase
