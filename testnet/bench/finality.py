"""Finality beside CometBFT's on the same machine: as many validators, the same pace and load. Processes, loopback.

Ours is a testnet run (`testnet.run`): an options market, every account margined in every block. CometBFT's application
is the key-value store built into it, which does next to nothing; its network runs once for each setting of two waits
that decide its latency. Both are measured from the moment the leader has its block until each validator knows it final.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import trio

from primitives.errors import OperatorError
from testnet.plan import Plan
from testnet.processes import free_ports
from testnet.report import report_of
from testnet.run import Run
from testnet.setup import create

COMETBFT = "github.com/cometbft/cometbft/cmd/cometbft@v0.38.17"
"""What the settings and log lines here are those of."""
WAITS_MS = (100, 10, 1)
"""`p2p.flush_throttle_timeout` and `consensus.peer_gossip_sleep_duration`: the default, and two that are tuned."""
WARM_UP_HEIGHTS = 5
"""Blocks of a network that is still connecting are not counted."""
STOP_SECONDS = 10.0
BUILT = ("received proposal", "received complete proposal block")
"""The proposer hears its own proposal first."""
FINAL = "finalizing commit of block"


@dataclass(frozen=True, kw_only=True)
class FinalityPlan:
    """How many, how long, how fast; and the other program, if it is here."""

    validators: int = 4
    seconds: float = 30.0
    min_block_ms: int = 200
    orders_per_second: float = 50.0
    cometbft: Path | None = None


def finality_figures(plan: FinalityPlan, tell: Callable[[str], None]) -> dict[str, float]:
    """Milliseconds from a built block to its finality at each validator, p50 and p99, by system.

    Raises:
        OperatorError: the binary of CometBFT does not run, or one of the networks made no blocks.
    """
    if plan.cometbft is not None:
        _call(plan.cometbft, "version")
    tell(f"Quorate: {plan.validators} validators, {plan.seconds:g} s")
    figures = _quorate(plan)
    if plan.cometbft is None:
        tell(f"CometBFT is not measured: name its binary with --cometbft (go install {COMETBFT})")
        return figures
    for wait_ms in WAITS_MS:
        tell(f"CometBFT with waits of {wait_ms} ms: {plan.validators} validators, {plan.seconds:g} s")
        found = sorted(_cometbft(plan, plan.cometbft, wait_ms))
        if not found:
            raise OperatorError("CometBFT made no blocks: is this version 0.38?")
        name = f"finality.cometbft_waits_{wait_ms}_ms"
        at = {share: found[int(share / 100 * len(found))] for share in (50, 99)}
        figures |= {f"{name}_p50_ms": at[50], f"{name}_p99_ms": at[99], f"{name}_count": len(found)}
    return figures


def _quorate(plan: FinalityPlan) -> dict[str, float]:
    ours = Plan(
        validators=plan.validators,
        seconds=plan.seconds,
        min_block_ms=plan.min_block_ms,
        orders_per_second=plan.orders_per_second,
        view=False,
    )
    with tempfile.TemporaryDirectory(prefix="quorate-finality-") as home:
        facts = trio.run(Run(ours, create(ours, Path(home)), lambda _: None).execute)
    found = report_of(facts)["finality_ms"]
    return {f"finality.quorate_{name}": found[key] for name, key in _QUORATE}


_QUORATE = (("p50_ms", "p50"), ("p99_ms", "p99"), ("count", "count"), ("fast_share", "fast_share"))


# --- CometBFT ---


def _cometbft(plan: FinalityPlan, binary: Path, wait_ms: int) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="quorate-cometbft-") as home:
        homes = [Path(home) / f"node{index}" for index in range(plan.validators)]
        _call(
            binary, "testnet", "--v", str(plan.validators), "--o", home, "--populate-persistent-peers=false"
        )
        ports = free_ports(2 * plan.validators)
        ids = [_call(binary, "show-node-id", "--home", str(one)).strip() for one in homes]
        peers = [f"{name}@127.0.0.1:{port}" for name, port in zip(ids, ports, strict=False)]
        for index, one in enumerate(homes):
            config = one / "config" / "config.toml"
            others = ",".join(peers[:index] + peers[index + 1 :])
            values = _settings(
                ports[index], ports[plan.validators + index], others, plan.min_block_ms, wait_ms
            )
            config.write_text(configured(config.read_text(encoding="utf-8"), values), encoding="utf-8")
        with _running(binary, homes):
            _send_pairs(ports[plan.validators], plan)
        return finality_of(
            (one / "log").read_text(encoding="utf-8", errors="replace").splitlines() for one in homes
        )


def _settings(port: int, rpc_port: int, others: str, min_block_ms: int, wait_ms: int) -> dict[str, str]:
    """By `section.name` in CometBFT's config.toml; what is not here keeps its default."""
    return {
        "log_format": "json",
        "rpc.laddr": f"tcp://127.0.0.1:{rpc_port}",
        "p2p.laddr": f"tcp://127.0.0.1:{port}",
        "p2p.persistent_peers": others,
        "p2p.allow_duplicate_ip": "true",
        "p2p.addr_book_strict": "false",
        "p2p.flush_throttle_timeout": f"{wait_ms}ms",
        "consensus.peer_gossip_sleep_duration": f"{wait_ms}ms",
        "consensus.timeout_commit": f"{min_block_ms}ms",
    }


def configured(text: str, values: dict[str, str]) -> str:
    """A config.toml with some values replaced; each must be there.

    Raises:
        OperatorError: it is not: another version's file.
    """
    section, lines, left = "", [], dict(values)
    for line in text.splitlines():
        if found := re.fullmatch(r"\[(\w+)\]", line.strip()):
            section = found[1] + "."
        name, equals, old = line.partition(" = ")
        value = left.pop(section + name, None) if equals else None
        lines.append(line if value is None else f"{name} = " + (f'"{value}"' if old[:1] == '"' else value))
    if left:
        raise OperatorError(f"CometBFT's configuration has no {', '.join(left)}: is this version 0.38?")
    return "\n".join(lines) + "\n"


def finality_of(logs: Iterable[Iterable[str]]) -> list[float]:
    """Milliseconds from the first sight of each block to its commit at each node, from their logs in JSON."""
    built: dict[int, float] = {}
    final: list[tuple[int, float]] = []
    for line in (line for log in logs for line in log):
        found = _event(line)
        if found is None or found[1] <= WARM_UP_HEIGHTS:
            continue
        is_final, height, seconds = found
        if is_final:
            final.append((height, seconds))
        else:
            built[height] = min(seconds, built.get(height, seconds))
    return [(seconds - built[height]) * 1_000 for height, seconds in final if height in built]


def _event(line: str) -> tuple[bool, int, float] | None:
    """(whether a commit, height, time) of a line that says one of the three things; else None."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    message = entry.get("_msg")
    if message == FINAL or message == BUILT[1]:
        height = int(entry["height"])
    elif message == BUILT[0] and (found := re.match(r"Proposal\{(\d+)/", str(entry["proposal"]))):
        height = int(found[1])
    else:
        return None
    return message == FINAL, height, datetime.fromisoformat(entry["ts"][:26].rstrip("Z")).timestamp()


@contextmanager
def _running(binary: Path, homes: Iterable[Path]) -> Iterator[None]:
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for home in homes:
            with (home / "log").open("wb") as log:
                command = [str(binary), "start", "--home", str(home), "--proxy_app", "kvstore"]
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _send_pairs(rpc_port: int, plan: FinalityPlan) -> None:
    """As many transactions in a second as our makers send orders, for as long as ours ran."""
    ends = time.monotonic() + plan.seconds
    with httpx.Client(base_url=f"http://127.0.0.1:{rpc_port}", trust_env=False) as client:
        number = 0
        while time.monotonic() < ends:
            number += 1
            with suppress(httpx.TransportError):  # It is still starting.
                client.get("/broadcast_tx_async", params={"tx": f'"order{number}=price{number}"'})
            time.sleep(1 / plan.orders_per_second)


def _call(binary: Path, *arguments: str) -> str:
    try:
        return subprocess.run([str(binary), *arguments], check=True, capture_output=True, text=True).stdout
    except OSError as error:
        raise OperatorError(
            f"{binary} does not run ({error.strerror}): go install {COMETBFT}, then name it"
        ) from None
    except subprocess.CalledProcessError as error:
        raise OperatorError(f"{binary} {arguments[0]} failed: {error.stderr.strip()[-300:]}") from None
