"""Parts of a portfolio pass from one account to another at the marks. Pure.

A trade at the mark changes neither side's equity, so whatever value is meant to pass is one amount of cash
beside it: discount, debt or nothing. That keeps every step of the waterfall exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ledger.calls import trim_reduce_only
from ledger.funding import funding_uusd
from ledger.instruments import Instrument
from ledger.margin.requirements import OpenOrder
from ledger.reasons import CancelReason, LedgerReason
from ledger.transactions import Side
from ledger.workspace import OpenAccount, Workspace
from primitives.errors import ProtocolViolation

if TYPE_CHECKING:
    from ledger.valuation import Valuation


def transfer_at_mark(
    workspace: Workspace,
    valuation: Valuation,
    giver: OpenAccount,
    taker: OpenAccount,
    lots: Mapping[int, int],
    value_uusd: int,
) -> None:
    """`taker` gets signed lots from `giver` at the marks, and cash `value_uusd` (below 0: it bears a debt)."""
    for instrument_id in sorted(lots):
        instrument = workspace.state.instruments[instrument_id]
        price_uusd = _grid_mark(valuation, instrument)
        workspace.trade(giver, instrument, -lots[instrument_id], price_uusd)
        workspace.trade(taker, instrument, lots[instrument_id], price_uusd)
    workspace.add_cash(giver, -value_uusd)
    workspace.add_cash(taker, value_uusd)
    for account in (giver, taker):
        for instrument_id in sorted(lots):
            trim_reduce_only(workspace, account.key, instrument_id)


def excess_after_uusd(
    workspace: Workspace, valuation: Valuation, taker: OpenAccount, lots: Mapping[int, int], value_uusd: int
) -> int:
    """The taker's IM excess, its open orders counted, if transfer_at_mark were done.

    Raises:
        ProtocolViolation: POSITION_LIMIT, CASH_LIMIT, TOO_MANY_POSITIONS.
    """
    after, cash_uusd = OpenAccount(taker.closed()), taker.cash_uusd + value_uusd
    for instrument_id in sorted(lots):
        instrument = workspace.state.instruments[instrument_id]
        held, cost_uusd = after.positions.pop(instrument_id, (0, 0))
        basis_uusd = _grid_mark(valuation, instrument) - funding_uusd(workspace.state, instrument)
        cash_uusd -= lots[instrument_id] * basis_uusd // instrument.lots_per_contract
        if held + lots[instrument_id]:
            after.positions[instrument_id] = held + lots[instrument_id], cost_uusd
        else:
            cash_uusd -= cost_uusd
    if len(after.positions) > workspace.state.parameters.positions_max:
        raise ProtocolViolation(
            LedgerReason.TOO_MANY_POSITIONS, "the account would be in too many instruments"
        )
    return valuation.excess_with_orders_uusd(after, _margined_orders(workspace, taker), cash_uusd)


def withdraw_offers(workspace: Workspace, account: OpenAccount) -> None:
    """Take back what the ledger has offered in this block's call for an account whose portfolio now changes."""
    for instrument_id in sorted(set(account.orders.values())):
        incoming = workspace.incoming.get(instrument_id, [])
        own = [order for order in incoming if order.account == account.key]
        workspace.incoming[instrument_id] = [order for order in incoming if order.account != account.key]
        for order in own:
            workspace.forget(instrument_id, order, CancelReason.LIQUIDATION)


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """`total` >= 0 in whole parts by weight: floors, then one each by largest remainder, ties to the first."""
    weight_sum = sum(weights)
    parts = [total * weight // weight_sum for weight in weights]
    by_remainder = sorted(
        range(len(weights)), key=lambda place: (-(total * weights[place] % weight_sum), place)
    )
    for place in by_remainder[: total - sum(parts)]:
        parts[place] += 1
    return parts


def _grid_mark(valuation: Valuation, instrument: Instrument) -> int:
    mark_uusd = valuation.mark_uusd(instrument.id)
    return mark_uusd - mark_uusd % instrument.lots_per_contract


def _margined_orders(workspace: Workspace, account: OpenAccount) -> list[OpenOrder]:
    orders = [(account.orders[order_id], workspace.order(order_id)) for order_id in sorted(account.orders)]
    return [
        OpenOrder(
            instrument, order.left_lots if order.side == Side.BUY else -order.left_lots, order.price_uusd
        )
        for instrument, order in orders
        if not order.reduce_only
    ]
