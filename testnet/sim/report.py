"""What a campaign came to: a verdict, a JSON object, and a page for people. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from html import escape
from typing import Any

from testnet.sim.campaign import RunResult, TwinsResult, sum_sometimes
from testnet.sim.canaries import Caught

PROMISES = {
    "agreement": "two honest validators never finalize different blocks at one height",
    "one chain": "final blocks follow each other without a gap",
    "justified": "every final block is justified and proved, by rules written a second time",
    "one signature": "an honest key signs one vote of each kind in a view, and none that contradicts another",
    "persist before send": "every vote is on the disk before it is on the wire",
    "no honest accused": "evidence never names an honest validator",
    "no alarm": "with at most f Byzantine validators nobody halts",
    "culprits": "every fork names f+1 guilty validators and nobody honest",
    "liveness": "a healed core has a new final block within its stated bound",
    "replay": "replay and restart give the same state root",
    "lost disk": "a validator that lost its memory watches first, and never votes where it may have voted",
    "doppelganger": "a validator that hears its own key elsewhere stops",
    "one set": "each height has one set of validators and one protocol version, those that were decided for it",
    "bounded": "queues, caches and trees keep within their limits",
    "honest messages pass": "no honest message is refused",
    "invariant": "the program's own invariants hold",
    "no exception": "no input raises an exception",
    "conservation": "money is conserved in the ledger",
    "catch-up": "what a range proves is proved by rules written a second time, and who lied is dropped for the run",
    "event hash": "the same plan gives the same events",
}
SOMETIMES = (
    *("fast finality", "slow finality", "leader skipped", "block after three failed views"),
    *("block on a carried parent", "final through a descendant", "crash between two effects"),
    *("crash inside a sync", "torn record dropped", "journal compacted", "observer after a lost disk"),
    *("stopped itself", "fault clock_step", "fault pause", "fault deaf", "refused: bad signature"),
    *("set changed", "validator joined", "validator left", "partition and dead leader at a switch"),
    *("caught up past an epoch", "epoch closed by a suffix", "watch ended", "stopped by its double"),
    *("upgrade in force", "old build stopped", "caught up by ranges", "range asked of another peer"),
    *("step while the disk is busy", "lying server dropped", "question timed out", "crash while catching up"),
    *(
        "epoch opened",
        "evidence E1",
        "evidence E2",
        "evidence E3",
        "evidence E4",
        "evidence E5",
        "evidence E6'",
    ),
)
"""What a large campaign must have reached at least once."""
LARGE_RUNS = 200
"""From so many runs on, something never reached makes the campaign inconclusive."""


class Verdict(Enum):
    """Exit codes."""

    KEPT = 0
    BROKEN = 1
    INCONCLUSIVE = 2


def verdict_on(runs: Sequence[RunResult], *, forks_wanted: bool = False) -> Verdict:
    """Broken if any promise is; inconclusive if too little has happened to say."""
    if any(run.oracle for run in runs):
        return Verdict.BROKEN
    if not runs or (forks_wanted and not any(run.forks for run in runs)):
        return Verdict.INCONCLUSIVE
    if not forks_wanted and len(runs) >= LARGE_RUNS and never_reached(runs):
        return Verdict.INCONCLUSIVE
    return Verdict.KEPT


def never_reached(runs: Sequence[RunResult]) -> list[str]:
    """What should happen sometimes, and did not."""
    total = sum_sometimes(runs)
    return [name for name in SOMETIMES if not total[name]]


def report_of_runs(runs: Sequence[RunResult]) -> dict[str, Any]:
    """Everything that a machine may want to know."""
    hours = sum(run.simulated_ms for run in runs) / 3_600_000
    seconds = sum(run.seconds for run in runs)
    slowest = max(runs, key=lambda run: run.recovery_ms, default=None)
    broken = [run for run in runs if run.oracle]
    return {
        "runs": len(runs),
        "seeds": [runs[0].seed, runs[-1].seed] if runs else [],
        "violations": [{"seed": run.seed, "oracle": run.oracle, "detail": run.detail} for run in broken],
        "cluster_hours": round(hours, 3),
        "cpu_seconds": round(seconds, 1),
        "cluster_hours_per_cpu_minute": round(hours / seconds * 60, 2) if seconds else 0,
        "blocks": sum(run.height for run in runs),
        "events": sum(run.events for run in runs),
        "byzantine_validators": sum(run.byzantine for run in runs),
        "event_hash": runs[0].event_hash if len(runs) == 1 else "",
        "recovery_ms_max": slowest.recovery_ms if slowest else 0,
        "recovery_limit_ms": slowest.recovery_limit_ms if slowest else 0,
        "recovery_seed": slowest.seed if slowest else 0,
        "forked_runs": sum(1 for run in runs if run.forks),
        "forks": sum(len(run.forks) for run in runs),
        "sometimes": dict(sorted(sum_sometimes(runs).items())),
        "never_reached": never_reached(runs),
    }


def report_of_twins(results: Sequence[TwinsResult], validators: int) -> dict[str, Any]:
    """The same for twins."""
    scenarios = sum(result.scenarios for result in results)
    seconds = sum(result.seconds for result in results)
    return {
        "scenarios": scenarios,
        "validators": validators,
        "violations": [
            {"seed": seed, "oracle": oracle, "detail": detail}
            for result in results
            for seed, oracle, detail in result.violations
        ],
        "with_finality": sum(result.finalized for result in results),
        "with_offences": sum(result.offences for result in results),
        "cpu_seconds": round(seconds, 1),
        "scenarios_per_cpu_second": round(scenarios / seconds, 1) if seconds else 0,
    }


def report_of_canaries(caught: Sequence[Caught]) -> dict[str, Any]:
    """The same for canaries."""
    return {
        "canaries": [
            {
                "name": one.name,
                "caught": one.caught,
                "seconds": one.seconds,
                "attempts": one.attempts,
                "oracle": one.oracle,
            }
            for one in caught
        ]
    }


def page_of(title: str, verdict: Verdict, report: dict[str, Any]) -> str:
    """One self-contained HTML page: the verdict, the promises, what was reached, and how to replay a failure."""
    color = {Verdict.KEPT: "#1a7f37", Verdict.BROKEN: "#b42318", Verdict.INCONCLUSIVE: "#9a6700"}[verdict]
    facts = [(key, value) for key, value in report.items() if isinstance(value, int | float | str)]
    parts = [
        f"<h1 style='color:{color}'>{escape(title)}: {verdict.name.lower()}</h1>",
        _table(("figure", "value"), facts),
    ]
    violations = report.get("violations", [])
    if violations:
        failed = [
            (v["seed"], v["oracle"], v["detail"], f"quorate sim run --seed {v['seed']}") for v in violations
        ]
        parts += ["<h2>Broken</h2>", _table(("seed", "promise", "what was seen", "replay"), failed)]
    if "sometimes" in report:
        broken = {v["oracle"] for v in violations}
        rows = [(name, text, "broken" if name in broken else "kept") for name, text in PROMISES.items()]
        reached = report["sometimes"]
        parts += ["<h2>Promises</h2>", _table(("name", "promise", "in this campaign"), rows)]
        counts = [(name, reached.get(name, 0)) for name in dict.fromkeys((*SOMETIMES, *reached))]
        parts += ["<h2>What happened sometimes</h2>", _table(("event", "count"), counts)]
    if "canaries" in report:
        rows = [tuple(one.values()) for one in report["canaries"]]
        parts += ["<h2>Canaries</h2>", _table(("broken build", "caught", "seconds", "attempts", "by"), rows)]
    style = "body{font:15px system-ui;margin:2em auto;max-width:70em}td,th{padding:.2em .8em;text-align:left}"
    return (
        f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{style}</style>"
        + "".join(parts)
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"
