"""What is left when an account has nothing but a debt: the fund pays, then everybody who withdraws. Pure.

A debt beyond the fund is taken off its account and stands in the supply leaf. As long as it does, a withdrawal
pays debt / (debt + cash) of itself towards it, and later fees (and what else comes into the fund) go there
first. Source: market.md section 5, step 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.events import CashMoved, DebtChanged
from primitives.amounts import ceil_div

if TYPE_CHECKING:
    from ledger.workspace import Workspace


def absorb_debts(workspace: Workspace) -> None:
    """Take over the debts of accounts that this block touched and that hold nothing, by account; then repay."""
    supply = workspace.supply
    before_uusd = workspace.state.supply.debt_uusd
    for account in workspace.touched():
        if account.cash_uusd >= 0 or account.positions:
            continue
        owed_uusd = -account.cash_uusd
        paid_uusd = min(owed_uusd, supply["fund_uusd"])
        supply["fund_uusd"] -= paid_uusd
        supply["debt_uusd"] += owed_uusd - paid_uusd
        workspace.add_cash(account, owed_uusd)
        for amount_uusd, cause in ((paid_uusd, "insurance_fund"), (owed_uusd - paid_uusd, "shortfall")):
            if amount_uusd:
                workspace.events.append(CashMoved(*account.key, amount_uusd, cause))
    for source in ("fees_uusd", "fund_uusd"):
        repaid_uusd = min(supply["debt_uusd"], supply[source])
        supply[source] -= repaid_uusd
        supply["debt_uusd"] -= repaid_uusd
    if supply["debt_uusd"] != before_uusd:
        workspace.events.append(DebtChanged(supply["debt_uusd"]))


def haircut_uusd(amount_uusd: int, debt_uusd: int, cash_uusd: int) -> int:
    """What a withdrawal pays towards the debt: debt / (debt + cash) of it, rounded up, at most the debt."""
    if debt_uusd == 0:
        return 0
    return min(debt_uusd, ceil_div(amount_uusd * debt_uusd, debt_uusd + max(0, cash_uusd)))


def take_haircut(workspace: Workspace, amount_uusd: int) -> int:
    """Keep back from a withdrawal what it owes to the debt; gives how much."""
    cash_uusd = workspace.state.totals.cash_uusd + workspace.cash_change_uusd
    kept_uusd = min(amount_uusd, haircut_uusd(amount_uusd, workspace.supply["debt_uusd"], cash_uusd))
    workspace.supply["debt_uusd"] -= kept_uusd
    return kept_uusd
