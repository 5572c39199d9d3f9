"""Questions about stake and validators; nothing here changes anything. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.staking.pools import value_of
from ledger.staking.state import (
    Unbonding,
    Validator,
    counted,
    existing_validator,
    get_activity,
    get_delegation,
    get_epoch_set,
    get_staking,
    get_totals,
    get_validator,
    is_staking,
    scan,
)

if TYPE_CHECKING:
    from ledger.matching.orders import AccountKey
    from ledger.state import State


class ValidatorView(NamedTuple):
    """One validator as of the state's height. `place` and `weight` are those of the epoch that runs, or None
    and 0; counts are of the sliding window."""

    validator: Validator
    place: int | None
    weight: int
    missed_blocks: int
    late_proposals: int
    led_proposals: int
    outside_reports: int
    leader_delay_ppm: int


class DelegationView(NamedTuple):
    """What one sub-account has bonded with one validator; worth `value_uusd` now, rounded down."""

    validator: int
    shares: int
    value_uusd: int


def get_validators(state: State) -> list[ValidatorView]:
    """Every validator ever registered, by number; empty on a chain without staking."""
    if not is_staking(state):
        return []
    staking, height = get_staking(state), state.clock.height
    current = get_epoch_set(state, staking.epoch_of(height))
    members = {item.validator: item for item in current.members} if current is not None else {}
    views = []
    for number in range(get_totals(state).next_validator):
        validator, member = get_validator(state, number), members.get(number)
        if validator is None:
            # Metrics are read beside the thread that executes: a registration may be half undone.
            continue
        activity = get_activity(state, number)
        views.append(
            ValidatorView(
                validator,
                None if member is None else member.place,
                0 if member is None else member.weight,
                counted(activity.missed, height, staking),
                counted(activity.late, height, staking),
                counted(activity.led, height, staking),
                counted(activity.outside, height, staking),
                activity.leader_delay_ppm,
            )
        )
    return views


def get_delegations(state: State, account: AccountKey) -> list[DelegationView]:
    """What a sub-account has bonded, by validator."""
    views = []
    for number in range(get_totals(state).next_validator):
        held = get_delegation(state, number, account)
        if held is not None:
            worth = value_of(existing_validator(state, number), held.shares)
            views.append(DelegationView(number, held.shares, worth))
    return views


def get_unbondings(state: State, account: AccountKey) -> list[Unbonding]:
    """What a sub-account has on its way out, by validator and start. Walks all keys of the state."""
    entries: list[Unbonding] = scan(state, b"ku")
    return [item for item in entries if (item.owner, item.subaccount) == account]
