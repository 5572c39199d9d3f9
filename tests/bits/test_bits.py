"""The same bits everywhere: a history's every event and root under other CPU features, hash seeds and Pythons."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SEED = 2026
NEWER_PYTHONS = ("python3.12", "python3.13", "python3.14")
NEEDED = "import coincurve, Crypto, msgspec, nacl, numpy"
SECONDS_MAX = 1_200


class Machine(NamedTuple):
    """One way to run the same history."""

    name: str
    python: str = sys.executable
    hash_seed: str = "0"
    disabled: str = ""

    def digest(self, blocks: int) -> str:
        """What tests.histories prints there."""
        environment = {
            **os.environ,
            "PYTHONHASHSEED": self.hash_seed,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NPY_DISABLE_CPU_FEATURES": self.disabled,
        }
        command = [self.python, "-m", "tests.histories", str(SEED), str(blocks)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}: {done.stderr[-2_000:]}"
        return done.stdout.strip()


def features() -> list[str]:
    """The CPU features that NumPy would dispatch on here, so those worth switching off."""
    umath = importlib.import_module("numpy._core._multiarray_umath")
    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]


def here() -> list[Machine]:
    """This Python: all features, none, only the last one off; three hash seeds."""
    found = features()
    machines = [Machine("as it is"), Machine("no features", hash_seed="1", disabled=" ".join(found))]
    if len(found) > 1:
        machines.append(Machine(f"without {found[-1]}", hash_seed="77", disabled=found[-1]))
    else:
        machines.append(Machine("hash seed 77", hash_seed="77"))
    return machines


def newer_pythons() -> list[Machine]:
    """Newer Pythons on the path, or named by QUORATE_PYTHONS, that have what the ledger needs."""
    named = os.environ.get("QUORATE_PYTHONS", "").split(os.pathsep)
    found = [shutil.which(name) for name in (*NEWER_PYTHONS, *named) if name]
    usable = []
    for python in found:
        if python is not None:
            probe = subprocess.run([python, "-c", NEEDED], capture_output=True, timeout=60, check=False)
            if probe.returncode == 0:
                usable.append(Machine(python, python=python))
    return usable


def digests(machines: list[Machine], blocks: int) -> set[str]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        return set(pool.map(lambda machine: machine.digest(blocks), machines))


def test_neither_cpu_features_nor_hash_seeds_change_a_bit() -> None:
    found = digests(here()[:2], blocks=200)
    assert len(found) == 1
    assert len(found.pop()) == 64


def test_another_history_has_another_digest() -> None:
    assert len({Machine("as it is").digest(blocks) for blocks in (1, 2)}) == 2


def test_a_newer_python_changes_no_bit() -> None:
    machines = newer_pythons()
    if not machines:
        pytest.skip(f"none of {', '.join(NEWER_PYTHONS)} or QUORATE_PYTHONS has what the ledger imports")
    assert len(digests([*here()[:1], *machines], blocks=50)) == 1


@pytest.mark.slow
def test_ten_thousand_blocks_are_the_same_everywhere() -> None:
    assert len(digests([*here(), *newer_pythons()], blocks=10_000)) == 1
