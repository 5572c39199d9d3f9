"""The benches of pricing and margin measure real work, name what is not installed, and write flat figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testnet.bench import commands, pricing
from testnet.bench.margin import margin_figures
from testnet.bench.pricing import pricing_figures


def test_margin_figures_have_a_time_for_each_size() -> None:
    figures = margin_figures(rounds=1, accounts=100)
    assert set(figures) >= {"margin.block_100_accounts_ms", "margin.block_1000_accounts_ms"}
    assert all(value > 0 for value in figures.values())


def test_pricing_figures_are_accurate_and_fast() -> None:
    figures = pricing_figures(lambda line: None, rounds=1)
    assert set(figures) >= {"pricing.values_25600_ms", "pricing.implied_vol_per_s"}
    assert figures["pricing.implied_vol_error_max"] < 1e-8
    assert figures.get("pricing.value_error_to_quantlib_usd_max", 0.0) < 1e-6


def test_a_peer_that_is_not_installed_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    lines: list[str] = []
    monkeypatch.setattr(pricing, "import_module", absent)
    figures = pricing_figures(lines.append, rounds=1)
    assert [line.split(" is not installed")[0] for line in lines] == ["scipy", "fast_vollib", "QuantLib"]
    assert not [name for name in figures if "ratio" in name or "quantlib" in name]


def test_plain_numpy_and_scipy_compute_the_same_greeks() -> None:
    special = pytest.importorskip("scipy.special", reason="the extra quorate[bench] is not installed")
    chain = pricing.a_chain(500)
    theirs = pricing.PEERS["scipy"][1](special, chain)()
    ours = pricing.black76.compute_values_and_greeks(*chain[6:])
    units = (1e6, 1e9, 1e12, 1e6, 1e6, 1e6)
    for mine, other, unit in zip((ours[0], *ours[1]), theirs, units, strict=True):  # type: ignore[call-overload]
        # Half a unit of ours, and the float's rounding.
        assert mine / unit == pytest.approx(other, rel=1e-9, abs=0.6 / unit)


def test_the_command_writes_one_flat_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "pricing_figures", lambda report: pricing_figures(report, rounds=1))
    commands.app(["pricing", "--json", str(tmp_path / "figures.json")], result_action="return_value")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["pricing.values_25600_ms"] > 0
    assert all(isinstance(value, int | float) for value in figures.values())
