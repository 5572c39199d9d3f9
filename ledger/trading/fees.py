"""What trading costs: maker and taker rates per underlying, a taker's base, and the cap of an option's fee. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.instruments import Instrument, Kind
from ledger.matching.orders import RestingOrder
from ledger.trading.parameters import UnderlyingFees
from ledger.trading.state import get_parameters
from primitives.amounts import PPM, ceil_div

if TYPE_CHECKING:
    from ledger.prices import Prices
    from ledger.state import State
    from ledger.workspace import Workspace


def fees_on(state: State, underlying: int) -> UnderlyingFees:
    """The fees of one underlying: its own, or the general rates without a base."""
    for own in get_parameters(state).fees:
        if own.underlying == underlying:
            return own
    general = state.parameters
    return UnderlyingFees(underlying, general.maker_fee_ppm, general.taker_fee_ppm, 0)


def fee_uusd(
    instrument: Instrument,
    price_uusd: int,
    lots: int,
    *,
    index_uusd: int,
    rate_ppm: int,
    cap_ppm: int,
    base_uusd: int = 0,
) -> int:
    """One side's fee, rounded up: a base and a rate on the notional; of an option at most a part of its premium."""
    if instrument.kind == Kind.PERPETUAL:
        return base_uusd + ceil_div(price_uusd * lots * rate_ppm, instrument.lots_per_contract * PPM)
    on_notional = base_uusd + ceil_div(index_uusd * lots * rate_ppm, instrument.lots_per_contract * PPM)
    return min(on_notional, ceil_div(price_uusd * lots * cap_ppm, instrument.lots_per_contract * PPM))


class CallFees:
    """The fees of one call; an order pays the taker's base with its first trade in it."""

    def __init__(self, workspace: Workspace, prices: Prices, underlying: int) -> None:
        self._height = workspace.height
        self._fees = fees_on(workspace.state, underlying)
        self._cap_ppm = workspace.state.parameters.option_fee_cap_ppm
        self._index_uusd = prices.index_uusd(underlying)
        self._paid_base: set[int] = set()

    def fee_of(self, instrument: Instrument, order: RestingOrder, price_uusd: int, lots: int) -> int:
        """What one side of a trade pays; an order that rested before this block is a maker."""
        is_maker = order.placed_height < self._height
        pays_base = not is_maker and order.order_id not in self._paid_base
        self._paid_base.add(order.order_id)
        return fee_uusd(
            instrument,
            price_uusd,
            lots,
            index_uusd=self._index_uusd,
            rate_ppm=self._fees.maker_ppm if is_maker else self._fees.taker_ppm,
            cap_ppm=self._cap_ppm,
            base_uusd=self._fees.taker_base_uusd if pays_base else 0,
        )
