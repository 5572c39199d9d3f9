"""Closes accounts that are below their maintenance requirement, a part in each block, through the book. Pure.

Steps 0 to 2 of market.md section 5: below the initial requirement an account may only reduce (placement.py);
below maintenance all its orders are cancelled, and the position that loses most in its worst scenario is
offered to this block's call, immediate-or-cancel, at a price within the band. When that option's book is
empty, a part of the account's delta is hedged with the perpetual instead of waiting. Auction, vault and
deleveraging come later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.admission import ticks_of
from ledger.events import LiquidationStep
from ledger.instruments import Instrument, Kind
from ledger.matching.orders import RestingOrder, ceil_to_tick, floor_to_tick
from ledger.oracle import SILENT_BLOCKS_PER_EPOCH
from ledger.reasons import CancelReason
from ledger.transactions import Side, TimeInForce
from primitives.amounts import PPM

if TYPE_CHECKING:
    from ledger.valuation import Valuation
    from ledger.workspace import OpenAccount, Workspace


def liquidate(workspace: Workspace, valuation: Valuation) -> None:
    """One step for every account below maintenance; none while the oracle is silent."""
    if workspace.state.clock.blocks_without_oracle >= SILENT_BLOCKS_PER_EPOCH:
        return
    for key in valuation.accounts_in_liquidation():
        account = workspace.existing(key)
        _cancel_all(workspace, account)
        mm_excess_uusd = valuation.margin(key).mm_excess_uusd
        target = largest_contributor(workspace, valuation, account)
        if target is None:
            continue
        held = account.lots(target.id)
        lots = closing_lots(workspace, valuation, target, abs(held), at_least=1)
        side = Side.SELL if held > 0 else Side.BUY
        if target.kind != Kind.PERPETUAL and not workspace.book(target.id).side(1 - side):
            _hedge(workspace, valuation, account, target.underlying, mm_excess_uusd)
        _offer(workspace, valuation, account, target, side, lots, mm_excess_uusd, reduce_only=True)


def _cancel_all(workspace: Workspace, account: OpenAccount) -> None:
    by_instrument: dict[int, list[int]] = {}
    for order_id in sorted(account.orders):
        by_instrument.setdefault(account.orders[order_id], []).append(order_id)
    for instrument in sorted(by_instrument):
        workspace.cancel_resting(instrument, by_instrument[instrument], CancelReason.LIQUIDATION)


def largest_contributor(
    workspace: Workspace, valuation: Valuation, account: OpenAccount
) -> Instrument | None:
    """The tradable position with the lowest PnL in its underlying's worst scenario; ties to the lower id."""
    risk = valuation.risk
    worst = valuation.margin(account.key).worst_scenario
    found: Instrument | None = None
    lowest = 0
    for instrument_id in sorted(account.positions):
        instrument = workspace.state.instruments[instrument_id]
        if instrument.kind != Kind.PERPETUAL and instrument.expiry_ns <= workspace.time_ns:
            continue
        row = valuation.row_of(instrument_id)
        scenario = worst[int(risk.underlying[row])]
        value = int(risk.table_e8[row, scenario] - risk.table_e8[row, -1])
        pnl = account.lots(instrument_id) * value
        if found is None or pnl < lowest:
            found, lowest = instrument, pnl
    return found


def closing_lots(
    workspace: Workspace, valuation: Valuation, instrument: Instrument, lots: int, *, at_least: int
) -> int:
    """How many lots one block may close: the smaller of close share and delta limit, not below `at_least`."""
    parameters = workspace.state.parameters
    share = lots * parameters.liquidation_close_ppm // PPM
    index_uusd = valuation.index_uusd(instrument.underlying)
    delta_per_lot = (
        abs(valuation.delta_ppm(instrument.id)) * index_uusd // (PPM * instrument.lots_per_contract)
    )
    if delta_per_lot:
        share = min(share, parameters.liquidation_delta_uusd // delta_per_lot)
    return min(lots, max(at_least, share))


def _hedge(
    workspace: Workspace, valuation: Valuation, account: OpenAccount, underlying: int, mm_excess_uusd: int
) -> None:
    """Offer to trade a part of the account's delta in one underlying away with its perpetual."""
    perpetual = next(
        (
            item
            for item in workspace.state.instruments.values()
            if item.underlying == underlying and item.kind == Kind.PERPETUAL
        ),
        None,
    )
    if perpetual is None:
        return
    delta_ppm_lots = 0
    for instrument_id, (lots, _) in account.positions.items():
        instrument = workspace.state.instruments[instrument_id]
        if instrument.underlying == underlying:
            per_perpetual_lot = perpetual.lots_per_contract * valuation.delta_ppm(instrument_id)
            delta_ppm_lots += lots * per_perpetual_lot // instrument.lots_per_contract
    whole = abs(delta_ppm_lots) // PPM
    if whole:
        lots = closing_lots(workspace, valuation, perpetual, whole, at_least=1)
        side = Side.SELL if delta_ppm_lots > 0 else Side.BUY
        _offer(workspace, valuation, account, perpetual, side, lots, mm_excess_uusd, reduce_only=False)


def _offer(
    workspace: Workspace,
    valuation: Valuation,
    account: OpenAccount,
    instrument: Instrument,
    side: Side,
    lots: int,
    mm_excess_uusd: int,
    *,
    reduce_only: bool,
) -> None:
    """Put an immediate-or-cancel order into this block's call, priced at the edge of the band."""
    price_uusd = _limit_price(workspace, valuation, instrument, side)
    workspace.add_order(
        account,
        instrument.id,
        RestingOrder(
            workspace.next_order_id,
            *account.key,
            side,
            price_uusd,
            lots,
            workspace.height,
            0,
            TimeInForce.IOC,
            False,
            reduce_only,
        ),
    )
    signed = lots if side == Side.BUY else -lots
    workspace.events.append(LiquidationStep(*account.key, instrument.id, signed, price_uusd, mm_excess_uusd))


def _limit_price(workspace: Workspace, valuation: Valuation, instrument: Instrument, side: Side) -> int:
    ticks = ticks_of(workspace.state, instrument)
    mark_uusd, band_uusd = valuation.mark_uusd(instrument.id), valuation.band_uusd(instrument)
    if side == Side.BUY:
        return max(ceil_to_tick(ticks, 1), floor_to_tick(ticks, mark_uusd + band_uusd))
    return max(ceil_to_tick(ticks, 1), ceil_to_tick(ticks, max(0, mark_uusd - band_uusd)))
