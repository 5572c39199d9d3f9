"""Portfolio sums in binary64 that are exact: whole numbers whose every partial sum stays below 2^53. Pure.

Under the rules of `kernel`, and stricter: but for the discount by sign, which rounds down at once, no operation
here rounds at all, so that the order of additions does not matter. Who calls sees to the bound (`SUM_MAX`);
beyond it the same sums are made of 64-bit integers, more slowly (ledger.margin.requirements.group_pnl).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ledger.pricing.kernel import Floats, Ints

SUM_MAX = 1 << 53
"""Whole numbers up to here are exact."""


class RiskTable(NamedTuple):
    """Risk rows and factors as numbers."""

    values: Floats
    """(I, W): scenarios (the last `skew_count` of them of skew), value at forward -move and +move, mark."""
    positive: Floats
    """(G,), factor on a positive value of each expiry group; at most 1."""
    negative: Floats
    """(G,), factor on a negative value; at least 1."""
    skew_count: int


class Runs(NamedTuple):
    """Positions in groups, groups in parts: risk row and lots of each position; ends of both, and each group's
    place among the factors."""

    rows: Ints
    lots: Ints
    group_ends: Ints
    group_index: Ints
    part_ends: Ints


class SumWork:
    """Work arrays for so many positions, reused from stretch to stretch."""

    def __init__(self, positions: int, width: int) -> None:
        self.totals, self.terms = np.empty((2, positions, width))


def risk_table(values_e8: Ints, positive_e15: Ints, negative_e15: Ints, skew_count: int) -> RiskTable:
    """The integers of the risk arrays, converted once for all stretches."""
    return RiskTable(
        values_e8.astype(np.float64),
        positive_e15.astype(np.float64) / 1e15,
        negative_e15.astype(np.float64) / 1e15,
        skew_count,
    )


def part_pnl(table: RiskTable, runs: Runs, work: SumWork) -> tuple[Ints, Ints]:
    """(order of parts, their PnL in that order, shape (R, W)) in units of the table: under each scenario, and
    last but one the forward contingency; the other columns have no meaning.

    Each group's values are discounted by their sign and rounded down before its mark is taken off; skew counts
    as a loss either way.
    """
    groups = _by_size(runs.group_ends)
    count = len(groups.order)
    totals = work.totals[:count]
    lots = runs.lots.astype(np.float64)[:, None]
    for step, members in enumerate(groups.members):
        at = groups.starts[:members] + step
        terms = (work.terms if step else totals)[:members]
        np.take(table.values, np.take(runs.rows, at), axis=0, out=terms, mode="clip")
        np.multiply(terms, np.take(lots, at, axis=0), terms)
        if step:
            np.add(totals[:members], terms, totals[:members])
    _discount(table, np.take(runs.group_index, groups.order), totals, work.terms[:count])
    place = np.empty_like(groups.order)
    place[groups.order] = np.arange(count)
    parts = _by_size(runs.part_ends)
    return parts.order, _sum_parts(totals, place, parts, work)


class _BySize(NamedTuple):
    """Runs in falling order of size, so that those with a k-th member are the first so many for every k."""

    order: Ints
    starts: Ints
    members: list[int]
    """How many runs have a first, second, ... member."""


def _by_size(ends: Ints) -> _BySize:
    sizes = ends.copy()
    sizes[1:] -= ends[:-1]
    by_count = np.bincount(sizes)
    # Sorting keys of 16 bits takes a tenth of the time; the order of equal sizes is of no consequence.
    keys = (len(by_count) - sizes).astype(np.uint16 if len(by_count) < 1 << 16 else np.int64)
    order = np.argsort(keys, kind="stable")
    members = len(sizes) - np.cumsum(by_count)[:-1]
    return _BySize(order, np.take(ends - sizes, order), members.tolist())


def _discount(table: RiskTable, index: Ints, totals: Floats, reduced: Floats) -> None:
    """Values, in place, as they count: discounted, and of skew the mark less any change."""
    mark = totals[:, -1].copy()
    forward = np.minimum(np.minimum(totals[:, -3], totals[:, -2]), 0.0)
    np.multiply(totals, table.positive[index][:, None], reduced)
    negative = table.negative[index]
    if bool((negative != 1.0).any()):
        np.multiply(totals, negative[:, None], totals)
    np.minimum(totals, reduced, out=totals)
    np.floor(totals, totals)
    first_skew = totals.shape[1] - 3 - table.skew_count
    for column in range(first_skew, first_skew + table.skew_count):
        totals[:, column] = mark - np.abs(totals[:, column] - mark)
    totals[:, -2], totals[:, -1] = forward, mark


def _sum_parts(totals: Floats, place: Ints, parts: _BySize, work: SumWork) -> Ints:
    """Sums over each part's groups less its mark; `place` says in which row of `totals` a group is."""
    sums = np.empty((len(parts.order), totals.shape[1]))
    for step, members in enumerate(parts.members):
        terms = (work.terms if step else sums)[:members]
        np.take(totals, np.take(place, parts.starts[:members] + step), axis=0, out=terms, mode="clip")
        if step:
            np.add(sums[:members], terms, sums[:members])
    np.subtract(sums[:, :-2], sums[:, -1:], sums[:, :-2])
    return sums.astype(np.int64)
