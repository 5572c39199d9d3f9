"""A validator whose key is with a remote signer: it votes, falls silent without it, and votes again, never twice."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from consensus.effects import OwnVote
from consensus.messages import Vote, Votes
from gossip.network import Lane
from node import wiring
from node.keystore import ValidatorKeys
from node.safety_journal import adopt_signed, recover
from node.signer.client import reach
from node.storage.watermark import Watermark
from primitives.codec import decode_own
from primitives.errors import OperatorError
from tests.node.network_of_nodes import Nodes, keys_of, running_nodes
from tests.signer.signer_process import SignerProcess, make_home

A, B = b"\xaa" * 32, b"\xbb" * 32


async def start_with(nodes: Nodes, nursery: trio.Nursery, signer: SignerProcess, index: int) -> None:
    """Start a node whose keystore has no consensus key."""
    own = keys_of(index).seeds()
    keys = ValidatorKeys(None, own[1], own[2])
    scope, ended = trio.CancelScope(), trio.Event()
    remote = await reach(signer.access(nodes.chain_id, f"node{index}"))

    async def life(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:  # type: ignore[name-defined]
        try:
            with scope, ExitStack() as stack:
                node = wiring.Wiring(nodes.config(index), nodes.genesis, keys, stack, remote)
                nodes.running[index] = (node, scope, ended)
                await node.serve(task_status=task_status)
        finally:
            ended.set()

    await nursery.start(life)


def votes_of(nodes: Nodes, index: int) -> list[Vote]:
    sent = [raw for lane, raw in nodes.network(index).sent if lane is Lane.VOTE]
    return [
        vote for raw in sent if raw[1] == Votes.__struct_config__.tag for vote in decode_own(Votes, raw).votes
    ]


async def until_it_votes(nodes: Nodes, index: int, above_view: int = 0) -> None:
    with trio.fail_after(15):
        while not any(vote.view > above_view for vote in votes_of(nodes, index)):  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_a_validator_is_silent_while_its_signer_is_away_and_votes_when_it_is_back(
    tmp_path: Path, monkeypatch: Any
) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, nursery):
        await nodes.stop(3)
        home = make_home(tmp_path / "s", nodes.chain_id, keys_of(3).seeds()[0], node=nodes.config(3))
        signer = SignerProcess(home, f"unix:{home}/s.sock")
        await trio.to_thread.run_sync(signer.start)
        try:
            await start_with(nodes, nursery, signer, 3)
            await until_it_votes(nodes, 3)
            signer.kill()
            await trio.sleep(0.3)
            count, height = len(votes_of(nodes, 3)), nodes[0].ledger.final_height
            await nodes.wait_height(height + 5, who=(0, 1, 2, 3))
            assert len(votes_of(nodes, 3)) == count
            assert b"quorate_signer_connected 0.0" in nodes[3].metrics.text({})
            silent_until = nodes[3].consensus.view
            await trio.to_thread.run_sync(signer.start)
            await until_it_votes(nodes, 3, silent_until)
            assert b"quorate_signer_connected 1.0" in nodes[3].metrics.text({})
            assert not any(nodes[index].consensus.halted for index in range(4))
            signed = {(vote.epoch, vote.view, vote.kind, vote.subject) for vote in votes_of(nodes, 3)}
            assert len({one[:3] for one in signed}) == len(signed)
        finally:
            signer.kill()


def recovered(home: Path) -> Any:
    return recover(home / "journal", home / "keystore.watermark")


def test_what_the_signer_signed_and_the_node_forgot_is_taken_over(tmp_path: Path) -> None:
    Watermark.create(tmp_path / "keystore.watermark")
    told = (OwnVote(1, 0, 7, A), OwnVote(3, 0, 7, A))
    for _ in range(2):
        memory = recovered(tmp_path)
        adopt_signed(memory, told)
        assert (memory.records, memory.observer_reason) == (list(told), None)
        memory.journal.close()
        memory.watermark.close()


def test_a_signer_that_signed_something_else_stops_the_node(tmp_path: Path) -> None:
    Watermark.create(tmp_path / "keystore.watermark")
    memory = recovered(tmp_path)
    adopt_signed(memory, (OwnVote(1, 0, 7, A),))
    with pytest.raises(OperatorError, match="the key was used elsewhere"):
        adopt_signed(memory, (OwnVote(1, 0, 7, B),))
