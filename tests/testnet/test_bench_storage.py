"""`quorate bench storage` on a short month: every figure is there and possible."""

from __future__ import annotations

from pathlib import Path

import pytest

from testnet.bench.storage import StoragePlan, storage_figures


@pytest.mark.slow
def test_a_month_of_few_blocks_is_measured(tmp_path: Path) -> None:
    told: list[str] = []
    figures = storage_figures(StoragePlan(blocks=60, accounts=200), told.append, tmp_path)
    assert told
    assert figures["storage.blocks"] == 60
    assert 1_000 < figures["storage.bytes_per_block"] < 50_000
    assert 0 < figures["storage.restore_state_s"] < figures["storage.start_s"]
    assert figures["snapshot.accounts"] == 200
    assert figures["snapshot.chunks"] >= 1
    assert figures["snapshot.write_s"] > 0
