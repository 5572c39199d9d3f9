"""How much one core simulates in a minute, and how many Twins scenarios in a second. Reads the processor's clock."""

from __future__ import annotations

import time
from itertools import count

from primitives.errors import ensure
from testnet.sim.campaign import quiet, run_twins
from testnet.sim.plan import Plan
from testnet.sim.simulation import verdict_of

VALIDATORS = 4
BLOCK_INTERVAL_MS = 200
"""What plans have unless they say otherwise; the figure without an interval in its name is for this one."""
SPARSE_BLOCK_INTERVAL_MS = 1_000
SIMULATED_MS = 120_000
"""One run: signatures of the model, blocks without bodies, no faults."""
SCENARIOS = 250
"""Twins scenarios between two looks at the clock."""
SECONDS = 6.0
"""Processor time for each of the three measurements."""


def simulation_figures(
    seconds: float = SECONDS, simulated_ms: int = SIMULATED_MS, scenarios: int = SCENARIOS
) -> dict[str, float]:
    """Flat keys for `quorate bench sim`; per second of this process's processor time, whatever else runs here."""
    quiet()
    hours = "sim.cluster_hours_per_core_minute"
    dense = _hours_per_minute(BLOCK_INTERVAL_MS, seconds, simulated_ms)
    sparse = _hours_per_minute(SPARSE_BLOCK_INTERVAL_MS, seconds, simulated_ms)
    return {
        "sim.validators": VALIDATORS,
        "sim.block_interval_ms": BLOCK_INTERVAL_MS,
        hours: dense,
        f"{hours}_at_{SPARSE_BLOCK_INTERVAL_MS}_ms": sparse,
        "sim.twins_per_core_second": _twins_per_second(seconds, scenarios),
    }


def _hours_per_minute(block_interval_ms: int, seconds: float, simulated_ms: int) -> float:
    """Whole runs of consecutive seeds until the time is up; every promise is checked as in a campaign."""
    start, total_ms = time.process_time(), 0
    for seed in count(1):
        plan = Plan(
            seed=seed,
            validators=VALIDATORS,
            min_block_ms=block_interval_ms,
            hostile_ms=simulated_ms,
            healed=tuple(range(VALIDATORS)),
        )
        simulation, violation = verdict_of(plan)
        ensure(violation is None, f"a run without faults broke a promise: {violation}")
        total_ms += simulation.now_ns // 1_000_000
        spent = time.process_time() - start
        if spent >= seconds:
            break
    return (total_ms / 3_600_000) / (spent / 60)


def _twins_per_second(seconds: float, scenarios: int) -> float:
    start = time.process_time()
    for rounds in count(1):
        found = run_twins(((rounds - 1) * scenarios, scenarios), VALIDATORS)
        ensure(not found.violations, f"a Twins scenario broke a promise: {found.violations[:1]}")
        spent = time.process_time() - start
        if spent >= seconds:
            break
    return rounds * scenarios / spent
