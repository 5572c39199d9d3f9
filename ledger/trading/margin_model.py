"""Sub-accounts that chose the standard margin model: their excesses, with and without open orders. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ledger.instruments import Underlying
from ledger.margin.portfolio import PortfolioTable, Position
from ledger.margin.requirements import Margin, MarginArrays, OpenOrder
from ledger.margin.scenarios import RiskArrays
from ledger.margin.standard import (
    StandardParameters,
    compute_standard_margin,
    compute_standard_margins,
)
from ledger.matching.orders import AccountKey
from ledger.pricing.kernel import Ints
from ledger.trading.state import get_parameters, get_trading
from ledger.transactions import MarginModel
from primitives.amounts import ceil_div

if TYPE_CHECKING:
    from ledger.state import State


def model_of(state: State, key: AccountKey) -> int:
    """The margin model of a sub-account."""
    leaf = get_trading(state, key)
    return MarginModel.PORTFOLIO if leaf is None else leaf.margin_model


def parameters_of(state: State) -> Mapping[Underlying, StandardParameters]:
    """The standard model's parameters, the same for every underlying."""
    parameters = get_parameters(state).standard
    return {Underlying(item.underlying): parameters for item in state.genesis.underlyings}


def overwrite_standard(
    state: State, risk: RiskArrays, portfolios: PortfolioTable[AccountKey], margins: MarginArrays
) -> None:
    """Put the standard model's two excesses into the rows of the accounts that chose it."""
    chosen = sorted(state.standard.values)
    if not chosen:
        return
    table: PortfolioTable[AccountKey] = PortfolioTable()
    for key in chosen:
        account = state.account(key)
        held = () if account is None else account.positions
        positions = [Position(item.instrument, item.lots, item.cost_uusd) for item in held]
        table.replace(key, 0 if account is None else account.cash_uusd, positions)
    standard = compute_standard_margins(risk, *table.portfolios(risk), parameters_of(state))
    places = [portfolios.place_of(key) for key in table.accounts]
    margins.im_excess_uusd[places] = standard.im_excess_uusd
    margins.mm_excess_uusd[places] = standard.mm_excess_uusd


def with_standard(
    state: State, risk: RiskArrays, margin: Margin, cash_uusd: int, held: Sequence[Position]
) -> Margin:
    """One account's margin with the standard model's two excesses."""
    standard = compute_standard_margin(risk, cash_uusd, held, parameters_of(state))
    return margin._replace(im_excess_uusd=standard.im_excess_uusd, mm_excess_uusd=standard.mm_excess_uusd)


def standard_excess_without(
    state: State, risk: RiskArrays, cash_uusd: int, held: Sequence[Position]
) -> list[int]:
    """MM excess of an account under the standard model if it closed one position at its mark, for each of `held`."""
    rows = risk.rows_of(np.array([item.instrument_id for item in held], dtype=np.int64)).tolist()
    table: PortfolioTable[int] = PortfolioTable()
    for place, (item, row) in enumerate(zip(held, rows, strict=True)):
        value_uusd = item.lots * int(risk.basis_uusd[row]) // int(risk.lots_per_contract[row])
        others = [*held[:place], *held[place + 1 :]]
        table.replace(place, cash_uusd + value_uusd - item.cost_uusd, others)
    margins = compute_standard_margins(risk, *table.portfolios(risk), parameters_of(state))
    excesses: list[int] = margins.mm_excess_uusd.tolist()
    return excesses


def standard_order_excess(
    state: State, risk: RiskArrays, cash_uusd: int, held: Sequence[Position], orders: Sequence[OpenOrder]
) -> int:
    """IM excess of an account under the standard model, at most what any fills of its orders would leave.

    Options sold add to what is short and earn nothing yet; options bought cost their price and relieve nothing
    yet; of a perpetual the larger side counts, and a price worse than the mark costs the difference.
    """
    positions = {item.instrument_id: item for item in held}
    sides: dict[int, list[int]] = {}
    for order in orders:
        row = int(risk.rows_of(_ids(order.instrument_id))[0])
        per_contract = int(risk.lots_per_contract[row])
        is_perpetual = bool(risk.is_perpetual[row])
        if is_perpetual:
            gain = order.lots * (int(risk.mark_uusd[row]) - order.price_uusd) // per_contract
            cash_uusd += min(0, gain)
        elif order.lots > 0:
            cash_uusd -= ceil_div(order.lots * order.price_uusd, per_contract)
        if is_perpetual or order.lots < 0:
            sides.setdefault(order.instrument_id, [0, 0])[order.lots < 0] += order.lots
    for instrument, (bought, sold) in sides.items():
        row = int(risk.rows_of(_ids(instrument))[0])
        old = positions.get(instrument, Position(instrument, 0))
        lots = max(old.lots + bought, old.lots + sold, key=abs) if risk.is_perpetual[row] else old.lots + sold
        moved_uusd = (lots - old.lots) * int(risk.mark_uusd[row]) // int(risk.lots_per_contract[row])
        cost_uusd = old.cost_uusd + (moved_uusd if risk.is_perpetual[row] else 0)
        positions[instrument] = Position(instrument, lots, cost_uusd)
    kept = [item for item in positions.values() if item.lots]
    closed_uusd = sum(item.cost_uusd for item in positions.values() if not item.lots)
    parameters = parameters_of(state)
    return compute_standard_margin(risk, cash_uusd - closed_uusd, kept, parameters).im_excess_uusd


def _ids(instrument: int) -> Ints:
    return np.array([instrument], dtype=np.int64)
