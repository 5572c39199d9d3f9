"""What other Python processes, each with a hash seed of its own, say of the same plan."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable


def event_hashes(imported: str, plan: str, hash_seeds: Iterable[str]) -> set[str]:
    """The event hashes of a plan, an expression over what is imported, in a process for each hash seed."""
    program = (
        f"from testnet.sim.campaign import quiet, result_of; {imported}; quiet();"
        f"print(result_of({plan}).event_hash)"
    )
    return {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in hash_seeds
    }
