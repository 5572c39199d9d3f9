"""Closes accounts that are below their maintenance requirement, a part in each block, through the book. Pure.

Steps 0 to 2 of market.md section 5: below the initial requirement an account may only reduce (placement.py);
below maintenance all its orders are cancelled, and the position that weighs most on its margin is
offered to this block's call, immediate-or-cancel, at a price within the band. When that option's book is
empty, a part of the account's delta is hedged with the perpetual instead of waiting. What follows when that
does not help is waterfall.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.admission import ticks_of
from ledger.events import LiquidationStep
from ledger.instruments import Instrument, Kind
from ledger.margin.portfolio import Position
from ledger.matching.orders import RestingOrder, ceil_to_tick, floor_to_tick
from ledger.reasons import CancelReason
from ledger.settlement.waterfall import advance, end_recovered, postpone
from ledger.trading.margin_model import model_of, standard_excess_without
from ledger.transactions import MarginModel, Side, TimeInForce
from primitives.amounts import PPM

if TYPE_CHECKING:
    from ledger.valuation import Valuation
    from ledger.workspace import OpenAccount, Workspace


def liquidate(workspace: Workspace, valuation: Valuation) -> None:
    """One step for every account below maintenance; none while a breaker pauses what it holds."""
    end_recovered(workspace, valuation)
    for key in valuation.accounts_in_liquidation():
        account = workspace.existing(key)
        if not workspace.phases.may_liquidate(account.positions):
            postpone(workspace, account)
            continue
        cancel_all(workspace, account)
        advance(workspace, valuation, account)
        _Step(workspace, valuation, account).take()


def cancel_all(workspace: Workspace, account: OpenAccount) -> None:
    """Take every order of an account below maintenance off its book."""
    by_instrument: dict[int, list[int]] = {}
    for order_id, instrument in sorted(account.orders.items()):
        by_instrument.setdefault(instrument, []).append(order_id)
    for instrument in sorted(by_instrument):
        workspace.cancel_resting(instrument, by_instrument[instrument], CancelReason.LIQUIDATION)


class _Step:
    """One account's step in one block."""

    def __init__(self, workspace: Workspace, valuation: Valuation, account: OpenAccount) -> None:
        self._workspace = workspace
        self._valuation = valuation
        self._account = account
        self._margin = valuation.margin(account.key)
        self._is_standard = model_of(workspace.state, account.key) == MarginModel.STANDARD

    def take(self) -> None:
        """Offer a part of the largest contributor, or of a hedge as well."""
        target = self._largest_contributor()
        if target is None:
            return
        held = self._account.lots(target.id)
        side = Side.SELL if held > 0 else Side.BUY
        is_alone = not self._workspace.book(target.id).side(1 - side)
        # The standard model requires more for a hedge, not less.
        if target.kind != Kind.PERPETUAL and is_alone and not self._is_standard:
            self._hedge(target.underlying)
        self._offer(target, side, self._closing_lots(target, abs(held)), reduce_only=True)

    def _largest_contributor(self) -> Instrument | None:
        """The tradable position that weighs most on the account's own margin model; ties to the lower id.

        Portfolio model: the one with the lowest PnL in its underlying's worst scenario. Standard model: the one whose
        closing at the mark would leave the highest maintenance excess.
        """
        listed, now_ns = self._workspace.state.instruments, self._workspace.time_ns
        scores = self._scores()
        tradable = [
            item
            for item in sorted(scores)
            if listed[item].kind == Kind.PERPETUAL or listed[item].expiry_ns > now_ns
        ]
        return listed[min(tradable, key=lambda item: (scores[item], item))] if tradable else None

    def _scores(self) -> dict[int, int]:
        """By instrument held, the lower the more it weighs."""
        account, risk = self._account, self._valuation.risk
        if self._is_standard:
            held = [Position(item, *account.positions[item]) for item in sorted(account.positions)]
            left = standard_excess_without(self._workspace.state, risk, account.cash_uusd, held)
            return {item.instrument_id: -excess for item, excess in zip(held, left, strict=True)}
        scores = {}
        for instrument_id, (lots, _) in account.positions.items():
            row = self._valuation.row_of(instrument_id)
            scenario = self._margin.worst_scenario[int(risk.underlying[row])]
            scores[instrument_id] = lots * int(risk.table_e8[row, scenario] - risk.table_e8[row, -1])
        return scores

    def _closing_lots(self, instrument: Instrument, lots: int) -> int:
        """How many of `lots` one block may trade: the smaller of close share and delta limit, at least 1."""
        parameters = self._workspace.state.parameters
        share = lots * parameters.liquidation_close_ppm // PPM
        index_uusd = self._valuation.index_uusd(instrument.underlying)
        delta_ppm = abs(self._valuation.delta_ppm(instrument.id))
        delta_per_lot = delta_ppm * index_uusd // (PPM * instrument.lots_per_contract)
        if delta_per_lot:
            share = min(share, parameters.liquidation_delta_uusd // delta_per_lot)
        return min(lots, max(1, share))

    def _hedge(self, underlying: int) -> None:
        """Offer to trade a part of the account's delta in one underlying away with its perpetual."""
        listed = self._workspace.state.instruments
        perpetual = next(
            (
                item
                for item in listed.values()
                if item.underlying == underlying and item.kind == Kind.PERPETUAL
            ),
            None,
        )
        if perpetual is None:
            return
        delta_ppm = 0
        for instrument_id, (lots, _) in self._account.positions.items():
            option = listed[instrument_id]
            if option.underlying == underlying:
                contracts_ppm = lots * self._valuation.delta_ppm(instrument_id)
                delta_ppm += contracts_ppm * perpetual.lots_per_contract // option.lots_per_contract
        whole_lots = abs(delta_ppm) // PPM
        if whole_lots:
            side = Side.SELL if delta_ppm > 0 else Side.BUY
            self._offer(perpetual, side, self._closing_lots(perpetual, whole_lots), reduce_only=False)

    def _offer(self, instrument: Instrument, side: Side, lots: int, *, reduce_only: bool) -> None:
        """Put an immediate-or-cancel order into this block's call, priced at the edge of the band."""
        workspace, account = self._workspace, self._account
        price_uusd = _limit_price(workspace, self._valuation, instrument, side)
        order = RestingOrder(
            order_id=workspace.next_order_id,
            owner=account.key[0],
            subaccount=account.key[1],
            side=side,
            price_uusd=price_uusd,
            left_lots=lots,
            placed_height=workspace.height,
            label=0,
            time_in_force=TimeInForce.IOC,
            post_only=False,
            reduce_only=reduce_only,
        )
        workspace.add_order(account, instrument.id, order)
        signed = lots if side == Side.BUY else -lots
        workspace.events.append(
            LiquidationStep(*account.key, instrument.id, signed, price_uusd, self._margin.mm_excess_uusd)
        )


def _limit_price(workspace: Workspace, valuation: Valuation, instrument: Instrument, side: Side) -> int:
    ticks = ticks_of(workspace.state, instrument)
    mark_uusd, band_uusd = valuation.mark_uusd(instrument.id), valuation.band_uusd(instrument)
    if side == Side.BUY:
        return max(ceil_to_tick(ticks, 1), floor_to_tick(ticks, mark_uusd + band_uusd))
    return max(ceil_to_tick(ticks, 1), ceil_to_tick(ticks, max(0, mark_uusd - band_uusd)))
