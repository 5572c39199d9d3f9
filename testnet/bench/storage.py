"""What a month of blocks leaves on disk and in memory, and how long a start then takes. Trio, processes, disk.

The month is sparse: its blocks are so far apart that as many as asked for fill thirty days of market time, each
with every validator's reports and two orders that trade. Then, apart from it, a ledger with many accounts: how
long a snapshot and a restore take, and how much a loop beside the snapshot's writer is held up.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import trio
from msgspec.structs import replace

from ledger.genesis import GenesisAccount
from ledger.instruments import Kind, Underlying
from ledger.transactions import (
    Action,
    Deposit,
    PlaceOrder,
    Side,
    SignedTransaction,
    TimeInForce,
    Transaction,
    transaction_id,
    transaction_sign_bytes,
)
from node.genesis import GenesisDocument, chain_id_of
from node.keystore import ValidatorKeys
from node.recovery import restore, state_of
from node.rpc.client_trio import CallRefused, open_node_client
from node.storage.block_store import BlockStore, StoreUse
from node.storage.disk_use import disk_use
from node.storage.snapshots import SnapshotFiles
from primitives.amounts import NS, USD
from primitives.codec import encode
from primitives.hashing import digest
from primitives.signing import SigningKey, address_of
from testnet.bench.directory import kept_in
from testnet.bench.history import History
from testnet.plan import SPEED_MAX, Plan
from testnet.processes import Process, end_all
from testnet.setup import Layout, create, secret
from testnet.sim.campaign import quiet

MONTH_NS = 30 * 86_400 * NS
RSS_SAMPLES = 40
START_SECONDS_MAX = 120.0
LOOP_SECONDS = 0.001
"""The loop beside the snapshot's writer wants to wake this often, as a busy node does."""


@dataclass(frozen=True, slots=True)
class StoragePlan:
    """What is measured."""

    blocks: int = 8_640
    accounts: int = 100_000
    seed: int = 1


def storage_figures(
    plan: StoragePlan, tell: Callable[[str], None], home: Path | None = None
) -> dict[str, float]:
    """Flat keys for `quorate bench storage`. `tell` hears how far it is."""
    quiet()
    with kept_in(home) as directory:
        return {**trio.run(_month, plan, directory, tell), **trio.run(_snapshots, plan, directory)}


# --- a month of blocks ---


async def _month(plan: StoragePlan, directory: Path, tell: Callable[[str], None]) -> dict[str, float]:
    # At the highest speed what is called a gap is longest: the market would halt between blocks of a sparse month.
    layout = create(Plan(validators=4, seed=plan.seed, speed=SPEED_MAX), directory)
    history = _history(layout.genesis, plan.seed, layout.node_homes[0] / "data", MONTH_NS // plan.blocks)
    traders = _Traders(history, plan.seed)
    process, samples, began = psutil.Process(), [], time.monotonic()
    for height in range(1, plan.blocks + 1):
        traders.trade(height)
        await history.grow(1)
        if height % max(1, plan.blocks // RSS_SAMPLES) == 0:
            samples.append((height, _own_bytes(process)))
            tell(f"{height} of {plan.blocks} blocks, {samples[-1][1] >> 20} MB of memory")
    seconds, use = time.monotonic() - began, history.store.use()
    history.store.close()
    return {
        "storage.blocks": plan.blocks,
        "storage.grow_blocks_per_s": plan.blocks / seconds,
        **_disk_figures(use, plan.blocks),
        "storage.data_mb": sum(_without_free(disk_use(layout.node_homes[0] / "data"))) / 1e6,
        "storage.memory_mb_end": samples[-1][1] / 1e6,
        "storage.memory_kb_per_1000_blocks": _slope(samples[len(samples) // 2 :]),
        **_restore_figures(layout),
        "storage.start_s": await _start_seconds(layout),
    }


def _history(genesis: GenesisDocument, seed: int, data: Path, block_ns: int) -> History:
    keys = [
        ValidatorKeys(*(secret(seed, "validator", index, use) for use in ("vote", "oracle", "network")))
        for index in range(len(genesis.validators))
    ]
    prices = {Underlying(one.underlying): one.index_uusd for one in genesis.ledger.underlyings}
    return History(genesis, keys, data, prices, block_ns=block_ns)


class _Traders:
    """Two accounts that trade one lot with each other in every block, to and fro."""

    def __init__(self, history: History, seed: int) -> None:
        self._history = history
        self._custodian = SigningKey(secret(seed, "custodian"))
        self._keys = [SigningKey(secret(seed, "storage", name)) for name in ("one", "other")]
        genesis = history.genesis.ledger
        self._perpetual = next(item for item in genesis.instruments if item.kind == Kind.PERPETUAL)
        underlying = next(one for one in genesis.underlyings if one.underlying == self._perpetual.underlying)
        tick = underlying.perpetual_tick_uusd
        self._price_uusd = underlying.index_uusd // tick * tick

    def trade(self, height: int) -> None:
        """Put the block's transactions where its leader takes them from."""
        if height == 1:
            owners = (address_of(key.public_key) for key in self._keys)
            self._send(self._custodian, 0, *(Deposit(owner, 0, 10_000_000 * USD) for owner in owners))
            return
        for place, key in enumerate(self._keys):
            side = Side.BUY if (height + place) % 2 else Side.SELL
            order = PlaceOrder(
                self._perpetual.id, side, self._price_uusd, 1, TimeInForce.IOC, False, False, 0
            )
            self._send(key, height, order)

    def _send(self, key: SigningKey, nonce: int, *actions: Action) -> None:
        payload = encode(Transaction(chain_id_of(self._history.genesis), 0, nonce, actions))
        signature = key.sign(transaction_sign_bytes(payload))
        raw = encode(SignedTransaction(payload, key.public_key, signature))
        self._history.ledger.mempool.add(transaction_id(raw), key.public_key, raw)


def _disk_figures(use: StoreUse, blocks: int) -> dict[str, float]:
    tables = {
        f"storage.{name}_bytes_per_block": count / blocks
        for name, count in sorted(use.table_bytes.items())
        if name not in ("leaf", "view", "meta", "undo")
    }
    fixed = sum(use.table_bytes[name] for name in ("leaf", "view", "undo"))
    per_block = (use.file_bytes - fixed) / blocks
    return {"storage.bytes_per_block": per_block, "storage.state_and_undo_mb": fixed / 1e6, **tables}


def _without_free(use: dict[str, int]) -> list[int]:
    return [count for name, count in use.items() if name != "free"]


def _own_bytes(process: psutil.Process) -> int:
    """Resident, without the pages of the store's file: the kernel takes those back when it needs room."""
    info = process.memory_info()
    return int(info.rss - info.shared)


def _slope(samples: list[tuple[int, int]]) -> float:
    """Bytes a block, or KB for a thousand of them, by least squares; 0 for fewer than two samples."""
    if len(samples) < 2:
        return 0.0
    mean_x, mean_y = (sum(sample[axis] for sample in samples) / len(samples) for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread


def _restore_figures(layout: Layout) -> dict[str, float]:
    """What of a start is the ledger's: reading the stored state and checking it against its root."""
    home = layout.node_homes[0]
    began = time.monotonic()
    with closing(BlockStore.open(home / "data" / "blocks")) as store:
        found = restore(store, layout.genesis, SnapshotFiles(home / "data" / "snapshots"), [])
        found.state.root()
    return {"storage.restore_state_s": time.monotonic() - began}


async def _start_seconds(layout: Layout) -> float:
    """From `quorate start` to an answered status; three of four validators are not there."""
    home = layout.node_homes[0]
    node = Process("node0", ["-m", "node", "start", "--home", str(home)], home / "output.log")
    began = trio.current_time()
    node.start()
    try:
        with trio.fail_after(START_SECONDS_MAX):
            while True:
                try:
                    async with open_node_client(layout.sockets[0]) as client:
                        await client.status()
                    return trio.current_time() - began
                except (OSError, CallRefused):
                    await trio.sleep(0.01)
    finally:
        await end_all(node)


# --- snapshots of many accounts ---


async def _snapshots(plan: StoragePlan, directory: Path) -> dict[str, float]:
    layout = create(Plan(validators=4, seed=plan.seed, speed=1), directory / "accounts")
    document = _with_accounts(layout.genesis, plan.accounts)
    data = directory / "accounts" / "data"
    history = _history(document, plan.seed, data, NS)
    await history.grow(4)
    history.store.close()
    files = SnapshotFiles(data / "snapshots")
    arguments = [data / "blocks", files.directory, 2, 2]
    alone, _ = await _late_beside(["-c", "import time; time.sleep(2)"])
    late, seconds = await _late_beside(["-m", "node.storage.snapshot_writer", *map(str, arguments)])
    snapshot = files.open(2)
    began = time.monotonic()
    state = state_of(snapshot, document)
    made = time.monotonic()
    state.root()
    return {
        "snapshot.accounts": plan.accounts,
        "snapshot.chunks": snapshot.count,
        "snapshot.mb": snapshot.size_bytes / 1e6,
        "snapshot.write_s": seconds,
        "snapshot.loop_late_ms_max": late,
        "snapshot.loop_late_ms_max_without": alone,
        "snapshot.restore_s": made - began,
        "snapshot.root_s": time.monotonic() - made,
    }


def _with_accounts(genesis: GenesisDocument, count: int) -> GenesisDocument:
    accounts = tuple(
        GenesisAccount(digest(b"quorate-bench", b"%d" % number)[:20], 0, 1_000 * USD + number)
        for number in range(count - len(genesis.ledger.accounts))
    )
    ledger = replace(genesis.ledger, accounts=(*genesis.ledger.accounts, *accounts))
    return replace(genesis, ledger=ledger)


async def _late_beside(arguments: list[str]) -> tuple[float, float]:
    """(how late a loop woke at worst, in ms; seconds) while a process of these arguments ran."""
    late_seconds, began = 0.0, trio.current_time()
    async with trio.open_nursery() as nursery:
        ended = trio.Event()

        async def run() -> None:
            await trio.run_process([sys.executable, *arguments])
            ended.set()

        nursery.start_soon(run)
        while not ended.is_set():
            asked = time.monotonic()
            await trio.sleep(LOOP_SECONDS)
            late_seconds = max(late_seconds, time.monotonic() - asked - LOOP_SECONDS)
    return late_seconds * 1_000, trio.current_time() - began
