"""The call of one instrument in a block: trades, fees, and what becomes of the orders. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.events import Trade
from ledger.instruments import Instrument
from tests.naive.call import Order, call_with_kills
from tests.naive.fees import fee_uusd
from tests.naive.quotes import count_fill, trip

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger


def run_call(ledger: NaiveLedger, instrument: Instrument) -> None:
    """One instrument's open orders: who trades, what it costs, what is left."""
    own = [item for item in ledger.orders.values() if item.instrument == instrument.id]
    before = {item.id: item.lots for item in own}
    mark = ledger.rows.mark[ledger.rows.row_of[instrument.id]]
    result = call_with_kills(own, ledger.height, mark, ledger.grid(instrument))
    for order_id in result.removed:
        ledger.cancel(ledger.orders[order_id], "self_trade")
    trades: dict[tuple[int, int], int] = {}
    for pair in result.lots:
        trades[pair] = trades.get(pair, 0) + 1
    paid_base: set[int] = set()
    for (buy, sell), lots in trades.items():
        assert result.price_uusd is not None
        _trade(
            ledger, instrument, ledger.orders[buy], ledger.orders[sell], lots, result.price_uusd, paid_base
        )
    traded = {order_id for pair in trades for order_id in pair}
    accounts = {ledger.orders[order_id].account for order_id in traded}
    for order_id in sorted(before):
        order = ledger.orders.get(order_id)
        if order is not None and order.lots == 0:
            del ledger.orders[order_id]
        elif order is not None and order.time_in_force:
            ledger.cancel(order, "immediate_or_cancel" if order.time_in_force == 1 else "fill_or_kill")
    for key in sorted(accounts):
        ledger.trim(key, instrument.id)
    trip(ledger, instrument.underlying, accounts)


def _trade(
    ledger: NaiveLedger,
    instrument: Instrument,
    buy: Order,
    sell: Order,
    lots: int,
    price: int,
    paid_base: set[int],
) -> None:
    fees = []
    for order, signed in ((buy, lots), (sell, -lots)):
        ledger.give(ledger.accounts[order.account], instrument, signed, price)
        order.lots -= lots
        count_fill(ledger, instrument, order, signed)
        is_maker = order.height < ledger.height
        has_base = not is_maker and order.id not in paid_base
        paid_base.add(order.id)
        fees.append(fee_uusd(ledger, instrument, lots, price, is_maker=is_maker, has_base=has_base))
        ledger.accounts[order.account].cash_uusd -= fees[-1]
        ledger.supply["fees_uusd"] += fees[-1]
    ledger.events.append(
        Trade(instrument.id, price, lots, buy.id, sell.id, *buy.account, *sell.account, *fees)
    )
