"""Votes on numbers of policy, counted anew each time, and the numbers put into genesis' own structs. Pure.

The table of names, places and hard bounds is data and taken as it is; so are the relations of genesis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ledger.breakers.parameters import breaker_rules
from ledger.breakers.state import KEY_BREAKERS
from ledger.events import ParameterChanged, ParameterDecided, ParameterDropped, VoteCounted
from ledger.genesis import LedgerGenesis, ledger_rules
from ledger.policy import Number, numbers_of
from ledger.settlement.parameters import protection_rules
from ledger.settlement.state import (
    KEY_GOVERNANCE,
    KEY_PROTECTION,
    KEY_PROTOCOL,
    Ballot,
    DecidedChange,
    Governance,
)
from ledger.staking.parameters import staking_rules
from ledger.staking.state import KEY_STAKING_PARAMETERS
from ledger.state_keys import KEY_PARAMETERS, underlying_key
from ledger.trading.parameters import trading_rules
from ledger.trading.state import KEY_TRADING
from ledger.transactions import VoteParameter
from primitives.errors import ProtocolViolation
from tests.naive.margin import PPM, Rows
from tests.naive.sent import Sent

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

OPEN_VOTES_MAX, DECIDED_MAX, VOTES_MAX = 64, 128, 128
FIELDS = {
    KEY_PARAMETERS: "parameters",
    KEY_PROTECTION: "protection",
    KEY_PROTOCOL: "protocol",
    KEY_BREAKERS: "breakers",
    KEY_TRADING: "trading",
    KEY_STAKING_PARAMETERS: "staking",
}


class NaiveGovernance:
    """Who wants what, and what is decided."""

    def __init__(self, genesis: LedgerGenesis) -> None:
        self.numbers: dict[str, Number] = numbers_of(genesis)
        self.wishes: dict[tuple[int, str], int] = {}
        """What each validator wants each number to be."""
        self.decided: list[DecidedChange] = []
        self.has_leaf = self.has_version = False
        self.counted: dict[int, int] = {}
        """Votes of each validator in this block."""

    def ballots(self) -> list[Ballot]:
        """Every value that somebody wants, with who does."""
        voters: dict[tuple[str, int], list[int]] = {}
        for (validator, name), value in sorted(self.wishes.items()):
            voters.setdefault((name, value), []).append(validator)
        return [Ballot(*key, tuple(sorted(voters[key]))) for key in sorted(voters)]


def vote(ledger: NaiveLedger, sent: Sent, action: object) -> str | None:
    """Count it, or why not."""
    assert isinstance(action, VoteParameter)
    own, number, staking = ledger.governance, action.validator, ledger.staking
    if staking is None:
        return "not_a_voter"
    members = staking.sets[(ledger.height - 1) // staking.rules.epoch_blocks].members
    weights = {item.validator: item.weight for item in members}
    known = staking.find(number)
    if known is None or known.operator != sent.key[0] or number not in weights:
        return "not_a_voter"
    own.counted[number] = own.counted.get(number, 0) + 1
    if own.counted[number] > VOTES_MAX:
        return "too_many_ballots"
    if reason := _defect(ledger, action.name, action.value):
        return reason
    wanted = [(item.name, item.value) for item in own.decided]
    wanted += sorted((name, value) for (who, name), value in own.wishes.items() if who == number)
    key = own.numbers[action.name].key
    together = dict(item for item in wanted if own.numbers[item[0]].key == key)
    if _changed(ledger, {**together, action.name: action.value}) is None:
        return "parameter_out_of_bounds"
    before = dict(own.wishes)
    own.wishes = {key: value for key, value in own.wishes.items() if key[0] in weights}
    own.wishes[number, action.name] = action.value
    voters = next(item.voters for item in own.ballots() if (item.name, item.value) == action_of(action))
    weight, total = sum(weights[item] for item in voters), sum(weights.values())
    is_decided = 3 * weight >= 2 * total
    own_open = sum(1 for who, _ in own.wishes if who == number)
    is_full = len(own.decided) >= DECIDED_MAX if is_decided else own_open > OPEN_VOTES_MAX
    if is_full:
        own.wishes = before
        return "too_many_ballots"
    own.has_leaf = True
    ledger.events.append(VoteCounted(number, action.name, action.value, weight, total))
    if is_decided:
        effective_ns = ledger.time_ns + ledger.protection.governance_delay_ns
        own.decided.append(DecidedChange(action.name, action.value, effective_ns))
        own.wishes = {key: value for key, value in own.wishes.items() if key[1] != action.name}
        ledger.events.append(ParameterDecided(action.name, action.value, effective_ns))
    return None


def action_of(action: VoteParameter) -> tuple[str, int]:
    """What is wanted."""
    return action.name, action.value


def apply_decided(ledger: NaiveLedger) -> None:
    """What is due takes effect, all at once if it fits together."""
    own = ledger.governance
    own.counted = {}
    due = [item for item in own.decided if item.effective_ns <= ledger.time_ns]
    own.decided = [item for item in own.decided if item not in due]
    whole = {item.name: item.value for item in due}
    steps = [whole] if _changed(ledger, whole) is not None else [{item.name: item.value} for item in due]
    for step in steps if due else []:
        changed = None if any(_defect(ledger, *item) for item in step.items()) else _changed(ledger, step)
        for name, value in step.items():
            if changed is None:
                ledger.events.append(ParameterDropped(name, value, ""))
            else:
                ledger.events.append(ParameterChanged(name, _value(ledger, name), value))
                own.has_version |= name == "protocol.version"
        ledger.take_policy(changed or ledger.genesis)


def _defect(ledger: NaiveLedger, name: str, value: int) -> str | None:
    number = ledger.governance.numbers.get(name)
    if number is None:
        return "unknown_parameter"
    is_lower = name == "protocol.version" and value <= ledger.genesis.protocol.version
    if is_lower or value < number.bounds.low or value > number.bounds.high:
        return "parameter_out_of_bounds"
    return None


def _value(ledger: NaiveLedger, name: str) -> int:
    item: Any = ledger.genesis
    for step in _way(ledger, name):
        item = item[step] if isinstance(step, int) else getattr(item, step)
    assert isinstance(item, int)
    return item


def _way(ledger: NaiveLedger, name: str) -> list[Any]:
    """From genesis to a number."""
    number = ledger.governance.numbers[name]
    if number.key in FIELDS:
        return [FIELDS[number.key], *number.path]
    keys = [underlying_key(item.underlying) for item in ledger.genesis.underlyings]
    return ["underlyings", keys.index(number.key), *number.path]


def _changed(ledger: NaiveLedger, values: dict[str, int]) -> LedgerGenesis | None:
    """Genesis as if it had these numbers; None if they do not fit together."""
    ways = {tuple(_way(ledger, name)): value for name, value in values.items()}
    try:
        found: LedgerGenesis = _put(ledger.genesis, ways)
    except ProtocolViolation:
        return None
    rules = [
        *ledger_rules(found.parameters),
        *protection_rules(found.protection),
        *breaker_rules(found.breakers),
        *trading_rules(found.trading),
        *staking_rules(found.staking),
    ]
    return found if all(holds for holds, _ in rules) else None


def _put(item: Any, ways: dict[tuple[Any, ...], int]) -> Any:
    """A struct or tuple with numbers replaced, each part of it made anew once."""
    if not ways:
        return item
    if () in ways:
        return ways[()]
    firsts = {way[0] for way in ways}
    inner = {
        first: _put(
            item[first] if isinstance(first, int) else getattr(item, first),
            {way[1:]: value for way, value in ways.items() if way[0] == first},
        )
        for first in firsts
    }
    if isinstance(item, tuple):
        return tuple(inner.get(place, part) for place, part in enumerate(item))
    return replace(item, **inner)


def governance_leaves(ledger: NaiveLedger) -> dict[bytes, Any]:
    """Ballots, and every parameter in force."""
    own, genesis = ledger.governance, ledger.genesis
    leaves: dict[bytes, Any] = {
        KEY_PARAMETERS: genesis.parameters,
        KEY_PROTECTION: genesis.protection,
        KEY_BREAKERS: genesis.breakers,
        KEY_TRADING: genesis.trading,
        **{underlying_key(item.underlying): item for item in genesis.underlyings},
    }
    if own.has_leaf:
        leaves[KEY_GOVERNANCE] = Governance(tuple(own.ballots()), tuple(own.decided))
    if own.has_version:
        leaves[KEY_PROTOCOL] = genesis.protocol
    if ledger.staking is not None:
        leaves[KEY_STAKING_PARAMETERS] = genesis.staking
    return leaves


def set_model(ledger: NaiveLedger, rows: Rows, underlyings: tuple[int, ...]) -> None:
    """Everything in the rows that is an integer of the margin parameters in force, computed from them again."""
    models = {item.underlying: item.margin for item in ledger.genesis.underlyings}
    extra = ledger.exposure.im_extra_ppm if ledger.exposure else 0
    for place, underlying in enumerate(underlyings):
        model = models[underlying]
        rows.weights[place] = [item.weight_ppm for item in model.scenarios]
        rows.im_factor[place] = model.im_factor_ppm + extra
        rows.mm_factor[place] = model.mm_factor_ppm
    for number, row in rows.row_of.items():
        item = ledger.instruments[number]
        model, part = models[item.underlying], models[item.underlying].contingencies
        index, scale = ledger.oracle.agreed[item.underlying].index_uusd, 100 // item.lots_per_contract
        is_perpetual = rows.is_perpetual[row]
        mm = part.perpetual_mm_ppm if is_perpetual else part.short_option_mm_ppm
        im = part.perpetual_im_ppm if is_perpetual else part.short_option_im_ppm
        rows.mm_unit[row], rows.im_unit[row] = (-(-index * ppm // PPM) * scale for ppm in (mm, im))
        if is_perpetual:
            for scenario, shock in enumerate(model.scenarios):
                rows.table[row][scenario] = rows.mark[row] * shock.move_ppm // PPM * scale
