"""The end of an epoch: rewards, commissions, stake that is due, and the set of a coming epoch. Pure.

The set decided at the end of epoch e is that of epoch e + 1 + SET_NOTICE_EPOCHS, so it stands still while the
headers of the epoch between commit to it. A validator registered in epoch e attests readiness in a later one
and is in the sets decided from the end of that one on.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.events import CashMoved
from ledger.genesis import LedgerGenesis
from ledger.oracle import reporters_of
from ledger.settlement.state import get_protocol
from ledger.staking.events import Bonded, Unbonded, ValidatorSetChanged
from ledger.staking.observations import Observations
from ledger.staking.parameters import SET_NOTICE_EPOCHS, VALIDATORS_MAX, StakingParameters
from ledger.staking.penalties import count_delays, count_deviations, count_missed, punish
from ledger.staking.pools import add_stake, shares_for
from ledger.staking.rewards import distribute_rewards, take_fees
from ledger.staking.state import (
    KEY_REPORTERS,
    KEY_STAKING_PARAMETERS,
    KEY_STAKING_TOTALS,
    NO_TARGET,
    Delegation,
    EpochSet,
    KeyOwner,
    Reporters,
    SetMember,
    StakingTotals,
    Unbonding,
    Validator,
    change_totals,
    consensus_key_key,
    delegation_key,
    epoch_key,
    existing_validator,
    get_epoch_set,
    get_staking,
    is_staking,
    scan,
    unbonding_key,
    validator_key,
)
from primitives.amounts import ceil_div
from primitives.errors import ensure

if TYPE_CHECKING:
    from ledger.state import State
    from ledger.transactions import OracleReport
    from ledger.workspace import Workspace


# --- what the rest of the node calls ---


def next_validator_set(state: State) -> EpochSet:
    """The set of the epoch after the one that the next block belongs to: what its header commits to.

    Call it on the parent's state; it is the same for every parent whose child is in the same epoch. A chain
    without staking has no such set: ask only where is_staking(state) holds.
    """
    epoch = get_staking(state).epoch_of(state.clock.height + 1) + 1
    found = get_epoch_set(state, epoch)
    ensure(found is not None, "the next epoch's set is decided")
    assert found is not None
    return found


def put_genesis_stake(state: State, genesis: LedgerGenesis) -> None:
    """The leaves of staking at height 0; epochs up to the notice have the genesis validators and weights."""
    staking = genesis.staking
    if not staking.validators:
        return
    members = []
    for number, entry in enumerate(staking.validators):
        stake = entry.stake_uusd
        validator = Validator(
            number=number,
            operator=entry.operator,
            consensus_key=entry.consensus_key,
            oracle_key=entry.oracle_key,
            peer_id=entry.peer_id,
            stake_uusd=stake,
            shares=stake,
            commission_ppm=entry.commission_ppm,
            next_commission_ppm=entry.commission_ppm,
            joined_epoch=0,
            is_ready=True,
            is_jailed=False,
            jailed_until_ns=0,
            is_tombstoned=False,
        )
        state.put(validator_key(number), validator)
        account = (entry.operator, 0)
        state.put(delegation_key(number, account), Delegation(number, *account, stake))
        state.put(consensus_key_key(entry.consensus_key), KeyOwner(number))
        members.append(
            SetMember(number, number, entry.consensus_key, genesis.reporters[number].weight, stake)
        )
    for epoch in range(SET_NOTICE_EPOCHS + 1):
        state.put(epoch_key(epoch), EpochSet(epoch, tuple(members), 0, genesis.protocol.version))
    staked = sum(entry.stake_uusd for entry in staking.validators)
    state.put(KEY_STAKING_TOTALS, StakingTotals(staked, 0, 0, len(members)))
    state.put(KEY_STAKING_PARAMETERS, staking)


# --- a block's two phases ---


def begin_staking(workspace: Workspace, reports: Sequence[OracleReport], seen: Observations) -> None:
    """Before a block's transactions: what its evidence, its parent's certificate and its reports entail."""
    if is_staking(workspace.state):
        punish(workspace, seen.offences)
        count_missed(workspace, seen.signers)
        count_delays(workspace, reports)
        count_deviations(workspace, reports)


def end_staking(workspace: Workspace) -> None:
    """After a block's trades: its fees; at the end of an epoch everything that is then due."""
    state = workspace.state
    if not is_staking(state):
        return
    take_fees(workspace)
    staking = get_staking(state)
    if not staking.is_last_of_epoch(workspace.height):
        return
    epoch = staking.epoch_of(workspace.height)
    ended = get_epoch_set(state, epoch)
    ensure(ended is not None, "an epoch that runs has its set")
    assert ended is not None
    distribute_rewards(workspace, ended)
    pay_matured(workspace, epoch)
    state.put(epoch_key(epoch), replace(ended, closed_ns=workspace.time_ns))
    _apply_commissions(state)
    _decide_set(workspace, epoch + 1 + SET_NOTICE_EPOCHS)
    _change_reporters(state, epoch + 1)
    forgotten = epoch - staking.evidence_epochs_max
    if forgotten >= 0:
        state.put(epoch_key(forgotten), None)


def _apply_commissions(state: State) -> None:
    for validator in _validators(state):
        if validator.commission_ppm != validator.next_commission_ppm:
            changed = replace(validator, commission_ppm=validator.next_commission_ppm)
            state.put(validator_key(validator.number), changed)


def pay_matured(workspace: Workspace, epoch: int) -> None:
    """Pay out, or bond with its target, what has been unbonding long enough in epochs and in market time."""
    state, staking = workspace.state, get_staking(workspace.state)
    entries: list[Unbonding] = scan(state, b"ku")
    for entry in entries:
        if (
            epoch + 1 < entry.started_epoch + staking.unbonding_epochs
            or workspace.time_ns < entry.started_ns + staking.unbonding_ns
        ):
            continue
        state.put(unbonding_key(entry), None)
        change_totals(state, unbonding=-entry.amount_uusd)
        account = (entry.owner, entry.subaccount)
        if _takes_stake(state, entry):
            shares = add_stake(state, entry.target, account, entry.amount_uusd)
            workspace.events.append(Bonded(entry.target, *account, entry.amount_uusd, shares))
            continue
        workspace.add_cash(workspace.existing(account), entry.amount_uusd)
        workspace.events.append(CashMoved(*account, entry.amount_uusd, "unbonded"))
        workspace.events.append(Unbonded(entry.validator, *account, entry.amount_uusd))


def _takes_stake(state: State, entry: Unbonding) -> bool:
    """Whether redelegated stake can still go to its target; otherwise it becomes cash."""
    if entry.target == NO_TARGET:
        return False
    target = existing_validator(state, entry.target)
    return not target.is_tombstoned and shares_for(target, entry.amount_uusd) > 0


# --- sets ---


def _decide_set(workspace: Workspace, epoch: int) -> None:
    state = workspace.state
    before = get_epoch_set(state, epoch - 1)
    ensure(before is not None, "sets are decided one after another")
    assert before is not None
    kept: list[EpochSet] = scan(state, b"ke")
    chosen = give_places(kept, choose_members(get_staking(state), _validators(state)))
    weights = compute_weights(get_staking(state), [item.stake_uusd for item in chosen.values()])
    members = tuple(
        SetMember(place, item.number, item.consensus_key, weight, item.stake_uusd)
        for (place, item), weight in zip(chosen.items(), weights, strict=True)
    )
    if not members:
        members = before.members
    state.put(epoch_key(epoch), EpochSet(epoch, members, 0, get_protocol(state).version))
    if _powers(members) != _powers(before.members):
        workspace.events.append(ValidatorSetChanged(epoch, _powers(members)))


def _change_reporters(state: State, epoch: int) -> None:
    """Whoever votes in the epoch that begins also reports prices in it, with the same weight."""
    begins = get_epoch_set(state, epoch)
    ensure(begins is not None, "an epoch that begins has its set")
    assert begins is not None
    named = sorted(
        (item.validator, existing_validator(state, item.validator).oracle_key, item.weight)
        for item in begins.members
    )
    current = [(number, item.oracle_key, item.weight) for number, item in sorted(reporters_of(state).items())]
    if named != current:
        state.put(KEY_REPORTERS, Reporters(tuple(named)))


def _powers(members: Sequence[SetMember]) -> tuple[tuple[int, int, bytes, int], ...]:
    return tuple((item.place, item.validator, item.consensus_key, item.weight) for item in members)


def choose_members(staking: StakingParameters, validators: Sequence[Validator]) -> list[Validator]:
    """The ready, honest and free validators with the most stake (ties: by consensus key), best first.

    When they are fewer than validators_min, the best of the jailed ones fill up. Empty when nobody is left:
    the caller then keeps the set before, for a chain without validators cannot recover.
    """
    standing = [
        item
        for item in validators
        if item.is_ready and not item.is_tombstoned and item.stake_uusd >= staking.min_stake_uusd
    ]
    ranked = sorted(standing, key=lambda item: (item.is_jailed, -item.stake_uusd, item.consensus_key))
    free = sum(not item.is_jailed for item in ranked)
    return ranked[: min(max(free, staking.validators_min), staking.validators_max)]


def give_places(kept: Sequence[EpochSet], chosen: Sequence[Validator]) -> dict[int, Validator]:
    """Each member's place: the one it has in a kept set, or the lowest that no kept set has, best first.

    At most VALIDATORS_MAX places exist; whoever finds none waits for a later set. By place.
    """
    held = {member.validator: member.place for item in kept for member in item.members}
    places = {held[item.number]: item for item in chosen if item.number in held}
    free = iter(sorted(set(range(VALIDATORS_MAX)) - set(held.values())))
    for item in chosen:
        if item.number not in held and (place := next(free, None)) is not None:
            places[place] = item
    return dict(sorted(places.items()))


def compute_weights(staking: StakingParameters, stakes_uusd: Sequence[int]) -> list[int]:
    """Voting power in proportion to stake, at least 1 each and at most weight_max; equal stakes weigh 1 each.

    The unit grows until the largest stake fits; each weight is stake / unit rounded down; then the greatest
    common divisor is taken out.
    """
    if not stakes_uusd:
        return []
    unit = max(staking.weight_unit_uusd, ceil_div(max(stakes_uusd), staking.weight_max))
    weights = [max(1, stake // unit) for stake in stakes_uusd]
    common = gcd(*weights)
    return [weight // common for weight in weights]


def _validators(state: State) -> list[Validator]:
    found: list[Validator] = scan(state, b"kv")
    return found
