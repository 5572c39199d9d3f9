"""Proved offences are slashed, silence is jailed, late leaders and odd reporters are counted. Pure.

Penalty of a validator, as a part of its stake before the first: the base for each epoch it offended in, plus,
when correlated, the factor times the share of stake that offended within one unbonding window, at most all of
it. Correlated is whoever is not alone in that window, and whoever voted for an unjustified block or made a
fork. A later offender raises the penalty of the earlier ones; the difference is taken then. Slashed money
goes to the insurance fund. Source: consensus.md section 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.oracle import has_quorum, reporters_of, weighted_median
from ledger.staking.events import Jailed, Slashed
from ledger.staking.observations import FORK, Observations, Offence
from ledger.staking.parameters import SET_NOTICE_EPOCHS
from ledger.staking.reasons import StakingReason
from ledger.staking.state import (
    KEY_DELAYS_COUNTED,
    Activity,
    DelaysCounted,
    EpochSet,
    Punishment,
    SetMember,
    Unbonding,
    activity_key,
    change_totals,
    count,
    counted,
    existing_validator,
    get_activity,
    get_epoch_set,
    get_punishment,
    get_staking,
    get_totals,
    is_staking,
    punishment_key,
    scan,
    unbonding_key,
    validator_key,
)
from primitives.amounts import PPM, ceil_div
from primitives.errors import ProtocolViolation, ensure

if TYPE_CHECKING:
    from ledger.state import State
    from ledger.transactions import OracleReport
    from ledger.workspace import Workspace

CORRELATED_KINDS = ("E6", FORK)
"""Kinds that no accident explains: a vote for an unjustified block, and any part in a fork."""
DELAY_MEMORY = 16
"""The smoothed leader delay takes one part of so many from the newest proposal."""
DELAY_PPM_MAX = 10 * PPM
"""A longer delay counts as this."""


def check_observations(state: State, height: int, time_ns: int, seen: Observations) -> None:
    """Whether the ledger can act on what a block's header and evidence say; signatures are consensus'.

    Raises:
        ProtocolViolation: UNKNOWN_OFFENDER, EVIDENCE_TOO_OLD, BAD_OBSERVATION.
    """
    if not is_staking(state):
        return
    for offence in seen.offences:
        _check_offence(state, height, time_ns, offence)
    places = {item.place for item in parent_set(state, height).members}
    if list(seen.signers) != sorted(set(seen.signers)) or not places.issuperset(seen.signers):
        raise ProtocolViolation(StakingReason.BAD_OBSERVATION, "signers are members, ascending, each once")


def _check_offence(state: State, height: int, time_ns: int, offence: Offence) -> None:
    parameters = get_staking(state)
    current = parameters.epoch_of(height)
    if offence.epoch + parameters.evidence_epochs_max < current:
        raise ProtocolViolation(StakingReason.EVIDENCE_TOO_OLD, f"epoch {offence.epoch}, now {current}")
    found = get_epoch_set(state, offence.epoch)
    if found is None or offence.epoch > current or found.member_at(offence.offender) is None:
        raise ProtocolViolation(
            StakingReason.UNKNOWN_OFFENDER, f"no validator {offence.offender} in epoch {offence.epoch}"
        )
    if found.closed_ns and found.closed_ns + parameters.evidence_ns_max < time_ns:
        raise ProtocolViolation(StakingReason.EVIDENCE_TOO_OLD, f"epoch {offence.epoch} closed long ago")


def parent_set(state: State, height: int) -> EpochSet:
    """The set that certified the parent of a block: that of the parent's epoch."""
    found = get_epoch_set(state, get_staking(state).epoch_of(height - 1))
    ensure(found is not None, "the set of the parent's epoch is kept")
    assert found is not None
    return found


# --- offences ---


def punish(workspace: Workspace, offences: Sequence[Offence]) -> None:
    """Record a block's offences, whatever their order, and take what they and their correlation now cost."""
    if not offences:
        return
    state = workspace.state
    fresh = {number for offence in sorted(offences) if (number := _record(state, offence)) is not None}
    if not fresh:
        return
    punished = {
        number: found
        for number in range(get_totals(state).next_validator)
        if (found := get_punishment(state, number)) is not None
    }
    entries: list[Unbonding] = scan(state, b"ku")
    for number in sorted(punished):
        target_ppm = penalty_ppm(state, number, punished)
        if target_ppm > punished[number].slashed_ppm:
            own = [entry for entry in entries if entry.validator == number]
            _slash(workspace, number, target_ppm, own)
        if number in fresh:
            _tombstone(workspace, number)


def _record(state: State, offence: Offence) -> int | None:
    """Note an offence; the validator's number, or None when nothing new follows from it."""
    found = get_epoch_set(state, offence.epoch)
    member = found.member_at(offence.offender) if found is not None else None
    ensure(member is not None, "the block's evidence was checked")
    assert found is not None and member is not None
    before = get_punishment(state, member.validator) or Punishment((), _stake_ppm(found, member), 0)
    kinds = dict(before.offences)
    known = kinds.get(offence.epoch)
    if known is not None and (known in CORRELATED_KINDS or offence.kind not in CORRELATED_KINDS):
        return None
    kinds[offence.epoch] = offence.kind
    state.put(punishment_key(member.validator), replace(before, offences=tuple(sorted(kinds.items()))))
    return member.validator


def _stake_ppm(members: EpochSet, member: SetMember) -> int:
    """The offender's share of its set's stake, rounded up: a debit."""
    total = sum(item.stake_uusd for item in members.members)
    return ceil_div(member.stake_uusd * PPM, total) if total else PPM


def penalty_ppm(state: State, number: int, punished: dict[int, Punishment]) -> int:
    """What a validator owes in all, as a part of its stake before the first punishment; `punished` by number."""
    parameters = get_staking(state)
    own = punished[number]
    window = parameters.unbonding_epochs
    peers = [
        other
        for other in punished.values()
        if any(abs(a - b) <= window for a, _ in own.offences for b, _ in other.offences)
    ]
    base = parameters.slash_base_ppm * len(own.offences)
    is_correlated = len(peers) > 1 or any(kind in CORRELATED_KINDS for _, kind in own.offences)
    if not is_correlated:
        return min(PPM, base)
    correlation = min(PPM, parameters.slash_correlation_factor * sum(other.stake_ppm for other in peers))
    return min(PPM, base + correlation)


def _slash(workspace: Workspace, number: int, target_ppm: int, unbonding: Sequence[Unbonding]) -> None:
    """Bring what was taken from a validator's stake, at work or on its way out, up to `target_ppm`.

    Of each sum as it is now, after `slashed_ppm` of the original was taken, the part (target - slashed) /
    (1 - slashed) goes: rounded up, a debit.
    """
    state = workspace.state
    validator, punishment = existing_validator(state, number), get_punishment(state, number)
    assert punishment is not None
    part, rest = target_ppm - punishment.slashed_ppm, PPM - punishment.slashed_ppm
    bonded = ceil_div(validator.stake_uusd * part, rest)
    state.put(validator_key(number), replace(validator, stake_uusd=validator.stake_uusd - bonded))
    first_epoch = punishment.offences[0][0]
    leaving = 0
    for entry in unbonding:
        if entry.started_epoch + SET_NOTICE_EPOCHS < first_epoch:
            continue
        taken = ceil_div(entry.amount_uusd * part, rest)
        left = entry.amount_uusd - taken
        state.put(unbonding_key(entry), replace(entry, amount_uusd=left) if left else None)
        leaving += taken
    change_totals(state, staked=-bonded, unbonding=-leaving)
    workspace.supply["fund_uusd"] += bonded + leaving
    state.put(punishment_key(number), replace(punishment, slashed_ppm=target_ppm))
    epoch, kind = punishment.offences[-1]
    workspace.events.append(Slashed(number, epoch, kind, bonded, leaving, target_ppm))


def _tombstone(workspace: Workspace, number: int) -> None:
    validator = existing_validator(workspace.state, number)
    if not validator.is_tombstoned:
        changed = replace(validator, is_tombstoned=True, is_jailed=True, jailed_until_ns=0)
        workspace.state.put(validator_key(number), changed)
        workspace.events.append(Jailed(number, "offence", 0))


# --- what validators do, block by block ---


def count_missed(workspace: Workspace, signers: Sequence[int]) -> None:
    """Count the members whose vote the parent's certificate lacks; one that lacks too often goes to jail.

    No signers means that there was no certificate (the first block), so nobody is counted.
    """
    if not signers:
        return
    state, parameters, present = workspace.state, get_staking(workspace.state), set(signers)
    for member in parent_set(state, workspace.height).members:
        if member.place in present:
            continue
        validator = existing_validator(state, member.validator)
        if validator.is_jailed:
            continue
        activity = get_activity(state, member.validator)
        missed = count(activity.missed, workspace.height, parameters)
        if counted(missed, workspace.height, parameters) > parameters.missed_blocks_max:
            missed, until_ns = (), workspace.time_ns + parameters.jail_ns
            state.put(
                validator_key(member.validator), replace(validator, is_jailed=True, jailed_until_ns=until_ns)
            )
            workspace.events.append(Jailed(member.validator, "downtime", until_ns))
        state.put(activity_key(member.validator), replace(activity, missed=missed))


def count_delays(workspace: Workspace, reports: Sequence[OracleReport]) -> None:
    """Note how late leaders proposed: for each proposal the weighted lower median of what reporters saw.

    A proposal counts once two thirds of the voting power tell of it in one block; one that they do not tell of
    before a later height is counted is left out.
    """
    state, parameters = workspace.state, get_staking(workspace.state)
    before: DelaysCounted | None = state.leaves.get(KEY_DELAYS_COUNTED)
    done = 0 if before is None else before.height
    votes: dict[tuple[int, int], list[tuple[int, int]]] = {}
    reporters = reporters_of(state)
    for report in reports:
        weight = reporters[report.reporter].weight
        for seen in report.delays:
            if done < seen.height < workspace.height:
                votes.setdefault((seen.height, seen.place), []).append((weight, seen.delay_ppm))
    agreed = [key for key in sorted(votes) if has_quorum(state, sum(weight for weight, _ in votes[key]))]
    for height, place in agreed:
        found = get_epoch_set(state, parameters.epoch_of(height))
        member = None if found is None else found.member_at(place)
        if member is not None:
            _note_delay(workspace, member.validator, weighted_median(votes[height, place]))
    if agreed:
        state.put(KEY_DELAYS_COUNTED, DelaysCounted(agreed[-1][0]))


def _note_delay(workspace: Workspace, number: int, seen_ppm: int) -> None:
    state, parameters, height = workspace.state, get_staking(workspace.state), workspace.height
    before, delay_ppm = get_activity(state, number), min(seen_ppm, DELAY_PPM_MAX)
    is_late = delay_ppm >= parameters.late_from_ppm
    smoothed = (before.leader_delay_ppm * (DELAY_MEMORY - 1) + delay_ppm) // DELAY_MEMORY
    changed = replace(
        before,
        led=count(before.led, height, parameters),
        late=count(before.late, height, parameters) if is_late else before.late,
        leader_delay_ppm=smoothed,
    )
    state.put(activity_key(number), changed)


def count_deviations(workspace: Workspace, reports: Sequence[OracleReport]) -> None:
    """Count the reporters whose index of any underlying is off this block's agreed median by more than the band.

    A reporter has its validator's number.
    """
    state, parameters = workspace.state, get_staking(workspace.state)
    for report in reports:
        if any(_is_outside(workspace, item.underlying, item.index_uusd) for item in report.indices):
            before: Activity = get_activity(state, report.reporter)
            outside = count(before.outside, workspace.height, parameters)
            state.put(activity_key(report.reporter), replace(before, outside=outside))


def _is_outside(workspace: Workspace, underlying: int, index_uusd: int) -> bool:
    oracle, band_ppm = workspace.state.oracle(underlying), get_staking(workspace.state).oracle_band_ppm
    is_agreed_now = oracle.index_ns == workspace.time_ns
    return is_agreed_now and abs(index_uusd - oracle.index_uusd) * PPM > oracle.index_uusd * band_ppm
