"""What everything live is worth at a state's own block time: markets, risk arrays, marks, bands. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ledger.breakers.state import get_breakers, get_drift_table, get_phase
from ledger.funding import funding_uusd
from ledger.instruments import Instrument, Kind, Underlying
from ledger.margin.portfolio import PortfolioTable, Position
from ledger.margin.requirements import compute_margins
from ledger.margin.scenarios import (
    SETTLEMENT_BUCKETS,
    VALUE_SCALE,
    RiskArrays,
    SettlementWindow,
    build_risk_arrays,
)
from ledger.market import UnderlyingMarket
from ledger.oracle import SILENT_BLOCKS_PER_EPOCH, current_market
from ledger.settlement.expiry import buckets_total
from ledger.settlement.state import get_exposure
from primitives.amounts import PPM, ceil_div

if TYPE_CHECKING:
    from ledger.state import State

BAND_VOLATILITY_POINTS = 15
"""The price band is at least so many volatility points wide."""
BAND_INDEX_PPM_MIN = 1_000
"""And at least 0.1 % of the index, so that a worthless option can still be closed."""


def live_instruments(state: State) -> list[Instrument]:
    """Everything not settled yet, by id."""
    live = []
    for instrument_id in sorted(state.instruments):
        listing = state.listing(instrument_id)
        if listing is not None and not listing.is_settled:
            live.append(listing.instrument)
    return live


def current_markets(state: State) -> dict[Underlying, UnderlyingMarket]:
    """Every underlying's market at the state's own time."""
    return {
        Underlying(item.underlying): current_market(state, item.underlying, state.clock.time_ns)
        for item in state.genesis.underlyings
    }


def settlement_progress(
    state: State, instruments: Iterable[Instrument]
) -> dict[tuple[Underlying, int], SettlementWindow]:
    """The averages under way, in the margin model's 450 buckets."""
    parameters = state.parameters
    total = buckets_total(parameters.settlement_window_ns, parameters.settlement_bucket_ns)
    progress = {}
    for underlying, expiry_ns in sorted({(item.underlying, item.expiry_ns) for item in instruments}):
        window = state.window(underlying, expiry_ns)
        if window is None:
            continue
        remaining = max(0, total - window.next_bucket)
        counted = window.valid + remaining
        if window.valid and counted:
            left = SETTLEMENT_BUCKETS * remaining // counted
            fixed = window.sum_uusd * (SETTLEMENT_BUCKETS - left) // window.valid
            progress[(Underlying(underlying), expiry_ns)] = SettlementWindow(fixed, left)
    return progress


def build_risk(state: State, markets: dict[Underlying, UnderlyingMarket]) -> RiskArrays:
    """Risk arrays of everything live at the state's own time."""
    instruments = live_instruments(state)
    parameters = {
        Underlying(item.underlying): state.underlying(item.underlying).margin
        for item in state.genesis.underlyings
    }
    risk = build_risk_arrays(
        state.clock.time_ns, instruments, markets, parameters, settlement_progress(state, instruments)
    )
    paid = np.array([funding_uusd(state, item) for item in instruments], dtype=np.int64)
    exposure = get_exposure(state)
    extra_ppm = exposure.im_extra_ppm if exposure else 0
    return replace(risk, basis_uusd=risk.mark_uusd - paid, im_factor_ppm=risk.im_factor_ppm + extra_ppm)


def unit_margins_of(risk: RiskArrays, instruments: Iterable[int]) -> dict[tuple[int, int], int]:
    """What one lot bought (0) or sold (1) at the mark requires initially, rounded up, by instrument, side."""
    table = _unit_portfolios(tuple(instruments))
    margins = compute_margins(risk, table)
    required = (margins.mtm_uusd - margins.im_excess_uusd).tolist()
    return dict(zip(table.accounts, required, strict=True))


@lru_cache(maxsize=8)
def _unit_portfolios(instruments: tuple[int, ...]) -> PortfolioTable[tuple[int, int]]:
    """One lot of each side of every instrument. Kept, because from block to block they are the same."""
    table: PortfolioTable[tuple[int, int]] = PortfolioTable()
    for instrument in instruments:
        for side, lots in enumerate((1, -1)):
            table.replace((instrument, side), 0, [Position(instrument, lots)])
    return table


def with_surcharges(state: State, risk: RiskArrays, doubtful: Iterable[int]) -> RiskArrays:
    """Each gross lot of an instrument whose mark is amber or red requires more: a part of its dearer side's own need.

    Rounded up, per lot.
    """
    live = set(risk.instrument_ids.tolist())
    marked = [item for item in doubtful if item in live]
    margin_ppm = get_breakers(state).drift.margin_ppm
    if not marked or not margin_ppm:
        return risk
    units = unit_margins_of(risk, marked)
    more = [ceil_div(max(units[item, 0], units[item, 1], 0) * margin_ppm, PPM) for item in marked]
    oracle_unit_e8 = risk.oracle_unit_e8.copy()
    oracle_unit_e8[risk.rows_of(np.array(marked, dtype=np.int64))] += (
        np.array(more, dtype=np.int64) * VALUE_SCALE
    )
    return replace(risk, oracle_unit_e8=oracle_unit_e8)


class Prices:
    """Everything a block's phases ask about prices; from the state after the oracle and settlements."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.markets = current_markets(state)
        self._drifts = get_drift_table(state)
        self.plain_risk = build_risk(state, self.markets)
        """Before what doubtful marks add."""
        self.risk = with_surcharges(state, self.plain_risk, self._drifts.doubtful)
        self._widening_ppm = {
            item.underlying: get_phase(state, item.underlying).widening_ppm
            for item in state.genesis.underlyings
        }
        self._row = {int(item): row for row, item in enumerate(self.risk.instrument_ids.tolist())}
        self._bands: dict[int, int] = {}
        self._band_spreads = get_breakers(state).band_spreads
        self._mark: list[int] = self.risk.mark_uusd.tolist()
        self._vega: list[int] = self.risk.vega_uusd.tolist()
        self._delta: list[int] = self.risk.delta_ppm.tolist()
        self._confidence = {
            (int(underlying), item.expiry_ns): item.confidence_ppm
            for underlying, market in self.markets.items()
            for item in market.slices
        }

    @property
    def instrument_count(self) -> int:
        """Instruments marked."""
        return len(self._row)

    def row_of(self, instrument: int) -> int:
        """An instrument's row in the risk arrays."""
        return self._row[instrument]

    def is_marked(self, instrument: int) -> bool:
        """Whether it is listed and not settled."""
        return instrument in self._row

    def mark_uusd(self, instrument: int) -> int:
        """Mark per contract."""
        return self._mark[self._row[instrument]]

    def delta_ppm(self, instrument: int) -> int:
        """Delta per contract."""
        return self._delta[self._row[instrument]]

    def vega_uusd(self, instrument: int) -> int:
        """Vega per contract and volatility point."""
        return self._vega[self._row[instrument]]

    @cached_property
    def lot_terms(self) -> dict[int, tuple[int, int, int, int]]:
        """By instrument: mark, what a lot bought and one sold require initially (rounded up), lots per contract."""
        units, listed = unit_margins_of(self.risk, self._row), self.state.instruments
        return {
            item: (self._mark[row], units[item, 0], units[item, 1], listed[item].lots_per_contract)
            for item, row in self._row.items()
        }

    def index_uusd(self, underlying: int) -> int:
        """The index."""
        return self.markets[Underlying(underlying)].index_uusd

    def confidence_ppm(self, instrument: Instrument) -> int:
        """Confidence in an option's slice; for a perpetual it is full while reports come."""
        if instrument.kind == Kind.PERPETUAL:
            silent_epochs = self.state.clock.blocks_without_oracle // SILENT_BLOCKS_PER_EPOCH
            return max(0, PPM - silent_epochs * self.state.parameters.confidence_decay_ppm)
        return self._confidence[instrument.underlying, instrument.expiry_ns]

    def band_uusd(self, instrument: Instrument) -> int:
        """How far above (buys) or below (sells) the mark an order may be priced; wider while finality is slow."""
        found = self._bands.get(instrument.id)
        if found is None:
            found = self._bands[instrument.id] = self._band_of(instrument)
        return found

    def _band_of(self, instrument: Instrument) -> int:
        row = self._row[instrument.id]
        band_uusd = max(
            self._mark[row] * self.state.parameters.price_band_ppm // PPM,
            BAND_VOLATILITY_POINTS * self._vega[row],
            self.index_uusd(instrument.underlying) * BAND_INDEX_PPM_MIN // PPM,
            self._band_spreads * self.half_spread_uusd(instrument.id),
        )
        return band_uusd * self._widening_ppm[instrument.underlying] // PPM

    def half_spread_uusd(self, instrument: int) -> int:
        """h: half of what the venues' quotes are apart, as agreed; 0 before the first time."""
        drift = self._drifts.drifts.get(instrument)
        return 0 if drift is None else drift.half_spread_uusd

    def marks(self) -> tuple[tuple[int, int], ...]:
        """(instrument, mark) of everything live, by id."""
        return tuple(zip(self.risk.instrument_ids.tolist(), self._mark, strict=True))


def get_prices(state: State) -> Prices:
    """The prices of the state as it stands: those of its last block if they are at hand, else computed."""
    found: Prices | None = state.caches.get("prices")
    if found is None or state.caches.get("prices_clock") is not state.clock:
        found = Prices(state)
        keep_prices(state, found)
    return found


def keep_prices(state: State, prices: Prices) -> None:
    """Remember a block's prices: they hold as long as the clock leaf is this very one."""
    state.caches["prices"], state.caches["prices_clock"] = prices, state.clock
