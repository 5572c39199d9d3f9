"""How a validator that was away comes back while the others go on: catches up, and votes again. Trio, processes, disk.

Everything is real from the first block: four validators vote, one is stopped, three go on; then it starts again from
its own store and journal, fetches what it missed from all three at once, and is back when its vote stands in a finality
proof above the height that the network had when it started.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import lmdb
import trio

from consensus.messages import QuorumCertificate
from node.rpc.client_trio import CallRefused
from node.storage.block_store import BlockStore
from primitives.codec import decode_own
from primitives.errors import OperatorError
from testnet.bench.directory import kept_in
from testnet.bench.sync import SYNC_SECONDS_MAX, check_running, node_process, rate, status_of, wait_height
from testnet.plan import Plan
from testnet.processes import Process, end_all
from testnet.setup import Layout, create

VALIDATORS = 4
"""One may be away."""
VOTER = VALIDATORS - 1
STOP_HEIGHT = 30
"""How far it votes before it is stopped."""
BEFORE_SECONDS = 8.0
"""How long the network is watched without it, right before it starts again."""


@dataclass(frozen=True, slots=True)
class RejoinPlan:
    """What is measured."""

    blocks: int = 10_000
    """That the others make while it is away."""
    min_block_ms: int = 100
    seed: int = 1


def rejoin_figures(plan: RejoinPlan, home: Path | None = None) -> dict[str, float]:
    """Flat keys for `quorate bench rejoin`. Raises OperatorError when the network does not start, or not go on."""
    with kept_in(home) as directory:
        return trio.run(_measure, plan, directory)


async def _measure(plan: RejoinPlan, directory: Path) -> dict[str, float]:
    layout = create(
        Plan(validators=VALIDATORS, min_block_ms=plan.min_block_ms, seed=plan.seed, speed=1), directory
    )
    market = Process("market", ["-m", "testnet.market", str(layout.market_config)], directory / "market.log")
    nodes = [node_process(f"node{index}", path) for index, path in enumerate(layout.node_homes)]
    *others, voter = nodes
    try:
        for process in (market, *nodes):
            process.start()
        await wait_height(layout.sockets[0], STOP_HEIGHT, nodes)
        await _wait_vote(layout, 0)
        voter.terminate()
        await voter.wait_ended()
        stopped = _tip(layout.node_homes[VOTER])
        seconds_max = 60 + plan.blocks * (plan.min_block_ms / 1_000 + 0.5)
        await wait_height(layout.sockets[0], stopped + plan.blocks, others, seconds_max)
        return await _come_back(layout, voter, stopped)
    finally:
        await end_all(*nodes, market)


async def _come_back(layout: Layout, voter: Process, stopped: int) -> dict[str, float]:
    """From its start until it is where the network was then, and until it votes."""
    network = layout.sockets[0]
    before = await status_of(network)
    await trio.sleep(BEFORE_SECONDS)
    target = await status_of(network)
    began = trio.current_time()
    voter.start()
    height, first = stopped, (began, stopped)
    with trio.move_on_after(SYNC_SECONDS_MAX):
        while height < target.final_height:
            await trio.sleep(0.1)
            check_running(voter)
            with suppress(OSError, CallRefused, trio.BrokenResourceError):
                height = (await status_of(layout.sockets[VOTER])).final_height
                first = first if first[0] > began else (trio.current_time(), height)
    caught_up = trio.current_time()
    after = await status_of(network)
    await _wait_vote(layout, target.final_height)
    votes = trio.current_time()
    return {
        "rejoin.behind_blocks": target.final_height - stopped,
        "rejoin.reached_height": height,
        "rejoin.seconds_with_start": round(caught_up - began, 2),
        "rejoin.seconds": round(caught_up - first[0], 2),
        "rejoin.blocks_per_s": round((height - first[1]) / (caught_up - first[0]), 1),
        "rejoin.votes_after_seconds": round(votes - began, 2),
        "rejoin.network_blocks_per_s_before": rate(before, target, BEFORE_SECONDS),
        "rejoin.network_blocks_per_s_during": rate(target, after, caught_up - began),
        "rejoin.network_finality_ms_p50": after.finality_us_p50 / 1_000,
        "rejoin.voter_rss_mb": round(voter.rss_mb_max),
    }


async def _wait_vote(layout: Layout, above: int) -> None:
    """Until the voter's signature stands in a finality proof above a height. Raises OperatorError."""
    with trio.move_on_after(SYNC_SECONDS_MAX / 10):
        while not await trio.to_thread.run_sync(_voted_above, layout.node_homes[0], above):  # noqa: ASYNC110
            await trio.sleep(0.1)
        return
    raise OperatorError(f"validator {VOTER} does not vote above height {above}")


def _voted_above(home: Path, height: int) -> bool:
    with suppress(lmdb.Error):
        store = BlockStore.open(home / "data" / "blocks", read_only=True)
        try:
            tip = store.tip()
            newest = range(height + 1, 0 if tip is None else tip.height + 1)
            proofs = [raw for one in newest[-100:] if (raw := store.proof_at(one))]
        finally:
            store.close()
        return any(VOTER in decode_own(QuorumCertificate, raw).signers for raw in proofs)
    return False


def _tip(home: Path) -> int:
    store = BlockStore.open(home / "data" / "blocks", read_only=True)
    try:
        tip = store.tip()
        return 0 if tip is None else tip.height
    finally:
        store.close()
