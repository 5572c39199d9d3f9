"""The kernels give the same bits under every instruction set, hash seed and Python at hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__  # type: ignore[import-not-found]

from tests.ledger.pricing_digest import digest_of_everything

ROOT = Path(__file__).resolve().parents[2]
RECORDED = "5d4ee0c172d83034655f4e5175ebffeff1a95219d85cd7fbdc6ee4dad043f7c1"
"""What every machine gave so far. It changes with the kernel alone, on purpose: with it every state root does."""
PYTHONS = "QUORATE_PYTHONS"
"""Environment variable: interpreters with numpy to compare with, separated as PATH is."""


def feature_sets() -> list[str]:
    """Nothing off, then each dispatched feature off alone, then all of them; only what this machine has."""
    present = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    return ["", *present, " ".join(present)] if present else [""]


def digest_under(python: str, **variables: str) -> str:
    done = subprocess.run(
        [python, "-m", "tests.ledger.pricing_digest"],
        env={**os.environ, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def other_pythons() -> list[str]:
    """Interpreters of other versions that have numpy."""
    named = [path for path in os.environ.get(PYTHONS, "").split(os.pathsep) if path]
    found = [shutil.which(f"python3.{minor}") for minor in range(11, 16) if minor != sys.version_info.minor]
    return named + [path for path in found if path and _has_numpy(path)]


def _has_numpy(python: str) -> bool:
    done = subprocess.run([python, "-c", "import numpy"], capture_output=True, check=False, timeout=60)
    return done.returncode == 0


def test_these_are_the_bits_of_every_other_machine() -> None:
    assert digest_of_everything() == RECORDED


@pytest.mark.parametrize(("disabled", "seed"), [(f, str(n % 3)) for n, f in enumerate(feature_sets())])
def test_every_instruction_set_and_hash_seed_gives_the_same_bits(disabled: str, seed: str) -> None:
    digest = digest_under(sys.executable, NPY_DISABLE_CPU_FEATURES=disabled, PYTHONHASHSEED=seed)
    assert digest == digest_of_everything()


def test_another_python_gives_the_same_bits() -> None:
    pythons = other_pythons()
    if not pythons:
        pytest.skip(f"no other Python 3 with numpy on the PATH or in {PYTHONS}")
    assert {digest_under(python) for python in pythons} == {digest_of_everything()}
