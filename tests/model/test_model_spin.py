"""Spin on docs/model/consensus.pml: no fork as it is, and the explorer's shortest forks under each mistake."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from testnet.model.planted import MUTATIONS
from tests.model.shortest_forks import SHORTEST_FORKS

MODEL = Path(__file__).resolve().parents[2] / "docs" / "model" / "consensus.pml"
SPIN, CC = shutil.which("spin"), shutil.which("cc")

pytestmark = [
    pytest.mark.skipif(SPIN is None, reason="spin is not installed (Debian package: spin)"),
    pytest.mark.skipif(CC is None, reason="there is no C compiler (Debian package: gcc)"),
]


class Verdict(NamedTuple):
    """What Spin's verifier says: assertion violations, states, and lines of the model that were never reached."""

    errors: int
    states: int
    unreached: list[str]


def run(directory: Path, *command: str) -> str:
    return subprocess.run(
        command, cwd=directory, check=True, capture_output=True, text=True, timeout=300
    ).stdout


def verify(directory: Path, *defines: str) -> Verdict:
    """Breadth first, so that a violation is a shortest one; its trail is left in the directory."""
    shutil.copy(MODEL, directory)
    run(directory, "spin", *(f"-D{name}" for name in defines), "-a", MODEL.name)
    # Without -O: compiling takes longer than the run that it would speed up.
    run(directory, "cc", "-DSAFETY", "-DBFS", "-DNOREDUCE", "-o", "pan", "pan.c")
    said = run(directory, "./pan")
    found = re.search(r"errors: (\d+)\s+(\d+) states, stored", said)
    assert found is not None, said
    return Verdict(int(found[1]), int(found[2]), re.findall(r"\.pml:\d+, state \d+, (.*)", said))


def test_no_interleaving_forks_the_chain(tmp_path: Path) -> None:
    verdict = verify(tmp_path)
    # Every statement was reached but the end of the endless loop: no guard is closed by mistake.
    assert (verdict.errors, verdict.unreached) == (0, ['"-end-"'])
    assert verdict.states > 600_000


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_mistake_forks_the_chain(name: str, tmp_path: Path) -> None:
    macros = (name.upper().replace("-", "_"), "FORKS_ONLY")
    assert verify(tmp_path, *macros).errors == 1
    replayed = subprocess.run(
        ["spin", *(f"-D{macro}" for macro in macros), "-t", MODEL.name],
        cwd=tmp_path,
        check=False,  # spin ends with 1 when the assertion of the trail fails, as it must
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    steps = re.findall(
        r"^ +view \d: validator \d (?:notarizes|nullifies|finalizes|enters)", replayed, re.MULTILINE
    )
    assert len(steps) == SHORTEST_FORKS[name]
    assert "=> FORK: block 2.1 is final, and so is one of view 1" in replayed
