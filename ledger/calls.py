"""The calls of one block: match, move lots and cash, charge fees, keep reduce-only orders honest. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.admission import ticks_of
from ledger.events import Trade
from ledger.instruments import Instrument
from ledger.matching.call import CallResult, Match, run_call
from ledger.matching.orders import AccountKey, RestingOrder
from ledger.reasons import CancelReason
from ledger.trading.fees import CallFees
from ledger.trading.protection import count_fill, trip
from ledger.transactions import Side, TimeInForce

if TYPE_CHECKING:
    from ledger.valuation import Valuation
    from ledger.workspace import Workspace


def run_calls(workspace: Workspace, valuation: Valuation) -> None:
    """One uniform-price call for each instrument that got an order in this block, by instrument id.

    While its matching pauses its orders are collected; a call over all of them follows once it matches again.
    """
    phases = workspace.phases
    crossed = {item for item in phases.resumed() if workspace.book(item).is_crossed}
    for instrument_id in sorted(workspace.incoming.keys() | crossed):
        incoming = workspace.incoming.pop(instrument_id, [])
        instrument = workspace.state.instruments[instrument_id]
        if not phases.of(instrument).is_matching:
            workspace.books[instrument_id] = workspace.book(instrument_id).with_orders(incoming)
            continue
        mark_uusd = valuation.mark_uusd(instrument_id)
        ticks = ticks_of(workspace.state, instrument)
        result = run_call(workspace.book(instrument_id), incoming, mark_uusd, ticks)
        workspace.books[instrument_id] = result.book
        _settle_call(workspace, valuation, instrument, result)


def _settle_call(
    workspace: Workspace, valuation: Valuation, instrument: Instrument, result: CallResult
) -> None:
    for order in result.self_crossed:
        workspace.forget(instrument.id, order, CancelReason.SELF_TRADE)
    if result.clearing is not None:
        fees = CallFees(workspace, valuation, instrument.underlying)
        for match in result.matches:
            _apply_match(workspace, valuation, fees, instrument, match, result.clearing.price_uusd)
    partly_cancelled = {order.order_id for order in result.unfilled}
    for order, size_lots in result.fills:
        if order.order_id in partly_cancelled:
            continue
        if size_lots == order.left_lots:
            workspace.close_order(order)
        else:
            workspace.shrink_order(order, size_lots)
    for order in result.unfilled:
        is_kill = order.time_in_force == TimeInForce.FOK
        reason = CancelReason.FILL_OR_KILL if is_kill else CancelReason.IMMEDIATE_OR_CANCEL
        workspace.forget(instrument.id, order, reason)
    accounts = sorted({order.account for order, _ in result.fills})
    for key in accounts:
        trim_reduce_only(workspace, key, instrument.id)
    trip(workspace, instrument.underlying, accounts)


def _apply_match(
    workspace: Workspace,
    valuation: Valuation,
    schedule: CallFees,
    instrument: Instrument,
    match: Match,
    price_uusd: int,
) -> None:
    fees = []
    for order, lots in ((match.buy, match.size_lots), (match.sell, -match.size_lots)):
        account = workspace.existing(order.account)
        workspace.trade(account, instrument, lots, price_uusd)
        count_fill(workspace, valuation, instrument, order, lots)
        fee = schedule.fee_of(instrument, order, price_uusd, match.size_lots)
        workspace.add_cash(account, -fee)
        workspace.supply["fees_uusd"] += fee
        fees.append(fee)
    buy, sell = match.buy, match.sell
    workspace.events.append(
        Trade(
            instrument.id,
            price_uusd,
            match.size_lots,
            buy.order_id,
            sell.order_id,
            buy.owner,
            buy.subaccount,
            sell.owner,
            sell.subaccount,
            *fees,
        )
    )


def reducible_lots(held_lots: int, side: int) -> int:
    """How many lots an order of this side can reduce a position by."""
    return max(0, -held_lots if side == Side.BUY else held_lots)


def trim_reduce_only(workspace: Workspace, key: AccountKey, instrument_id: int) -> None:
    """After fills: cancel reduce-only orders, newest first, that together exceed what is left to reduce."""
    account = workspace.existing(key)
    mine: list[RestingOrder] = [
        order
        for order_id, instrument in account.orders.items()
        if instrument == instrument_id and (order := workspace.order(order_id)).reduce_only
    ]
    if not mine:
        return
    for side in (Side.BUY, Side.SELL):
        left = reducible_lots(account.lots(instrument_id), side)
        excess = []
        for order in mine:
            if order.side == side:
                left -= order.left_lots
                if left < 0:
                    excess.append(order.order_id)
        if excess:
            workspace.cancel_resting(instrument_id, excess, CancelReason.REDUCE_ONLY)
