"""What a flood at one gateway does to finality: a small network, quiet and flooded in turn. Trio, processes, disk.

Real validators with gateways, a market and traders, all on this machine. One address asks one gateway for at least a
hundred times its quota; blocks must go on becoming final, at most twice as late as in the quiet times between.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
import trio
from msgspec.structs import replace

from primitives.errors import OperatorError
from testnet.bench.directory import kept_in
from testnet.bench.flooder import FloodPlan, FloodReport
from testnet.collector import Collector
from testnet.plan import Plan
from testnet.processes import Process, end_all
from testnet.setup import Layout, create
from testnet.traders.config import TradersConfig

START_SECONDS_MAX = 90.0
"""Until the first final block."""
PAUSE_SECONDS = 1.0
"""Between two spans: what the one left in queues is not the other's."""
MARKET_SECONDS = 3_600.0
"""The scripted shock lies beyond the bench."""
QUOTA_MULTIPLE_MIN = 100
RATIO_MAX = 2.0
"""What issue and design promise."""


@dataclass(frozen=True, kw_only=True)
class FloodBench:
    """What is measured."""

    validators: int = 4
    units_per_second: int = 20
    """The flooded gateway's quota of an address; a question or an order costs at least one unit."""
    requests_per_second: int = 6_000
    """At most; what the gateway answers is what counts."""
    seconds: float = 8.0
    """Length of each span."""
    rounds: int = 2
    """Of a quiet span and a flooded one."""
    warm_up_seconds: float = 6.0
    """After the traders have begun: surfaces are agreed on, quotes rest."""
    seed: int = 1


@dataclass(slots=True)
class Spans:
    """What the network did in all spans of one kind."""

    seconds: float = 0.0
    blocks: int = 0
    finality_ms: list[float] = field(default_factory=list)


def flood_figures(
    bench: FloodBench, tell: Callable[[str], None], home: Path | None = None
) -> dict[str, float]:
    """Flat keys for `quorate bench flood`; `flood.is_within_limit` 1 is the verdict that it is held.

    Raises:
        OperatorError: the network did not start, or nothing became final in a span.
    """
    with kept_in(home) as directory:
        return trio.run(_measure, bench, directory, tell)


async def _measure(bench: FloodBench, directory: Path, tell: Callable[[str], None]) -> dict[str, float]:
    layout = create(
        Plan(validators=bench.validators, seconds=MARKET_SECONDS, speed=1, seed=bench.seed), directory
    )
    quiet, flooded = Spans(), Spans()
    reports: list[FloodReport] = []
    async with _network(bench, layout) as collector:
        for number in range(1, bench.rounds + 1):
            async with _span(quiet, collector):
                await trio.sleep(bench.seconds)
            async with _span(flooded, collector):
                reports.append(await _flood(bench, layout.gateway_ports[0]))
            tell(f"round {number} of {bench.rounds}: {sum(reports[-1].answers.values()):,} requests answered")
    if collector.divergences:
        raise OperatorError("two validators computed different states: this is no question of a flood")
    return figures_of(bench, quiet, flooded, reports)


def figures_of(
    bench: FloodBench, quiet: Spans, flooded: Spans, reports: list[FloodReport]
) -> dict[str, float]:
    """The flat keys, from what was measured. Raises OperatorError when nothing became final in a kind of span."""
    if not quiet.finality_ms or not flooded.finality_ms:
        raise OperatorError("no block became final within a span: take longer ones")
    before_ms, during_ms = median(quiet.finality_ms), median(flooded.finality_ms)
    answers: Counter[str] = Counter()
    for report in reports:
        answers.update(report.answers)
    per_second = sum(answers.values()) / sum(report.seconds for report in reports)
    multiple = per_second / bench.units_per_second
    is_held = during_ms <= RATIO_MAX * before_ms and multiple >= QUOTA_MULTIPLE_MIN
    return {
        "flood.quota_units_per_s": bench.units_per_second,
        "flood.requests_per_s": round(per_second),
        "flood.multiple_of_quota": round(multiple, 1),
        "flood.refused_share": round(answers["429"] / max(1, sum(answers.values())), 4),
        "flood.blocks_per_s_before": round(quiet.blocks / quiet.seconds, 2),
        "flood.blocks_per_s_during": round(flooded.blocks / flooded.seconds, 2),
        "flood.finality_ms_p50_before": round(before_ms, 1),
        "flood.finality_ms_p50_during": round(during_ms, 1),
        "flood.finality_ratio": round(during_ms / before_ms, 2),
        "flood.finality_ratio_max": RATIO_MAX,
        "flood.is_within_limit": int(is_held),
    }


@asynccontextmanager
async def _network(bench: FloodBench, layout: Layout) -> AsyncIterator[Collector]:
    """The validators, their market and traders, warm; the first one's gateway holds this machine to a quota."""
    market = Process(
        "market", ["-m", "testnet.market", str(layout.market_config)], layout.home / "market.log"
    )
    traders = Process(
        "traders", ["-m", "testnet.traders", str(layout.traders_config)], layout.home / "traders.log"
    )
    nodes = [
        Process(f"node{index}", ["-m", "node", "start", "--home", str(home)], home / "output.log")
        for index, home in enumerate(layout.node_homes)
    ]
    quota = {
        "QUORATE_GATEWAY_LIMIT_LOOPBACK": "true",
        "QUORATE_GATEWAY_ADDRESS_UNITS_PER_SECOND": str(bench.units_per_second),
    }
    _keep_traders_away(layout)
    collector = Collector(layout.sockets)
    try:
        async with trio.open_nursery() as nursery:
            market.start()
            for index, node in enumerate(nodes):
                node.start(quota if index == 0 else None)
            nursery.start_soon(collector.run)
            with trio.move_on_after(START_SECONDS_MAX):
                await collector.first_final.wait()
            if not collector.first_final.is_set():
                words = "\n".join(f"--- {node.name}\n{node.log_tail()}" for node in nodes)
                raise OperatorError(f"no block became final:\n{words}")
            traders.start()
            await trio.sleep(bench.warm_up_seconds)
            yield collector
            nursery.cancel_scope.cancel()
    finally:
        await end_all(traders, *nodes, market)


def _keep_traders_away(layout: Layout) -> None:
    """From the flooded gateway: its quota, far below a network's own, would hold them up too."""
    config = msgspec.json.decode(layout.traders_config.read_bytes(), type=TradersConfig)
    _, *others = config.gateways
    moved = replace(config, gateways=(others[0], *others))
    layout.traders_config.write_bytes(msgspec.json.encode(moved))


@asynccontextmanager
async def _span(spans: Spans, collector: Collector) -> AsyncIterator[None]:
    """Add what becomes final meanwhile."""
    await trio.sleep(PAUSE_SECONDS)
    began, height = trio.current_time(), collector.tally.seen_height
    known = len(collector.finality_ms)
    yield
    spans.seconds += trio.current_time() - began
    spans.blocks += collector.tally.seen_height - height
    spans.finality_ms += collector.finality_ms[known:]


async def _flood(bench: FloodBench, port: int) -> FloodReport:
    plan = FloodPlan(port, bench.seconds, bench.requests_per_second)
    command = [sys.executable, "-m", "testnet.bench.flooder", msgspec.json.encode(plan).decode()]
    with trio.fail_after(bench.seconds + START_SECONDS_MAX):
        ended = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL)
    return msgspec.json.decode(ended.stdout, type=FloodReport)
