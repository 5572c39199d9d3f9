"""One account's margin with plain Python integers, position by position. Pure.

The risk rows (mark, scenario values, contingency units, factors) are the kernel's integer outputs; everything
that is done with them is done here again. The one place with floats is the expiry discount, which is defined
as a binary64 product rounded down (kernel_margin.discount_by_sign); a Python float is the same binary64.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

PPM = 1_000_000
E8_PER_UUSD = 100


class NaiveMargin(NamedTuple):
    """Value at the marks and excesses in micro-USD; each underlying's worst scenario, by its place in the arrays."""

    mtm_uusd: int
    im_excess_uusd: int
    mm_excess_uusd: int
    worst_scenario: dict[int, int]


class Holding(NamedTuple):
    """Lots of one instrument if all buys fill, and if all sells fill; the lots held now, and their cost."""

    row: int
    bought: int
    sold: int
    held: int
    cost_uusd: int


class Rows:
    """The risk arrays of one block as Python lists of Python integers."""

    mark: list[int]
    basis: list[int]
    """A mark less what funding has cost so far: what a position is worth before its cost."""
    lots_per_contract: list[int]
    positive: list[int]
    negative: list[int]
    vega_uusd: list[int]
    oracle_unit: list[int]
    mm_unit: list[int]
    im_unit: list[int]

    def __init__(self, risk: Any, paid_uusd: dict[int, int]) -> None:
        """`paid_uusd`: what funding has cost a long contract of each instrument."""
        self.row_of = {instrument: row for row, instrument in enumerate(risk.instrument_ids.tolist())}
        self.mark = risk.mark_uusd.tolist()
        self.basis = [mark - paid_uusd[item] for item, mark in zip(self.row_of, self.mark, strict=True)]
        self.lots_per_contract = risk.lots_per_contract.tolist()
        self.table = risk.table_e8.tolist()
        self.group = risk.group.tolist()
        self.strike_group = risk.strike_group.tolist()
        self.underlying = risk.underlying.tolist()
        self.is_perpetual = risk.is_perpetual.tolist()
        self.delta_ppm = risk.delta_ppm.tolist()
        self.gamma_e12 = risk.gamma_e12.tolist()
        self.theta_uusd = risk.theta_uusd.tolist()
        self.rho_uusd = risk.rho_uusd.tolist()
        self.vega_uusd = risk.vega_uusd.tolist()
        self.mm_unit = risk.mm_unit_e8.tolist()
        self.im_unit = risk.im_unit_e8.tolist()
        self.oracle_unit = risk.oracle_unit_e8.tolist()
        self.positive = risk.group_positive_e15.tolist()
        self.negative = risk.group_negative_e15.tolist()
        self.weights = risk.weights_ppm.tolist()
        self.im_factor = risk.im_factor_ppm.tolist()
        self.mm_factor = risk.mm_factor_ppm.tolist()
        self.scenarios = len(self.table[0]) - 3 if self.table else 0


def naive_margin(
    rows: Rows,
    cash_uusd: int,
    positions: dict[int, tuple[int, int]],
    orders: list[tuple[int, int, int]] = [],  # noqa: B006 - never changed
) -> NaiveMargin:
    """Margin if the open `orders` (instrument, signed lots, price) filled the worse way.

    `positions` maps instrument to (lots, cost).
    """
    holdings = _holdings(rows, positions, orders)
    underlyings = sorted({rows.underlying[item.row] for item in holdings})
    im_loss = mm_loss = 0
    worst: dict[int, int] = {}
    for underlying in underlyings:
        part = [item for item in holdings if rows.underlying[item.row] == underlying]
        loss, worst[underlying] = _loss(rows, underlying, part)
        im_loss += loss * rows.im_factor[underlying] // PPM
        mm_loss += loss * rows.mm_factor[underlying] // PPM
    mtm = 0
    for item in holdings:
        mtm += item.held * rows.basis[item.row] // rows.lots_per_contract[item.row] - item.cost_uusd
    mm, im, oracle = _contingencies(rows, holdings)
    equity = mtm + cash_uusd
    slippage = _slippage(rows, orders)
    return NaiveMargin(mtm, equity + im_loss - mm - im - oracle + slippage, equity + mm_loss - mm, worst)


def _holdings(
    rows: Rows, positions: dict[int, tuple[int, int]], orders: list[tuple[int, int, int]]
) -> list[Holding]:
    holdings = []
    for instrument in sorted({*positions, *(item[0] for item in orders)}):
        lots, cost = positions.get(instrument, (0, 0))
        buys = sum(size for item, size, _ in orders if item == instrument and size > 0)
        sells = sum(-size for item, size, _ in orders if item == instrument and size < 0)
        holdings.append(Holding(rows.row_of[instrument], lots + buys, lots - sells, lots, cost))
    return holdings


def _loss(rows: Rows, underlying: int, part: list[Holding]) -> tuple[int, int]:
    """(the lower of worst weighted scenario PnL and forward contingency, the first worst scenario)."""
    groups = sorted({rows.group[item.row] for item in part})
    pnl = [0] * rows.scenarios
    forward = 0
    for group in groups:
        members = [item for item in part if rows.group[item.row] == group]
        variants = [
            _group_pnl(rows, group, [(item.row, getattr(item, side)) for item in members])
            for side in ("bought", "sold")
        ]
        for scenario in range(rows.scenarios):
            pnl[scenario] += min(variant[0][scenario] for variant in variants)
        forward += min(variant[1] for variant in variants)
    weighted = [value * weight // PPM for value, weight in zip(pnl, rows.weights[underlying], strict=True)]
    scenario = weighted.index(min(weighted))
    return min(weighted[scenario] // E8_PER_UUSD, forward // E8_PER_UUSD), scenario


def _group_pnl(rows: Rows, group: int, members: list[tuple[int, int]]) -> tuple[list[int], int]:
    """One expiry's PnL in each scenario, before its weight, and its forward contingency; 1e-8 USD."""
    columns = rows.scenarios + 3
    value = [sum(lots * rows.table[row][column] for row, lots in members) for column in range(columns)]
    down, up, mark = value[-3:]
    pnl = [_discounted(rows, group, value[scenario]) - mark for scenario in range(rows.scenarios)]
    for skew in (-2, -1):
        pnl[skew] = -abs(pnl[skew])
    return pnl, min(down, up, 0)


def _discounted(rows: Rows, group: int, value: int) -> int:
    factors = rows.positive[group] / 1e15, rows.negative[group] / 1e15
    return math.floor(min(float(value) * factor for factor in factors))


def _contingencies(rows: Rows, holdings: list[Holding]) -> tuple[int, int, int]:
    """(C_mm, C_im, C_oracle), each rounded up."""
    mm = im = oracle = 0
    for strike in sorted({rows.strike_group[item.row] for item in holdings}):
        members = [item for item in holdings if rows.strike_group[item.row] == strike]
        row = members[0].row
        nets = [sum(item.bought for item in members), sum(item.sold for item in members)]
        owing = max(abs(net) if rows.is_perpetual[row] else max(-net, 0) for net in nets)
        mm += owing * rows.mm_unit[row]
        im += owing * rows.im_unit[row]
    for item in holdings:
        oracle += max(abs(item.bought), abs(item.sold)) * rows.oracle_unit[item.row]
    return -(-mm // E8_PER_UUSD), -(-im // E8_PER_UUSD), -(-oracle // E8_PER_UUSD)


def _slippage(rows: Rows, orders: list[tuple[int, int, int]]) -> int:
    """What orders worse than the mark would cost: per expiry, the dearer of all buys and all sells."""
    total = 0
    for group in sorted({rows.group[rows.row_of[item[0]]] for item in orders}):
        sides = []
        for sign in (1, -1):
            costs = [
                min(0, lots * (rows.mark[row] - price) // rows.lots_per_contract[row])
                for instrument, lots, price in orders
                if rows.group[row := rows.row_of[instrument]] == group and lots * sign > 0
            ]
            sides.append(sum(costs))
        total += min(sides)
    return total
