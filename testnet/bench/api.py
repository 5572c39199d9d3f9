"""What one gateway carries: subscribers and how late they hear, slow ones dropped, orders, questions. Processes, disk.

A real gateway process with a real block store; the node behind it is a socket that makes blocks of made-up events at
a steady pace and says yes to every order. Subscribers live in a process of their own, on the same cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import httpx
import msgspec
import psutil
import trio

from consensus.messages import Block, Header, Justification
from ledger.events import Event, OrderCancelled, Trade
from ledger.instruments import Underlying
from ledger.matching.book import Book
from ledger.matching.orders import RestingOrder
from ledger.state import State
from ledger.state_keys import book_key
from ledger.transactions import transaction_id
from node.config import NodeConfig, load_config
from node.genesis import chain_id_of, load_genesis
from node.genesis_defaults import (
    default_instruments,
    default_ledger_genesis,
    default_staking,
    make_genesis,
    reporters_of,
)
from node.home import create_homes, entry_of
from node.keystore import ValidatorKeys
from node.rpc.node_socket import NodeSocket
from node.rpc.protocol import FinalBlockNotice, StatusReply, SubmitReply
from node.rpc.supervisor import GatewayProcess
from node.rpc.views import GreeksRow, GreeksView, MarkRow, MarksView, ViewName
from node.storage.block_store import BlockStore, FinalBlock
from primitives.amounts import USD
from primitives.codec import encode
from primitives.errors import ensure
from testnet.bench.api_clients import ClientsPlan, ClientsReport

TIME_NS = 1_770_000_000 * 10**9
INDEX_UUSD = {Underlying.BTC: 100_000 * USD}
PERPETUAL = "BTC-PERPETUAL"
TRADES_PER_BLOCK = 2
"""On the perpetual, whose followers hear of each."""
OTHER_TRADES_PER_BLOCK = 400
"""On another instrument, whose followers are the slow ones: their queue is full within seconds."""
SETTLE_SECONDS = 1.0
"""After everybody is connected, before anything is counted."""


@dataclass(frozen=True, kw_only=True)
class ApiPlan:
    """How many, how fast, how long."""

    subscribers: int = 1_000
    """Each follows blocks, and depth, marks and trades of the perpetual."""
    slow: int = 20
    """Further subscribers who never read."""
    blocks_per_second: int = 4
    seconds: float = 15.0
    burst_seconds: float = 3.0
    """Of orders, then of questions, once the blocks are over."""


class _Node:
    """Answers the gateway as a node would whose mempool takes everything."""

    async def submit(self, raws: Sequence[bytes]) -> list[SubmitReply]:
        """Accepted, all of them."""
        return [SubmitReply(transaction_id(raw), True, "", "") for raw in raws]

    def status(self) -> StatusReply:
        """Made up but for its form."""
        return StatusReply(
            *("bench", 0, bytes(32), 1, 1, 1, 1, bytes(32), bytes(32), TIME_NS, TIME_NS, "", "", ()),
            *(0, 0, 0, 0, 0, 0, 0, 0, ()),
        )

    def metrics_text(self) -> bytes:
        """None of its own."""
        return b""


class _Chain:
    """Blocks whose book and marks change, one after another."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self.height = 0

    def next_block(self, leaves: Sequence[tuple[bytes, bytes | None]] = ()) -> FinalBlockNotice:
        """Stores it; the notice's market time is the monotonic clock, so that clients can tell their delay."""
        self.height += 1
        height, zero, maker = self.height, bytes(32), bytes(20)
        header = Header(
            1, zero, 0, height, height, zero, 0, 0, TIME_NS + height, zero, zero, zero, zero, zero, 0
        )
        asks = tuple(_order(100 * height + at, 1, 100_100 + 10 * at + height % 7) for at in range(50))
        bids = tuple(_order(100 * height + 50 + at, 0, 99_900 - 10 * at - height % 5) for at in range(50))
        events: list[Event] = [OrderCancelled(height, maker, 0, 0, 1, "bench")]
        counts = ((0, TRADES_PER_BLOCK), (2, OTHER_TRADES_PER_BLOCK))
        for instrument, count in counts:
            events += [Trade(instrument, USD, 1, 1, 2, maker, 0, maker, 1, 0, 0)] * count
        marks = MarksView(height, TIME_NS + height, (MarkRow(0, (100_000 + height) * USD, 0, 1_000_000),))
        views = {
            ViewName.MARKS.value: encode(marks),
            ViewName.GREEKS.value: encode(GreeksView(height, (GreeksRow(0, 0, 0, 0),))),
        }
        name = height.to_bytes(32, "big")
        self._store.commit(
            FinalBlock(
                height=height,
                block_hash=name,
                block=encode(Block(header, (b"",), (), Justification(None, ()))),
                proof=b"",
                events=encode(events),
                leaves=[*leaves, (book_key(0), encode(Book(bids, asks)))],
                views=views,
            )
        )
        return FinalBlockNotice(height, name, zero, TIME_NS + height, time.monotonic_ns(), encode(events))


def _order(order_id: int, side: int, price_usd: int) -> RestingOrder:
    return RestingOrder(order_id, bytes(20), 0, side, price_usd * USD, 5, 1, 0, 0, True, False)


def api_figures(plan: ApiPlan) -> dict[str, float]:
    """Flat keys for `quorate bench api`."""
    with tempfile.TemporaryDirectory(prefix="quorate-bench-") as directory:
        return trio.run(_measure, plan, Path(directory) / "home")


async def _measure(plan: ApiPlan, home: Path) -> dict[str, float]:
    config = _home(home)
    chain = _Chain(BlockStore.open(config.store_path))
    async with _gateway(config, chain) as (socket, gateway):
        clients = ClientsPlan(
            port=gateway.port,
            subscribers=plan.subscribers,
            slow=plan.slow,
            burst_seconds=plan.burst_seconds,
        )
        async with _clients(clients) as process:
            await _line(process)  # Everybody is connected and subscribed.
            await trio.sleep(SETTLE_SECONDS)
            own = _process_of(gateway)
            cpu_s, began_s = _cpu_seconds(own), trio.current_time()
            for number in range(round(plan.seconds * plan.blocks_per_second)):
                socket.publish(chain.next_block())
                await trio.sleep_until(began_s + (number + 1) / plan.blocks_per_second)
            cpu_s, took_s = _cpu_seconds(own) - cpu_s, trio.current_time() - began_s
            rss_mb = own.memory_info().rss / 2**20
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as http:
                dropped = _dropped((await http.get("/metrics")).text)
            if process.stdin is not None:
                await process.stdin.aclose()
            report = msgspec.json.decode(await _line(process), type=ClientsReport)
        ensure(gateway.restarts == 0, "the gateway lives through it")
        return {
            "api.subscribers": plan.subscribers,
            "api.slow_consumers": plan.slow,
            "api.slow_consumers_dropped": dropped,
            "api.messages_per_second": report.messages / took_s,
            "api.delivery_ms_p50": report.delay_ms_p50,
            "api.delivery_ms_p99": report.delay_ms_p99,
            "api.delivery_ms_max": report.delay_ms_max,
            "api.subscribers_lost": report.lost,
            "api.sequence_holes": report.holes,
            "api.gateway_cpu_share": cpu_s / took_s,
            "api.gateway_rss_mb": rss_mb,
            "api.order_acknowledgements_per_second": report.orders_per_second,
            "api.questions_per_second": report.questions_per_second,
        }


def _home(path: Path) -> NodeConfig:
    keys = ValidatorKeys.generate()
    entries = [entry_of("bench", keys)]
    ledger = default_ledger_genesis(
        time_ns=TIME_NS,
        custodian_key=keys.oracle.public_key,
        reporters=reporters_of(entries),
        staking=default_staking(entries),
        index_uusd=INDEX_UUSD,
        instruments=default_instruments(TIME_NS, INDEX_UUSD),
        accounts=[],
    )
    settings: list[dict[str, object]] = [{"gateway": {"port": 0}, "log_file": "gateway.log"}]
    genesis = make_genesis("bench", entries, ledger)
    create_homes([path], [keys], genesis, [("127.0.0.1", 1)], password=None, settings=settings)
    return load_config(path)


@asynccontextmanager
async def _gateway(config: NodeConfig, chain: _Chain) -> AsyncIterator[tuple[NodeSocket, GatewayProcess]]:
    genesis = load_genesis(config.genesis_path)
    state = State.from_genesis(genesis.ledger, chain_id_of(genesis))
    chain.next_block(state.all_leaves())
    socket, gateway = NodeSocket(config.socket_path, _Node()), GatewayProcess(config)
    async with trio.open_nursery() as nursery:
        await nursery.start(socket.run)
        nursery.start_soon(gateway.run)
        with trio.fail_after(20):
            while socket.subscribers == 0:  # noqa: ASYNC110  # the other process says nothing when it is ready
                await trio.sleep(0.05)
        yield socket, gateway
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _clients(plan: ClientsPlan) -> AsyncIterator[trio.Process]:
    command = [sys.executable, "-m", "testnet.bench.api_clients", json.dumps(msgspec.to_builtins(plan))]
    process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        await process.wait()


async def _line(process: trio.Process) -> bytes:
    """The next line that the clients say."""
    said = b""
    with trio.fail_after(120):
        while process.stdout is not None and not said.endswith(b"\n"):
            chunk = await process.stdout.receive_some(65_536)
            ensure(bool(chunk), "the clients' process lives")
            said += chunk
    return said


def _process_of(gateway: GatewayProcess) -> psutil.Process:
    own = [child for child in psutil.Process().children() if "node.rpc.gateway" in child.cmdline()]
    ensure(len(own) == 1 and gateway.restarts == 0, "one gateway runs")
    return own[0]


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _dropped(metrics: str) -> int:
    lines = dict(line.rsplit(" ", 1) for line in metrics.splitlines())
    return int(lines["quorate_gateway_stream_dropped_total"])
