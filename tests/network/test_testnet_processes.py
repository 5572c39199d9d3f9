"""`quorate testnet up` as a user runs it: real processes, a kill, a verdict. The report is the witness."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture
def short_home() -> Iterator[Path]:
    """Unix sockets have names of at most 107 bytes; pytest's own directories are longer than a user's."""
    path = Path(tempfile.mkdtemp(prefix="qt-"))
    yield path / "home"
    shutil.rmtree(path, ignore_errors=True)


def run_testnet(home: Path, *arguments: str, seconds_max: float) -> tuple[int, dict[str, Any], str]:
    """(exit code, report, what it printed)."""
    report = home.parent / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "node", "testnet", "up", "--no-view"),
            *("--home", str(home), "--report", str(report), *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds_max,
        stdin=subprocess.DEVNULL,
    )
    assert report.exists(), done.stdout + done.stderr
    return done.returncode, json.loads(report.read_text()), done.stdout + done.stderr


def test_four_processes_trade_one_is_killed_and_every_promise_is_kept(short_home: Path) -> None:
    code, report, said = run_testnet(short_home, "--seconds", "12", "--kill", "2@3+2", seconds_max=90)
    assert (report["verdict"], report["broken"], report["doubts"], code) == ("kept", [], [], 0), said
    assert report["state_root_agreement"] is True
    assert report["compared_heights"] >= 20 and report["final_height"]["min"] >= 20
    assert report["trades"] > 0
    assert report["orders"]["acknowledged"] > 0 and report["orders"]["lost"] == 0
    assert report["conservation"] == {"ok": True, "checked_blocks": report["final_height"]["min"]}
    (recovery,) = report["recoveries"]
    assert recovery["validator"] == 2 and recovery["voted_seconds"] <= 10
    assert report["equivocations"] == 0
    assert "Promises kept: 4 validators agreed on every state root." in said
    assert processes_in(short_home) == []


@pytest.mark.slow
def test_a_kill_loop_costs_no_vote_no_final_order_and_nobody_more_than_ten_seconds(short_home: Path) -> None:
    code, report, said = run_testnet(short_home, "--seconds", "60", "--kill-every", "6", seconds_max=180)
    assert (report["verdict"], report["broken"], code) == ("kept", [], 0), said
    assert len(report["recoveries"]) >= 6
    assert max(recovery["voted_seconds"] for recovery in report["recoveries"]) <= 10
    assert report["signatures"]["double"] == 0 and report["signatures"]["compared"] > 500
    assert report["orders"]["lost"] == 0


@pytest.mark.slow
def test_a_minute_settles_an_expiry_and_liquidates_the_gambler(short_home: Path) -> None:
    code, report, said = run_testnet(short_home, "--seconds", "60", seconds_max=180)
    assert (code, report["verdict"]) == (0, "kept"), said
    assert report["expiries_settled"] >= 1 and report["liquidations"] >= 1
    finality = report["finality_ms"]
    assert 0 < finality["p50"] <= finality["p99"] and finality["count"] > 100
    assert report["rss_mb_max"] <= 350
    assert len(report["cpu_seconds_per_validator"]) == 4


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the real option chains are not on this machine")
def test_a_replay_of_real_chains_keeps_every_promise(short_home: Path) -> None:
    code, report, said = run_testnet(short_home, "--seconds", "30", "--market", str(DATA), seconds_max=150)
    assert (code, report["verdict"], report["market"]) == (0, "kept", str(DATA)), said
    assert report["trades"] > 0 and report["epsilon_bp"]["p50"] is not None
    assert report["surface_rmse_vol_points"]["p50"] is not None


def processes_in(home: Path) -> list[int]:
    """Processes whose command line names something in the home: ours, and nobody may be left."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(home).encode() in command:
                found.append(int(entry.name))
    return found
