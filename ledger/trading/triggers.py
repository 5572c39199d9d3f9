"""Trigger orders: they wait in their account's leaf until mark or index reaches their price. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.events import ActionRejected
from ledger.reasons import CancelReason, LedgerReason
from ledger.trading.cancels import cancel_triggers
from ledger.trading.events import TriggerFired, TriggerPlaced
from ledger.trading.reasons import TradingReason
from ledger.trading.state import Trigger, get_parameters
from ledger.trading.wanted import Wanted, triggered_order
from ledger.transactions import PlaceTrigger
from primitives.errors import ProtocolViolation

if TYPE_CHECKING:
    from ledger.placement import OrderDesk
    from ledger.prices import Prices
    from ledger.workspace import OpenAccount, Workspace


def observed_uusd(prices: Prices, workspace: Workspace, order: PlaceTrigger) -> int:
    """What the trigger looks at: the instrument's mark, or its underlying's index."""
    if order.by_index:
        return prices.index_uusd(workspace.state.instruments[order.instrument].underlying)
    return prices.mark_uusd(order.instrument)


def is_met(order: PlaceTrigger, price_uusd: int) -> bool:
    """Whether the price is at or beyond the trigger's."""
    if order.is_above:
        return price_uusd >= order.trigger_uusd
    return price_uusd <= order.trigger_uusd


class TriggerDesk:
    """Fires and takes the triggers of one block; what is taken now fires in the next block at the earliest."""

    def __init__(self, workspace: Workspace, prices: Prices, desk: OrderDesk) -> None:
        self._workspace = workspace
        self._prices = prices
        self._desk = desk

    def fire(self) -> None:
        """Send the orders of all triggers that are met, by account and id; they wait while matching pauses."""
        for key in sorted(self._workspace.state.watched.values):
            trading = self._workspace.find_trading(key)
            if trading is None or not trading.triggers:
                continue
            account = self._workspace.existing(key)
            for trigger_id in sorted(trading.triggers):
                trigger = trading.triggers[trigger_id]
                if not self._prices.is_marked(trigger.order.instrument):
                    cancel_triggers(self._workspace, trading, [trigger_id], CancelReason.EXPIRED)
                elif self._may_fire(trigger.order) and is_met(
                    trigger.order, price := self._observe(trigger.order)
                ):
                    del trading.triggers[trigger_id]
                    self._send(account, trigger, price)

    def _may_fire(self, order: PlaceTrigger) -> bool:
        instrument = self._workspace.state.instruments[order.instrument]
        return self._workspace.phases.of(instrument).is_matching

    def _observe(self, order: PlaceTrigger) -> int:
        return observed_uusd(self._prices, self._workspace, order)

    def _send(self, account: OpenAccount, trigger: Trigger, price_uusd: int) -> None:
        workspace = self._workspace
        workspace.events.append(
            TriggerFired(trigger.trigger_id, *account.key, trigger.order.instrument, price_uusd)
        )
        try:
            order = triggered_order(workspace, self._prices, trigger.order)
        except ProtocolViolation as violation:
            workspace.events.append(
                ActionRejected(
                    trigger.transaction_id, trigger.index, violation.reason.value, violation.detail
                )
            )
            return
        self._desk.enter(trigger.transaction_id, account, [Wanted(trigger.index, order)])

    def add(
        self,
        transaction_id: bytes,
        index: int,
        account: OpenAccount,
        action: PlaceTrigger,
        notional_uusd_max: int | None,
    ) -> None:
        """Let a trigger wait. Raises ProtocolViolation with the reason."""
        workspace = self._workspace
        self._check(account, action)
        if notional_uusd_max is not None and not action.reduce_only:
            more = [(action.instrument, action.size_lots)]
            self._desk.check_notional(account, more, notional_uusd_max)
        trading = workspace.trading(account.key)
        trigger_id = workspace.take_id()
        trading.triggers[trigger_id] = Trigger(trigger_id, transaction_id, index, action)
        workspace.events.append(
            TriggerPlaced(transaction_id, index, trigger_id, *account.key, action.instrument, action.label)
        )

    def _check(self, account: OpenAccount, action: PlaceTrigger) -> None:
        """Raises ProtocolViolation: TOO_MANY_TRIGGERS, DUPLICATE_LABEL, TRIGGER_ALREADY_MET, or of the shape."""
        workspace = self._workspace
        order = triggered_order(workspace, self._prices, action)
        self._desk.check_shape(order)
        trading = workspace.find_trading(account.key)
        waiting = trading.triggers.values() if trading is not None else ()
        if len(waiting) >= get_parameters(workspace.state).triggers_max:
            raise ProtocolViolation(
                TradingReason.TOO_MANY_TRIGGERS, f"the account has {len(waiting)} triggers already"
            )
        if action.label and any(item.order.label == action.label for item in waiting):
            raise ProtocolViolation(LedgerReason.DUPLICATE_LABEL, f"label {action.label} is on a trigger")
        if is_met(action, self._observe(action)):
            raise ProtocolViolation(
                TradingReason.TRIGGER_ALREADY_MET, f"the price is at {self._observe(action)} already"
            )
