"""What leaves the books before new orders: orders whose time is over, cancels, reductions, silent accounts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.trading.events import OrderReduced, TriggerCancelled
from ledger.transactions import CancelAll, CancelLabel, CancelOrder, MassQuote, ReplaceOrder
from tests.naive.account import HEALTHY, AccountKey
from tests.naive.call import Order
from tests.naive.orders import open_orders
from tests.naive.quotes import defect
from tests.naive.sent import Sent, actions_of, refuse

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

CANCELS = (CancelOrder, CancelLabel, CancelAll, ReplaceOrder, MassQuote)


def cancel_due(ledger: NaiveLedger) -> None:
    """Orders past their time; protected quotes of whoever is below the initial requirement."""
    for key in sorted(ledger.accounts):
        own, account = open_orders(ledger, key), ledger.accounts[key]
        ledger.cancel_all([item for item in own if 0 < item.expires_ns <= ledger.time_ns], "good_till_time")
        if account.health != HEALTHY and account.protections:
            quotes = [item for item in open_orders(ledger, key) if item.is_quote]
            ledger.cancel_all(quotes, "protection")


def cancel_silent(ledger: NaiveLedger) -> None:
    """Dead-man switches that nobody renewed: everything that rested goes, and every trigger."""
    for key in sorted(ledger.accounts):
        account = ledger.accounts[key]
        if 0 < account.cancel_at_ns <= ledger.time_ns:
            account.cancel_at_ns = 0
            rested = [item for item in open_orders(ledger, key) if item.height < ledger.height]
            ledger.cancel_all(rested, "dead_man_switch")
            cancel_triggers(ledger, key, list(account.triggers), "dead_man_switch")


def cancel_triggers(ledger: NaiveLedger, key: AccountKey, numbers: list[int], reason: str) -> None:
    """Take waiting triggers away, by id."""
    for number in sorted(numbers):
        order = ledger.accounts[key].triggers.pop(number).order
        ledger.events.append(TriggerCancelled(number, *key, order.instrument, reason))


def cancel_requested(ledger: NaiveLedger, sent: list[Sent]) -> None:
    """All cancels of a block, of what rested when it began; triggers and reductions at once, orders together."""
    gone: dict[int, str] = {}
    for item, index, action in actions_of(sent, CANCELS):
        resting = [
            order
            for order in open_orders(ledger, item.key)
            if order.height < ledger.height and order.id not in gone
        ]
        if isinstance(action, ReplaceOrder):
            _reduce(ledger, action, resting)
        elif isinstance(action, MassQuote):
            if defect(action) is None:
                gone |= {order.id: "replaced" for order in resting if order.is_quote}
        else:
            named = [order.id for order in resting if _names(action, order.id, order.instrument, order.label)]
            triggers = ledger.accounts[item.key].triggers.items()
            armed = [
                number
                for number, trigger in triggers
                if _names(action, number, trigger.order.instrument, trigger.order.label)
            ]
            if not named and not armed and not isinstance(action, CancelAll):
                refuse(ledger, item.id, index, "unknown_order")
            gone |= dict.fromkeys(named, "requested")
            cancel_triggers(ledger, item.key, armed, "requested")
    leaving = [(ledger.orders[number], reason) for number, reason in gone.items()]
    for order, reason in sorted(leaving, key=lambda one: (one[0].instrument, one[1], one[0].id)):
        ledger.cancel(order, reason)


def _names(action: object, number: int, instrument: int, label: int) -> bool:
    if isinstance(action, CancelOrder):
        return number == action.order_id
    if isinstance(action, CancelLabel):
        return label == action.label != 0
    assert isinstance(action, CancelAll)
    return action.instrument in (None, instrument)


def _reduce(ledger: NaiveLedger, action: ReplaceOrder, resting: list[Order]) -> None:
    """Fewer lots at the same price: the order stays where it is."""
    for order in resting:
        is_same = order.id == action.order_id and order.price_uusd == action.price_uusd
        if is_same and action.size_lots < order.lots:
            order.lots = action.size_lots
            ledger.events.append(OrderReduced(order.id, *order.account, order.instrument, order.lots))
