"""The bench of many accounts, small: its accounts really hold, its traders really trade, its figures are flat."""

from __future__ import annotations

from testnet.bench.crowd import CrowdPlan, crowd_figures


def test_few_accounts_and_blocks_are_measured_for_each_number_of_positions() -> None:
    figures = crowd_figures(CrowdPlan(accounts=200, positions=(0, 3), traders=4, blocks=2))
    assert set(figures) == {
        "crowd.accounts",
        "crowd.traders",
        *(f"crowd.{n}_positions.{name}" for n in (0, 3) for name in ("block_ms", "blocks_per_cpu_s")),
        *(f"crowd.{n}_positions.{name}" for n in (0, 3) for name in ("holders", "trades")),
    }
    assert figures["crowd.3_positions.holders"] > 190
    assert figures["crowd.0_positions.holders"] == 4
    assert figures["crowd.0_positions.trades"] == figures["crowd.3_positions.trades"] == 2 * 2
    assert figures["crowd.3_positions.block_ms"] > 0
