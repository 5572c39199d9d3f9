"""The `quorate config`, `quorate doctor` and `quorate trace` commands. Print; read a home, measure its machine."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from node.config import load_config, setting_origins
from node.operations.findings import Finding, Level, worst_of
from node.operations.home_checks import check_home
from node.operations.log_steps import read_steps
from node.operations.machine_checks import check_clock, check_disk, check_limits, check_port, check_versions
from node.operations.running_checks import check_peers, check_running
from node.rpc.ask import ask_status

app = App(name="config", help="Check and show one node's settings.")

EXIT_PROBLEM = 1
_COLOURS = {Level.GOOD: "green", Level.NOTE: "blue", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}

Home = Annotated[Path, Parameter(help="The node's home directory.")]
File = Annotated[Path | None, Parameter(name="--config", help="Another file than HOME/node.toml.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for scripts.")]


@app.command
def check(*, home: Home, config: File = None, as_json: Json = False) -> None:
    """Say whether a node with this home would start, without starting it.

    Reads node.toml, QUORATE_* variables, genesis and the public part of the keystore; needs no password.

    Exit code: 0 if it would start, 1 if not.

    Example: quorate config check --home network/node0
    """
    _, findings = check_home(home, config, os.environ)
    _finish(findings, as_json)


@app.command
def show(*, home: Home, config: File = None) -> None:
    """Print every setting in force and where it comes from: a variable, the file or the default.

    Example: quorate config show --home network/node0
    """
    loaded = load_config(home, config, environment=os.environ)
    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for name, origin in setting_origins(home, config, os.environ):
        value: object = loaded
        for part in name.split("."):
            value = getattr(value, part)
        table.add_row(name, json.dumps(value), origin)
    for name, address in loaded.venues.items():
        table.add_row(f"venues.{name}", json.dumps(address), "file")
    for peer in loaded.peers:
        table.add_row(f"peers[{peer.index}]", f"{peer.host} port {peer.port}", "file")
    Console(soft_wrap=True).print(table, markup=False)


def doctor(*, home: Home, config: File = None, as_json: Json = False) -> None:
    """Look at a node's home, its machine and its network, and say what to do about each finding.

    Measures the disk with 100 small synced writes, connects to each peer once, and asks the node itself if it runs.

    Exit code: 0 if there is no problem (warnings may be), 1 if there is one.

    Example: quorate doctor --home network/node0
    """
    loaded, findings = check_home(home, config, os.environ)
    findings += [*check_versions(), check_clock(), *check_limits()]
    if loaded is not None:
        status = ask_status(loaded.socket_path)
        running = status is not None
        findings += check_disk(loaded.data_path)
        findings.append(check_port("listen", loaded.listen.host, loaded.listen.port, is_running=running))
        if loaded.gateway.enabled:
            gateway = loaded.gateway
            findings.append(check_port("gateway port", gateway.host, gateway.port, is_running=running))
        findings += [*check_peers(loaded), *check_running(status)]
    _finish(findings, as_json)


def trace(transaction: str, *logs: Path) -> None:
    """Show one transaction's way through every node, from log files written at level debug.

    Give the log files of one or several nodes; their clocks should agree, for lines are put in order of time.

    Exit code: 0 if it was found, 1 if not.

    Example: quorate trace 3f0c2a... network/node0/node.log network/node1/node.log

    Parameters
    ----------
    transaction
        Its id, as the acknowledgement of an order names it; the first 8 or more digits are enough.
    logs
        Log files (setting log_file, with log_level = "debug").
    """
    steps = read_steps(transaction, logs)
    if not steps:
        print(f"no line speaks of {transaction}: is log_level debug?", file=sys.stderr)
        sys.exit(EXIT_PROBLEM)
    table = Table("ms", "node", "stage", "", box=None, pad_edge=False)
    for step in steps:
        after_ms = (step.time - steps[0].time).total_seconds() * 1_000
        table.add_row(f"{after_ms:.1f}", step.node, step.stage, step.rest)
    Console(highlight=False).print(table, markup=False)


def _finish(findings: list[Finding], as_json: bool) -> None:
    worst = worst_of(findings)
    if as_json:
        print(msgspec.json.encode({"worst": worst, "findings": findings}).decode())
    else:
        _print(findings)
    if worst == Level.PROBLEM:
        sys.exit(EXIT_PROBLEM)


def _print(findings: list[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        colour = _COLOURS[finding.level]
        console.print(f"[{colour}]{finding.level:<8}[/] {finding.name:<{width}}  ", end="")
        console.print(finding.found, markup=False)
        if finding.advice:
            console.print(f"{'':<8} {'':<{width}}  -> {finding.advice}", markup=False)
    counts = {
        level: sum(finding.level == level for finding in findings) for level in (Level.PROBLEM, Level.WARNING)
    }
    words = [f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts.items()]
    console.print(f"\n{', '.join(words)} in {len(findings)} findings", markup=False)
