"""Whether cash may leave an account: for outside, another account, or stake. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.naive.account import LIQUIDATION, AccountKey
from tests.naive.orders import excess_uusd, open_orders

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger


def why_not_withdrawn(ledger: NaiveLedger, key: AccountKey, amount: int) -> str | None:
    """Why so much cash may not leave an account."""
    account = ledger.accounts[key]
    if ledger.breakers.holds_money():
        return "trading_halted"
    if account.health == LIQUIDATION:
        return "account_in_liquidation"
    account.cash_uusd -= amount
    excess = excess_uusd(ledger, account, open_orders(ledger, key))
    account.cash_uusd += amount
    return "insufficient_margin" if account.cash_uusd < amount or excess < 0 else None
