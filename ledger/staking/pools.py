"""Shares and money of one validator's pool, and the stake on its way out. Pure.

Roundings, each to the disadvantage of the one who acts: shares bought round down, shares sold round up, and a
delegation's value rounds down. What rounding leaves stays with the pool's other shares; what the last share
leaves goes to the insurance fund.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.matching.orders import AccountKey
from ledger.staking.state import (
    Delegation,
    Unbonding,
    Validator,
    change_totals,
    delegation_key,
    existing_validator,
    get_delegation,
    unbonding_key,
    validator_key,
)
from primitives.amounts import ceil_div
from primitives.errors import ensure

if TYPE_CHECKING:
    from ledger.state import State
    from ledger.workspace import Workspace


def shares_for(validator: Validator, amount_uusd: int) -> int:
    """Shares that an amount buys, rounded down; the first stake buys one share per micro-USD.

    0 also for a pool that has shares but no stake left: it takes none.
    """
    if validator.shares == 0:
        return amount_uusd
    return amount_uusd * validator.shares // validator.stake_uusd if validator.stake_uusd else 0


def value_of(validator: Validator, shares: int) -> int:
    """Micro-USD that shares are worth, rounded down."""
    return shares * validator.stake_uusd // validator.shares if validator.shares else 0


def add_stake(state: State, number: int, account: AccountKey, amount_uusd: int) -> int:
    """Put money that has left an account, or an unbonding, into a pool; gives the shares bought (at least 1)."""
    validator = existing_validator(state, number)
    shares = shares_for(validator, amount_uusd)
    ensure(shares > 0, "stake that buys no share was refused before")
    held = get_delegation(state, number, account)
    total = shares + (held.shares if held is not None else 0)
    state.put(delegation_key(number, account), Delegation(number, *account, total))
    state.put(
        validator_key(number),
        replace(validator, stake_uusd=validator.stake_uusd + amount_uusd, shares=validator.shares + shares),
    )
    change_totals(state, staked=amount_uusd)
    return shares


def remove_stake(
    workspace: Workspace, number: int, account: AccountKey, amount_uusd: int, target: int
) -> tuple[int, int]:
    """Start the unbonding of at most a delegation's value.

    Returns:
        (shares sold, what the pool has left when these were its last shares: the caller gives it to the fund).
    """
    state = workspace.state
    validator = existing_validator(state, number)
    held = get_delegation(state, number, account)
    ensure(held is not None, "stake is taken out of a delegation")
    assert held is not None
    is_all = amount_uusd == value_of(validator, held.shares)
    shares = held.shares if is_all else ceil_div(amount_uusd * validator.shares, validator.stake_uusd)
    ensure(shares <= held.shares, "a part costs no more shares than the whole")
    left = held.shares - shares
    state.put(delegation_key(number, account), replace(held, shares=left) if left else None)
    is_last = shares == validator.shares
    residue_uusd = validator.stake_uusd - amount_uusd if is_last else 0
    state.put(
        validator_key(number),
        replace(
            validator,
            stake_uusd=validator.stake_uusd - amount_uusd - residue_uusd,
            shares=validator.shares - shares,
        ),
    )
    change_totals(state, staked=-amount_uusd - residue_uusd, unbonding=amount_uusd)
    epoch = state.genesis.staking.epoch_of(workspace.height)
    entry = Unbonding(number, *account, target, amount_uusd, epoch, workspace.time_ns)
    same: Unbonding | None = state.leaves.get(unbonding_key(entry))
    if same is not None:
        entry = replace(entry, amount_uusd=entry.amount_uusd + same.amount_uusd)
    state.put(unbonding_key(entry), entry)
    return shares, residue_uusd
