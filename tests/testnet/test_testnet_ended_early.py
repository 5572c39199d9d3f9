"""A testnet that is ended before its time ends what it has started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

EXIT_OPERATOR = 2


def of_home(home: Path) -> list[int]:
    """Processes with this directory in their command line."""
    found = psutil.process_iter(["pid", "cmdline"])
    return [
        item.info["pid"] for item in found if any(str(home) in part for part in item.info["cmdline"] or ())
    ]


def a_running_testnet(home: Path) -> subprocess.Popen[str]:
    """Started; it returns once it, its market and its four nodes run."""
    command = ["-m", "node", "testnet", "up", "--seconds", "600", "--no-view", "--home", str(home)]
    testnet = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(of_home(home)) < 6 and time.monotonic() < deadline:
        time.sleep(0.1)
    return testnet


def test_sigterm_leaves_no_process_behind_and_judges_nothing(tmp_path: Path) -> None:
    testnet = a_running_testnet(tmp_path / "net")
    testnet.send_signal(signal.SIGTERM)
    _, words = testnet.communicate(timeout=60)
    assert (testnet.returncode, "ended by SIGTERM" in words) == (EXIT_OPERATOR, True)
    assert of_home(tmp_path / "net") == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
def test_a_killed_testnet_leaves_no_process_behind(tmp_path: Path) -> None:
    testnet = a_running_testnet(tmp_path / "net")
    testnet.kill()
    testnet.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while of_home(tmp_path / "net") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert of_home(tmp_path / "net") == []
