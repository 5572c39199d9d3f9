"""Validators change numbers of policy by vote: two thirds of the power, hard bounds, and a delay. Pure.

What can be changed is the table in `policy.py`. An operator votes for one value of one number; its later vote on the
same number replaces it. When operators of two thirds of the running epoch's weight want the same value it is decided,
and takes effect in the first block whose time is past the delay, before anything of that block is priced: one block
for all accounts. A vote must keep the relations between numbers together with what is decided already and with the
operator's other votes; so a whole grid can change at once. Changes that take effect together are judged together.

The protocol version is such a number too: once it has changed, the next set that is decided carries it, and with
the first block of that set's epoch it is in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ledger.breakers.parameters import breaker_rules
from ledger.breakers.state import KEY_BREAKERS
from ledger.events import Event, ParameterChanged, ParameterDecided, ParameterDropped, VoteCounted
from ledger.genesis import ledger_rules
from ledger.policy import Step, get_numbers, parameters_at, value_at, with_values
from ledger.reasons import LedgerReason
from ledger.settlement.parameters import protection_rules
from ledger.settlement.state import (
    KEY_GOVERNANCE,
    KEY_PROTECTION,
    Ballot,
    DecidedChange,
    Governance,
    get_governance,
    get_protection,
    get_protocol,
)
from ledger.staking.parameters import staking_rules
from ledger.staking.state import KEY_STAKING_PARAMETERS, get_epoch_set, get_staking, get_validator, is_staking
from ledger.state_keys import KEY_PARAMETERS
from ledger.trading.parameters import trading_rules
from ledger.trading.state import KEY_TRADING
from ledger.transactions import VoteParameter
from primitives.errors import ProtocolViolation

if TYPE_CHECKING:
    from ledger.state import State
    from ledger.workspace import OpenAccount, Workspace

OPEN_VOTES_MAX = 64
"""Undecided votes of one validator; one more is refused until some of them are decided. So nobody fills the ballots up
for the others."""
DECIDED_MAX = 128
"""Decided changes that wait for their time; further votes that would decide are refused until then."""
VOTES_MAX = 128
"""Votes of one validator in one block; more are refused: each is judged with all of its others."""

_RULES: dict[bytes, Callable[[Any], Iterator[tuple[bool, str]]]] = {
    KEY_PARAMETERS: ledger_rules,
    KEY_PROTECTION: protection_rules,
    KEY_BREAKERS: breaker_rules,
    KEY_TRADING: trading_rules,
    KEY_STAKING_PARAMETERS: staking_rules,
}
"""Relations between the numbers of a leaf; those of the margin models hold wherever one is made."""


def parameter_value(state: State, name: str) -> int:
    """What a number is now. Raises KeyError for one that no vote can change."""
    number = get_numbers(state)[name]
    return int(value_at(parameters_at(state, number.key), number.path))


class VoteDesk:
    """Counts one block's votes."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._state = workspace.state
        self._seen: dict[int, int] = {}

    @cached_property
    def _weights(self) -> dict[int, int]:
        """Weight of every validator of the running epoch; nobody's without staking."""
        if not is_staking(self._state):
            return {}
        epoch = get_staking(self._state).epoch_of(self._workspace.height)
        current = get_epoch_set(self._state, epoch)
        return {member.validator: member.weight for member in current.members} if current else {}

    def vote(self, account: OpenAccount, action: object) -> None:
        """Count one operator's vote; two thirds of the weight decide.

        Raises:
            ProtocolViolation: NOT_A_VOTER, UNKNOWN_PARAMETER, PARAMETER_OUT_OF_BOUNDS, TOO_MANY_BALLOTS.
        """
        assert isinstance(action, VoteParameter)
        self._check_voter(account, action.validator)
        _check_value(self._state, action.name, action.value)
        governance = get_governance(self._state)
        _check_together(self._state, [*_wanted(self._state, governance, action), (action.name, action.value)])
        ballots = self._others(governance, action)
        voters = sorted({*ballots.pop((action.name, action.value), ()), action.validator})
        weight = sum(self._weights[item] for item in voters)
        total = sum(self._weights.values())
        decided, events = governance.decided, list[Event]()
        if 3 * weight >= 2 * total:
            change = self._decide(decided, action)
            decided = (*decided, change)
            ballots = {key: value for key, value in ballots.items() if key[0] != action.name}
            events.append(ParameterDecided(change.name, change.value, change.effective_ns))
        else:
            if sum(action.validator in own for own in ballots.values()) >= OPEN_VOTES_MAX:
                raise ProtocolViolation(
                    LedgerReason.TOO_MANY_BALLOTS,
                    f"{OPEN_VOTES_MAX} votes of the validator are open",
                )
            ballots[action.name, action.value] = tuple(voters)
        counted = VoteCounted(action.validator, action.name, action.value, weight, total)
        self._workspace.events += [counted, *events]
        opened = tuple(Ballot(*key, tuple(ballots[key])) for key in sorted(ballots))
        self._state.put(KEY_GOVERNANCE, Governance(opened, decided))

    def _others(
        self, governance: Governance, action: VoteParameter
    ) -> dict[tuple[str, int], tuple[int, ...]]:
        """Voters by (name, value), without the validator's earlier vote on this number and whoever left the set."""
        ballots = {}
        for item in governance.ballots:
            voters = [voter for voter in item.voters if voter in self._weights]
            if item.name == action.name and action.validator in voters:
                voters.remove(action.validator)
            if voters:
                ballots[item.name, item.value] = tuple(voters)
        return ballots

    def _check_voter(self, account: OpenAccount, number: int) -> None:
        validator = get_validator(self._state, number)
        if validator is None or validator.operator != account.key[0] or number not in self._weights:
            raise ProtocolViolation(
                LedgerReason.NOT_A_VOTER,
                "only operators of the running epoch's validators vote, each for its own",
            )
        seen = self._seen[number] = self._seen.get(number, 0) + 1
        if seen > VOTES_MAX:
            raise ProtocolViolation(
                LedgerReason.TOO_MANY_BALLOTS, f"a validator votes {VOTES_MAX} times in a block at most"
            )

    def _decide(self, decided: Sequence[DecidedChange], action: VoteParameter) -> DecidedChange:
        if len(decided) >= DECIDED_MAX:
            raise ProtocolViolation(LedgerReason.TOO_MANY_BALLOTS, "too many decided changes wait")
        effective_ns = self._workspace.time_ns + get_protection(self._state).governance_delay_ns
        return DecidedChange(action.name, action.value, effective_ns)


def apply_decided(workspace: Workspace) -> None:
    """At the start of a block: let every change take effect whose time has come.

    All of them together if the relations hold then; else one after another, as decided, without those that break one.
    """
    state, governance = workspace.state, get_governance(workspace.state)
    due = [item for item in governance.decided if item.effective_ns <= workspace.time_ns]
    if not due:
        return
    try:
        _check_together(state, [(item.name, item.value) for item in due])
        groups = [due]
    except ProtocolViolation:
        groups = [[item] for item in due]
    for group in groups:
        _take_effect(workspace, group)
    left = tuple(item for item in governance.decided if item not in due)
    state.put(KEY_GOVERNANCE, Governance(governance.ballots, left))


def _take_effect(workspace: Workspace, changes: Sequence[DecidedChange]) -> None:
    """Put numbers in place, or say why not."""
    state, values = workspace.state, {item.name: item.value for item in changes}
    try:
        for name, value in values.items():
            _check_value(state, name, value)
        leaves = _changed_leaves(state, values)
    except ProtocolViolation as violation:
        workspace.events += [ParameterDropped(*item, violation.detail) for item in values.items()]
        return
    workspace.events += [
        ParameterChanged(name, parameter_value(state, name), value) for name, value in values.items()
    ]
    for key in sorted(leaves):
        state.put(key, leaves[key])


def _check_value(state: State, name: str, value: int) -> None:
    """Raises UNKNOWN_PARAMETER, PARAMETER_OUT_OF_BOUNDS for what the number alone must be."""
    number = get_numbers(state).get(name)
    if number is None:
        raise ProtocolViolation(LedgerReason.UNKNOWN_PARAMETER, "no vote can change a number of this name")
    low, high = number.bounds
    if not low <= value <= high:
        raise ProtocolViolation(LedgerReason.PARAMETER_OUT_OF_BOUNDS, f"{name} is {low} to {high}")
    if name == "protocol.version" and value <= get_protocol(state).version:
        raise ProtocolViolation(
            LedgerReason.PARAMETER_OUT_OF_BOUNDS,
            "the protocol version only rises: blocks cannot be downgraded",
        )


def _wanted(state: State, governance: Governance, action: VoteParameter) -> list[tuple[str, int]]:
    """What is decided, and then what else the operator votes for, in the leaf that its vote is about."""
    numbers = get_numbers(state)
    decided = [(item.name, item.value) for item in governance.decided]
    own = [(item.name, item.value) for item in governance.ballots if action.validator in item.voters]
    key = numbers[action.name].key
    return [item for item in (*decided, *own) if numbers[item[0]].key == key]


def _check_together(state: State, changes: Sequence[tuple[str, int]]) -> None:
    """Whether the relations hold once all of these are in place. Raises PARAMETER_OUT_OF_BOUNDS."""
    _changed_leaves(state, dict(changes))


def _changed_leaves(state: State, values: Mapping[str, int]) -> dict[bytes, Any]:
    """The leaves, by key, with these numbers in place. Raises PARAMETER_OUT_OF_BOUNDS."""
    numbers, by_key = get_numbers(state), dict[bytes, dict[tuple[Step, ...], int]]()
    for name, value in values.items():
        by_key.setdefault(numbers[name].key, {})[numbers[name].path] = value
    leaves: dict[bytes, Any] = {}
    for key, changes in by_key.items():
        try:
            leaf = leaves[key] = with_values(parameters_at(state, key), changes)
        except ProtocolViolation as violation:
            raise ProtocolViolation(LedgerReason.PARAMETER_OUT_OF_BOUNDS, violation.detail) from None
        broken = [rule for holds, rule in _RULES[key](leaf) if not holds] if key in _RULES else []
        if broken:
            raise ProtocolViolation(LedgerReason.PARAMETER_OUT_OF_BOUNDS, broken[0])
    return leaves
