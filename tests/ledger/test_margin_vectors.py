"""Portfolio margin on the thirteen worked examples of the market's specification."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from ledger.instruments import Underlying
from ledger.margin.portfolio import compute_layout, single_portfolio
from ledger.margin.requirements import GroupRuns, group_pnl
from ledger.margin.scenarios import SettlementWindow, compute_forward
from ledger.market import Slice
from tests.ledger.margin_builders import (
    CALL,
    INDEX,
    PERPETUAL,
    PUT,
    Leg,
    a_slice,
    expiry_ns,
    margin_of,
    positions_of,
    risk_of,
)
from tests.ledger.pricing_vectors import micro, needs_vectors, vectors

QUARTER_HOUR = 900 / 86_400


class Example(NamedTuple):
    legs: list[Leg]
    slices: list[Slice]


EXAMPLES = {
    "A": Example([Leg(-1, CALL, 110, 30)], [a_slice(30)]),
    "B": Example([Leg(-1, CALL, 100, 30), Leg(-1, PUT, 100, 30)], [a_slice(30)]),
    "C": Example([Leg(1, CALL, 100, 30), Leg(-1, CALL, 110, 30)], [a_slice(30)]),
    "D": Example([Leg(-1, CALL, 110, 30), Leg(1, PERPETUAL)], [a_slice(30)]),
    "E": Example([Leg(-1, PUT, 80, 7)], [a_slice(7, 60)]),
    "F": Example([Leg(1, CALL, 100, 90), Leg(-1, CALL, 100, 30)], [a_slice(30), a_slice(90, 48)]),
    "G": Example([Leg(1, PERPETUAL)], []),
    "H": Example([Leg(1, CALL, 110, 30)], [a_slice(30)]),
    "I": Example(
        [Leg(-1, PUT, 90, 30), Leg(-1, CALL, 110, 30), Leg(1, PUT, 80, 30), Leg(1, CALL, 120, 30)],
        [a_slice(30)],
    ),
    "J": Example([Leg(-1, CALL, 100, QUARTER_HOUR)], [a_slice(QUARTER_HOUR)]),
    "K": Example([Leg(-1, CALL, 200, 30)], [a_slice(30, 90)]),
    "L": Example([Leg(-10, CALL, 110, 30), Leg(10, CALL, 110, 60)], [a_slice(30), a_slice(60)]),
    "M": Example([Leg(-1, CALL, 110, 30)], [a_slice(30, confidence_ppm=400_000)]),
}
HALF_FIXED = {(Underlying.BTC, expiry_ns(QUARTER_HOUR)): SettlementWindow(225 * INDEX, 225)}


def expected(name: str) -> list[int]:
    columns = (
        "mtm", "worst_pnl", "forward_contingency", "mm_contingency", "im_contingency", "IM_excess_at_zero_cash",
        "MM_excess_at_zero_cash",
    )  # fmt: skip
    return [micro(vectors("own_pm_examples")[name][column]) for column in columns]


@needs_vectors
@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example(name: str) -> None:
    example = EXAMPLES[name]
    margin = margin_of(*example, HALF_FIXED if name == "J" else None)
    computed = [
        margin.mtm_uusd,
        margin.worst_pnl_uusd,
        margin.forward_contingency_uusd,
        margin.mm_contingency_uusd,
        margin.im_contingency_uusd + margin.oracle_contingency_uusd,
        margin.im_excess_uusd,
        margin.mm_excess_uusd,
    ]
    # Marks are whole micro-USD per contract, so ten contracts a leg carry ten roundings.
    tolerance = 2 * max(abs(leg.contracts) for leg in example.legs)
    assert computed == [pytest.approx(value, abs=tolerance) for value in expected(name)]


@needs_vectors
@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_all_37_scenarios_of_an_example(name: str) -> None:
    example = EXAMPLES[name]
    rows = vectors("own_pm_examples")[name]["scenarios"]
    assert scenario_pnl(example) == [pytest.approx(micro(row[3]), abs=2) for row in rows]


def scenario_pnl(example: Example) -> list[int]:
    """Weighted PnL of every scenario, micro-USD, of an example with one expiry."""
    risk = risk_of(*example)
    portfolios = single_portfolio(risk, 0, positions_of(example.legs))
    layout = compute_layout(risk, portfolios)
    runs = GroupRuns(layout.rows, layout.group_ends, layout.group_index)
    pnl, _ = group_pnl(risk, runs, portfolios.lots)
    weighted = pnl[0, : risk.scenario_count] * risk.weights_ppm[0]
    return [value // 10**8 for value in weighted.tolist()]


@needs_vectors
def test_worst_scenario_is_the_one_named() -> None:
    names = [(move, vol) for move in range(-4, 5) for vol in ("up", "none", "down")]
    labels = [(round(move * 0.04, 2), vol) for move, vol in names]
    labels += [(move, "up") for move in (-0.66, -0.33, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)]
    for name, example in EXAMPLES.items():
        margin = margin_of(*example, HALF_FIXED if name == "J" else None)
        move, vol, _ = vectors("own_pm_examples")[name]["worst_scenario"]
        assert (name, labels[margin.worst_scenario[0]]) == (name, (move, vol))


@needs_vectors
def test_forward_in_the_middle_of_the_settlement_window() -> None:
    example = vectors("own_other")["settle_mid"]
    forward = compute_forward(a_slice(QUARTER_HOUR), 100_400_000_000, SettlementWindow(225 * INDEX, 225))
    assert (forward.fixed_uusd, forward.variable_uusd) == (example["F_fixed"], example["F_var"])
    assert forward.fixed_uusd + forward.variable_uusd == example["F"]
