"""What validators did: offences and what they cost, missing votes, late proposals, odd reports. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.staking.events import Jailed, Slashed
from ledger.transactions import OracleReport
from tests.naive.oracle import lower_median

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger
    from tests.naive.staking import NaiveStaking, NaiveValidator

PPM = 1_000_000
GRAVE = ("E6", "FORK")


def begin(ledger: NaiveLedger, staking: NaiveStaking, reports: list[OracleReport], context: object) -> None:
    """What a block's evidence, its parent's certificate and its reports say."""
    _punish(ledger, staking, sorted(context.offences))  # type: ignore[attr-defined]
    _count_missing(ledger, staking, context.signers)  # type: ignore[attr-defined]
    _count_delays(ledger, staking, reports)
    for report in reports:
        for index in report.indices:
            agreed = ledger.oracle.agreed[index.underlying]
            off = abs(index.index_uusd - agreed.index_uusd) * PPM
            if agreed.index_ns == ledger.time_ns and off > agreed.index_uusd * staking.rules.oracle_band_ppm:
                note(ledger, staking.validators[report.reporter], "outside")
                break


# --- windows ---


def bucket_of(ledger: NaiveLedger, height: int) -> int:
    """A sixteenth of the window."""
    assert ledger.staking is not None
    return height * 16 // ledger.staking.rules.window_blocks


def note(ledger: NaiveLedger, item: NaiveValidator, what: str) -> None:
    """It happened at this height."""
    item.counts.setdefault(what, []).append(ledger.height)


def in_window(ledger: NaiveLedger, item: NaiveValidator, what: str) -> int:
    """How often in the sixteen buckets that end now."""
    now = bucket_of(ledger, ledger.height)
    return sum(bucket_of(ledger, height) > now - 16 for height in item.counts.get(what, []))


def tally(ledger: NaiveLedger, item: NaiveValidator, what: str) -> tuple[tuple[int, int], ...]:
    """Counts by bucket, as the window was when the last was counted."""
    buckets = [bucket_of(ledger, height) for height in item.counts.get(what, [])]
    kept = [bucket for bucket in buckets if bucket > buckets[-1] - 16]
    return tuple((bucket, kept.count(bucket)) for bucket in sorted(set(kept)))


# --- offences ---


def _punish(ledger: NaiveLedger, staking: NaiveStaking, offences: list[tuple[int, int, str, int]]) -> None:
    fresh: set[int] = set()
    for place, epoch, kind, _ in offences:
        members = staking.sets[epoch].members
        member = next(item for item in members if item.place == place)
        offender = staking.validators[member.validator]
        known = offender.offences.get(epoch)
        if known is not None and (known in GRAVE or kind not in GRAVE):
            continue
        if not offender.offences:
            total = sum(item.stake_uusd for item in members)
            offender.offender_ppm = -(-member.stake_uusd * PPM // total) if total else PPM
        offender.offences[epoch] = kind
        fresh.add(offender.number)
    if not fresh:
        return
    for item in staking.validators:
        target = _penalty_ppm(staking, item) if item.offences else 0
        if target > item.slashed_ppm:
            _slash(ledger, staking, item, target)
        if item.number in fresh and not item.is_tombstoned:
            item.is_tombstoned, item.is_jailed, item.jailed_until_ns = True, True, 0
            ledger.events.append(Jailed(item.number, "offence", 0))


def _penalty_ppm(staking: NaiveStaking, item: NaiveValidator) -> int:
    """The base for each epoch, and the share of everybody who offended near it in time."""
    window = staking.rules.unbonding_epochs
    together = [
        other
        for other in staking.validators
        if any(abs(one - another) <= window for one in item.offences for another in other.offences)
    ]
    base = staking.rules.slash_base_ppm * len(item.offences)
    if len(together) < 2 and not any(kind in GRAVE for kind in item.offences.values()):
        return min(PPM, base)
    share = staking.rules.slash_correlation_factor * sum(other.offender_ppm for other in together)
    return min(PPM, base + min(PPM, share))


def _slash(ledger: NaiveLedger, staking: NaiveStaking, item: NaiveValidator, target: int) -> None:
    """Up to `target` of what there was, from the pool and from what left it an epoch before or later."""

    def part(amount: int) -> int:
        return -(-amount * (target - item.slashed_ppm) // (PPM - item.slashed_ppm))

    bonded, leaving = part(item.stake_uusd), 0
    for name, entry in list(staking.unbonding.items()):
        if entry.validator == item.number and entry.started_epoch >= min(item.offences) - 1:
            taken = part(entry.amount_uusd)
            leaving += taken
            staking.unbonding[name] = replace(entry, amount_uusd=entry.amount_uusd - taken)
            if taken == entry.amount_uusd:
                del staking.unbonding[name]
    item.stake_uusd -= bonded
    item.slashed_ppm = target
    ledger.supply["fund_uusd"] += bonded + leaving
    last = max(item.offences)
    ledger.events.append(Slashed(item.number, last, item.offences[last], bonded, leaving, target))


# --- duties ---


def _count_missing(ledger: NaiveLedger, staking: NaiveStaking, signers: tuple[int, ...]) -> None:
    if not signers:
        return
    parents = staking.sets[staking.rules.epoch_of(ledger.height - 1)]
    for member in parents.members:
        item = staking.validators[member.validator]
        if member.place in signers or item.is_jailed:
            continue
        note(ledger, item, "missed")
        if in_window(ledger, item, "missed") > staking.rules.missed_blocks_max:
            item.counts["missed"] = []
            item.is_jailed, item.jailed_until_ns = True, ledger.time_ns + staking.rules.jail_ns
            ledger.events.append(Jailed(item.number, "downtime", item.jailed_until_ns))


def _count_delays(ledger: NaiveLedger, staking: NaiveStaking, reports: list[OracleReport]) -> None:
    """The median of what two thirds saw of a proposal, each once, none from before one that is counted."""
    weights, votes = ledger.oracle.weights, dict[tuple[int, int], list[tuple[int, int]]]()
    for report in reports:
        for seen in report.delays:
            if staking.delays_height < seen.height < ledger.height:
                cast = votes.setdefault((seen.height, seen.place), [])
                cast.append((seen.delay_ppm, weights[report.reporter]))
    for (height, place), cast in sorted(votes.items()):
        if 3 * sum(weight for _, weight in cast) < 2 * sum(weights.values()):
            continue
        staking.delays_height = height
        members = staking.sets.get(staking.rules.epoch_of(height))
        for member in members.members if members else ():
            if member.place == place:
                item = staking.validators[member.validator]
                delay = min(lower_median(cast), 10 * PPM)
                note(ledger, item, "led")
                if delay >= staking.rules.late_from_ppm:
                    note(ledger, item, "late")
                item.delay_ppm = (15 * item.delay_ppm + delay) // 16
