"""The execution bench measures real orders: they are taken, they trade, and the figures are flat."""

from __future__ import annotations

import json
from pathlib import Path

from testnet.bench.commands import app
from testnet.bench.execution import Workload, measure


def test_a_small_workload_is_executed_and_counted() -> None:
    figures = measure(Workload(makers=3, takers=2, batch=10, blocks=3))
    assert figures["actions_per_block"] == 50
    assert figures["rejected"] == 0
    assert figures["accepted"] == 3 * (3 * 9 + 2 * 10)
    assert figures["trades"] > 0
    assert figures["actions_per_s"] > 0


def test_the_command_writes_one_flat_object(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    app(["execution", "--json", str(path)], result_action="return_value")
    figures = json.loads(path.read_text())
    assert figures["execution.actions_per_s"] > 0
    assert all(isinstance(value, int | float) for value in figures.values())
