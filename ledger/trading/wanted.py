"""Order actions, brought into one form: limit orders with what is special about them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from ledger.admission import ticks_of
from ledger.matching.orders import ceil_to_tick, floor_to_tick
from ledger.reasons import LedgerReason
from ledger.trading.reasons import TradingReason
from ledger.transactions import (
    MassQuote,
    PlaceMarket,
    PlaceOrder,
    PlaceTrigger,
    PlaceUntil,
    ReplaceOrder,
    Side,
    TimeInForce,
)
from primitives.errors import ProtocolViolation

if TYPE_CHECKING:
    from ledger.prices import Prices
    from ledger.workspace import OpenAccount, Workspace


class Wanted(NamedTuple):
    """A limit order to be judged; `place` is its action's, from 0.

    `expires_ns` 0: no such time. `replaces`: the open order that goes when this one is taken, 0 for none.
    """

    place: int
    action: PlaceOrder
    expires_ns: int = 0
    is_quote: bool = False
    replaces: int = 0


def wanted_of(
    workspace: Workspace, prices: Prices, account: OpenAccount, place: int, action: object
) -> Iterable[Wanted]:
    """The limit orders of one action. Raises ProtocolViolation when the action as a whole is refused."""
    match action:
        case PlaceOrder():
            return (Wanted(place, action),)
        case PlaceUntil():
            check_deadline(action, workspace.time_ns)
            return (Wanted(place, action.order, expires_ns=action.expires_ns),)
        case PlaceMarket():
            return (Wanted(place, market_order(workspace, prices, action)),)
        case ReplaceOrder():
            return _replacement(workspace, account, place, action)
        case MassQuote():
            return _quotes(place, action)
    return ()


def check_deadline(action: PlaceUntil, time_ns: int) -> None:
    """Raises ProtocolViolation: GOOD_TILL_TIME_NOT_GTC, TIME_PASSED."""
    if action.order.time_in_force != TimeInForce.GTC:
        raise ProtocolViolation(
            TradingReason.GOOD_TILL_TIME_NOT_GTC, "only an order that rests can go at a given time"
        )
    if action.expires_ns <= time_ns:
        raise ProtocolViolation(TradingReason.TIME_PASSED, "the order's time is not after the block's")


def market_order(workspace: Workspace, prices: Prices, action: PlaceMarket) -> PlaceOrder:
    """The limit order at the band's edge that trades at any price the band allows.

    Raises:
        ProtocolViolation: UNKNOWN_INSTRUMENT, INSTRUMENT_EXPIRED.
    """
    price_uusd = band_edge_uusd(workspace, prices, action.instrument, action.side)
    return PlaceOrder(
        action.instrument,
        action.side,
        price_uusd,
        action.size_lots,
        action.time_in_force,
        False,
        action.reduce_only,
        action.label,
    )


def triggered_order(workspace: Workspace, prices: Prices, trigger: PlaceTrigger) -> PlaceOrder:
    """What a fired trigger sends; a market order is immediate. Raises as `market_order`."""
    if trigger.price_uusd is None:
        time_in_force = trigger.time_in_force or TimeInForce.IOC
        price_uusd = band_edge_uusd(workspace, prices, trigger.instrument, trigger.side)
    else:
        time_in_force, price_uusd = trigger.time_in_force, trigger.price_uusd
    return PlaceOrder(
        trigger.instrument,
        trigger.side,
        price_uusd,
        trigger.size_lots,
        time_in_force,
        False,
        trigger.reduce_only,
        trigger.label,
    )


def band_edge_uusd(workspace: Workspace, prices: Prices, instrument_id: int, side: int) -> int:
    """The worst price on the grid that an order may carry: highest to buy, lowest to sell.

    Raises:
        ProtocolViolation: UNKNOWN_INSTRUMENT, INSTRUMENT_EXPIRED.
    """
    instrument = workspace.state.instruments.get(instrument_id)
    if instrument is None:
        raise ProtocolViolation(LedgerReason.UNKNOWN_INSTRUMENT, f"no instrument {instrument_id}")
    if not prices.is_marked(instrument_id):
        raise ProtocolViolation(LedgerReason.INSTRUMENT_EXPIRED, f"{instrument.name} has expired")
    ticks = ticks_of(workspace.state, instrument)
    mark_uusd, band_uusd = prices.mark_uusd(instrument_id), prices.band_uusd(instrument)
    lowest = ceil_to_tick(ticks, 1)
    if side == Side.BUY:
        return max(lowest, floor_to_tick(ticks, mark_uusd + band_uusd))
    return max(lowest, ceil_to_tick(ticks, max(0, mark_uusd - band_uusd)))


def _replacement(
    workspace: Workspace, account: OpenAccount, place: int, action: ReplaceOrder
) -> Iterable[Wanted]:
    instrument = account.orders.get(action.order_id)
    if instrument is None or action.order_id >= workspace.state.clock.next_order_id:
        raise ProtocolViolation(LedgerReason.UNKNOWN_ORDER, "no such open order when the block began")
    old = workspace.order(action.order_id)
    if action.price_uusd == old.price_uusd and action.size_lots <= old.left_lots:
        return ()
    trading = workspace.find_trading(account.key)
    new = PlaceOrder(
        instrument,
        old.side,
        action.price_uusd,
        action.size_lots,
        old.time_in_force,
        old.post_only,
        old.reduce_only,
        old.label,
    )
    expires_ns = trading.deadlines.get(old.order_id, 0) if trading else 0
    is_quote = trading is not None and old.order_id in trading.quotes
    return (Wanted(place, new, expires_ns, is_quote, old.order_id),)


def _quotes(place: int, action: MassQuote) -> Iterable[Wanted]:
    """Post-only orders of a mass quote. Raises ProtocolViolation: DUPLICATE_QUOTE, EMPTY_QUOTE."""
    check_quotes(action)
    order = PlaceOrder(0, Side.BUY, 1, 1, TimeInForce.GTC, True, False, 0)
    for quote in action.quotes:
        instrument = quote.instrument
        for side, price, lots in (
            (Side.BUY, quote.bid_uusd, quote.bid_lots),
            (Side.SELL, quote.ask_uusd, quote.ask_lots),
        ):
            if lots:
                one = replace(order, instrument=instrument, side=side, price_uusd=price, size_lots=lots)
                yield Wanted(place, one, is_quote=True)


def check_quotes(action: MassQuote) -> None:
    """Raises ProtocolViolation: DUPLICATE_QUOTE, EMPTY_QUOTE."""
    if len({quote.instrument for quote in action.quotes}) != len(action.quotes):
        raise ProtocolViolation(TradingReason.DUPLICATE_QUOTE, "an instrument is quoted once in a mass quote")
    for quote in action.quotes:
        both = quote.bid_lots and quote.ask_lots
        if (both and quote.bid_uusd >= quote.ask_uusd) or not (quote.bid_lots or quote.ask_lots):
            raise ProtocolViolation(
                TradingReason.EMPTY_QUOTE, "a quote has at least one side, and its bid below its ask"
            )
