"""A new node is killed (SIGKILL) at every stage of a snapshot import, one after another, in real processes."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from ledger import snapshot as ledger_snapshot
from node.recovery import is_intact
from node.rpc.client_trio import CallRefused
from node.storage.block_store import BlockStore
from testnet.bench.sync import (
    SyncPlan,
    create_follower,
    crowded,
    grow,
    network_plan,
    node_process,
    status_of,
    wait_height,
)
from testnet.processes import Process, end_all
from testnet.setup import Layout, create
from tests.testnet.dying_node import MOMENTS

pytestmark = pytest.mark.slow

PLAN = SyncPlan(blocks=60, accounts=400)
CHUNK_BYTES = 4_000
"""So that a few hundred accounts are many chunks."""


@asynccontextmanager
async def a_network(home: Path) -> AsyncIterator[Layout]:
    """Three validators that go on, each with a snapshot."""
    layout = crowded(create(network_plan(PLAN), home), PLAN.accounts)
    await grow(PLAN, layout)
    market = Process("market", ["-m", "testnet.market", str(layout.market_config)], home / "market.log")
    nodes = [node_process(path.name, path) for path in layout.node_homes]
    try:
        for process in (market, *nodes):
            process.start()
        await wait_height(layout.sockets[0], PLAN.blocks + 5, nodes)
        yield layout
    finally:
        await end_all(*nodes, market)


def chunks_in(home: Path) -> dict[str, tuple[int, int]]:
    """Every verified chunk on disk: which file it is, and when it was written."""
    found = (home / "data" / "snapshots").rglob("*.chunk")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


async def dies(home: Path, moment: str) -> None:
    """Start the node, which ends at this moment."""
    mortal = Process(
        moment, ["-m", "tests.testnet.dying_node", moment, "start", "--home", str(home)], home / "log"
    )
    mortal.start()
    try:
        with trio.fail_after(60):
            while mortal.pid is not None:  # noqa: ASYNC110 - another process.
                await trio.sleep(0.05)
        assert mortal.exit_code == -signal.SIGKILL, mortal.log_tail()
    finally:
        mortal.kill()


async def lives(home: Path, network: Path) -> None:
    """Start the node for good, until it is where the network is."""
    target = (await status_of(network)).final_height
    node = node_process("survivor", home)
    node.start()
    try:
        with trio.fail_after(60):
            height = 0
            while height < target:
                await trio.sleep(0.1)
                with suppress(OSError, CallRefused, trio.BrokenResourceError):
                    height = (await status_of(home / "data" / "node.sock")).final_height
    finally:
        await end_all(node)


async def test_a_node_killed_anywhere_in_an_import_goes_on_with_what_it_has_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_snapshot, "CHUNK_BYTES_MAX", CHUNK_BYTES)
    home = tmp_path / "follower"
    async with a_network(tmp_path) as layout:
        create_follower(layout, home, with_snapshot=True)
        known: dict[str, tuple[int, int]] = {}
        counts = {}
        for moment in MOMENTS:
            await dies(home, moment)
            now = chunks_in(home)
            assert known.items() <= now.items(), moment
            known, counts[moment] = now, len(now)
        await lives(home, layout.sockets[0])
    whole = len(list((layout.node_homes[0] / "data" / "snapshots").rglob("*.chunk")))
    assert counts["before the first chunk"] == 0
    assert 0 < counts["half of a chunk written"] < counts["half of the chunks there"] < whole
    assert [counts[moment] for moment in list(MOMENTS)[3:]] == [whole] * 4
    check_chain(home, layout.node_homes[0])


def check_chain(home: Path, validator: Path) -> None:
    """It stands on the snapshot, its state is what the tip's root says, and every block is the validators'."""
    own, theirs = (BlockStore.open(path / "data" / "blocks", read_only=True) for path in (home, validator))
    tip = own.tip()
    assert tip is not None
    assert is_intact(own)
    assert own.first_height() == PLAN.snapshot_height
    heights = range(PLAN.snapshot_height, tip.height + 1)
    assert [own.hash_at(height) for height in heights] == [theirs.hash_at(height) for height in heights]
    own.close()
    theirs.close()
