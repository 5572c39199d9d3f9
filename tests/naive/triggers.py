"""Orders that wait for a price. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.trading.events import TriggerFired, TriggerPlaced
from ledger.trading.state import Trigger
from ledger.transactions import PlaceOrder, PlaceTrigger
from tests.naive.account import AccountKey
from tests.naive.call import Order
from tests.naive.cancels import cancel_triggers
from tests.naive.orders import Wanted, edge_or_reason, enter, open_orders, order_of, shape_defect
from tests.naive.sent import Sent
from tests.naive.sessions import gross_uusd

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger


def _is_met(ledger: NaiveLedger, action: PlaceTrigger) -> bool:
    seen = _seen_uusd(ledger, action)
    return seen >= action.trigger_uusd if action.is_above else seen <= action.trigger_uusd


def _seen_uusd(ledger: NaiveLedger, action: PlaceTrigger) -> int:
    if action.by_index:
        underlying = ledger.instruments[action.instrument].underlying
        return ledger.oracle.agreed[underlying].index_uusd
    return ledger.rows.mark[ledger.rows.row_of[action.instrument]]


def _order(ledger: NaiveLedger, key: AccountKey, action: PlaceTrigger) -> Order | str:
    """What it sends now: at its price, or at the edge of the band and then never resting."""
    price, in_force = action.price_uusd, action.time_in_force
    if price is None:
        edge = edge_or_reason(ledger, action.instrument, is_buy=action.side == 0)
        if isinstance(edge, str):
            return edge
        price, in_force = edge, in_force or 1
    how = (in_force, False, action.reduce_only, action.label)
    return order_of(ledger, key, PlaceOrder(action.instrument, action.side, price, action.size_lots, *how))


def fire(ledger: NaiveLedger) -> None:
    """Every trigger of an earlier block that is met sends its order, while its instrument matches."""
    for key in sorted(ledger.accounts):
        for number, trigger in sorted(ledger.accounts[key].triggers.items()):
            action = trigger.order
            if action.instrument not in ledger.rows.row_of:
                cancel_triggers(ledger, key, [number], "expired")
            elif ledger.breakers.matches(action.instrument) and _is_met(ledger, action):
                del ledger.accounts[key].triggers[number]
                seen = _seen_uusd(ledger, action)
                ledger.events.append(TriggerFired(number, *key, action.instrument, seen))
                order = _order(ledger, key, action)
                assert isinstance(order, Order)
                enter(ledger, trigger.transaction_id, key, [Wanted(trigger.index, order)], None)


def place_trigger(ledger: NaiveLedger, sent: Sent, index: int, action: PlaceTrigger) -> str | None:
    """Let it wait, or why not."""
    account = ledger.accounts[sent.key]
    order = _order(ledger, sent.key, action)
    reason = order if isinstance(order, str) else shape_defect(ledger, order)
    if reason is not None:
        return reason
    assert isinstance(order, Order)
    if len(account.triggers) >= ledger.trading_rules.triggers_max:
        return "too_many_triggers"
    if action.label and any(item.order.label == action.label for item in account.triggers.values()):
        return "duplicate_label"
    if _is_met(ledger, action):
        return "trigger_already_met"
    everything = [*open_orders(ledger, sent.key), order]
    is_limited = sent.limit_uusd is not None and not action.reduce_only
    if is_limited and gross_uusd(ledger, sent.key, everything) > sent.limit_uusd:
        return "session_notional"
    number = ledger.take_id()
    account.triggers[number] = Trigger(number, sent.id, index, action)
    ledger.events.append(TriggerPlaced(sent.id, index, number, *sent.key, action.instrument, action.label))
    return None
