"""What the ledger offers in a block for an account below maintenance. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.events import LiquidationStep
from ledger.instruments import Instrument, Kind
from tests.naive.call import Order
from tests.naive.standard import STANDARD, standard_excesses
from tests.naive.waterfall import advance

if TYPE_CHECKING:
    from tests.naive.account import AccountKey
    from tests.naive.ledger import NaiveLedger
    from tests.naive.margin import NaiveMargin

PPM = 1_000_000
IOC = 1


def liquidate(ledger: NaiveLedger, key: AccountKey, margin: NaiveMargin) -> None:
    """Cancel all orders, then offer a part of the worst position; with an empty book also a hedge."""
    own = [order for order in ledger.orders.values() if order.account == key]
    for order in sorted(own, key=lambda item: (item.instrument, item.id)):
        ledger.cancel(order, "liquidation")
    advance(ledger, key)
    target = _worst_position(ledger, key, margin)
    if target is None:
        return
    held = ledger.accounts[key].positions[target.id][0]
    takers = [item for item in ledger.orders.values() if item.instrument == target.id]
    is_alone = not any(item.is_buy == (held > 0) and item.height < ledger.height for item in takers)
    if target.kind != Kind.PERPETUAL and is_alone and ledger.accounts[key].model != STANDARD:
        _hedge(ledger, key, margin, target.underlying)
    _offer(ledger, key, margin, target, -_step(ledger, target, held), reduce_only=True)


def _worst_position(ledger: NaiveLedger, key: AccountKey, margin: NaiveMargin) -> Instrument | None:
    account, rows, found = ledger.accounts[key], ledger.rows, []
    for instrument_id, (lots, cost) in sorted(account.positions.items()):
        instrument = ledger.instruments[instrument_id]
        if instrument.kind == Kind.PERPETUAL or instrument.expiry_ns > ledger.time_ns:
            row = rows.row_of[instrument_id]
            table = rows.table[row]
            scenario = margin.worst_scenario[rows.underlying[row]]
            weight = lots * (table[scenario] - table[-1])
            if account.model == STANDARD:
                value = lots * rows.basis[row] // instrument.lots_per_contract - cost
                others = {item: held for item, held in account.positions.items() if item != instrument_id}
                weight = -standard_excesses(ledger, account.cash_uusd + value, others)[1]
            found.append((weight, instrument_id))
    return ledger.instruments[min(found)[1]] if found else None


def _step(ledger: NaiveLedger, instrument: Instrument, lots: int) -> int:
    """How many of the signed `lots` one block may trade, at least one."""
    parameters, row = ledger.genesis.parameters, ledger.rows.row_of[instrument.id]
    share = abs(lots) * parameters.liquidation_close_ppm // PPM
    index_uusd = ledger.oracle.agreed[instrument.underlying].index_uusd
    per_lot = abs(ledger.rows.delta_ppm[row]) * index_uusd // (PPM * instrument.lots_per_contract)
    if per_lot:
        share = min(share, parameters.liquidation_delta_uusd // per_lot)
    size = min(abs(lots), max(1, share))
    return size if lots > 0 else -size


def _hedge(ledger: NaiveLedger, key: AccountKey, margin: NaiveMargin, underlying: int) -> None:
    perpetuals = [
        item
        for item in ledger.instruments.values()
        if item.underlying == underlying and item.kind == Kind.PERPETUAL
    ]
    if not perpetuals:
        return
    perpetual = perpetuals[0]
    delta_ppm = 0
    for instrument_id, (lots, _) in ledger.accounts[key].positions.items():
        held = ledger.instruments[instrument_id]
        if held.underlying == underlying:
            delta = lots * ledger.rows.delta_ppm[ledger.rows.row_of[instrument_id]]
            delta_ppm += delta * perpetual.lots_per_contract // held.lots_per_contract
    lots = abs(delta_ppm) // PPM
    if lots:
        size = _step(ledger, perpetual, lots)
        _offer(ledger, key, margin, perpetual, -size if delta_ppm > 0 else size, reduce_only=False)


def _offer(
    ledger: NaiveLedger,
    key: AccountKey,
    margin: NaiveMargin,
    instrument: Instrument,
    lots: int,
    *,
    reduce_only: bool,
) -> None:
    is_buy = lots > 0
    price = ledger.band_edge_uusd(instrument, is_buy=is_buy)
    order = Order(
        ledger.next_order_id,
        key,
        instrument.id,
        is_buy,
        price,
        abs(lots),
        ledger.height,
        0,
        IOC,
        False,
        reduce_only,
    )
    ledger.enter(order)
    ledger.events.append(LiquidationStep(*key, instrument.id, lots, price, margin.mm_excess_uusd))
