"""What leaves the books before a block's orders: orders whose time has come, cancels, reductions. Pure.

All of it sees what rested when the block began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.margin.health import Health
from ledger.reasons import CancelReason, LedgerReason
from ledger.trading.events import TriggerCancelled
from ledger.trading.wanted import check_quotes
from ledger.transactions import CancelAll, CancelLabel, CancelOrder, MassQuote, ReplaceOrder
from primitives.errors import ProtocolViolation

if TYPE_CHECKING:
    from ledger.trading.state import OpenTrading
    from ledger.workspace import OpenAccount, Workspace


def cancel_due(workspace: Workspace) -> None:
    """Cancel orders past their time, and protected quotes of accounts below their initial requirement."""
    time_ns = workspace.time_ns
    for key in sorted(workspace.state.watched.values):
        trading = workspace.trading(key)
        due = [order_id for order_id, expires_ns in trading.deadlines.items() if expires_ns <= time_ns]
        workspace.cancel_open(due, CancelReason.GOOD_TILL_TIME)
        account = workspace.existing(key)
        if account.health != Health.HEALTHY and trading.protections:
            workspace.cancel_open(list(trading.quotes), CancelReason.PROTECTION)


def cancel_silent(workspace: Workspace) -> None:
    """Cancel what rested of accounts whose dead-man switch was not renewed, up to and with this block.

    What the ledger itself offers in this block, to liquidate an account, stays.
    """
    first_new_id = workspace.state.clock.next_order_id
    for key in sorted(workspace.state.watched.values):
        trading = workspace.trading(key)
        if 0 < trading.cancel_at_ns <= workspace.time_ns:
            trading.cancel_at_ns = 0
            rested = [item for item in workspace.existing(key).orders if item < first_new_id]
            workspace.cancel_open(rested, CancelReason.DEAD_MAN_SWITCH)
            cancel_triggers(workspace, trading, list(trading.triggers), CancelReason.DEAD_MAN_SWITCH)


def cancel_triggers(
    workspace: Workspace, trading: OpenTrading, trigger_ids: list[int], reason: CancelReason
) -> None:
    """Take waiting triggers away, in order of id."""
    for trigger_id in sorted(trigger_ids):
        order = trading.triggers.pop(trigger_id).order
        workspace.events.append(TriggerCancelled(trigger_id, *trading.key, order.instrument, reason.value))


def unknown_order() -> ProtocolViolation:
    """What a cancel or a replacement of nothing is answered."""
    return ProtocolViolation(LedgerReason.UNKNOWN_ORDER, "no such open order when the block began")


class Cancels:
    """Gathers the block's cancels, so that each book is rewritten once."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._first_new_id = workspace.state.clock.next_order_id
        self._chosen: dict[int, tuple[int, CancelReason]] = {}

    def add(self, account: OpenAccount, action: object) -> None:
        """Choose what one action takes away. Raises UNKNOWN_ORDER; that cancel-all finds nothing is fine."""
        match action:
            case ReplaceOrder():
                self._reduce(account, action)
            case MassQuote() if is_sound(action):
                trading = self._workspace.find_trading(account.key)
                if trading is not None:
                    self._choose(account, list(trading.quotes), CancelReason.REPLACED)
            case CancelOrder() | CancelLabel() | CancelAll():
                self._cancel(account, action)

    def _cancel(self, account: OpenAccount, action: CancelOrder | CancelLabel | CancelAll) -> None:
        resting, triggers = self._resting(account), self._triggers(account)
        if isinstance(action, CancelAll):
            named = [key for key, value in resting.items() if action.instrument in (None, value)]
            armed = [key for key, value in triggers.items() if action.instrument in (None, value[0])]
        elif isinstance(action, CancelOrder):
            named = [action.order_id] if action.order_id in resting else []
            armed = [action.order_id] if action.order_id in triggers else []
        else:
            named = [key for key in resting if self._workspace.order(key).label == action.label != 0]
            armed = [key for key, value in triggers.items() if value[1] == action.label != 0]
        if not named and not armed and not isinstance(action, CancelAll):
            raise unknown_order()
        self._choose(account, named, CancelReason.REQUESTED)
        if armed:
            trading = self._workspace.trading(account.key)
            cancel_triggers(self._workspace, trading, armed, CancelReason.REQUESTED)

    def _resting(self, account: OpenAccount) -> dict[int, int]:
        return {
            order_id: instrument
            for order_id, instrument in account.orders.items()
            if order_id < self._first_new_id and order_id not in self._chosen
        }

    def _triggers(self, account: OpenAccount) -> dict[int, tuple[int, int]]:
        """Waiting triggers: (instrument, label) by id."""
        trading = self._workspace.find_trading(account.key)
        if trading is None:
            return {}
        return {key: (item.order.instrument, item.order.label) for key, item in trading.triggers.items()}

    def _choose(self, account: OpenAccount, order_ids: list[int], reason: CancelReason) -> None:
        for order_id in order_ids:
            self._chosen.setdefault(order_id, (account.orders[order_id], reason))

    def _reduce(self, account: OpenAccount, action: ReplaceOrder) -> None:
        """Fewer lots at the same price: done here, so that it keeps its age; anything else waits."""
        instrument = self._resting(account).get(action.order_id)
        if instrument is None:
            return
        order = self._workspace.order(action.order_id)
        if is_reduction(order.price_uusd, order.left_lots, action) and order.left_lots > action.size_lots:
            self._workspace.reduce_resting(instrument, order, action.size_lots)

    def apply(self) -> None:
        """Take them off their books, by instrument and id."""
        groups: dict[tuple[int, str], tuple[CancelReason, list[int]]] = {}
        for order_id in sorted(self._chosen):
            instrument, reason = self._chosen[order_id]
            groups.setdefault((instrument, reason.value), (reason, []))[1].append(order_id)
        for instrument, name in sorted(groups):
            reason, order_ids = groups[instrument, name]
            self._workspace.cancel_resting(instrument, order_ids, reason)


def is_sound(action: MassQuote) -> bool:
    """Whether a mass quote will be judged at all: one that is refused as a whole replaces nothing."""
    try:
        check_quotes(action)
    except ProtocolViolation:
        return False
    return True


def is_reduction(price_uusd: int, left_lots: int, action: ReplaceOrder) -> bool:
    """Whether a replacement keeps the order's age: same price and not more lots."""
    return action.price_uusd == price_uusd and action.size_lots <= left_lots
