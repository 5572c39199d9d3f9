"""The ends of blocks and epochs: fees, rewards, stake that is due, and the sets to come. Pure."""

from __future__ import annotations

from functools import reduce
from math import gcd
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ledger.staking import state as leaf
from ledger.staking.events import Bonded, EpochRewarded, Rewarded, Unbonded, ValidatorSetChanged
from tests.naive.account import NaiveAccount
from tests.naive.penalties import PPM, in_window, tally
from tests.naive.staking import NaiveStaking, NaiveValidator, member_of

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

PLACES = 256


def end(ledger: NaiveLedger, staking: NaiveStaking) -> None:
    """A block's fees; after an epoch's last block what is due then."""
    fees = ledger.supply["fees_uusd"]
    to_stake = fees * (PPM - staking.rules.fund_fee_share_ppm) // PPM
    ledger.supply["fees_uusd"] = 0
    ledger.supply["fund_uusd"] += fees - to_stake
    staking.rewards_uusd += to_stake
    if ledger.height % staking.rules.epoch_blocks:
        return
    epoch = staking.rules.epoch_of(ledger.height)
    _reward(ledger, staking, epoch)
    _pay_out(ledger, staking, epoch)
    staking.sets[epoch] = replace(staking.sets[epoch], closed_ns=ledger.time_ns)
    for item in staking.validators:
        item.commission_ppm = item.next_commission_ppm
    _decide(ledger, staking, epoch + 2)
    _name_reporters(ledger, staking, epoch + 1)
    staking.sets.pop(epoch - staking.rules.evidence_epochs_max, None)


# --- rewards ---


def _reward(ledger: NaiveLedger, staking: NaiveStaking, epoch: int) -> None:
    rewards = staking.rewards_uusd
    if not rewards:
        return
    members = [staking.validators[item.validator] for item in staking.sets[epoch].members]
    total = sum(item.stake_uusd for item in members)
    grown = paid = 0
    for item in members:
        why = _why_nothing(ledger, staking, item)
        part = rewards * item.stake_uusd // total if total and not why else 0
        commission = part * item.commission_ppm // PPM
        ledger.events.append(Rewarded(item.number, epoch, part - commission, commission, why))
        item.stake_uusd += part - commission
        grown, paid = grown + part - commission, paid + commission
        if commission:
            ledger.accounts.setdefault((item.operator, 0), NaiveAccount(0))
            ledger.move_cash((item.operator, 0), commission, "commission")
    left = rewards - grown - paid
    ledger.supply["fund_uusd"] += left
    staking.rewards_uusd = 0
    ledger.events.append(EpochRewarded(epoch, grown, paid, left))


def _why_nothing(ledger: NaiveLedger, staking: NaiveStaking, item: NaiveValidator) -> str:
    rules = staking.rules
    if item.is_jailed:
        return "jailed"
    led, late, outside = (in_window(ledger, item, what) for what in ("led", "late", "outside"))
    if led >= rules.late_led_min and late * PPM > rules.late_share_ppm_max * led:
        return "late"
    return "off_median" if outside > rules.outside_reports_max else ""


def _pay_out(ledger: NaiveLedger, staking: NaiveStaking, epoch: int) -> None:
    """Unbondings whose epochs and time are over, in order of validator, account, target and epoch."""
    rules = staking.rules
    for name, entry in sorted(staking.unbonding.items()):
        ended = epoch - entry.started_epoch + 1
        if ended < rules.unbonding_epochs or ledger.time_ns - entry.started_ns < rules.unbonding_ns:
            continue
        del staking.unbonding[name]
        key, amount = (entry.owner, entry.subaccount), entry.amount_uusd
        target = staking.find(entry.target)
        if target is not None and not target.is_tombstoned and target.shares_for(amount):
            ledger.events.append(Bonded(target.number, *key, amount, target.add(key, amount)))
        else:
            ledger.move_cash(key, amount, "unbonded")
            ledger.events.append(Unbonded(entry.validator, *key, amount))


# --- sets ---


def _decide(ledger: NaiveLedger, staking: NaiveStaking, epoch: int) -> None:
    rules = staking.rules
    fit = [
        item
        for item in staking.validators
        if item.is_ready and not item.is_tombstoned and item.stake_uusd >= rules.min_stake_uusd
    ]
    fit.sort(key=lambda item: (-item.stake_uusd, item.consensus_key))
    free, jailed = ([item for item in fit if item.is_jailed == held] for held in (False, True))
    chosen = (free + jailed[: max(0, rules.validators_min - len(free))])[: rules.validators_max]
    places = _places(staking, chosen)
    in_order = sorted(places)
    weights = _weights(staking, [places[place].stake_uusd for place in in_order])
    members = tuple(
        member_of(place, places[place], weight) for place, weight in zip(in_order, weights, strict=True)
    )
    before = staking.sets[epoch - 1].members
    members = members or before
    staking.sets[epoch] = leaf.EpochSet(epoch, members, 0, ledger.protocol_version)
    now, then = (
        [(m.place, m.validator, m.consensus_key, m.weight) for m in one] for one in (members, before)
    )
    if now != then:
        ledger.events.append(ValidatorSetChanged(epoch, tuple(now)))


def _places(staking: NaiveStaking, chosen: list[NaiveValidator]) -> dict[int, NaiveValidator]:
    """Everybody keeps a place of any kept set; the others get the lowest that none has."""
    held = {m.validator: m.place for item in staking.sets.values() for m in item.members}
    places = {held[item.number]: item for item in chosen if item.number in held}
    for item in chosen:
        open_places = [place for place in range(PLACES) if place not in (*held.values(), *places)]
        if item.number not in held and open_places:
            places[open_places[0]] = item
    return places


def _weights(staking: NaiveStaking, stakes: list[int]) -> list[int]:
    if not stakes:
        return []
    unit = max(staking.rules.weight_unit_uusd, -(-max(stakes) // staking.rules.weight_max))
    weights = [max(1, stake // unit) for stake in stakes]
    return [weight // reduce(gcd, weights) for weight in weights]


def _name_reporters(ledger: NaiveLedger, staking: NaiveStaking, epoch: int) -> None:
    """Whoever votes in the epoch that begins reports in it, with the same weight."""
    named = sorted(
        (m.validator, staking.validators[m.validator].oracle_key, m.weight)
        for m in staking.sets[epoch].members
    )
    current = staking.reporters
    if current is None:
        current = [(n, item.oracle_key, item.weight) for n, item in enumerate(ledger.genesis.reporters)]
    if named != current:
        staking.reporters = named
        ledger.oracle.weights = {number: weight for number, _, weight in named}


# --- leaves ---


def staking_leaves(ledger: NaiveLedger, staking: NaiveStaking) -> dict[bytes, Any]:
    """Everything under the letter k but the parameters."""
    values: dict[bytes, Any] = {
        leaf.consensus_key_key(key): leaf.KeyOwner(n) for key, n in staking.keys.items()
    }
    for item in staking.validators:
        values |= _validator_leaves(ledger, item)
    values |= {leaf.epoch_key(epoch): item for epoch, item in staking.sets.items()}
    values |= {leaf.unbonding_key(item): item for item in staking.unbonding.values()}
    values[leaf.KEY_STAKING_TOTALS] = leaf.StakingTotals(
        sum(item.stake_uusd for item in staking.validators),
        sum(item.amount_uusd for item in staking.unbonding.values()),
        staking.rewards_uusd,
        len(staking.validators),
    )
    if staking.delays_height:
        values[leaf.KEY_DELAYS_COUNTED] = leaf.DelaysCounted(staking.delays_height)
    if staking.reporters is not None:
        values[leaf.KEY_REPORTERS] = leaf.Reporters(tuple(staking.reporters))
    return values


def _validator_leaves(ledger: NaiveLedger, item: NaiveValidator) -> dict[bytes, Any]:
    number = item.number
    values: dict[bytes, Any] = {
        leaf.validator_key(number): leaf.Validator(
            number,
            item.operator,
            item.consensus_key,
            item.oracle_key,
            item.peer_id,
            item.stake_uusd,
            item.all_shares,
            item.commission_ppm,
            item.next_commission_ppm,
            item.joined_epoch,
            item.is_ready,
            item.is_jailed,
            item.jailed_until_ns,
            item.is_tombstoned,
        )
    }
    for key, shares in item.shares.items():
        values[leaf.delegation_key(number, key)] = leaf.Delegation(number, *key, shares)
    if item.counts:
        names = ("missed", "led", "late", "outside")
        tallies = [tally(ledger, item, what) for what in names]
        values[leaf.activity_key(number)] = leaf.Activity(*tallies, item.delay_ppm)
    if item.offences:
        values[leaf.punishment_key(number)] = leaf.Punishment(
            tuple(sorted(item.offences.items())), item.offender_ppm, item.slashed_ppm
        )
    if item.announced is not None:
        values[leaf.announcement_key(number)] = item.announced
    return values
