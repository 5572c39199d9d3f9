"""`quorate testnet`: a whole market on this machine, and its verdict. The only module here that prints."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import App, Parameter
from rich.console import Console
from rich.live import Live

from primitives.errors import OperatorError
from testnet.plan import Plan, check_plan
from testnet.report import Facts, ListingFacts, Verdict, broken_promises, doubts, judge, report_of
from testnet.run import Run
from testnet.setup import Layout, create
from testnet.view import Picture, render, status_line

STATUS_LINE_SECONDS = 5.0
DEFAULT_PLAN = Plan()

app = App(name="testnet", help="Run a local network of real validators with a market and traders.")


@app.command
def up(plan: Annotated[Plan, Parameter(name="*")] = DEFAULT_PLAN) -> int:
    """Start validators, venues and traders as processes on loopback, watch them, stop them, and judge the run.

    Prints a verdict and writes a JSON report. Exit code: 0 promises kept, 1 a promise broken, 2 inconclusive.

    Examples:

        quorate testnet up

        quorate testnet up --validators 7 --seconds 120 --kill 2@30+5

        quorate testnet up --market ../shared/data --report replay.json
    """
    return _run(check_plan(plan))


def _run(plan: Plan) -> int:
    console = Console()
    directory = _new_home(plan)
    layout = create(plan, directory)
    console.print(
        f"Quorate testnet: {plan.validators} validators, {len(layout.instruments)} instruments, "
        f"{plan.market} market at {plan.speed}x, seed {plan.seed}. Files: {directory}"
    )
    console.print(
        f"To trade on it: --node http://127.0.0.1:{layout.gateway_ports[0]}; deposits: --key "
        f"{directory / 'custodian.json'}",
        highlight=False,
        soft_wrap=True,
    )
    facts = _watched(plan, layout, console)
    verdict = judge(facts)
    path = plan.report or directory / "report.json"
    path.write_text(json.dumps(report_of(facts), indent=2) + "\n", encoding="utf-8")
    _print_verdict(console, facts, verdict)
    keep = plan.home is not None or plan.report is None or verdict is not Verdict.KEPT
    console.print(f"Report: {path}")
    if not keep:
        shutil.rmtree(directory, ignore_errors=True)
    return verdict.exit_code


def _new_home(plan: Plan) -> Path:
    if plan.home is None:
        return Path(tempfile.mkdtemp(prefix="quorate-"))
    try:
        plan.home.mkdir(parents=True, exist_ok=True)
        if any(plan.home.iterdir()):
            raise OperatorError(f"{plan.home} is not empty: a testnet starts in a new directory.")
    except OSError as error:
        raise OperatorError(f"Cannot use {plan.home}: {error.strerror}.") from None
    return plan.home.absolute()


def _watched(plan: Plan, layout: Layout, console: Console) -> Facts:
    """The run under a live view on a terminal, under status lines elsewhere."""
    if plan.view and console.is_terminal:
        with Live(console=console, auto_refresh=False, screen=False) as live:
            run = Run(plan, layout, lambda picture: live.update(render(picture), refresh=True))
            return trio.run(run.execute)
    return trio.run(Run(plan, layout, _StatusLines(console)).execute)


class _StatusLines:
    """Prints a line every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_seconds = 0.0

    def __call__(self, picture: Picture) -> None:
        if picture.elapsed_seconds >= self._next_seconds:
            self._console.print(status_line(picture), highlight=False, soft_wrap=True)
            self._next_seconds = picture.elapsed_seconds + STATUS_LINE_SECONDS


def _print_verdict(console: Console, facts: Facts, verdict: Verdict) -> None:
    """A few lines that a person can take in."""
    report = report_of(facts)
    finality, heights = report["finality_ms"], report["final_height"]
    drift = report["drift"]
    colours = ", ".join(f"{count} {name}" for name, count in drift["judged"].items())
    color = {Verdict.KEPT: "green", Verdict.BROKEN: "red", Verdict.INCONCLUSIVE: "yellow"}[verdict]
    console.print(f"\n[bold {color}]{_headline(facts, verdict)}[/]")
    lines = [
        f"state roots equal on {facts.validators} validators at {facts.compared_heights} heights "
        f"(final height {heights['min']}..{heights['max']})",
        f"finality p50 {finality['p50']} ms, p99 {finality['p99']} ms, "
        f"fast path {finality['fast_share']}, over {finality['count']} measurements",
        f"orders {report['orders'].get('submitted', 0)} submitted, {report['orders'].get('filled', 0)} filled, "
        f"{report['orders']['lost']} lost; {facts.trades} trades, {facts.liquidations} liquidation steps, "
        f"{facts.expiries_settled} expiries settled",
        _listing_line(facts.listing),
        f"epsilon p50 {report['epsilon_bp']['p50']} bp against venue spread p50 {report['spread_bp']['p50']} bp",
        f"chain's epsilon p50 {drift['epsilon_bp']['p50']} bp, p99 {drift['epsilon_bp']['p99']} bp against half-spread "
        f"p50 {drift['half_spread_bp']['p50']} bp in {drift['epochs']} epochs: {colours or 'nothing judged'}; "
        f"{len(facts.phases)} changes of phase",
        f"conservation exact at {facts.conservation_checked} blocks; memory {report['rss_mb_max']} MB at most; "
        f"CPU seconds per validator {report['cpu_seconds_per_validator']}",
    ]
    for recovery in report["recoveries"]:
        lines.append(
            f"validator {recovery['validator']} killed: caught up {recovery['caught_up_seconds']} s and voted "
            f"{recovery['voted_seconds']} s after its restart"
        )
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def _listing_line(listing: ListingFacts) -> str:
    first = listing.first_trade_seconds
    when = "" if first is None else f", the first {first:.1f} s after the listing"
    return (
        f"{listing.series} new series and {listing.options} options listed meanwhile, "
        f"{listing.trades} trades in the series{when}"
    )


def _headline(facts: Facts, verdict: Verdict) -> str:
    if verdict is Verdict.KEPT:
        return f"Promises kept: {facts.validators} validators agreed on every state root."
    reasons = broken_promises(facts) if verdict is Verdict.BROKEN else doubts(facts)
    word = "PROMISE BROKEN" if verdict is Verdict.BROKEN else "Inconclusive"
    return f"{word}: " + "; ".join(reasons)
