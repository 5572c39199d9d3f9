"""A testnet that is ended before its time ends what it has started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

EXIT_OPERATOR = 2


def of_home(home: Path) -> list[int]:
    """Processes with this directory in their command line."""
    found = psutil.process_iter(["pid", "cmdline"])
    return [
        item.info["pid"] for item in found if any(str(home) in part for part in item.info["cmdline"] or ())
    ]


def test_sigterm_leaves_no_process_behind_and_judges_nothing(tmp_path: Path) -> None:
    home = tmp_path / "net"
    command = [
        sys.executable,
        "-m",
        "node",
        "testnet",
        "up",
        "--seconds",
        "600",
        "--no-view",
        "--home",
        str(home),
    ]
    testnet = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(of_home(home)) < 6 and time.monotonic() < deadline:  # itself, the market, four nodes
        time.sleep(0.1)

    testnet.send_signal(signal.SIGTERM)
    _, words = testnet.communicate(timeout=60)

    assert (testnet.returncode, "ended by SIGTERM" in words) == (EXIT_OPERATOR, True)
    assert of_home(home) == []
