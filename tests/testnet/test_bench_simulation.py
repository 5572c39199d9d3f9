"""The simulator's bench runs whole simulations and writes flat figures that say what they are of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testnet.bench import commands
from testnet.bench.simulation import simulation_figures


def test_the_figures_say_what_they_are_of_and_are_positive() -> None:
    figures = simulation_figures(seconds=0.01, simulated_ms=5_000, scenarios=3)
    assert list(figures) == [
        "sim.validators",
        "sim.block_interval_ms",
        "sim.cluster_hours_per_core_minute",
        "sim.cluster_hours_per_core_minute_at_1000_ms",
        "sim.twins_per_core_second",
    ]
    assert all(value > 0 for value in figures.values())


def test_fewer_blocks_in_an_hour_are_simulated_faster() -> None:
    figures = simulation_figures(seconds=0.05, simulated_ms=20_000, scenarios=1)
    dense, sparse = (value for name, value in figures.items() if "hours" in name)
    assert sparse > dense


def test_the_command_writes_one_flat_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "simulation_figures", lambda: simulation_figures(0.01, 5_000, 3))
    commands.app(["sim", "--json", str(tmp_path / "figures.json")], result_action="return_value")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["sim.block_interval_ms"] == 200
    assert all(isinstance(value, int | float) for value in figures.values())
