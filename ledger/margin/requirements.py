"""Initial and maintenance requirement of every account: lots times risk rows, in exact integers. Pure.

IM excess = MtM + cash + imF * L - C_mm - C_im - C_oracle; MM excess = MtM + cash + mmF * L - C_mm; L is, per
underlying, the lower of the worst scenario PnL and the forward contingency, added over underlyings (no
offset between them). PnL rounds down, contingencies round up. Source: market.md section 3.

Sums over runs of positions are differences of running sums, kept modulo 2^64: a running sum over many
accounts may wrap, the difference is exact because one account's own sum is below 2^62 (ACCOUNT_LOTS_MAX).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ledger.margin.portfolio import (
    Layout,
    Portfolios,
    PortfolioTable,
    Position,
    compute_layout,
    single_portfolio,
)
from ledger.margin.scenarios import VALUE_SCALE, RiskArrays
from ledger.pricing.kernel import DISCOUNT_BITS, Ints
from primitives.amounts import PPM

CHUNK_POSITIONS = 2048
"""Positions multiplied at a time, so that the product stays in a core's cache; one account is never split."""
_LOW_BITS = np.int64((1 << DISCOUNT_BITS) - 1)


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
    index: Ints


class Losses(NamedTuple):
    """Per (account, underlying) part, micro-USD rounded down: worst weighted PnL, its scenario, forward
    contingency."""

    worst_uusd: Ints
    scenario: Ints
    forward_uusd: Ints


def compute_margins(risk: RiskArrays, table: PortfolioTable[object]) -> MarginArrays:
    """Margins of all accounts of the table."""
    portfolios, layout = table.portfolios(risk)
    return _compute(risk, portfolios, layout)


def compute_margin(risk: RiskArrays, cash_uusd: int, positions: Sequence[Position]) -> Margin:
    """Margin of one account: the very same computation. Raises as `PortfolioTable.replace`."""
    portfolios = single_portfolio(risk, cash_uusd, positions)
    arrays = _compute(risk, portfolios, compute_layout(risk, portfolios))
    return margin_at(arrays, 0)


def margin_at(arrays: MarginArrays, place: int) -> Margin:
    """One account's numbers."""
    scalars = {name: int(column[place]) for name, column in arrays._asdict().items() if column.ndim == 1}
    return Margin(worst_scenario=tuple(arrays.worst_scenario[place].tolist()), **scalars)


def _compute(risk: RiskArrays, portfolios: Portfolios, layout: Layout) -> MarginArrays:
    accounts = len(portfolios.cash_uusd)
    worst, scenario, forward = _part_losses(risk, portfolios.lots, layout)
    mm, im = _contingencies(risk, portfolios.lots, layout)
    mtm = _mark_to_market(risk, portfolios, layout)
    oracle = _oracle_contingency(risk, portfolios, layout)
    loss = np.minimum(worst, forward)
    by_account = np.zeros((4, accounts), dtype=np.int64)
    im_factor, mm_factor = (
        factor[layout.part_underlying] for factor in (risk.im_factor_ppm, risk.mm_factor_ppm)
    )
    parts = (worst, forward, scale_down(loss, im_factor), scale_down(loss, mm_factor))
    for total, part in zip(by_account, parts, strict=True):
        np.add.at(total, layout.part_account, part)
    scenarios = np.zeros((accounts, len(risk.underlyings)), dtype=np.int64)
    scenarios[layout.part_account, layout.part_underlying] = scenario
    equity = mtm + portfolios.cash_uusd
    return MarginArrays(
        mtm_uusd=mtm,
        worst_pnl_uusd=by_account[0],
        worst_scenario=scenarios,
        forward_contingency_uusd=by_account[1],
        mm_contingency_uusd=mm,
        im_contingency_uusd=im,
        oracle_contingency_uusd=oracle,
        im_excess_uusd=equity + by_account[2] - mm - im - oracle,
        mm_excess_uusd=equity + by_account[3] - mm,
    )


def scale_down(value: Ints, factor_ppm: Ints) -> Ints:
    """floor(value * factor / 1e6) without leaving 64 bits, for factors up to 10."""
    quotient = value // PPM
    rest = value - quotient * PPM
    scaled: Ints = quotient * factor_ppm + rest * factor_ppm // PPM
    return scaled


def _ceil_to_uusd(value_e8: Ints) -> Ints:
    rounded: Ints = -(-value_e8 // VALUE_SCALE)
    return rounded


def _run_sums(values: Ints, ends: Ints) -> Ints:
    """Sums over consecutive runs along axis 0; every run is non-empty and the first begins at 0."""
    running = np.cumsum(values.view(np.uint64), axis=0)[ends - 1]
    running[1:] -= running[:-1].copy()
    sums: Ints = running.view(np.int64)
    return sums


def _account_sums(values: Ints, offsets: Ints) -> Ints:
    """Sums over each account's stretch, 0 for an empty one."""
    running = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values.view(np.uint64), out=running[1:])
    sums: Ints = (running[offsets[1:]] - running[offsets[:-1]]).view(np.int64)
    return sums


class _Work:
    """Work arrays for one chunk, reused from chunk to chunk so that they stay cached."""

    def __init__(self, risk: RiskArrays, positions: int) -> None:
        width = risk.table_e8.shape[1]
        self.products, self.sums, self.factors, self.rest = np.empty((4, positions, width), dtype=np.int64)


def _part_losses(risk: RiskArrays, lots: Ints, layout: Layout) -> Losses:
    """Losses of every part, some thousand positions at a time; an account's part is never split."""
    parts = len(layout.part_account)
    losses = Losses(*np.zeros((3, parts), dtype=np.int64))
    part_ends = layout.group_ends[layout.part_group_ends - 1]
    longest = int(np.diff(part_ends, prepend=0).max(initial=0))
    work = _Work(risk, min(len(lots), CHUNK_POSITIONS + longest))
    start = start_part = start_group = 0
    while start_part < parts:
        end_part = int(np.searchsorted(part_ends, start + CHUNK_POSITIONS, side="left")) + 1
        end_part = min(end_part, parts)
        end_group, end = int(layout.part_group_ends[end_part - 1]), int(part_ends[end_part - 1])
        at, groups = slice(start_part, end_part), slice(start_group, end_group)
        runs = GroupRuns(
            layout.rows[start:end], layout.group_ends[groups] - start, layout.group_index[groups]
        )
        pnl, forward = group_pnl(risk, runs, lots[start:end], work)
        ends = layout.part_group_ends[at] - start_group
        chunk = part_losses(risk, pnl, forward, ends, layout.part_underlying[at])
        for total, part in zip(losses, chunk, strict=True):
            total[at] = part
        start, start_part, start_group = end, end_part, end_group
    return losses


def group_pnl(risk: RiskArrays, runs: GroupRuns, lots: Ints, work: _Work) -> tuple[Ints, Ints]:
    """Per expiry group: PnL of every scenario before its weight (n, S), forward contingency (n,); 1e-8 USD.

    An expiry's value is discounted by its sign before today's value is taken off; skew counts as a loss
    either way; an index group (perpetuals) has no discount. The first result lives in `work`.
    """
    positions, groups, scenarios = len(lots), len(runs.ends), risk.scenario_count
    products, sums = work.products[:positions], work.sums[:groups]
    np.take(risk.table_e8, runs.rows, axis=0, out=products, mode="clip")
    np.multiply(products, lots[:, None], out=products)
    running = products.view(np.uint64)
    np.cumsum(running, axis=0, out=running)
    np.take(products, runs.ends - 1, axis=0, out=sums, mode="clip")
    # The products are spent: their memory takes the difference of the running sums.
    totals = work.products[:groups]
    totals[:1] = sums[:1]
    np.subtract(sums[1:], sums[:-1], out=totals[1:])
    pnl = work.sums[:groups, :scenarios]
    _discount_into(risk, runs.index, totals[:, :scenarios], work, pnl)
    np.subtract(pnl, totals[:, -1:], out=pnl)
    skew = pnl[:, -2:]
    np.negative(np.abs(skew), out=skew)
    return pnl, np.minimum(np.minimum(totals[:, -3], totals[:, -2]), 0)


def _discount_into(risk: RiskArrays, index: Ints, value: Ints, work: _Work, out: Ints) -> None:
    """floor(value * factor / 2^31), the factor by the value's sign, in two words of 31 bits."""
    groups, scenarios = value.shape
    factor, rest = (array[:groups, :scenarios] for array in (work.factors, work.rest))
    positive, negative = (factors[index][:, None] for factors in (risk.group_positive, risk.group_negative))
    np.right_shift(value, 63, out=factor)
    np.bitwise_and(factor, negative - positive, out=factor)
    np.add(factor, positive, out=factor)
    np.right_shift(value, DISCOUNT_BITS, out=out)
    np.multiply(out, factor, out=out)
    np.bitwise_and(value, _LOW_BITS, out=rest)
    np.multiply(rest, factor, out=rest)
    np.right_shift(rest, DISCOUNT_BITS, out=rest)
    np.add(out, rest, out=out)


def part_losses(risk: RiskArrays, pnl: Ints, forward: Ints, ends: Ints, underlying: Ints) -> Losses:
    """Losses of parts, each a run of expiry groups that ends at `ends`."""
    weighted = scale_down(_run_sums(pnl, ends), risk.weights_ppm[underlying])
    scenario = weighted.argmin(axis=1)
    worst = weighted[np.arange(len(ends)), scenario] // VALUE_SCALE
    return Losses(worst, scenario, _run_sums(forward, ends) // VALUE_SCALE)


def _contingencies(risk: RiskArrays, lots: Ints, layout: Layout) -> tuple[Ints, Ints]:
    """(C_mm, C_im) per account: all perpetuals, and options short beyond the longs of their strike."""
    net = _run_sums(lots, layout.strike_ends)
    contingent = contingent_lots(risk, net, layout.strike_row)
    mm, im = (
        _account_sums(contingent * unit[layout.strike_row], layout.strike_offsets)
        for unit in (risk.mm_unit_e8, risk.im_unit_e8)
    )
    return _ceil_to_uusd(mm), _ceil_to_uusd(im)


def contingent_lots(risk: RiskArrays, net_lots: Ints, strike_row: Ints) -> Ints:
    """Lots that owe a contingency: all of a perpetual; of a strike, what call and put are short together."""
    lots: Ints = np.where(risk.is_perpetual[strike_row], np.abs(net_lots), np.maximum(-net_lots, 0))
    return lots


def _mark_to_market(risk: RiskArrays, portfolios: Portfolios, layout: Layout) -> Ints:
    """Per account: each position's lots * mark / lots_per_contract rounded down, less cost."""
    unit = risk.mark_uusd * (VALUE_SCALE // risk.lots_per_contract)
    value = portfolios.lots * unit[layout.rows] // VALUE_SCALE - portfolios.cost_uusd
    return _account_sums(value, portfolios.offsets)


def _oracle_contingency(risk: RiskArrays, portfolios: Portfolios, layout: Layout) -> Ints:
    """Per account: (1 - confidence) * notional of options whose expiry's confidence is low."""
    if not risk.oracle_unit_e8.any():
        return np.zeros(len(portfolios.cash_uusd), dtype=np.int64)
    units = np.abs(portfolios.lots) * risk.oracle_unit_e8[layout.rows]
    return _ceil_to_uusd(_account_sums(units, portfolios.offsets))
