"""Takes over what an insolvent account leaves: the backstop vault, then those on the other side. Pure.

Auto-deleveraging passes the whole portfolio at the marks to accounts that hold the opposite of it, each the
same part of every leg, so that its hedges stay whole; together they bear exactly the deficit that the fund
could not pay, nobody more than its initial excess. Source: market.md section 5, steps 4 and 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.events import CashMoved, Deleveraged, VaultTook
from ledger.matching.orders import AccountKey
from ledger.settlement.state import VAULT_KEY
from ledger.settlement.transfer import apportion, excess_after_uusd, transfer_at_mark
from primitives.amounts import PPM
from primitives.errors import ProtocolViolation

if TYPE_CHECKING:
    from ledger.valuation import Valuation
    from ledger.workspace import OpenAccount, Workspace

WINNERS_MAX = 64
"""Accounts that one deleveraging passes a portfolio to: those with the highest scores."""


class _Winner(NamedTuple):
    account: OpenAccount
    score: int


def take_over_by_vault(
    workspace: Workspace, valuation: Valuation, account: OpenAccount, equity_uusd: int
) -> bool:
    """Whether the vault took positions and debt: it does if its initial requirement holds afterwards."""
    vault = workspace.account(VAULT_KEY)
    if vault is None or account.key == VAULT_KEY:
        return False
    lots = {instrument: held for instrument, (held, _) in account.positions.items()}
    if _room_uusd(workspace, valuation, vault, lots, equity_uusd) < 0:
        return False
    transfer_at_mark(workspace, valuation, account, vault, lots, equity_uusd)
    workspace.events.append(VaultTook(*account.key, equity_uusd))
    return True


def deleverage(workspace: Workspace, valuation: Valuation, account: OpenAccount, equity_uusd: int) -> bool:
    """Pass everything to the other side; False when nobody there could carry it. Needs equity <= 0.

    What the fund and the winners' excess could not pay stays as the account's debt, without positions.
    """
    found = _carriers(workspace, valuation, account)
    if not found:
        return False
    winners, slices, rooms = found
    paid_uusd = min(-equity_uusd, workspace.supply["fund_uusd"])
    if paid_uusd:
        workspace.supply["fund_uusd"] -= paid_uusd
        workspace.add_cash(account, paid_uusd)
        workspace.events.append(CashMoved(*account.key, paid_uusd, "insurance_fund"))
    losses = share_losses(-equity_uusd - paid_uusd, [winner.score for winner in winners], rooms)
    for winner, lots, loss_uusd in zip(winners, slices, losses, strict=True):
        transfer_at_mark(workspace, valuation, account, winner.account, lots, -loss_uusd)
        workspace.events.append(Deleveraged(*account.key, *winner.account.key, loss_uusd))
    return True


def share_losses(deficit_uusd: int, scores: list[int], rooms_uusd: list[int]) -> list[int]:
    """The deficit pro rata by score, largest remainder, nobody above its room; less in all if room is short."""
    losses = [min(part, room) for part, room in zip(apportion(deficit_uusd, scores), rooms_uusd, strict=True)]
    left = deficit_uusd - sum(losses)
    for place, room in enumerate(rooms_uusd):
        more = min(left, room - losses[place])
        losses[place] += more
        left -= more
    return losses


def _carriers(
    workspace: Workspace, valuation: Valuation, account: OpenAccount
) -> tuple[list[_Winner], list[dict[int, int]], list[int]] | None:
    """(winners, the lots each takes, the loss each could bear), all of whom stay above their requirement."""
    winners = _winners(workspace, valuation, account)
    while winners:
        slices = _slices(account, winners)
        rooms = [
            _room_uusd(workspace, valuation, winner.account, lots, 0)
            for winner, lots in zip(winners, slices, strict=True)
        ]
        if min(rooms) >= 0:
            return winners, slices, rooms
        winners = [winner for winner, room in zip(winners, rooms, strict=True) if room >= 0]
    return None


def _winners(workspace: Workspace, valuation: Valuation, account: OpenAccount) -> list[_Winner]:
    """Accounts with opposite positions by score: what they oppose, at the index, times their leverage."""
    scored: list[tuple[int, AccountKey]] = []
    opposite = {instrument: -held for instrument, (held, _) in account.positions.items()}
    for key, opposing_uusd in valuation.opposing_uusd(opposite):
        margin, holder = valuation.margin(key), workspace.existing(key)
        equity_uusd = margin.mtm_uusd + holder.cash_uusd
        if key in (account.key, VAULT_KEY) or margin.im_excess_uusd < 0 or equity_uusd <= 0:
            continue
        leverage_ppm = (equity_uusd - margin.im_excess_uusd) * PPM // equity_uusd
        scored.append((max(1, opposing_uusd * leverage_ppm // PPM), key))
    scored.sort(key=lambda item: (-item[0], item[1]))
    return [_Winner(workspace.existing(key), score) for score, key in scored[:WINNERS_MAX]]


def _slices(account: OpenAccount, winners: list[_Winner]) -> list[dict[int, int]]:
    slices: list[dict[int, int]] = [{} for _ in winners]
    for instrument, (held, _) in sorted(account.positions.items()):
        parts = apportion(abs(held), [winner.score for winner in winners])
        for lots, part in zip(slices, parts, strict=True):
            if part:
                lots[instrument] = part if held > 0 else -part
    return slices


def _room_uusd(
    workspace: Workspace, valuation: Valuation, taker: OpenAccount, lots: dict[int, int], value_uusd: int
) -> int:
    """IM excess after taking lots and value; -1 where the taker's limits forbid it."""
    try:
        return excess_after_uusd(workspace, valuation, taker, lots, value_uusd)
    except ProtocolViolation:
        return -1
