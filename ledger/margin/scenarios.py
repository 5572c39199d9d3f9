"""Risk arrays: what one lot of every instrument is worth under every shock, once per block. Pure.

An account's margin is then an integer product of its lots with these rows (SPAN's idea). Values inside the
table are in 1e-8 USD **per lot** (`VALUE_SCALE` units per micro-USD), so that lots of 0.01 and 0.1 contracts
add up without rounding. Source: market.md section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ledger.instruments import Instrument, Kind, Underlying
from ledger.margin.parameters import MarginParameters, Shock
from ledger.market import Slice, UnderlyingMarket
from ledger.pricing import black76, kernel, kernel_margin, surface
from ledger.pricing.kernel import Bools, Ints, OptionTerms
from primitives.amounts import NS, PPM, SECONDS_PER_YEAR, ceil_div
from primitives.errors import ensure

VALUE_SCALE = 100
"""Table units per micro-USD. Every lots_per_contract must divide it."""
LOT_VALUE_E8_MAX = 4 * 10**12
"""Largest table entry, $40,000 a lot ($4 million a BTC contract); beyond it int64 sums might not be exact."""
SETTLEMENT_BUCKETS = 450
"""Four-second buckets of the index whose mean is the settlement price."""
LOOKUP_MAX = 1 << 20
"""Span of instrument ids up to which rows are found through a table; a wider span is searched instead."""
YEAR_NS = SECONDS_PER_YEAR * NS


class SettlementWindow(NamedTuple):
    """Progress of an expiry's settlement average: sum of the fixed buckets, and buckets still to come."""

    fixed_sum_uusd: int
    remaining_buckets: int


class Forward(NamedTuple):
    """A forward in two parts, micro-USD: what the settlement average has fixed, and what still moves."""

    fixed_uusd: int
    variable_uusd: int


Settlement = Mapping[tuple[Underlying, int], SettlementWindow]


@dataclass(frozen=True, slots=True)
class RiskArrays:
    """Per instrument (I rows, by id), per expiry group (G), per underlying (U): all int64.

    Scenario columns (S) are in the order of the parameters; the last `skew_count` of them are of skew.
    """

    instrument_ids: Ints
    """(I,), increasing."""
    underlying: Ints
    """(I,), index into `underlyings`."""
    lots_per_contract: Ints
    mark_uusd: Ints
    """(I,), per contract; a perpetual's is the index to the nearest multiple of lots_per_contract."""
    basis_uusd: Ints
    """(I,), what a position is valued at before its cost: the mark, less a perpetual's cumulative funding."""
    delta_ppm: Ints
    """(I,), per contract, discounted forward delta; 1e6 for a perpetual."""
    gamma_e12: Ints
    vega_uusd: Ints
    """(I,), micro-USD per contract and volatility point."""
    theta_uusd: Ints
    """(I,), micro-USD per contract and day."""
    rho_uusd: Ints
    """(I,), micro-USD per contract and percentage point of the rate, at a fixed forward; 0 for a perpetual."""
    variance_e15: Ints
    """(I,), total implied variance; 0 for a perpetual."""
    table_e8: Ints
    """(I, S + 3): option values (perpetuals: PnL) under S scenarios; weighted PnL at forward -move and
    +move; the option's mark (perpetuals: 0)."""
    is_perpetual: Bools
    is_call: Bools
    index_unit_e8: Ints
    """(I,), the underlying's index per lot."""
    strike_unit_e8: Ints
    """(I,), the strike per lot; 0 for a perpetual."""
    group: Ints
    """(I,), index of the expiry group (underlying, expiry); a perpetual's is its underlying's index group."""
    strike_group: Ints
    """(I,), index of (underlying, expiry, strike)."""
    rank: Ints
    """(I,), order by (underlying, expiry, strike, kind): positions are kept in this order."""
    mm_unit_e8: Ints
    """(I,), contingency per contingent lot."""
    im_unit_e8: Ints
    oracle_unit_e8: Ints
    """(I,), oracle contingency per gross lot; 0 while the expiry's confidence and the instrument's mark are good."""
    group_positive_e15: Ints
    """(G,), factor 1e-15 on a positive expiry value."""
    group_negative_e15: Ints
    group_underlying: Ints
    underlyings: tuple[Underlying, ...]
    skew_count: int
    weights_ppm: Ints
    """(U, S), scenario weights."""
    im_factor_ppm: Ints
    """(U,), factor on the worst loss for the initial requirement."""
    mm_factor_ppm: Ints

    @property
    def scenario_count(self) -> int:
        """S."""
        return int(self.table_e8.shape[1]) - 3

    def rows_of(self, instrument_ids: Ints) -> Ints:
        """Row of each instrument id. An id that is not listed is our error: settle before valuing."""
        if len(instrument_ids) == 0:
            return np.zeros(0, dtype=np.int64)
        ensure(len(self.instrument_ids) > 0, "instruments with positions are listed")
        first, last = int(self.instrument_ids[0]), int(self.instrument_ids[-1])
        within = np.minimum(np.maximum(instrument_ids, first), last)
        if last - first < LOOKUP_MAX:
            lookup = np.zeros(last - first + 1, dtype=np.int64)
            lookup[self.instrument_ids - first] = np.arange(len(self.instrument_ids))
            rows: Ints = lookup[within - first]
        else:
            rows = np.searchsorted(self.instrument_ids, within).astype(np.int64)
        found = np.take(self.instrument_ids, rows) == instrument_ids
        ensure(bool(found.all()), "every instrument with a position is listed")
        return rows

    def scenario_pnl_uusd(self) -> Ints:
        """(I, S): PnL per contract against the mark, before expiry discounts and scenario weights; exact."""
        values = self.table_e8[:, : self.scenario_count] - self.table_e8[:, -1:]
        pnl: Ints = values * self.lots_per_contract[:, None] // VALUE_SCALE
        return pnl


class _Rows(NamedTuple):
    """The instruments as columns."""

    ids: Ints
    underlying: Ints
    kind: Ints
    expiry_ns: Ints
    strike_uusd: Ints
    lots_per_contract: Ints


def build_risk_arrays(
    now_ns: int,
    instruments: Sequence[Instrument],
    markets: Mapping[Underlying, UnderlyingMarket],
    parameters: Mapping[Underlying, MarginParameters],
    settlement: Settlement | None = None,
) -> RiskArrays:
    """Marks, Greeks and risk rows of all `instruments` (increasing ids) at block time `now_ns`.

    Every option needs a slice of its expiry, and every underlying a market and parameters with one and the
    same number of scenarios, and of those of skew; anything else is the caller's error (InvariantViolation), as
    is a value above LOT_VALUE_E8_MAX. `settlement` holds the expiries whose average has begun.
    """
    underlyings = tuple(sorted(Underlying(value) for value in {item.underlying for item in instruments}))
    widths = {(len(model.scenarios), model.skew_count) for model in parameters.values()}
    ensure(len(widths) == 1, "all underlyings have the same number of scenarios, and of those of skew")
    rows = _columns(instruments)
    book = _Book(rows, *widths.pop())
    for underlying in underlyings:
        selected = rows.underlying == underlying
        market = markets[underlying]
        forwards = [
            compute_forward(item, market.index_uusd, (settlement or {}).get((underlying, item.expiry_ns)))
            for item in market.slices
        ]
        pricer = _Pricer(now_ns, market, parameters[underlying], forwards)
        pricer.price_perpetuals(book, np.flatnonzero(selected & (rows.kind == Kind.PERPETUAL)))
        pricer.price_options(book, np.flatnonzero(selected & (rows.kind != Kind.PERPETUAL)))
    return _assemble(now_ns, book, underlyings, markets, parameters)


def _columns(instruments: Sequence[Instrument]) -> _Rows:
    fields = [
        (item.id, item.underlying, item.kind, item.expiry_ns, item.strike_uusd, item.lots_per_contract)
        for item in instruments
    ]
    columns = np.array(fields, dtype=np.int64).reshape(-1, 6).T.copy()
    ensure(bool((np.diff(columns[0]) > 0).all()), "instruments are in order of id")
    ensure(bool((VALUE_SCALE % columns[5] == 0).all()), "lots_per_contract divides the value scale")
    return _Rows(*columns)


def compute_forward(market_slice: Slice, index_uusd: int, window: SettlementWindow | None) -> Forward:
    """A slice's forward; inside the settlement window (fixed sum + index * remaining) / 450, rounded down."""
    if window is None:
        return Forward(0, market_slice.forward_uusd)
    total = (window.fixed_sum_uusd + index_uusd * window.remaining_buckets) // SETTLEMENT_BUCKETS
    fixed = window.fixed_sum_uusd // SETTLEMENT_BUCKETS
    return Forward(fixed, total - fixed)


class _Book:
    """The per-instrument results while they are being filled in."""

    def __init__(self, rows: _Rows, scenarios: int, skew_count: int) -> None:
        count = len(rows.ids)
        self.rows, self.skew_count = rows, skew_count
        self.table = np.zeros((count, scenarios + 3), dtype=np.int64)
        self.lot_scale = VALUE_SCALE // rows.lots_per_contract
        self.mark, self.delta, self.gamma, self.vega = np.zeros((4, count), dtype=np.int64)
        self.theta, self.rho = np.zeros((2, count), dtype=np.int64)
        self.variance, self.mm_unit, self.im_unit, self.oracle_unit = np.zeros((4, count), dtype=np.int64)


class _Pricer:
    """Prices the instruments of one underlying into a book."""

    def __init__(
        self,
        now_ns: int,
        market: UnderlyingMarket,
        parameters: MarginParameters,
        forwards: Sequence[Forward],
    ) -> None:
        self._now_ns = now_ns
        self._market = market
        self._parameters = parameters
        self._forwards = forwards

    def price_perpetuals(self, book: _Book, at: Ints) -> None:
        """Mark at the index; PnL in proportion to the move, rounded down; no volatility, no forward."""
        if len(at) == 0:
            return
        parameters, rows = self._parameters, book.rows
        lots = rows.lots_per_contract[at]
        mark = (self._market.index_uusd + lots // 2) // lots * lots
        moves = [item.move_ppm for item in parameters.scenarios]
        pnl = _shift(mark[:, None], np.array(moves, dtype=np.int64)[None, :])
        book.mark[at] = mark
        book.delta[at] = PPM
        book.table[at, : len(moves)] = pnl * book.lot_scale[at, None]
        contingencies = parameters.contingencies
        self._fill_units(book, at, contingencies.perpetual_mm_ppm, contingencies.perpetual_im_ppm)

    def price_options(self, book: _Book, at: Ints) -> None:
        """Black-76 under every scenario, from the slice of each option's expiry."""
        if len(at) == 0:
            return
        options = _Options(self._now_ns, self._market, self._forwards, book.rows, at)
        contingencies = self._parameters.contingencies
        self._fill_values(book, at, options)
        self._fill_units(book, at, contingencies.short_option_mm_ppm, contingencies.short_option_im_ppm)
        units = np.array([self._oracle_uusd(item) for item in self._market.slices], dtype=np.int64)
        book.oracle_unit[at] = units[options.slice_index] * book.lot_scale[at]
        greeks = options.greeks()
        book.delta[at] = greeks.delta_e9 // 1000
        book.gamma[at], book.vega[at], book.theta[at], book.rho[at] = greeks[1:]
        book.variance[at] = options.variance

    def _fill_values(self, book: _Book, at: Ints, options: _Options) -> None:
        move = self._parameters.forward.move_ppm
        plan = [(item.move_ppm, item.shock) for item in self._parameters.scenarios]
        extra = [(-move, Shock.NONE), (move, Shock.NONE), (0, Shock.NONE)]
        values, columns = options.scenario_values(self._parameters, [*plan, *extra])
        mark = values[columns[-1]]
        book.mark[at] = mark
        scale = book.lot_scale[at]
        book.table[at, : len(plan)] = (values[columns[: len(plan)]] * scale).T
        factor = np.array([self._forward_factor_e12(item) for item in self._market.slices], dtype=np.int64)
        for column, source in ((-3, columns[-3]), (-2, columns[-2])):
            pnl = (values[source] - mark) * scale
            book.table[at, column] = kernel_margin.scale(pnl, factor[options.slice_index])
        book.table[at, -1] = mark * scale

    def _fill_units(self, book: _Book, at: Ints, mm_ppm: int, im_ppm: int) -> None:
        """Contingency per lot: a part of the index, rounded up per contract."""
        index = self._market.index_uusd
        book.mm_unit[at] = ceil_div(index * mm_ppm, PPM) * book.lot_scale[at]
        book.im_unit[at] = ceil_div(index * im_ppm, PPM) * book.lot_scale[at]

    def _oracle_uusd(self, market_slice: Slice) -> int:
        if market_slice.confidence_ppm >= self._parameters.contingencies.confidence_threshold_ppm:
            return 0
        return ceil_div((PPM - market_slice.confidence_ppm) * self._market.index_uusd, PPM)

    def _forward_factor_e12(self, market_slice: Slice) -> int:
        forward = self._parameters.forward
        left_ns = max(0, market_slice.expiry_ns - self._now_ns)
        factor: int = PPM * forward.base_ppm + PPM * forward.time_ppm * left_ns // YEAR_NS
        return factor


def _shift(value: Ints, move_ppm: Ints) -> Ints:
    """floor(value * move / 1e6) without leaving 64 bits."""
    quotient, rest = np.divmod(value, PPM)
    shifted: Ints = quotient * move_ppm + rest * move_ppm // PPM
    return shifted


class _Options:
    """The options of one underlying as columns, with their slices looked up."""

    def __init__(
        self, now_ns: int, market: UnderlyingMarket, forwards: Sequence[Forward], rows: _Rows, at: Ints
    ) -> None:
        slices = market.slices
        fields = [
            (s.expiry_ns, s.discount_ppm, s.theta_e12, s.rho_e6, s.psi_e9, s.wings_e9, *f)
            for s, f in zip(slices, forwards, strict=True)
        ]
        columns = np.array(fields, dtype=np.int64).reshape(-1, 8).T
        expiry = rows.expiry_ns[at]
        found = np.minimum(np.searchsorted(columns[0], expiry), max(0, len(slices) - 1))
        ensure(len(slices) > 0 and bool((columns[0][found] == expiry).all()), "every expiry has a slice")
        self.slice_index = found
        _, discount, theta, rho, psi, wings, fixed, variable = columns[:, found]
        self.terms = OptionTerms(rows.strike_uusd[at], rows.kind[at] == Kind.CALL, discount)
        self.time_ns = np.maximum(expiry - now_ns, 0)
        self.variable = variable
        self.forward = fixed + variable
        variance = surface.total_variances_e15(self.forward, self.terms.strike_uusd, theta, rho, psi, wings)
        self.variance = np.where(self.time_ns > 0, variance, 0)

    def greeks(self) -> black76.Greeks:
        return black76.compute_greeks(self.terms, self.forward, self.variance, self.time_ns)

    def scenario_values(
        self, parameters: MarginParameters, plan: Sequence[tuple[int, int]]
    ) -> tuple[Ints, Ints]:
        """(values of the distinct scenarios, shape (C, I); for each scenario of `plan` its row there)."""
        distinct = {pair: row for row, pair in enumerate(dict.fromkeys(plan))}
        moves = {move: row for row, move in enumerate(sorted({move for move, _ in distinct}))}
        shifts = _shift(self.variable[None, :], np.array(list(moves), dtype=np.int64)[:, None])
        values = kernel.scenario_values(
            self.terms,
            self.forward[None, :] + shifts,
            self._deviations(parameters),
            np.array([moves[move] for move, _ in distinct], dtype=np.int64),
            np.array([shock for _, shock in distinct], dtype=np.int64),
        )
        return values, np.array([distinct[pair] for pair in plan], dtype=np.int64)

    def _deviations(self, parameters: MarginParameters) -> Ints:
        """(5, I): total deviations under every Shock, in its order."""
        base = kernel.deviation_e15(self.variance)
        volatility, skew = parameters.volatility, parameters.skew
        up, down = kernel_margin.shocked_deviations_e15(
            base,
            self.time_ns,
            up_ppm=volatility.up_ppm,
            down_ppm=volatility.down_ppm,
            down_floor_ppm=volatility.down_floor_ppm,
            up_volatility_floor_ppm=volatility.up_volatility_floor_ppm,
            short_exponent_ppm=volatility.short_exponent_ppm,
            long_exponent_ppm=volatility.long_exponent_ppm,
            reference_days=volatility.reference_days,
        )
        linear, absolute = kernel_margin.skewed_deviations_e15(
            base,
            self.time_ns,
            self.forward,
            self.terms.strike_uusd,
            cap_ppm=skew.cap_ppm,
            cap_slope_ppm=skew.cap_slope_ppm,
            width_ppm=skew.width_ppm,
            width_slope_ppm=skew.width_slope_ppm,
            width_multiplier=skew.width_multiplier,
            width_minimum_ppm=skew.width_minimum_ppm,
        )
        return np.stack((base, up, down, linear, absolute))


class _Order(NamedTuple):
    """Instruments ordered by (underlying, expiry, strike, kind) and the groups that order makes."""

    rank: Ints
    group: Ints
    strike_group: Ints
    group_first_row: Ints


def _order(rows: _Rows) -> _Order:
    order = np.lexsort((rows.kind, rows.strike_uusd, rows.expiry_ns, rows.underlying))
    count = len(order)
    rank, group, strike_group = np.empty((3, count), dtype=np.int64)
    rank[order] = np.arange(count)
    is_new = np.zeros(count, dtype=np.bool_)
    for column in (rows.underlying, rows.expiry_ns):
        is_new |= np.diff(column[order], prepend=-1) != 0
    is_new_strike = is_new | (np.diff(rows.strike_uusd[order], prepend=-1) != 0)
    group[order] = np.cumsum(is_new) - 1
    strike_group[order] = np.cumsum(is_new_strike) - 1
    return _Order(rank, group, strike_group, order[is_new])


def _assemble(
    now_ns: int,
    book: _Book,
    underlyings: tuple[Underlying, ...],
    markets: Mapping[Underlying, UnderlyingMarket],
    parameters: Mapping[Underlying, MarginParameters],
) -> RiskArrays:
    ensure(bool((np.abs(book.table) <= LOT_VALUE_E8_MAX).all()), "values fit exact 64-bit sums")
    rows = book.rows
    order = _order(rows)
    factors = _group_factors(now_ns, rows, order.group_first_row, markets, parameters)
    underlying_index = np.searchsorted(np.array(underlyings, dtype=np.int64), rows.underlying)
    models = [parameters[underlying] for underlying in underlyings]
    indices = np.array([markets[underlying].index_uusd for underlying in underlyings], dtype=np.int64)
    weights = np.array([[item.weight_ppm for item in model.scenarios] for model in models], dtype=np.int64)
    return RiskArrays(
        instrument_ids=rows.ids,
        underlying=underlying_index,
        lots_per_contract=rows.lots_per_contract,
        mark_uusd=book.mark,
        basis_uusd=book.mark,
        delta_ppm=book.delta,
        gamma_e12=book.gamma,
        vega_uusd=book.vega,
        theta_uusd=book.theta,
        rho_uusd=book.rho,
        variance_e15=book.variance,
        table_e8=book.table,
        is_perpetual=rows.kind == Kind.PERPETUAL,
        is_call=rows.kind == Kind.CALL,
        index_unit_e8=indices[underlying_index] * book.lot_scale,
        strike_unit_e8=rows.strike_uusd * book.lot_scale,
        group=order.group,
        strike_group=order.strike_group,
        rank=order.rank,
        mm_unit_e8=book.mm_unit,
        im_unit_e8=book.im_unit,
        oracle_unit_e8=book.oracle_unit,
        group_positive_e15=factors[0],
        group_negative_e15=factors[1],
        group_underlying=underlying_index[order.group_first_row],
        underlyings=underlyings,
        skew_count=book.skew_count,
        weights_ppm=weights.reshape(len(models), book.table.shape[1] - 3),
        im_factor_ppm=np.array([model.im_factor_ppm for model in models], dtype=np.int64),
        mm_factor_ppm=np.array([model.mm_factor_ppm for model in models], dtype=np.int64),
    )


def _group_factors(
    now_ns: int,
    rows: _Rows,
    first_rows: Ints,
    markets: Mapping[Underlying, UnderlyingMarket],
    parameters: Mapping[Underlying, MarginParameters],
) -> Ints:
    """(2, G): factors on positive and negative value of each expiry group; index groups have none (1e15)."""
    factors = np.full((2, len(first_rows)), 10**15, dtype=np.int64)
    for underlying, market in markets.items():
        discounts = {item.expiry_ns: item.discount_ppm for item in market.slices}
        at = np.flatnonzero((rows.underlying[first_rows] == underlying) & (rows.expiry_ns[first_rows] > 0))
        expiries = rows.expiry_ns[first_rows][at]
        model = parameters[underlying].discount
        factors[:, at] = kernel_margin.expiry_discounts(
            np.maximum(expiries - now_ns, 0),
            np.array([discounts[int(expiry)] for expiry in expiries], dtype=np.int64),
            asset_ppm=model.asset_ppm,
            liability_ppm=model.liability_ppm,
            rate_ppm=model.rate_ppm,
        )
    return factors
