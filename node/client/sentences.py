"""Ledger events as sentences for the person whose account they concern. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ledger.events import (
    ActionRejected,
    CashMoved,
    Event,
    HealthChanged,
    OrderAccepted,
    OrderCancelled,
    Trade,
    TransactionApplied,
    TransactionRejected,
)
from node.client.errors import BadOrder
from node.client.market import Market
from node.client.typed import OtherEvent
from node.rpc.client_form import fields_form, snake
from primitives.amounts import USD


def sentence(event: Event | OtherEvent, owner: bytes, market: Market) -> str | None:
    """One line; None for what needs none."""
    match event:
        case TransactionApplied():
            return None
        case TransactionRejected():
            return f"nothing took effect: {event.reason}: {event.detail}"
        case ActionRejected():
            return f"action {event.index} refused: {event.reason}: {event.detail}"
        case OrderAccepted():
            what = _what(market, event.instrument, event.size_lots)
            label = f", label {event.label}" if event.label else ""
            return (
                f"order {event.order_id}: {_SIDES[event.side]} {what} at {_dollars(event.price_uusd)}{label}"
            )
        case OrderCancelled():
            left = _what(market, event.instrument, event.left_lots)
            return f"order {event.order_id} cancelled with {left} left: {event.reason}"
        case Trade():
            return _trade(event, owner, market)
        case CashMoved():
            return f"{event.cause} of {_dollars(event.amount_uusd)}"
        case HealthChanged():
            return f"account is {event.health}, {_dollars(event.mm_excess_uusd)} above maintenance"
        case OtherEvent():
            return f"{event.event}: {event.fields}"
    return f"{snake(type(event).__name__).replace('_', ' ')}: {', '.join(_fields(event, market))}"


def sentences(events: Iterable[Event | OtherEvent], owner: bytes, market: Market) -> Iterator[str]:
    """Those that have something to say."""
    for event in events:
        if said := sentence(event, owner, market):
            yield said


def _fields(event: Event, market: Market) -> Iterator[str]:
    """What an event says beside whose it is."""
    for name, value in fields_form(event).items():
        if name == "instrument":
            yield _name(market, value)
        elif name.endswith("_uusd"):
            yield f"{name.removesuffix('_uusd').replace('_', ' ')} {_dollars(int(value))}"
        elif name not in _WHOSE:
            yield f"{name.replace('_', ' ')} {value}"


def _trade(event: Trade, owner: bytes, market: Market) -> str:
    is_buyer = event.buyer == owner
    verb, order_id = ("bought", event.buy_order_id) if is_buyer else ("sold", event.sell_order_id)
    fee_uusd = event.buyer_fee_uusd if is_buyer else event.seller_fee_uusd
    what = _what(market, event.instrument, event.size_lots)
    return f"{verb} {what} at {_dollars(event.price_uusd)}, fee {_dollars(fee_uusd)} (order {order_id})"


def _what(market: Market, instrument: int, lots: int) -> str:
    try:
        return f"{market.size(instrument, lots)} {market.find(instrument).name}"
    except BadOrder:
        return f"{lots} lots of instrument {instrument}"


def _dollars(uusd: int) -> str:
    whole, micro = divmod(abs(uusd), USD)
    return f"{'-' if uusd < 0 else ''}${whole:,}.{f'{micro:06d}'.rstrip('0').ljust(2, '0')}"


def _name(market: Market, instrument: int) -> str:
    try:
        return market.find(instrument).name
    except BadOrder:
        return f"instrument {instrument}"


_SIDES = ("buy", "sell")
_WHOSE = ("transaction_id", "index", "owner", "subaccount")
