"""`quorate sim`: deterministic campaigns against the real consensus core. The only module here that prints."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from primitives.errors import OperatorError
from testnet.sim.campaign import (
    TWINS_PER_TASK,
    RunResult,
    Spread,
    campaign,
    in_processes,
    quiet,
    result_of,
    twins_campaign,
)
from testnet.sim.canaries import CANARIES, SECONDS_MAX, canary_campaign
from testnet.sim.cluster import on_cluster
from testnet.sim.plan import Plan, from_json, to_json
from testnet.sim.report import (
    Verdict,
    page_of,
    report_of_canaries,
    report_of_runs,
    report_of_twins,
    verdict_on,
)
from testnet.sim.shrink import shrink
from testnet.sim.swarm import Wishes, draw_plan

T = TypeVar("T")
app = App(name="sim", help="Simulate whole networks from a seed, break them, and judge what they promise.")
app.command("testnet.model.commands:app", name="model", help="Check the consensus rules exhaustively.")
console = Console()


@app.command
def run(
    *,
    seeds: str = "",
    seed: int | None = None,
    plan: Path | None = None,
    validators: int = 0,
    hours: float = 0.0,
    jobs: int = 0,
    cluster: str = "",
    report: Path | None = None,
    trace: bool = False,
    application: str = "empty",
    save: Path = Path("."),
) -> int:
    """Run seeds (or one seed, or one saved plan) and check every promise at every event.

    A failing plan is made small and saved. Exit code: 0 promises kept, 1 one broken, 2 inconclusive.

    Examples:

        quorate sim run --seeds 1..200

        quorate sim run --seed 8271 --trace

        quorate sim run --plan sim-failure-8271.json

    Parameters
    ----------
    seeds
        First and last seed, as 1..200.
    seed
        One seed.
    plan
        One plan, as saved after a failure.
    validators
        How many; by default 4, 7 or 10, from the seed.
    hours
        Length of the hostile part in simulated hours; by default 10 to 60 seconds, from the seed.
    jobs
        Processes; by default one for each processor.
    cluster
        Dask scheduler (tcp://host:port) on whose workers the seeds run instead; give them one thread each.
    report
        Write a JSON report here, and a page beside it that ends in .html.
    trace
        Print every event (one seed or plan).
    application
        empty: blocks without transactions; exchange: the real ledger under a stream of orders.
    save
        Directory for plans that failed.
    """
    quiet()
    wishes = Wishes(validators, int(hours * 3_600_000), _application(application))
    chosen = None if seeds or cluster else _plan(plan, seed, wishes)
    if chosen is None:
        results = _campaign(seeds, wishes, jobs, cluster)
    else:
        results = [result_of(chosen, trace=_print if trace else None)]
    _save_failures(results, wishes, chosen, save)
    return _finish("Simulation", verdict_on(results), report_of_runs(results), report)


@app.command
def fork(
    *,
    seeds: str,
    validators: int = 0,
    jobs: int = 0,
    cluster: str = "",
    report: Path | None = None,
    save: Path = Path("."),
) -> int:
    """Let more than f (at most 2f) validators collude: every fork must name f+1 of them, and nobody honest.

    Example: quorate sim fork --seeds 1..200

    Parameters
    ----------
    cluster
        Dask scheduler (tcp://host:port) on whose workers the seeds run instead.
    """
    quiet()
    wishes = Wishes(validators=validators, over_threshold=True)
    results = _campaign(seeds, wishes, jobs, cluster)
    _save_failures(results, wishes, None, save)
    return _finish("Forks", verdict_on(results, forks_wanted=True), report_of_runs(results), report)


@app.command
def twins(
    *,
    scenarios: Annotated[int, Parameter(name=("--scenarios", "-n"))] = 20_000,
    validators: int = 4,
    jobs: int = 0,
    cluster: str = "",
    report: Path | None = None,
) -> int:
    """Give f validators two cores with one key each, and draw a partition for every (view, kind).

    Example: quorate sim twins --scenarios 100000

    Parameters
    ----------
    cluster
        Dask scheduler (tcp://host:port) on whose workers the scenarios run instead.
    """
    quiet()
    tasks = -(-scenarios // TWINS_PER_TASK)
    runs = twins_campaign(scenarios, validators, _spread(jobs, cluster))
    results = list(_watched(runs, tasks, f"x {TWINS_PER_TASK} scenarios"))
    found = report_of_twins(results, validators)
    verdict = Verdict.BROKEN if found["violations"] else Verdict.KEPT
    if not found["with_finality"] or not found["with_offences"]:
        verdict = Verdict.INCONCLUSIVE if verdict is Verdict.KEPT else verdict
    return _finish("Twins", verdict, found, report)


@app.command
def canaries(
    *, seconds: float = SECONDS_MAX, only: str = "", jobs: int = 0, report: Path | None = None
) -> int:
    """Break the build on purpose, one rule at a time: every breach must be noticed.

    Example: quorate sim canaries
    """
    quiet()
    caught = []
    chosen = [canary for canary in CANARIES if only in canary.name]
    for one in canary_campaign([canary.name for canary in chosen], seconds, _jobs(jobs)):
        caught.append(one)
        word = "[green]caught[/]" if one.caught else "[bold red]LIVES[/]"
        console.print(f"{word} {one.seconds:7.2f} s  {one.name}  [dim]{one.oracle}[/]", highlight=False)
    verdict = Verdict.KEPT if all(one.caught for one in caught) else Verdict.BROKEN
    return _finish("Canaries", verdict, report_of_canaries(caught), report)


def _application(name: str) -> str:
    if name not in ("empty", "exchange"):
        raise OperatorError(f"there is no application {name}: empty or exchange.")
    return name


def _campaign(seeds: str, wishes: Wishes, jobs: int, cluster: str) -> list[RunResult]:
    if cluster and not seeds:
        raise OperatorError("--cluster spreads many runs: give it --seeds, for example --seeds 1..1000.")
    wanted = _seeds(seeds)
    return list(_watched(campaign(wanted, wishes, _spread(jobs, cluster)), len(wanted), "runs"))


def _spread(jobs: int, cluster: str) -> Spread:
    """Where a campaign's tasks are done."""
    return on_cluster(cluster) if cluster else in_processes(_jobs(jobs))


def _seeds(text: str) -> range:
    first, dots, last = text.partition("..")
    if not dots or not first.isdecimal() or not last.isdecimal() or int(last) < int(first):
        raise OperatorError(f"seeds are given as first..last, for example 1..200, not {text!r}.")
    return range(int(first), int(last) + 1)


def _plan(path: Path | None, seed: int | None, wishes: Wishes) -> Plan:
    if path is None:
        return draw_plan(seed if seed is not None else 1, wishes)
    try:
        return from_json(path.read_bytes())
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}.") from None


def _jobs(jobs: int) -> int:
    return jobs or os.cpu_count() or 1


def _print(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _watched(results: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """A progress bar on a terminal; nothing elsewhere."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        for result in results:
            progress.advance(task)
            yield result


def _save_failures(results: Sequence[RunResult], wishes: Wishes, plan: Plan | None, directory: Path) -> None:
    """The first three, made small; of the plan that ran, or of what each seed draws."""
    for broken in [result for result in results if result.oracle][:3]:
        _save_failure(plan or draw_plan(broken.seed, wishes), broken, directory)


def _save_failure(plan: Plan, broken: RunResult, directory: Path) -> None:
    console.print(f"[bold red]seed {broken.seed}: {broken.oracle}[/]: {broken.detail}", highlight=False)
    small = shrink(plan, broken.oracle)
    path = directory / f"sim-failure-{broken.seed}.json"
    path.write_text(to_json(small), encoding="utf-8")
    console.print(
        f"made small: {len(plan.faults)} to {len(small.faults)} faults, {plan.validators} to "
        f"{small.validators} validators. Replay: quorate sim run --plan {path} --trace",
        highlight=False,
        soft_wrap=True,
    )


def _finish(title: str, verdict: Verdict, found: dict[str, Any], path: Path | None) -> int:
    color = {Verdict.KEPT: "green", Verdict.BROKEN: "red", Verdict.INCONCLUSIVE: "yellow"}[verdict]
    console.print(f"[bold {color}]{title}: {verdict.name.lower()}[/]", highlight=False)
    for key, value in found.items():
        if isinstance(value, int | float | str) or (isinstance(value, list) and len(value) < 4):
            console.print(f"  {key}: {value}", highlight=False)
    if path is not None:
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        path.with_suffix(".html").write_text(page_of(title, verdict, found), encoding="utf-8")
        console.print(f"  report: {path} and {path.with_suffix('.html')}", highlight=False, soft_wrap=True)
    return verdict.value
