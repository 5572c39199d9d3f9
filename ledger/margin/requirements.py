"""Initial and maintenance requirement of every account: lots times risk rows, in exact integers. Pure.

IM excess = MtM + cash + imF * L - C_mm - C_im - C_oracle; MM excess = MtM + cash + mmF * L - C_mm; L is, per
underlying, the lower of the worst scenario PnL and the forward contingency, added over underlyings (no
offset between them). PnL rounds down, contingencies round up. Source: market.md section 3.

Sums over runs of positions are differences of running sums, kept modulo 2^64: a running sum over many
accounts may wrap, the difference is exact because one account's own sum is below 2^62 (ACCOUNT_LOTS_MAX). All
accounts at once take a faster way where their sums are below 2^53 (ledger.pricing.kernel_sums), to the same unit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ledger.margin.portfolio import (
    Layout,
    Portfolios,
    PortfolioTable,
    Position,
    check_gross_lots,
    compute_layout,
    single_portfolio,
)
from ledger.margin.scenarios import VALUE_SCALE, RiskArrays
from ledger.pricing import kernel_margin, kernel_sums
from ledger.pricing.kernel import Bools, Ints
from primitives.amounts import PPM

CHUNK_POSITIONS = 12_288
"""Positions multiplied at a time, so that the work stays in a core's cache; one account is never split."""

ROUNDING_MAX = 1 << 20
"""What rounding down each group's value adds at most to a part's sums, kept free below 2^53."""


class MarginArrays(NamedTuple):
    """Per account, shape (A,) int64 in micro-USD, in the table's order of accounts."""

    mtm_uusd: Ints
    worst_pnl_uusd: Ints
    """Worst scenario PnL, added over underlyings; at most 0 where a scenario loses."""
    worst_scenario: Ints
    """(A, U): index of the scenario that is worst for the part on each underlying (the first of equals)."""
    forward_contingency_uusd: Ints
    """At most 0."""
    mm_contingency_uusd: Ints
    im_contingency_uusd: Ints
    """Without the oracle's."""
    oracle_contingency_uusd: Ints
    im_excess_uusd: Ints
    mm_excess_uusd: Ints


class Margin(NamedTuple):
    """One account's row of MarginArrays; `worst_scenario` per underlying."""

    mtm_uusd: int
    worst_pnl_uusd: int
    worst_scenario: tuple[int, ...]
    forward_contingency_uusd: int
    mm_contingency_uusd: int
    im_contingency_uusd: int
    oracle_contingency_uusd: int
    im_excess_uusd: int
    mm_excess_uusd: int


class OpenOrder(NamedTuple):
    """What an open order could still trade: `lots` above 0 buys, below 0 sells; price per contract."""

    instrument_id: int
    lots: int
    price_uusd: int


class GroupRuns(NamedTuple):
    """Risk rows of positions, ends of their runs by expiry group, and each run's group."""

    rows: Ints
    ends: Ints
    group: Ints


class Losses(NamedTuple):
    """Per (account, underlying) part, micro-USD rounded down: worst weighted PnL, its scenario, forward
    contingency."""

    worst_uusd: Ints
    scenario: Ints
    forward_uusd: Ints


class Stretch(NamedTuple):
    """Consecutive whole parts whose losses are computed together: ranges of parts, groups and positions."""

    parts: slice
    groups: slice
    positions: slice


Spread = Callable[[Callable[[Stretch], None], Iterable[Stretch]], Iterable[None]]
"""How work on stretches is done: `map`, or the map of an executor of threads. Stretches share no result and
all sums are of integers, so neither the order nor the number of threads changes a unit."""


def compute_margins(risk: RiskArrays, table: PortfolioTable[Any], spread: Spread = map) -> MarginArrays:
    """Margins of all accounts of the table."""
    portfolios, layout = table.portfolios(risk)
    return _compute(risk, portfolios, layout, _PartLosses(risk, portfolios.lots, layout).compute(spread))


def compute_margin(risk: RiskArrays, cash_uusd: int, positions: Sequence[Position]) -> Margin:
    """Margin of one account, to the unit that of `compute_margins`. Raises as `PortfolioTable.replace`."""
    portfolios = single_portfolio(risk, cash_uusd, positions)
    layout = compute_layout(risk, portfolios)
    return margin_at(_compute(risk, portfolios, layout, _integer_losses(risk, portfolios.lots, layout)), 0)


def margin_at(arrays: MarginArrays, place: int) -> Margin:
    """One account's numbers."""
    scalars = {name: int(column[place]) for name, column in arrays._asdict().items() if column.ndim == 1}
    return Margin(worst_scenario=tuple(arrays.worst_scenario[place].tolist()), **scalars)


def compute_order_margin(
    risk: RiskArrays, cash_uusd: int, positions: Sequence[Position], open_orders: Sequence[OpenOrder]
) -> int:
    """Initial excess (micro-USD) of one account if its open orders traded the worse way.

    Per expiry and scenario the lower PnL of "all its buys filled" and "all its sells filled" counts, and of
    each contingency the larger, so the result is at most the initial excess after any such fills. A price
    worse than the mark costs the difference; a better one earns nothing until it trades.

    Raises:
        ProtocolViolation: as `PortfolioTable.replace`, with all buys or all sells filled.
    """
    extended, slippage = _with_orders(risk, positions, open_orders)
    portfolios = single_portfolio(risk, cash_uusd, [position for position, _, _ in extended.values()])
    layout = compute_layout(risk, portfolios)
    fills = np.array([extended[int(key)][1:] for key in portfolios.instrument_ids], dtype=np.int64).reshape(
        -1, 2
    )
    bought, sold = portfolios.lots + fills[:, 0], portfolios.lots - fills[:, 1]
    gross = np.maximum(np.abs(bought), np.abs(sold))
    check_gross_lots(int(gross.sum()))
    runs = GroupRuns(layout.rows, layout.group_ends, layout.group_index)
    variants = [group_pnl(risk, runs, lots) for lots in (bought, sold)]
    pnl, forward = (np.minimum(buys, sells) for buys, sells in zip(*variants, strict=True))
    strike_lots = np.maximum(contingent_lots(risk, bought, layout), contingent_lots(risk, sold, layout))
    margins = _combine(
        risk,
        layout,
        part_losses(risk, pnl, forward, layout.part_group_ends, layout.part_underlying),
        equity_uusd=(mark_to_market(risk, portfolios, layout), portfolios.cash_uusd),
        contingencies=_contingencies(risk, strike_lots, layout),
        oracle=oracle_contingency(risk, gross, portfolios.offsets, layout),
    )
    return int(margins.im_excess_uusd[0]) + slippage


def _with_orders(
    risk: RiskArrays, positions: Sequence[Position], open_orders: Sequence[OpenOrder]
) -> tuple[dict[int, tuple[Position, int, int]], int]:
    """(instrument -> position, lots to buy, lots to sell; the lower slippage of each expiry, added)."""
    extended = {position.instrument_id: (position, 0, 0) for position in positions}
    rows = risk.rows_of(np.array([order.instrument_id for order in open_orders], dtype=np.int64))
    slippage: dict[int, list[int]] = {}
    for order, row in zip(open_orders, rows.tolist(), strict=True):
        position, buys, sells = extended.get(order.instrument_id, (Position(order.instrument_id, 0), 0, 0))
        more = (max(order.lots, 0), max(-order.lots, 0))
        extended[order.instrument_id] = (position, buys + more[0], sells + more[1])
        gain = order.lots * (int(risk.mark_uusd[row]) - order.price_uusd) // int(risk.lots_per_contract[row])
        sides = slippage.setdefault(int(risk.group[row]), [0, 0])
        sides[0 if order.lots > 0 else 1] += min(0, gain)
    return extended, sum(min(sides) for sides in slippage.values())


def _compute(risk: RiskArrays, portfolios: Portfolios, layout: Layout, losses: Losses) -> MarginArrays:
    lots = portfolios.lots
    strike_lots = contingent_lots(risk, lots, layout)
    return _combine(
        risk,
        layout,
        losses,
        equity_uusd=(mark_to_market(risk, portfolios, layout), portfolios.cash_uusd),
        contingencies=_contingencies(risk, strike_lots, layout),
        oracle=oracle_contingency(risk, np.abs(lots), portfolios.offsets, layout),
    )


def _combine(
    risk: RiskArrays,
    layout: Layout,
    losses: Losses,
    *,
    equity_uusd: tuple[Ints, Ints],
    contingencies: tuple[Ints, Ints],
    oracle: Ints,
) -> MarginArrays:
    """The two excesses from their parts; `equity_uusd` is (MtM, cash), `contingencies` (C_mm, C_im)."""
    mtm, cash = equity_uusd
    mm, im = contingencies
    accounts, part = len(cash), layout.part_underlying
    loss = np.minimum(losses.worst_uusd, losses.forward_uusd)
    im_loss = scale_down(loss, risk.im_factor_ppm[part])
    mm_loss = scale_down(loss, risk.mm_factor_ppm[part])
    totals = np.zeros((4, accounts), dtype=np.int64)
    for total, values in zip(totals, (losses.worst_uusd, losses.forward_uusd, im_loss, mm_loss), strict=True):
        np.add.at(total, layout.part_account, values)
    scenarios = np.zeros((accounts, len(risk.underlyings)), dtype=np.int64)
    scenarios[layout.part_account, part] = losses.scenario
    return MarginArrays(
        mtm_uusd=mtm,
        worst_pnl_uusd=totals[0],
        worst_scenario=scenarios,
        forward_contingency_uusd=totals[1],
        mm_contingency_uusd=mm,
        im_contingency_uusd=im,
        oracle_contingency_uusd=oracle,
        im_excess_uusd=mtm + cash + totals[2] - mm - im - oracle,
        mm_excess_uusd=mtm + cash + totals[3] - mm,
    )


def scale_down(value: Ints, factor_ppm: Ints) -> Ints:
    """floor(value * factor / 1e6) without leaving 64 bits, for factors up to 10."""
    quotient = value // PPM
    rest = value - quotient * PPM
    scaled: Ints = quotient * factor_ppm + rest * factor_ppm // PPM
    return scaled


def ceil_to_uusd(value_e8: Ints) -> Ints:
    rounded: Ints = -(-value_e8 // VALUE_SCALE)
    return rounded


def run_sums(values: Ints, ends: Ints) -> Ints:
    """Sums over consecutive runs along axis 0, destroying `values`; the first run starts at 0."""
    cumulative = values.view(np.uint64)
    np.cumsum(cumulative, axis=0, out=cumulative)
    running = np.take(cumulative, ends - 1, axis=0)
    running[1:] -= running[:-1].copy()
    sums: Ints = running.view(np.int64)
    return sums


def account_sums(values: Ints, offsets: Ints) -> Ints:
    """Sums over each account's stretch, 0 for an empty one."""
    running = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values.view(np.uint64), out=running[1:])
    sums: Ints = (running[offsets[1:]] - running[offsets[:-1]]).view(np.int64)
    return sums


def _stretches(layout: Layout, part_ends: Ints) -> list[Stretch]:
    """Stretches of at least CHUNK_POSITIONS positions, but for the last; `part_ends` counts positions."""
    stretches: list[Stretch] = []
    start = start_part = start_group = 0
    while start_part < len(part_ends):
        end_part = int(np.searchsorted(part_ends, start + CHUNK_POSITIONS, side="left")) + 1
        end_part = min(end_part, len(part_ends))
        end_group, end = int(layout.part_group_ends[end_part - 1]), int(part_ends[end_part - 1])
        stretches.append(
            Stretch(slice(start_part, end_part), slice(start_group, end_group), slice(start, end))
        )
        start, start_part, start_group = end, end_part, end_group
    return stretches


class _PartLosses:
    """Losses of every part, some thousand positions at a time; an account's part is never split."""

    def __init__(self, risk: RiskArrays, lots: Ints, layout: Layout) -> None:
        self._risk, self._lots, self._layout = risk, lots, layout
        self.losses = Losses(*np.zeros((3, len(layout.part_account)), dtype=np.int64))
        self._part_ends = layout.group_ends[layout.part_group_ends - 1]
        self._table = kernel_sums.risk_table(
            risk.table_e8, risk.group_positive_e15, risk.group_negative_e15, risk.skew_count
        )
        self._gross_max = _gross_max(risk)
        self._gross = run_sums(np.abs(lots), self._part_ends)
        longest = int(np.diff(self._part_ends, prepend=0).max(initial=0))
        self._work_shape = min(len(lots), CHUNK_POSITIONS + longest), risk.table_e8.shape[1]
        self._idle: list[kernel_sums.SumWork] = []

    def compute(self, spread: Spread) -> Losses:
        stretches = _stretches(self._layout, self._part_ends)
        deque((spread if len(stretches) > 1 else map)(self._stretch, stretches), maxlen=0)
        return self.losses

    def _stretch(self, stretch: Stretch) -> None:
        parts, groups, positions = stretch
        layout = self._layout
        rows, lots = layout.rows[positions], self._lots[positions]
        group_ends = layout.group_ends[groups] - positions.start
        part_ends = layout.part_group_ends[parts] - groups.start
        group_index, underlying = layout.group_index[groups], layout.part_underlying[parts]
        if int(self._gross[parts].max()) <= self._gross_max:
            runs = kernel_sums.Runs(rows, lots, group_ends, group_index, part_ends)
            order, chunk = self._exact_in_floats(runs, underlying)
        else:
            pnl, forward = group_pnl(self._risk, GroupRuns(rows, group_ends, group_index), lots)
            chunk = part_losses(self._risk, pnl, forward, part_ends, underlying)
            order = np.arange(len(underlying))
        for total, part in zip(self.losses, chunk, strict=True):
            total[parts][order] = part

    def _exact_in_floats(self, runs: kernel_sums.Runs, underlying: Ints) -> tuple[Ints, Losses]:
        work = self._idle.pop() if self._idle else kernel_sums.SumWork(*self._work_shape)
        order, pnl = kernel_sums.part_pnl(self._table, runs, work)
        self._idle.append(work)
        return order, _worst(self._risk, pnl, pnl[:, -2], underlying[order])


def _integer_losses(risk: RiskArrays, lots: Ints, layout: Layout) -> Losses:
    """The same by 64-bit integers alone, all at once: for few positions."""
    runs = GroupRuns(layout.rows, layout.group_ends, layout.group_index)
    return part_losses(risk, *group_pnl(risk, runs, lots), layout.part_group_ends, layout.part_underlying)


def _gross_max(risk: RiskArrays) -> int:
    """Gross lots of a part up to which all its sums, and those less its mark, stay below 2^53."""
    peak = np.abs(risk.table_e8).max(axis=0, initial=0)
    # A skew counts as the mark less |value - mark|: up to three times the larger of the two.
    peak[risk.scenario_count - risk.skew_count : risk.scenario_count] *= 3
    discounted = int(peak.max()) * int(risk.group_negative_e15.max(initial=10**15)) // 10**15
    return (kernel_sums.SUM_MAX - ROUNDING_MAX) // (discounted + int(peak[-1]) + 1)


def group_pnl(risk: RiskArrays, runs: GroupRuns, lots: Ints) -> tuple[Ints, Ints]:
    """Per expiry group: PnL of every scenario before its weight, forward contingency; in 1e-8 USD.

    An expiry's value is discounted by its sign before today's value is taken off; skew counts as a loss
    either way; an index group (perpetuals) has no discount. The PnL has shape (n, S + 3), its last three columns
    without meaning; the contingency has shape (n,).
    """
    totals = run_sums(risk.table_e8[runs.rows] * lots[:, None], runs.ends)
    mark = totals[:, -1].copy()
    forward = np.minimum(np.minimum(totals[:, -3], totals[:, -2]), 0)
    factors = risk.group_positive_e15[runs.group], risk.group_negative_e15[runs.group]
    pnl = kernel_margin.discount_by_sign(totals, *factors) - mark[:, None]
    skew = slice(risk.scenario_count - risk.skew_count, risk.scenario_count)
    pnl[:, skew] = -np.abs(pnl[:, skew])
    return pnl, forward


def part_losses(risk: RiskArrays, pnl: Ints, forward: Ints, ends: Ints, underlying: Ints) -> Losses:
    """Losses of parts, each a run of expiry groups that ends at `ends`.

    `pnl` and `forward` are as from `group_pnl` and destroyed.
    """
    return _worst(risk, run_sums(pnl, ends), run_sums(forward, ends), underlying)


def _worst(risk: RiskArrays, pnl: Ints, forward: Ints, underlying: Ints) -> Losses:
    """Losses of parts from their PnL, shape (R, S or more) and destroyed, and forward contingency."""
    total = pnl[:, : risk.scenario_count]
    tails = np.flatnonzero((risk.weights_ppm != PPM).any(axis=0))
    total[:, tails] = scale_down(total[:, tails], risk.weights_ppm[:, tails][underlying])
    scenario = total.argmin(axis=1)
    worst = total[np.arange(len(total)), scenario] // VALUE_SCALE
    return Losses(worst, scenario, forward // VALUE_SCALE)


def contingent_lots(risk: RiskArrays, lots: Ints, layout: Layout) -> Ints:
    """Lots of each strike that owe a contingency: what call and put are short together; a perpetual's all."""
    net = run_sums(lots.copy(), layout.strike_ends)
    return np.where(risk.is_perpetual[layout.strike_row], np.abs(net), np.maximum(-net, 0))


def _contingencies(risk: RiskArrays, strike_lots: Ints, layout: Layout) -> tuple[Ints, Ints]:
    """(C_mm, C_im) per account, rounded up."""
    mm, im = (
        account_sums(strike_lots * unit[layout.strike_row], layout.strike_offsets)
        for unit in (risk.mm_unit_e8, risk.im_unit_e8)
    )
    return ceil_to_uusd(mm), ceil_to_uusd(im)


def mark_to_market(
    risk: RiskArrays, portfolios: Portfolios, layout: Layout, counts: Bools | None = None
) -> Ints:
    """Per account: each position's lots * basis / lots_per_contract rounded down, less cost.

    `counts`, shape (P,), says which positions; all if None.
    """
    unit = risk.basis_uusd * (VALUE_SCALE // risk.lots_per_contract)
    value = portfolios.lots * unit[layout.rows] // VALUE_SCALE - portfolios.cost_uusd
    return account_sums(value if counts is None else np.where(counts, value, 0), portfolios.offsets)


def oracle_contingency(risk: RiskArrays, gross_lots: Ints, offsets: Ints, layout: Layout) -> Ints:
    """Per account: (1 - confidence) * notional of options whose expiry's confidence is low, rounded up."""
    if not risk.oracle_unit_e8.any():
        return np.zeros(len(offsets) - 1, dtype=np.int64)
    return ceil_to_uusd(account_sums(gross_lots * risk.oracle_unit_e8[layout.rows], offsets))
