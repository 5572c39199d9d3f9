"""Many runs on many cores or machines, and what they came to. Starts worker processes; reads no clock inside a run.

A campaign is a list of tasks. `Spread` is where they are done: in processes here, or on a cluster (cluster.py).
"""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import msgspec
import structlog

from testnet.checkers import Violation
from testnet.sim.plan import Plan
from testnet.sim.simulation import Simulation, verdict_of
from testnet.sim.swarm import Wishes, draw_plan
from testnet.sim.twins import TwinScenario

TWICE_EVERY = 20
"""One seed in so many is run twice: both must give one event hash."""
SEEDS_PER_TASK = 4
TWINS_PER_TASK = 500
"""A task takes a second or so: it outweighs what it costs to hand out (Dask asks for 100 ms)."""

T = TypeVar("T")
R = TypeVar("R")


class Spread(Protocol):
    """Does tasks somewhere; the results come in the order of the tasks."""

    def __call__(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]: ...


class RunResult(msgspec.Struct, kw_only=True):
    """One run."""

    seed: int
    validators: int
    byzantine: int
    simulated_ms: int
    seconds: float
    events: int
    height: int
    event_hash: str
    recovery_ms: int
    recovery_limit_ms: int
    oracle: str = ""
    detail: str = ""
    forks: list[list[int]] = []
    """Whom each pair of conflicting chains names."""
    sometimes: dict[str, int] = {}


class TwinsResult(msgspec.Struct, kw_only=True):
    """Some hundred scenarios."""

    scenarios: int
    finalized: int
    offences: int
    seconds: float
    violations: list[tuple[int, str, str]]


def result_of(plan: Plan, *, twice: bool = False, trace: Callable[[str], None] | None = None) -> RunResult:
    """Run a plan, `twice` to compare the event hashes."""
    start = time.process_time()
    simulation, violation = verdict_of(plan, trace)
    if twice and violation is None:
        again, _ = verdict_of(plan)
        if again.event_hash() != simulation.event_hash():
            violation = Violation("event hash", "the same plan gave two different runs")
    return _result(plan, simulation, violation, time.process_time() - start)


def _result(plan: Plan, simulation: Simulation, violation: Violation | None, seconds: float) -> RunResult:
    return RunResult(
        seed=plan.seed,
        validators=plan.validators,
        byzantine=len(plan.traitors),
        simulated_ms=simulation.now_ns // 1_000_000,
        seconds=round(seconds, 3),
        events=simulation.events,
        height=max(validator.height for validator in simulation.validators),
        event_hash=simulation.event_hash(),
        recovery_ms=simulation.recovery_ms,
        recovery_limit_ms=simulation.recovery_limit_ms,
        oracle=violation.oracle if violation is not None else "",
        detail=violation.detail if violation is not None else "",
        forks=[sorted(guilty) for guilty in simulation.forks],
        sometimes=dict(sorted(simulation.sometimes.items())),
    )


def run_seed(wishes: Wishes, seed: int) -> RunResult:
    """One seed of a campaign."""
    return result_of(draw_plan(seed, wishes), twice=seed % TWICE_EVERY == 0)


def run_seeds(wishes: Wishes, seeds: Sequence[int]) -> list[RunResult]:
    """Some seeds of a campaign."""
    return [run_seed(wishes, seed) for seed in seeds]


def run_twins(first_count: tuple[int, int], validators: int = 4) -> TwinsResult:
    """Scenarios of consecutive seeds."""
    start = time.process_time()
    first, number = first_count
    found = TwinsResult(scenarios=number, finalized=0, offences=0, seconds=0.0, violations=[])
    for seed in range(first, first + number):
        try:
            outcome = TwinScenario(seed, validators, twins=(validators - 1) // 3).run()
        except Violation as violation:
            found.violations.append((seed, violation.oracle, violation.detail))
        else:
            found.finalized += outcome.final_height > 0
            found.offences += outcome.offences > 0
    found.seconds = round(time.process_time() - start, 3)
    return found


def quiet() -> None:
    """For every process of a campaign: no log lines, and a collector of garbage that comes seldom."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    gc.set_threshold(1_000_000, 20, 100)


def in_processes(jobs: int) -> Spread:
    """In so many processes of this machine; in this one if it is one."""

    def spread(work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        if jobs == 1:
            yield from map(work, tasks)
            return
        with ProcessPoolExecutor(jobs, initializer=quiet) as pool:
            yield from pool.map(work, tasks)

    return spread


def campaign(seeds: Sequence[int], wishes: Wishes, spread: Spread) -> Iterator[RunResult]:
    """Results in the order of the seeds."""
    tasks = [seeds[first : first + SEEDS_PER_TASK] for first in range(0, len(seeds), SEEDS_PER_TASK)]
    for results in spread(partial(run_seeds, wishes), tasks):
        yield from results


def twins_campaign(scenarios: int, validators: int, spread: Spread) -> Iterator[TwinsResult]:
    """Results for each few hundred scenarios."""
    tasks = [(first, min(TWINS_PER_TASK, scenarios - first)) for first in range(0, scenarios, TWINS_PER_TASK)]
    yield from spread(partial(run_twins, validators=validators), tasks)


def sum_sometimes(results: Iterable[RunResult]) -> Counter[str]:
    """How often everything happened."""
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.sometimes)
    return total
