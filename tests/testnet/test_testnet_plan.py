"""What one may ask of a testnet, and one sentence for what one may not."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from primitives.errors import OperatorError
from testnet.plan import Kill, Plan, check_plan, parse_kill


@pytest.mark.parametrize(
    ("text", "kill"),
    [
        ("2@20", Kill(2, 20.0, 3.0)),
        ("2@20+5", Kill(2, 20.0, 5.0)),
        ("0@1.5+0.5", Kill(0, 1.5, 0.5)),
    ],
)
def test_a_kill_says_whom_when_and_for_how_long(text: str, kill: Kill) -> None:
    assert parse_kill(text) == kill


@pytest.mark.parametrize("text", ["", "2", "@3", "2@", "-1@3", "2@3+", "2@3-1", "2@nan", "two@3", "2@3+5 "])
def test_anything_else_is_no_kill(text: str) -> None:
    with pytest.raises(OperatorError, match="--kill wants INDEX@SECONDS"):
        parse_kill(text)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"validators": 0}, "--validators must be 1 to 64, not 0."),
        ({"validators": 65}, "--validators must be 1 to 64, not 65."),
        ({"seconds": 0}, "--seconds must be positive, not 0."),
        ({"seconds": -1.0}, "--seconds must be positive, not -1.0."),
        ({"seconds": nan}, "--seconds must be positive, not nan."),
        ({"seconds": inf}, "--seconds must be positive, not inf."),
        ({"blocks": -1}, "--blocks must not be negative, not -1."),
        ({"speed": 0}, "--speed must be 1 to 600, not 0."),
        ({"speed": 601}, "--speed must be 1 to 600, not 601."),
        ({"traders": 3}, "--traders must be 4 (one of each role) to 1000, not 3."),
        ({"traders": 10**9}, "--traders must be 4 (one of each role) to 1000, not 1000000000."),
        ({"orders_per_second": 0.0}, "--orders-per-second must be positive, not 0.0."),
        ({"orders_per_second": nan}, "--orders-per-second must be positive, not nan."),
        ({"min_block_ms": -1}, "--min-block-ms must be 0 to 60000, not -1."),
        ({"market": "no-such-place"}, "--market no-such-place is neither 'synthetic' nor a directory."),
        ({"kill": ("4@1",)}, "--kill names validator 4, there are 4."),
        ({"kill": ("1@58",)}, "--kill 1 would restart it 61 s into a run of 60 s"),
        ({"kill": ("1@5+9", "1@7")}, "--kill wants to kill validator 1 at 7 s, while it is down."),
        ({"kill": ("1@7", "1@5+9")}, "--kill wants to kill validator 1 at 7 s, while it is down."),
        ({"report": Path("/no/such/place/r.json")}, "there is no directory /no/such/place."),
        ({"report": Path("/")}, "--report / is a directory."),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_started(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(OperatorError) as refused:
        check_plan(replace(Plan(), **changes))
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_the_default_plan_and_several_kills_are_fine(tmp_path: Path) -> None:
    plan = replace(Plan(), kill=("2@3+2", "2@9", "1@4"), market=str(tmp_path), report=tmp_path / "r.json")
    assert check_plan(plan) is plan
    assert plan.kills == (Kill(2, 3.0, 2.0), Kill(2, 9.0, 3.0), Kill(1, 4.0, 3.0))
    assert (Plan().is_synthetic, plan.is_synthetic) == (True, False)
