"""How fast an empty node catches up with a running network: by blocks, or by a snapshot. Trio, processes, disk.

Validators go on from a long history (history.py) under a live market; then a follower with an empty store starts.
Everything is real: processes, sockets, certificates, execution, disk. All of it shares this machine's cores, so
what the network loses meanwhile is shown beside.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio
from msgspec.structs import replace

from ledger.genesis import GenesisAccount
from ledger.instruments import Underlying
from node.config import load_config
from node.genesis import chain_id_of, save_genesis
from node.home import create_follower_home
from node.keystore import ValidatorKeys
from node.rpc.client_trio import CallRefused, open_node_client
from node.rpc.protocol import StatusReply
from node.storage.snapshot_writer import make_snapshot
from node.storage.snapshots import SnapshotFiles
from primitives.amounts import USD
from primitives.errors import OperatorError
from primitives.identifiers import Address
from testnet.bench.directory import kept_in
from testnet.bench.history import History
from testnet.plan import Plan
from testnet.processes import Process, end_all, free_ports
from testnet.setup import Layout, create, secret

START_SECONDS_MAX = 90.0
"""Until the validators agree on new blocks."""
SYNC_SECONDS_MAX = 1_200.0
"""Until the follower is there; then the figures tell how far it came."""
BEFORE_SECONDS = 8.0
"""How long the network is watched alone."""


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """What is measured."""

    blocks: int = 10_000
    validators: int = 3
    min_block_ms: int = 100
    seed: int = 1
    accounts: int = 0
    """Above 0: so many accounts in genesis, and the follower takes a snapshot instead of every block."""

    @property
    def snapshot_height(self) -> int:
        """Of the snapshot that the validators have: its root and proof are in the blocks above it."""
        return self.blocks - 2


def sync_figures(plan: SyncPlan, home: Path | None = None) -> dict[str, float]:
    """Flat keys for `quorate bench sync` and `snapshot`. Raises OperatorError when the network does not start."""
    with kept_in(home) as directory:
        return trio.run(_measure, plan, directory)


async def _measure(plan: SyncPlan, directory: Path) -> dict[str, float]:
    layout = create(network_plan(plan), directory)
    if plan.accounts:
        layout = crowded(layout, plan.accounts)
    grow_seconds = await grow(plan, layout)
    follower_home = directory / "follower"
    create_follower(layout, follower_home, with_snapshot=plan.accounts > 0)
    market = Process("market", ["-m", "testnet.market", str(layout.market_config)], directory / "market.log")
    nodes = [node_process(f"node{index}", path) for index, path in enumerate(layout.node_homes)]
    follower = node_process("follower", follower_home)
    try:
        market.start()
        for node in nodes:
            node.start()
        await wait_height(layout.sockets[0], plan.blocks + 10, nodes)
        figures = await _compare(layout.sockets[0], follower, follower_home)
        figures |= _snapshot_figures(plan, layout) if plan.accounts else {}
        return {"sync.history_blocks_per_s": round(plan.blocks / grow_seconds, 1), **figures}
    finally:
        await end_all(follower, *nodes, market)


def node_process(name: str, home: Path) -> Process:
    """One node, with its output beside its data."""
    return Process(name, ["-m", "node", "start", "--home", str(home)], home / "output.log")


def network_plan(plan: SyncPlan) -> Plan:
    """The network that a new node joins."""
    return Plan(validators=plan.validators, min_block_ms=plan.min_block_ms, seed=plan.seed, speed=1)


async def grow(plan: SyncPlan, layout: Layout) -> float:
    """The same history in every validator's home; how many seconds it took to make."""
    began = trio.current_time()
    keys = [
        ValidatorKeys(*(secret(plan.seed, "validator", index, use) for use in ("vote", "oracle", "network")))
        for index in range(plan.validators)
    ]
    prices = {Underlying(one.underlying): one.index_uusd for one in layout.genesis.ledger.underlyings}
    first, *others = (home / "data" for home in layout.node_homes)
    history = History(layout.genesis, keys, first, prices)
    await history.grow(plan.blocks)
    if plan.accounts:
        files = SnapshotFiles(first / "snapshots")
        await trio.to_thread.run_sync(lambda: files.put(*make_snapshot(history.store, plan.snapshot_height)))
    history.store.close()
    for other in others:
        await trio.to_thread.run_sync(shutil.copytree, first, other)
    return trio.current_time() - began


def crowded(layout: Layout, count: int) -> Layout:
    """The same testnet with `count` accounts, each with money."""
    ledger = layout.genesis.ledger
    own = [
        GenesisAccount(Address(secret(number, "account")[:20]), 0, 1_000 * USD)
        for number in range(count - len(ledger.accounts))
    ]
    accounts = sorted((*ledger.accounts, *own), key=lambda account: account.owner)
    genesis = replace(layout.genesis, ledger=replace(ledger, accounts=tuple(accounts)))
    for home in layout.node_homes:
        save_genesis(genesis, home / "genesis.json")
    return dataclasses.replace(layout, genesis=genesis, chain_id=chain_id_of(genesis))


def _snapshot_figures(plan: SyncPlan, layout: Layout) -> dict[str, float]:
    snapshot = SnapshotFiles(layout.node_homes[0] / "data" / "snapshots").open(plan.snapshot_height)
    return {
        "snapshot.accounts": plan.accounts,
        "snapshot.chunks": snapshot.count,
        "snapshot.mb": round(snapshot.size_bytes / 1e6, 1),
    }


def create_follower(layout: Layout, home: Path, with_snapshot: bool) -> None:
    """A new node's home, which knows every validator's address."""
    market = layout.market
    addresses = {}
    for index, path in enumerate(layout.node_homes):
        listen = load_config(path).listen
        addresses[index] = (listen.host, listen.port)
    settings = {
        "name": "follower",
        "log_file": "node.log",
        "sync": {"snapshot": with_snapshot},
        "gateway": {"port": free_ports(1)[0]},
        "market_clock": {
            "start_market_ns": market.start_market_ns,
            "start_monotonic_ns": market.start_monotonic_ns,
            "speed": int(market.speed),
        },
    }
    create_follower_home(home, ValidatorKeys.generate(), layout.genesis, addresses, settings)


async def _compare(network: Path, follower: Process, home: Path) -> dict[str, float]:
    """The network alone, then with the follower, until that is where the network was when it started."""
    before = await status_of(network)
    await trio.sleep(BEFORE_SECONDS)
    target = await status_of(network)
    began = trio.current_time()
    follower.start()
    first: tuple[float, int] | None = None
    height, own = 0, home / "data" / "node.sock"
    with trio.move_on_after(SYNC_SECONDS_MAX):
        while height < target.final_height:
            await trio.sleep(0.1)
            check_running(follower)
            with suppress(OSError, CallRefused, trio.BrokenResourceError):
                height = (await status_of(own)).final_height
                if first is None:
                    first = trio.current_time(), height
    ended = trio.current_time()
    after = await status_of(network)
    started, started_height = first if first is not None else (began, 0)
    while height + 3 < after.final_height and trio.current_time() < ended + SYNC_SECONDS_MAX / 10:
        await trio.sleep(0.2)
        height, after = (await status_of(own)).final_height, await status_of(network)
    return {
        "sync.target_height": target.final_height,
        "sync.reached_height": height,
        "sync.seconds_with_start": round(ended - began, 2),
        "sync.seconds": round(ended - started, 2),
        "sync.blocks_per_s": round((target.final_height - started_height) / (ended - started), 1),
        "sync.network_blocks_per_s_before": rate(before, target, BEFORE_SECONDS),
        "sync.network_blocks_per_s_during": rate(target, after, trio.current_time() - began),
        "sync.network_finality_ms_p50": after.finality_us_p50 / 1_000,
        "sync.follower_rss_mb": round(follower.rss_mb_max),
    }


def check_running(process: Process) -> None:
    """Note what it takes. Raises OperatorError when it has ended."""
    process.sample()
    if process.pid is None:
        raise OperatorError(f"{process.name} has ended ({process.exit_code}):\n{process.log_tail()}")


def rate(first: StatusReply, last: StatusReply, seconds: float) -> float:
    """Blocks per second."""
    return round((last.final_height - first.final_height) / seconds, 1)


async def status_of(socket: Path) -> StatusReply:
    """Raises OSError, CallRefused or trio.BrokenResourceError while the node does not answer."""
    async with open_node_client(socket) as client:
        return await client.status()


async def wait_height(
    socket: Path, height: int, nodes: Sequence[Process], seconds_max: float = START_SECONDS_MAX
) -> None:
    """Until a node tells of a final height; raises OperatorError when that does not happen, or one has ended."""
    with trio.move_on_after(seconds_max):
        while all(node.pid is not None for node in nodes):
            await trio.sleep(0.2)
            with suppress(OSError, CallRefused, trio.BrokenResourceError):
                if (await status_of(socket)).final_height >= height:
                    return
    words = "\n".join(f"--- {node.name}\n{node.log_tail()}" for node in nodes)
    raise OperatorError(f"the validators did not reach height {height}:\n{words}")
