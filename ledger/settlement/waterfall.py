"""Steps 3 to 5 of a liquidation at the start of each block: auction, vault, deleveraging. Pure.

An account below maintenance has a liquidation leaf, from the block that finds it until one that finds it above.
Its auction begins when the book did not help in time, at once when it is worth nothing; an auction that turns
insolvent (or solvent again) begins anew. The book goes on being tried meanwhile. Source: market.md section 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.events import AuctionEnded, AuctionStarted
from ledger.settlement.deleveraging import deleverage, take_over_by_vault
from ledger.settlement.state import Liquidation, get_liquidation, get_protection, liquidation_key

if TYPE_CHECKING:
    from ledger.valuation import Valuation
    from ledger.workspace import OpenAccount, Workspace


def end_recovered(workspace: Workspace, valuation: Valuation) -> None:
    """Forget the liquidations of accounts that are above maintenance again."""
    for key in valuation.accounts_recovered():
        leaf = get_liquidation(workspace.state, key)
        workspace.state.put(liquidation_key(key), None)
        if leaf is not None and leaf.auction_ns:
            workspace.events.append(AuctionEnded(*key))


def postpone(workspace: Workspace, account: OpenAccount) -> None:
    """A breaker pauses the liquidation: its patience begins anew afterwards, and so does its auction."""
    leaf = get_liquidation(workspace.state, account.key)
    if leaf is None:
        return
    if leaf.auction_ns:
        workspace.events.append(AuctionEnded(*account.key))
    paused = replace(leaf, since_ns=workspace.time_ns, auction_ns=0, is_insolvent=False, reserved_uusd=0)
    workspace.state.put(liquidation_key(account.key), paused)


def advance(workspace: Workspace, valuation: Valuation, account: OpenAccount) -> None:
    """Move one account's liquidation on; afterwards it may hold nothing any more."""
    state, now_ns = workspace.state, workspace.time_ns
    leaf = get_liquidation(state, account.key) or Liquidation(*account.key, now_ns, 0, False, False, 0)
    if account.positions:
        leaf = _advanced(workspace, valuation, account, leaf)
    if leaf != get_liquidation(state, account.key):
        state.put(liquidation_key(account.key), leaf)


def _advanced(
    workspace: Workspace, valuation: Valuation, account: OpenAccount, leaf: Liquidation
) -> Liquidation:
    parameters, now_ns = get_protection(workspace.state).auction, workspace.time_ns
    margin = valuation.margin_now(account)
    equity_uusd = margin.mtm_uusd + account.cash_uusd
    if equity_uusd > 0:
        patience_ns = (
            parameters.patience_ns if _has_book(workspace, account) else parameters.empty_book_patience_ns
        )
        if (leaf.auction_ns and not leaf.is_insolvent) or now_ns - leaf.since_ns < patience_ns:
            return leaf
    elif take_over_by_vault(workspace, valuation, account, equity_uusd):
        return leaf
    elif leaf.is_insolvent:
        is_over = now_ns - leaf.auction_ns >= parameters.insolvent_ns
        if is_over or workspace.supply["fund_uusd"] < -equity_uusd:
            deleverage(workspace, valuation, account, equity_uusd)
        return leaf
    workspace.events.append(
        AuctionStarted(*account.key, equity_uusd <= 0, equity_uusd, margin.mm_excess_uusd)
    )
    return replace(leaf, auction_ns=now_ns, is_insolvent=equity_uusd <= 0, reserved_uusd=0)


def _has_book(workspace: Workspace, account: OpenAccount) -> bool:
    """Whether anybody bids for what the account is long of or offers what it is short of."""
    return any(
        bool(workspace.book(instrument).side(0 if held > 0 else 1))
        for instrument, (held, _) in account.positions.items()
    )
