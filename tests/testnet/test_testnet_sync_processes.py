"""Real processes on loopback: an empty node catches up, takes a snapshot; a validator votes through its sentry."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from consensus.messages import QuorumCertificate
from node.config import CONFIG_FILE, load_config
from node.init_command import initialise_sentry
from node.rpc.client_trio import open_node_client
from node.storage.block_store import BlockStore
from primitives.codec import decode_own
from testnet.bench.sync import SyncPlan, sync_figures
from testnet.plan import Plan
from testnet.processes import Process, free_ports
from testnet.setup import create

pytestmark = pytest.mark.slow


def test_an_empty_follower_reaches_a_network_that_goes_on(tmp_path: Path) -> None:
    figures = sync_figures(SyncPlan(blocks=250), tmp_path)
    assert figures["sync.reached_height"] >= figures["sync.target_height"] >= 260
    assert figures["sync.network_blocks_per_s_during"] > 0


def test_an_empty_follower_stands_on_a_snapshot(tmp_path: Path) -> None:
    plan = SyncPlan(blocks=60, accounts=3_000)
    figures = sync_figures(plan, tmp_path)
    assert figures["sync.reached_height"] >= figures["sync.target_height"]
    store = BlockStore.open(tmp_path / "follower" / "data" / "blocks", read_only=True)
    assert store.first_height() == plan.snapshot_height
    store.close()


async def final_height(socket: Path) -> int:
    try:
        async with open_node_client(socket) as client:
            return (await client.status()).final_height
    except (OSError, trio.BrokenResourceError):
        return 0


async def test_a_validator_that_only_its_sentry_can_reach_proposes_and_votes(tmp_path: Path) -> None:
    """Of three validators all must vote: without the hidden one's votes nothing would become final."""
    layout = create(Plan(validators=3, speed=1), tmp_path)
    hidden, sentry_home = layout.node_homes[2], tmp_path / "sentry"
    listen = load_config(hidden).listen
    told = initialise_sentry(sentry_home, hidden, None, listen.host, listen.port, free_ports(1)[0])
    with (hidden / CONFIG_FILE).open("a") as file:
        file.write("\n".join(told[told.index("[[sentries]]") :]) + "\n")
    market = Process("market", ["-m", "testnet.market", str(layout.market_config)], tmp_path / "market.log")
    homes = [*layout.node_homes, sentry_home]
    nodes = [
        Process(home.name, ["-m", "node", "start", "--home", str(home)], home / "out.log") for home in homes
    ]
    try:
        market.start()
        for node in nodes:
            node.start({"QUORATE_SYNC_SNAPSHOT": "false"})
        with trio.fail_after(120):
            while await final_height(layout.sockets[0]) < 12:  # noqa: ASYNC110 - another process' state.
                await trio.sleep(0.2)
            while await final_height(sentry_home / "data" / "node.sock") < 12:  # noqa: ASYNC110
                await trio.sleep(0.2)
    finally:
        with trio.CancelScope(shield=True):
            for process in (*nodes, market):
                process.terminate()
            for process in (*nodes, market):
                await process.wait_ended()
    store = BlockStore.open(layout.node_homes[0] / "data" / "blocks", read_only=True)
    proofs = [raw for height in range(1, 13) if (raw := store.proof_at(height)) is not None]
    assert all(2 in decode_own(QuorumCertificate, raw).signers for raw in proofs)
    assert proofs
    store.close()
