"""What must hold after every block, checked in production. Pure.

Cash, fund, fees, vault and what staking holds, less the cost that perpetual positions carry and less the debt
that nobody has paid yet, are what came in less what went out; each instrument's lots sum to zero; no book is
crossed. Sums over accounts are kept by difference, so the check of a block looks at what the block touched;
`check_everything` is the obvious version over the whole state.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ledger.breakers.phases import Phases
from ledger.staking.state import get_totals
from ledger.staking.sums import check_stake
from primitives.errors import ensure

if TYPE_CHECKING:
    from ledger.state import State
    from ledger.workspace import Workspace


def check_conservation(state: State) -> None:
    """Money in equals money out, to the micro-dollar. Raises InvariantViolation."""
    supply, totals, staking = state.supply, state.totals, get_totals(state)
    in_stake = staking.staked_uusd + staking.unbonding_uusd + staking.rewards_uusd
    held = totals.cash_uusd - totals.cost_uusd + supply.fund_uusd + supply.fees_uusd + supply.vault_uusd
    owed = held + in_stake - supply.debt_uusd
    ensure(owed == supply.deposited_uusd - supply.withdrawn_uusd, "cash is conserved")


def check_invariants(workspace: Workspace) -> None:
    """The invariants over what a block changed. Raises InvariantViolation."""
    check_conservation(workspace.state)
    for number in sorted(workspace.books):
        is_matching = workspace.phases.of(workspace.state.instruments[number]).is_matching
        ensure(not (is_matching and workspace.books[number].is_crossed), "no book is crossed after its call")
    ensure(not any(workspace.lots_change.values()), "positions of each instrument sum to zero")


def check_everything(state: State) -> None:
    """The invariants recomputed from every account and book. Raises InvariantViolation."""
    check_conservation(state)
    lots: dict[int, int] = defaultdict(int)
    cash_uusd = cost_uusd = 0
    for account in state.accounts():
        cash_uusd += account.cash_uusd
        for position in account.positions:
            lots[position.instrument] += position.lots
            cost_uusd += position.cost_uusd
    ensure(cash_uusd == state.totals.cash_uusd, "the running sum of cash is the sum")
    ensure(cost_uusd == state.totals.cost_uusd, "the running sum of costs is the sum")
    ensure(not any(lots.values()), "positions of each instrument sum to zero")
    phases = Phases(state)
    for instrument in state.instruments.values():
        is_crossed = phases.of(instrument).is_matching and state.book(instrument.id).is_crossed
        ensure(not is_crossed, "no book that matches is crossed")
    check_stake(state)
