"""The standard model: fixed parts of the index per short position, spreads capped at their largest loss. Pure.

For sub-accounts that choose it over portfolio margin. Cash and perpetuals' profit count; a long option counts
only against what its expiry can lose. Per expiry the requirement is the lower of

- each short alone: max(short_im S - OTM, short_im_floor S) + mark (initial), short_mm S + mark (maintenance),
- the largest loss at settlement, over prices of 0 and every strike held. Above the highest strike calls short
  beyond the long ones lose without bound: each of them counts as the dearest short call alone.

A perpetual requires its part of the index. Expiries and underlyings do not offset each other; the oracle
contingency is as in the portfolio model. Source: market.md section 3, after Derive's standard manager.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ledger.instruments import Underlying
from ledger.margin.portfolio import Layout, Portfolios, Position, compute_layout, single_portfolio
from ledger.margin.reasons import MarginReason
from ledger.margin.requirements import (
    account_sums,
    ceil_to_uusd,
    mark_to_market,
    oracle_contingency,
    run_sums,
)
from ledger.margin.scenarios import RiskArrays
from ledger.pricing.kernel import Ints
from primitives.amounts import PPM
from primitives.codec import U32, Wire
from primitives.errors import ProtocolViolation


class StandardParameters(Wire):
    """Parts of the index, of one underlying. Construction refuses numbers out of range."""

    short_im_ppm: U32
    short_im_floor_ppm: U32
    short_mm_ppm: U32
    perpetual_im_ppm: U32
    perpetual_mm_ppm: U32

    def __post_init__(self) -> None:
        """Raises ProtocolViolation(BAD_PARAMETERS)."""
        is_ordered = 0 < self.short_mm_ppm <= self.short_im_floor_ppm <= self.short_im_ppm <= PPM
        if not (is_ordered and 0 < self.perpetual_mm_ppm <= self.perpetual_im_ppm <= PPM):
            raise ProtocolViolation(
                MarginReason.BAD_PARAMETERS,
                "0 < maintenance <= floor <= initial part <= 1, for options and perpetuals",
            )


DEFAULT_STANDARD_PARAMETERS = StandardParameters(
    short_im_ppm=150_000,
    short_im_floor_ppm=130_000,
    short_mm_ppm=90_000,
    perpetual_im_ppm=100_000,
    perpetual_mm_ppm=50_000,
)


class StandardMargins(NamedTuple):
    """Per account, shape (A,) int64 in micro-USD, in the portfolios' order; requirements are rounded up."""

    equity_uusd: Ints
    """Cash and perpetuals' profit, rounded down; options count nothing."""
    im_requirement_uusd: Ints
    """With the oracle contingency."""
    mm_requirement_uusd: Ints
    im_excess_uusd: Ints
    mm_excess_uusd: Ints


class StandardMargin(NamedTuple):
    """One account's row of StandardMargins."""

    equity_uusd: int
    im_requirement_uusd: int
    mm_requirement_uusd: int
    im_excess_uusd: int
    mm_excess_uusd: int


def compute_standard_margin(
    risk: RiskArrays,
    cash_uusd: int,
    positions: Sequence[Position],
    parameters: Mapping[Underlying, StandardParameters],
) -> StandardMargin:
    """One account under the standard model. Raises as `PortfolioTable.replace`."""
    portfolios = single_portfolio(risk, cash_uusd, positions)
    margins = compute_standard_margins(risk, portfolios, compute_layout(risk, portfolios), parameters)
    return StandardMargin(*(int(column[0]) for column in margins))


def compute_standard_margins(
    risk: RiskArrays,
    portfolios: Portfolios,
    layout: Layout,
    parameters: Mapping[Underlying, StandardParameters],
) -> StandardMargins:
    """Accounts under the standard model, `layout` being that of `portfolios`."""
    is_option = ~risk.is_perpetual[layout.rows]
    cash_and_profit = portfolios.cash_uusd + mark_to_market(risk, portfolios, layout, ~is_option)
    offsets = np.searchsorted(layout.group_ends, portfolios.offsets, side="right")
    required = [
        ceil_to_uusd(account_sums(_group_requirements(risk, portfolios.lots, layout, unit), offsets))
        for unit in _units(risk, parameters)
    ]
    initial = required[0] + oracle_contingency(risk, np.abs(portfolios.lots), portfolios.offsets, layout)
    return StandardMargins(
        equity_uusd=cash_and_profit,
        im_requirement_uusd=initial,
        mm_requirement_uusd=required[1],
        im_excess_uusd=cash_and_profit - initial,
        mm_excess_uusd=cash_and_profit - required[1],
    )


def _units(risk: RiskArrays, parameters: Mapping[Underlying, StandardParameters]) -> tuple[Ints, Ints]:
    """(initial, maintenance) requirement per lot short (perpetuals: per lot), 1e-8 USD, rounded up; (I,)."""
    table = np.array([tuple(_parts(parameters[item])) for item in risk.underlyings], dtype=np.int64)
    part = table.reshape(-1, 5).T[:, risk.underlying]
    index = risk.index_unit_e8
    im, floor, mm, perpetual_im, perpetual_mm = -(-index * part // PPM)
    sign = np.where(risk.is_call, 1, -1)
    out_of_the_money = np.maximum(sign * (risk.strike_unit_e8 - index), 0)
    mark = risk.table_e8[:, -1]
    initial = np.maximum(im - out_of_the_money, floor) + mark
    return (
        np.where(risk.is_perpetual, perpetual_im, initial),
        np.where(risk.is_perpetual, perpetual_mm, mm + mark),
    )


def _parts(item: StandardParameters) -> tuple[int, ...]:
    return (
        item.short_im_ppm,
        item.short_im_floor_ppm,
        item.short_mm_ppm,
        item.perpetual_im_ppm,
        item.perpetual_mm_ppm,
    )


def _group_requirements(risk: RiskArrays, lots: Ints, layout: Layout, unit_e8: Ints) -> Ints:
    """Requirement of every (account, expiry) in 1e-8 USD, shape (Q,)."""
    unit = unit_e8[layout.rows]
    is_perpetual = risk.is_perpetual[layout.rows]
    alone = run_sums(np.where(is_perpetual, np.abs(lots), np.maximum(-lots, 0)) * unit, layout.group_ends)
    if len(alone) == 0:
        return alone
    starts = np.concatenate((np.zeros(1, dtype=np.int64), layout.group_ends[:-1]))
    calls = np.where(risk.is_call[layout.rows], lots, 0)
    dearest = np.maximum.reduceat(np.where(calls < 0, unit, 0), starts)
    naked = np.maximum(-run_sums(calls.copy(), layout.group_ends), 0)
    capped = _largest_losses(risk, lots, layout, starts) + naked * dearest
    return np.where(is_perpetual[starts], alone, np.minimum(alone, capped))


def _largest_losses(risk: RiskArrays, lots: Ints, layout: Layout, starts: Ints) -> Ints:
    """Largest loss at settlement at 0 or a strike held, at least 0, of every (account, expiry), 1e-8 USD.

    Positions of a group are in order of strike, so what calls below and puts above a strike pay there are
    differences of running sums, exact modulo 2^64 as in `requirements`.
    """
    strike, is_call = risk.strike_unit_e8[layout.rows], risk.is_call[layout.rows]
    sizes = np.diff(layout.group_ends, prepend=0)
    calls, puts = np.where(is_call, lots, 0), np.where(is_call, 0, lots)
    call_lots, call_cost = (_running(column, starts, sizes) for column in (calls, calls * strike))
    put_lots, put_cost = (_running(column, starts, sizes) for column in (puts, puts * strike))
    ends = layout.group_ends - 1
    puts_above = np.repeat(put_lots[ends], sizes) - put_lots
    cost_above = np.repeat(put_cost[ends], sizes) - put_cost
    paid = strike * call_lots - call_cost + cost_above - strike * puts_above
    return np.maximum(-np.minimum(np.minimum.reduceat(paid, starts), put_cost[ends]), 0)


def _running(values: Ints, starts: Ints, sizes: Ints) -> Ints:
    """Running sums that begin anew at every start."""
    total = np.cumsum(values.view(np.uint64))
    before = total[starts] - values[starts].view(np.uint64)
    running: Ints = (total - np.repeat(before, sizes)).view(np.int64)
    return running
