"""The verdict: which facts break a promise, which are too few to tell, and what a script sees of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from testnet.report import (
    Divergence,
    Facts,
    ListingFacts,
    Recovery,
    Verdict,
    broken_promises,
    doubts,
    judge,
    percentile,
    report_of,
)


def a_good_run(**changes: Any) -> Facts:
    facts = Facts(
        validators=4,
        seconds=60.0,
        final_heights={0: 100, 1: 101, 2: 100, 3: 100},
        compared_heights=100,
        finality_ms=[10.0, 20.0, 30.0],
        final_blocks=10,
        final_blocks_fast=7,
        orders={"submitted": 50, "accepted": 40, "filled": 8},
        rejected={"off_tick": 2, "bad_nonce": 1},
        acknowledged=20,
        trades=5,
        conservation_checked=100,
        rss_mb={0: 120.0, 1: 130.5},
        cpu_seconds={1: 2.04, 0: 1.0},
    )
    for name, value in changes.items():
        setattr(facts, name, value)
    return facts


def test_a_good_run_keeps_its_promises() -> None:
    facts = a_good_run(recoveries=[Recovery(2, 3.0, 5.0, 1.0, 1.2)])
    assert (judge(facts), broken_promises(facts), doubts(facts)) == (Verdict.KEPT, [], [])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"divergences": [Divergence(7, ((0, "aa"), (1, "bb")))]}, "state roots differ at height 7"),
        ({"conservation_failures": ["node1: cash"]}, "money was not conserved: node1: cash"),
        ({"lost_final": 1}, "1 orders acknowledged as final are missing from the chain"),
        ({"lost_accepted": 2}, "2 accepted orders never reached a final block"),
        ({"equivocations": 1}, "1 equivocations by validators that should all be honest"),
        ({"halted": ["node2: final_conflict"]}, "a validator halted: node2: final_conflict"),
        ({"crashed": ["node3 (exit 1): boom"]}, "a process ended by itself: node3 (exit 1): boom"),
        ({"recoveries": [Recovery(2, 3.0, 5.0, 1.0, None)]}, "validator 2 was killed and did not vote again"),
        (
            {"recoveries": [Recovery(2, 3.0, None, None, None)]},
            "validator 2 was killed and did not vote again",
        ),
    ],
)
def test_each_promise_can_be_broken_alone(changes: dict[str, Any], sentence: str) -> None:
    facts = a_good_run(**changes)
    (found,) = broken_promises(facts)
    assert found.startswith(sentence)
    assert (judge(facts), report_of(facts)["broken"]) == (Verdict.BROKEN, [found])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"compared_heights": 9}, "only 9 heights could be compared, 10 are needed"),
        ({"trades": 0}, "no trade happened"),
        ({"conservation_checked": 0}, "conservation was never checked"),
        ({"acknowledged": 0}, "no order was acknowledged"),
    ],
)
def test_each_thing_that_happened_too_little_makes_the_run_inconclusive(
    changes: dict[str, Any], sentence: str
) -> None:
    facts = a_good_run(**changes)
    assert (doubts(facts), judge(facts)) == ([sentence], Verdict.INCONCLUSIVE)
    assert report_of(facts)["verdict"] == "inconclusive"


def test_a_run_in_which_nothing_happened_keeps_no_promise() -> None:
    facts = Facts(validators=4, seconds=0.0)
    assert (judge(facts), len(doubts(facts))) == (Verdict.INCONCLUSIVE, 4)
    report = report_of(facts)
    assert (report["state_root_agreement"], report["conservation"]["ok"]) == (False, False)


def test_broken_beats_inconclusive() -> None:
    assert judge(a_good_run(trades=0, lost_final=1)) is Verdict.BROKEN


def test_a_scheduled_market_whose_expiry_has_no_successor_is_broken() -> None:
    assert judge(a_good_run(expiries_settled=2, listing=ListingFacts(True))) is Verdict.BROKEN
    assert judge(a_good_run(expiries_settled=2, listing=ListingFacts(True, series=4))) is Verdict.KEPT
    assert judge(a_good_run(expiries_settled=2, listing=ListingFacts(False))) is Verdict.KEPT
    assert judge(a_good_run(expiries_settled=0, listing=ListingFacts(True))) is Verdict.KEPT


def test_exit_codes_are_for_scripts() -> None:
    assert {verdict.value: verdict.exit_code for verdict in Verdict} == {
        "kept": 0,
        "broken": 1,
        "inconclusive": 2,
    }


def test_the_report_has_every_figure_it_promises() -> None:
    report = report_of(a_good_run(epsilon_bp=[1.0, 3.0], spread_bp=[2.0]))
    assert msgspec.json.decode(msgspec.json.encode(report)) == report, "it is plain JSON"
    assert report["final_height"] == {"min": 100, "max": 101}
    assert report["finality_ms"] == {"p50": 20.0, "p99": 30.0, "count": 3, "fast_share": 0.7}
    assert report["orders"] == {
        "submitted": 50,
        "accepted": 40,
        "filled": 8,
        "acknowledged": 20,
        "lost": 0,
        "rejected": {"bad_nonce": 1, "off_tick": 2},
    }
    assert report["epsilon_bp"] == {"p50": 3.0, "p99": 3.0, "max": 3.0}
    assert (report["spread_bp"], report["rss_mb_max"]) == ({"p50": 2.0}, 130.5)
    assert report["cpu_seconds_per_validator"] == [1.0, 2.0]
    wanted = {
        *("verdict", "validators", "seconds", "final_height", "state_root_agreement", "compared_heights"),
        *("finality_ms", "orders", "trades", "liquidations", "expiries_settled", "epsilon_bp", "spread_bp"),
        *("conservation", "equivocations", "rss_mb_max", "cpu_seconds_per_validator"),
    }
    assert wanted <= set(report)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([7.0], 0.99, 7.0), ([3.0, 1.0, 2.0], 0.5, 2.0), ([1.0, 2.0], 1.0, 2.0)],
)
def test_percentiles(values: list[float], share: float, expected: float | None) -> None:
    assert percentile(values, share) == expected


def test_nothing_measured_is_null_and_not_zero() -> None:
    report = report_of(Facts(validators=1, seconds=1.0))
    read: Callable[[str], Any] = report.__getitem__
    assert read("finality_ms") == {"p50": None, "p99": None, "count": 0, "fast_share": None}
    assert (read("rss_mb_max"), read("epsilon_bp")) == (None, {"p50": None, "p99": None, "max": None})
