"""The flood bench: what its verdict follows from, and one real network that is flooded for a moment."""

from __future__ import annotations

import pytest

from primitives.errors import OperatorError
from testnet.bench.flood import FloodBench, Spans, figures_of, flood_figures
from testnet.bench.flooder import FloodReport

BENCH = FloodBench(units_per_second=20)


def a_report(per_second: int, *, seconds: float = 4.0) -> FloodReport:
    """Nearly everything refused."""
    answered = round(per_second * seconds)
    return FloodReport(seconds, {"429": answered - 8, "200": 8}, 40)


def test_the_figures_are_those_of_all_spans_together() -> None:
    quiet, flooded = Spans(8.0, 40, [20.0, 30.0, 40.0]), Spans(8.0, 36, [50.0, 60.0, 70.0])
    reports = [a_report(3_000), a_report(5_000)]
    assert figures_of(BENCH, quiet, flooded, reports) == {
        "flood.quota_units_per_s": 20,
        "flood.requests_per_s": 4_000,
        "flood.multiple_of_quota": 200.0,
        "flood.refused_share": 0.9995,
        "flood.blocks_per_s_before": 5.0,
        "flood.blocks_per_s_during": 4.5,
        "flood.finality_ms_p50_before": 30.0,
        "flood.finality_ms_p50_during": 60.0,
        "flood.finality_ratio": 2.0,
        "flood.finality_ratio_max": 2.0,
        "flood.is_within_limit": 1,
    }


@pytest.mark.parametrize(
    ("during_ms", "per_second", "is_held"), [(60.0, 2_000, 1), (60.1, 2_000, 0), (60.0, 1_999, 0)]
)
def test_it_holds_at_twice_the_time_and_a_hundred_times_the_quota(
    during_ms: float, per_second: int, is_held: int
) -> None:
    quiet, flooded = Spans(8.0, 40, [30.0]), Spans(8.0, 40, [during_ms])
    figures = figures_of(BENCH, quiet, flooded, [a_report(per_second)])
    assert figures["flood.is_within_limit"] == is_held


def test_a_network_that_stands_still_is_no_result() -> None:
    with pytest.raises(OperatorError, match="no block became final"):
        figures_of(BENCH, Spans(8.0, 40, [30.0]), Spans(8.0, 0, []), [a_report(3_000)])


@pytest.mark.slow
def test_a_network_goes_on_while_one_gateway_is_flooded() -> None:
    said: list[str] = []
    figures = flood_figures(FloodBench(seconds=2.0, rounds=1, warm_up_seconds=1.0), said.append)
    assert figures["flood.multiple_of_quota"] > 1
    assert figures["flood.refused_share"] > 0.5
    assert figures["flood.blocks_per_s_during"] > 1
    assert len(said) == 1
