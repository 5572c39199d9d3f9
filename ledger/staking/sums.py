"""The sums of staking recomputed from every pool, delegation and unbonding. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ledger.staking.state import Delegation, Unbonding, Validator, get_totals, scan
from primitives.errors import ensure

if TYPE_CHECKING:
    from ledger.state import State


def check_stake(state: State) -> None:
    """Pools add up to the stake, delegations to their pools, unbondings to theirs. Raises InvariantViolation."""
    totals = get_totals(state)
    validators: list[Validator] = scan(state, b"kv")
    delegations: list[Delegation] = scan(state, b"kd")
    unbonding: list[Unbonding] = scan(state, b"ku")
    shares: dict[int, int] = defaultdict(int)
    for item in delegations:
        shares[item.validator] += item.shares
    ensure(sum(item.stake_uusd for item in validators) == totals.staked_uusd, "pools add up to the stake")
    ensure(all(shares[item.number] == item.shares for item in validators), "delegations add up to their pool")
    ensure(
        sum(item.amount_uusd for item in unbonding) == totals.unbonding_uusd,
        "what unbonds adds up to its sum",
    )
    ensure(all(item.shares or not item.stake_uusd for item in validators), "stake belongs to somebody")
