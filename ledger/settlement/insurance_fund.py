"""What is left when an account has nothing but a debt. Pure.

Thin for now: the fund pays the debt of an account that holds no positions, as far as the fund reaches; the
rest stays a debt of that account. Auction, backstop vault, auto-deleveraging and withdrawal haircuts come
later (market.md 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.events import CashMoved

if TYPE_CHECKING:
    from ledger.workspace import Workspace


def absorb_debts(workspace: Workspace) -> None:
    """Pay the debts of accounts that this block touched and that hold nothing any more, by account."""
    for account in workspace.touched():
        if account.cash_uusd >= 0 or account.positions:
            continue
        paid_uusd = min(-account.cash_uusd, workspace.supply["fund_uusd"])
        if paid_uusd:
            workspace.supply["fund_uusd"] -= paid_uusd
            workspace.add_cash(account, paid_uusd)
            workspace.events.append(CashMoved(*account.key, paid_uusd, "insurance_fund"))
