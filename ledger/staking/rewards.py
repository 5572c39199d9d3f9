"""Trading fees become rewards: a share for the fund at once, the rest to stake at the end of the epoch. Pure.

Credits round down, and what rounding leaves goes to the insurance fund. What a validator forfeits goes there
too, not to its competitors, so that nobody gains by another's trouble.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.events import CashMoved
from ledger.staking.events import EpochRewarded, Rewarded
from ledger.staking.state import (
    EpochSet,
    Validator,
    change_totals,
    counted,
    existing_validator,
    get_activity,
    get_staking,
    get_totals,
    validator_key,
)
from primitives.amounts import PPM

if TYPE_CHECKING:
    from ledger.workspace import Workspace


def take_fees(workspace: Workspace) -> None:
    """Split this block's fees: stake's part rounds down, the fund takes the rest."""
    fees_uusd = workspace.supply["fees_uusd"]
    if fees_uusd <= 0:
        return
    to_stake = fees_uusd * (PPM - get_staking(workspace.state).fund_fee_share_ppm) // PPM
    workspace.supply["fees_uusd"] = 0
    workspace.supply["fund_uusd"] += fees_uusd - to_stake
    change_totals(workspace.state, rewards=to_stake)


def distribute_rewards(workspace: Workspace, ended: EpochSet) -> None:
    """Give the epoch's rewards to the pools of its set in proportion to their stake now, commission first.

    Each part, and of it the commission (paid in cash to the operator's sub-account 0), rounds down.
    """
    state, epoch = workspace.state, ended.epoch
    rewards_uusd = get_totals(state).rewards_uusd
    validators = [existing_validator(state, member.validator) for member in ended.members]
    total_uusd = sum(validator.stake_uusd for validator in validators)
    if not rewards_uusd:
        return
    staked = commissions = 0
    for validator in validators:
        withheld = why_withheld(workspace, validator)
        part = rewards_uusd * validator.stake_uusd // total_uusd if total_uusd and not withheld else 0
        commission = part * validator.commission_ppm // PPM
        workspace.events.append(Rewarded(validator.number, epoch, part - commission, commission, withheld))
        if part:
            grown = replace(validator, stake_uusd=validator.stake_uusd + part - commission)
            state.put(validator_key(validator.number), grown)
            _pay_commission(workspace, validator, commission)
        staked += part - commission
        commissions += commission
    to_fund = rewards_uusd - staked - commissions
    change_totals(state, staked=staked, rewards=-rewards_uusd)
    workspace.supply["fund_uusd"] += to_fund
    workspace.events.append(EpochRewarded(epoch, staked, commissions, to_fund))


def _pay_commission(workspace: Workspace, validator: Validator, commission_uusd: int) -> None:
    if commission_uusd:
        account = workspace.account_or_new((validator.operator, 0))
        workspace.add_cash(account, commission_uusd)
        workspace.events.append(CashMoved(*account.key, commission_uusd, "commission"))


def why_withheld(workspace: Workspace, validator: Validator) -> str:
    """Why a validator earns nothing this epoch: jailed, late or off_median; "" when it earns."""
    parameters, height = get_staking(workspace.state), workspace.height
    if validator.is_jailed:
        return "jailed"
    activity = get_activity(workspace.state, validator.number)
    led, late = (counted(tally, height, parameters) for tally in (activity.led, activity.late))
    if led >= parameters.late_led_min and late * PPM > led * parameters.late_share_ppm_max:
        return "late"
    if counted(activity.outside, height, parameters) > parameters.outside_reports_max:
        return "off_median"
    return ""
