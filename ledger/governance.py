"""Validators change numbers of policy by vote: two thirds of the power, hard bounds, and a delay. Pure.

Every number that can be changed has a hard minimum and maximum here. An operator votes for one value of one
number; its later vote on the same number replaces it. When operators of two thirds of the running epoch's weight
want the same value it is decided, and takes effect in the first block whose time is past the delay. A value that
would break a relation between numbers is refused, when voted for and again when it would take effect.

The protocol version is such a number too: once it has changed, the next set that is decided carries it, and with
the first block of that set's epoch it is in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from ledger.breakers.parameters import breaker_rules
from ledger.breakers.state import KEY_BREAKERS
from ledger.events import Event, ParameterChanged, ParameterDecided, ParameterDropped, VoteCounted
from ledger.reasons import LedgerReason
from ledger.settlement.parameters import protection_rules
from ledger.settlement.state import (
    KEY_GOVERNANCE,
    KEY_PROTECTION,
    KEY_PROTOCOL,
    Ballot,
    DecidedChange,
    Governance,
    get_governance,
    get_protection,
    get_protocol,
)
from ledger.staking.state import get_epoch_set, get_validator, is_staking
from ledger.state_keys import KEY_PARAMETERS
from ledger.transactions import VoteParameter
from primitives.amounts import NS, PPM, USD
from primitives.errors import ProtocolViolation

if TYPE_CHECKING:
    from ledger.state import State
    from ledger.workspace import OpenAccount, Workspace

BALLOTS_MAX = 64
"""Open (number, value) pairs; a vote that would open one more is refused until others are decided or changed."""
DECIDED_MAX = 32
"""Decided changes that wait for their time; further votes that would decide are refused until then."""


class Bounds(NamedTuple):
    """The hard minimum and maximum of one number, both allowed."""

    low: int
    high: int


BOUNDS: dict[str, Bounds] = {
    "ledger.confidence_decay_ppm": Bounds(10_000, 500_000),
    "ledger.forward_limit_ppm": Bounds(1_000, 200_000),
    "ledger.liquidation_close_ppm": Bounds(10_000, PPM),
    "ledger.liquidation_delta_uusd": Bounds(1_000 * USD, 10_000_000 * USD),
    "ledger.price_band_ppm": Bounds(10_000, PPM),
    "ledger.theta_limit_ppm": Bounds(10_000, PPM),
    "auction.buffer_ppm": Bounds(0, 500_000),
    "auction.discount_fast_ppm": Bounds(50_000, 500_000),
    "auction.discount_start_ppm": Bounds(0, 200_000),
    "auction.empty_book_patience_ns": Bounds(0, 600 * NS),
    "auction.fee_ppm": Bounds(0, 300_000),
    "auction.patience_ns": Bounds(NS, 3_600 * NS),
    "exposure.critical_from_ppm": Bounds(0, 10 * PPM),
    "exposure.im_extra_max_ppm": Bounds(0, PPM),
    "exposure.rise_from_ppm": Bounds(100_000, 10 * PPM),
    "exposure.step_ppm": Bounds(0, 200_000),
    "funding.gap_ns_max": Bounds(NS, 3_600 * NS),
    "funding.premium_max_ppm": Bounds(0, 20_000),
    "listing.strikes_max": Bounds(0, 60),
    "protocol.version": Bounds(1, 2**16 - 1),
    "breakers.band_spreads": Bounds(0, 20),
    "breakers.fresh_epochs": Bounds(1, 20),
    "breakers.post_only_ns": Bounds(0, 3_600 * NS),
    "drift.amber_spreads": Bounds(1, 50),
    "drift.auction_ns": Bounds(0, 3_600 * NS),
    "drift.green_epochs": Bounds(1, 50),
    "drift.green_spreads": Bounds(1, 20),
    "drift.index_amber_ppm": Bounds(500, 50_000),
    "drift.index_green_ppm": Bounds(100, 20_000),
    "drift.margin_ppm": Bounds(0, PPM),
    "drift.option_red_ppm": Bounds(500, 50_000),
    "drift.red_epochs": Bounds(1, 50),
    "drift.red_options_ppm": Bounds(50_000, PPM),
    "latency.floor_ppm": Bounds(10, 20_000),
    "latency.pause_spreads": Bounds(0, 100),
}
"""Everything that a vote can change: its section (a leaf of parameters, or a part of one) and its name."""

_LEAVES = {"ledger": KEY_PARAMETERS, "protocol": KEY_PROTOCOL, "breakers": KEY_BREAKERS}
"""Sections that are whole leaves."""
_PARTS = {"drift": KEY_BREAKERS, "latency": KEY_BREAKERS}
"""The leaf of which a section is a part; the others' is that of the protection."""
_RULES: dict[bytes, Callable[[Any], Iterator[tuple[bool, str]]]] = {
    KEY_PROTECTION: protection_rules,
    KEY_BREAKERS: breaker_rules,
}


def parameter_value(state: State, name: str) -> int:
    """What a number is now. Raises KeyError for one that no vote can change."""
    BOUNDS[name]
    section, field = name.split(".")
    leaf = _leaf_of(state, section)
    return int(getattr(leaf if section in _LEAVES else getattr(leaf, section), field))


def _key_of(section: str) -> bytes:
    return _LEAVES.get(section) or _PARTS.get(section, KEY_PROTECTION)


def _leaf_of(state: State, section: str) -> Any:
    """The parameters that hold a section."""
    return get_protocol(state) if section == "protocol" else state.leaves.values[_key_of(section)]


def vote(workspace: Workspace, account: OpenAccount, action: object) -> None:
    """Count one operator's vote; two thirds of the weight decide.

    Raises:
        ProtocolViolation: NOT_A_VOTER, UNKNOWN_PARAMETER, PARAMETER_OUT_OF_BOUNDS, TOO_MANY_BALLOTS.
    """
    assert isinstance(action, VoteParameter)
    state = workspace.state
    weights = _weights(workspace)
    validator = get_validator(state, action.validator)
    if validator is None or validator.operator != account.key[0] or action.validator not in weights:
        raise ProtocolViolation(
            LedgerReason.NOT_A_VOTER,
            "only operators of the running epoch's validators vote, each for its own",
        )
    _check_value(state, action.name, action.value)
    governance = _without_vote(get_governance(state), action)
    ballots = {(item.name, item.value): item.voters for item in governance.ballots}
    voters = sorted({*ballots.pop((action.name, action.value), ()), action.validator})
    weight, total = sum(weights.get(item, 0) for item in voters), sum(weights.values())
    decided, events = governance.decided, list[Event]()
    if 3 * weight >= 2 * total:
        if len(decided) >= DECIDED_MAX:
            raise ProtocolViolation(LedgerReason.TOO_MANY_BALLOTS, "too many decided changes wait")
        effective_ns = workspace.time_ns + get_protection(state).governance_delay_ns
        decided = (*decided, DecidedChange(action.name, action.value, effective_ns))
        ballots = {key: value for key, value in ballots.items() if key[0] != action.name}
        events.append(ParameterDecided(action.name, action.value, effective_ns))
    else:
        if len(ballots) >= BALLOTS_MAX:
            raise ProtocolViolation(LedgerReason.TOO_MANY_BALLOTS, f"{BALLOTS_MAX} ballots are open")
        ballots[action.name, action.value] = tuple(voters)
    workspace.events.append(VoteCounted(action.validator, action.name, action.value, weight, total))
    workspace.events += events
    opened = tuple(Ballot(*key, tuple(ballots[key])) for key in sorted(ballots))
    state.put(KEY_GOVERNANCE, Governance(opened, decided))


def apply_decided(workspace: Workspace) -> None:
    """At the start of a block: let every change take effect whose time has come, in the order decided."""
    state, governance = workspace.state, get_governance(workspace.state)
    due = [item for item in governance.decided if item.effective_ns <= workspace.time_ns]
    if not due:
        return
    for item in due:
        try:
            _check_value(state, item.name, item.value)
        except ProtocolViolation as violation:
            workspace.events.append(ParameterDropped(item.name, item.value, violation.detail))
            continue
        before = parameter_value(state, item.name)
        state.put(*_with_value(state, item.name, item.value))
        workspace.events.append(ParameterChanged(item.name, before, item.value))
    left = tuple(item for item in governance.decided if item not in due)
    state.put(KEY_GOVERNANCE, Governance(governance.ballots, left))


def _weights(workspace: Workspace) -> dict[int, int]:
    """Weight of every validator of the running epoch; nobody's without staking."""
    if not is_staking(workspace.state):
        return {}
    epoch = workspace.state.genesis.staking.epoch_of(workspace.height)
    current = get_epoch_set(workspace.state, epoch)
    return {member.validator: member.weight for member in current.members} if current else {}


def _check_value(state: State, name: str, value: int) -> None:
    """Raises UNKNOWN_PARAMETER, PARAMETER_OUT_OF_BOUNDS."""
    bounds = BOUNDS.get(name)
    if bounds is None:
        raise ProtocolViolation(LedgerReason.UNKNOWN_PARAMETER, "no vote can change a number of this name")
    if not bounds.low <= value <= bounds.high:
        raise ProtocolViolation(
            LedgerReason.PARAMETER_OUT_OF_BOUNDS, f"{name} is {bounds.low} to {bounds.high}"
        )
    if name == "protocol.version" and value <= get_protocol(state).version:
        raise ProtocolViolation(
            LedgerReason.PARAMETER_OUT_OF_BOUNDS,
            "the protocol version only rises: blocks cannot be downgraded",
        )
    key, leaf = _with_value(state, name, value)
    broken = [rule for holds, rule in _RULES[key](leaf) if not holds] if key in _RULES else []
    if broken:
        raise ProtocolViolation(LedgerReason.PARAMETER_OUT_OF_BOUNDS, broken[0])


def _with_value(state: State, name: str, value: int) -> tuple[bytes, Any]:
    """The leaf, after its key, that a changed number makes."""
    section, field = name.split(".")
    key, leaf = _key_of(section), _leaf_of(state, section)
    if section in _LEAVES:
        return key, replace(leaf, **{field: value})
    return key, replace(leaf, **{section: replace(getattr(leaf, section), **{field: value})})


def _without_vote(governance: Governance, action: VoteParameter) -> Governance:
    """Take the validator's earlier vote on this number back."""
    ballots = []
    for ballot in governance.ballots:
        voters = ballot.voters
        if ballot.name == action.name:
            voters = tuple(item for item in voters if item != action.validator)
        if voters:
            ballots.append(replace(ballot, voters=voters))
    return replace(governance, ballots=tuple(ballots))
