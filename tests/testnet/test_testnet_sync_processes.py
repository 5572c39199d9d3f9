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
from testnet.bench.rejoin import RejoinPlan, rejoin_figures
from testnet.bench.sync import SyncPlan, sync_figures
from testnet.plan import Plan
from testnet.processes import Process, end_all, free_ports
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


def test_a_validator_that_was_away_catches_up_while_the_others_go_on_and_votes_again(tmp_path: Path) -> None:
    figures = rejoin_figures(RejoinPlan(blocks=200, min_block_ms=30), tmp_path)
    assert figures["rejoin.behind_blocks"] >= 200
    assert figures["rejoin.votes_after_seconds"] >= figures["rejoin.seconds_with_start"] > 0
    assert figures["rejoin.network_blocks_per_s_during"] > 0


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
        await end_all(*nodes, market)
    store = BlockStore.open(layout.node_homes[0] / "data" / "blocks", read_only=True)
    proofs = [raw for height in range(1, 13) if (raw := store.proof_at(height)) is not None]
    assert all(2 in decode_own(QuorumCertificate, raw).signers for raw in proofs)
    assert proofs
    store.close()


async def reaches(homes: list[Path], height: int, seconds: float = 40) -> None:
    """Every one of the nodes has a final block of that height."""
    with trio.fail_after(seconds):
        while min([await final_height(home / "data" / "node.sock") for home in homes]) < height:  # noqa: ASYNC110
            await trio.sleep(0.1)


async def test_a_validator_goes_on_voting_whichever_of_its_two_sentries_is_killed(tmp_path: Path) -> None:
    """Of three validators all must vote, so each further block holds the hidden one's vote."""
    layout = create(Plan(validators=3, speed=1), tmp_path)
    hidden = layout.node_homes[2]
    listen, ports = load_config(hidden).listen, free_ports(3)
    sentries = [tmp_path / "sentry0", tmp_path / "sentry1"]
    for home, port, gateway in zip(sentries, (listen.port, ports[0]), ports[1:], strict=True):
        told = initialise_sentry(home, hidden, None, listen.host, port, gateway)
        with (hidden / CONFIG_FILE).open("a") as file:
            file.write("\n".join(told[told.index("[[sentries]]") :]) + "\n")
    market = Process("market", ["-m", "testnet.market", str(layout.market_config)], tmp_path / "market.log")
    homes = [*layout.node_homes, *sentries]
    nodes = [
        Process(home.name, ["-m", "node", "start", "--home", str(home)], home / "out.log") for home in homes
    ]
    *_, first, second = nodes
    try:
        market.start()
        for node in nodes:
            node.start({"QUORATE_SYNC_SNAPSHOT": "false"})
        await reaches(homes, 10)
        for fallen, other_home in ((first, sentries[1]), (second, sentries[0])):
            height = await final_height(layout.sockets[0])
            fallen.kill()
            await reaches([*layout.node_homes, other_home], height + 10, 10)
            fallen.start()
            await reaches(homes, height + 20)
    finally:
        await end_all(*nodes, market)
