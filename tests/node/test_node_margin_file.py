"""Other venues' margin parameters, loaded through a file, give those venues' published margins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ledger.instruments import Instrument, Kind, Underlying
from ledger.margin.parameters import MarginParameters, default_margin_parameters
from ledger.margin.portfolio import Position
from ledger.margin.requirements import compute_margin
from ledger.margin.scenarios import RiskArrays, build_risk_arrays
from ledger.market import UnderlyingMarket
from node.margin_file import format_margin_parameters, load_margin_parameters
from primitives.errors import OperatorError
from tests.ledger.margin_builders import CALL, NOW_NS, PERPETUAL, USD, a_slice
from tests.ledger.pricing_vectors import needs_vectors, vectors

DEFAULT_TEXT = format_margin_parameters(default_margin_parameters(Underlying.BTC))
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
INDEX = 2000 * USD


def risk_under(parameters: MarginParameters, kinds: tuple[Kind, ...], index: int = INDEX) -> RiskArrays:
    """Ether instruments with ids from 1; options are calls at the index that expire now."""
    instruments = [
        Instrument(1 + n, Underlying.ETH, kind, 0, 0, 10)
        if kind == PERPETUAL
        else Instrument(1 + n, Underlying.ETH, kind, NOW_NS, index, 10)
        for n, kind in enumerate(kinds)
    ]
    markets = {Underlying.ETH: UnderlyingMarket(index, (a_slice(0, forward=index),))}
    return build_risk_arrays(NOW_NS, instruments, markets, {Underlying.ETH: parameters})


@needs_vectors
def test_deribit_sample_of_a_short_inverse_perpetual() -> None:
    sample = vectors("deribit_portfolio_margin")
    risk = risk_under(load_margin_parameters(CONFIGS / "margin.deribit-eth.json"), (PERPETUAL,))
    # The sample is short 0.999487053 ether; the margin is proportional, so take 100,000 times that in lots of 0.1.
    lots = -999_487
    margin = compute_margin(risk, 0, [Position(1, lots, lots * INDEX // 10)])
    # Maintenance is published to six decimals.
    coins = [
        -value / INDEX / 100_000
        for value in (margin.worst_pnl_uusd, margin.im_excess_uusd, margin.mm_excess_uusd)
    ]
    assert coins == [pytest.approx(sample[name], abs=5e-7) for name in ("worst_pnl_coin", "IM", "MM")]
    roll_shock = (margin.mm_contingency_uusd + margin.im_contingency_uusd) / INDEX / 100_000
    assert roll_shock == pytest.approx(sample["roll_shock"], rel=1e-6)


def span() -> MarginParameters:
    return load_margin_parameters(CONFIGS / "margin.span-16.json")


@needs_vectors
def test_span_prices_a_long_future_under_its_sixteen_scenarios() -> None:
    risk = risk_under(span(), (PERPETUAL,), index=400 * USD)
    weighted = risk.scenario_pnl_uusd()[0] * risk.weights_ppm[0] // 10**6
    # The published table is of a contract of 500 times the index, in tens of dollars.
    dollars = [round(500 * pnl / USD, -1) for pnl in weighted.tolist()]
    assert dollars == vectors("span_16")["long_future"]


def published_arrays() -> RiskArrays:
    """A future and a call whose risk rows are the published ones, in dollars a lot of one contract."""
    risk = risk_under(span(), (PERPETUAL, CALL))
    published = vectors("span_16")
    # The rows are published after the cover of the extreme moves, which our weights will apply again.
    weights = risk.weights_ppm[0]
    rows = [
        [-(-dollars * USD * 100 * 10**6 // int(weight)) for dollars, weight in zip(row, weights, strict=True)]
        + [0, 0, 0]
        for row in (published["long_future"], published["long_dec410_call"])
    ]
    zero = np.zeros(2, dtype=np.int64)
    return replace(risk, table_e8=np.array(rows, dtype=np.int64), mark_uusd=zero, basis_uusd=zero)


@needs_vectors
@pytest.mark.parametrize(
    ("name", "lots"),
    [
        ("naked_long_future", {1: 1}),
        ("naked_short_call_scan_loss", {2: -1}),
        ("covered_write_scan_loss", {1: 1, 2: -1}),
    ],
)
def test_span_scans_the_published_arrays(name: str, lots: dict[int, int]) -> None:
    margin = compute_margin(published_arrays(), 0, [Position(item, count) for item, count in lots.items()])
    expected = vectors("span_16")["expected"][name] * USD
    assert (-margin.worst_pnl_uusd, -margin.im_excess_uusd) == (expected, expected)


def test_parameters_survive_their_file(tmp_path: Path) -> None:
    parameters = default_margin_parameters(Underlying.BTC)
    (tmp_path / "margin.json").write_text(format_margin_parameters(parameters))
    assert load_margin_parameters(tmp_path / "margin.json") == parameters


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not readable JSON"),
        ('{"im_factor_ppm": 1, "im_factor_ppm": 1}', "appears twice"),
        ("{}", "scenarios"),
        (DEFAULT_TEXT.replace('"shock": 1', '"shock": 9'), "shock"),
        (DEFAULT_TEXT.replace("980000", "0.98"), "asset_ppm"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "margin.json"
    path.write_text(text)
    with pytest.raises(OperatorError, match=sentence) as refusal:
        load_margin_parameters(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot read the margin parameters"):
        load_margin_parameters(tmp_path / "none.json")
