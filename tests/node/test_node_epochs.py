"""Whole nodes through epochs: boundaries, what is kept on disk, restarts, and evidence that reaches the ledger."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import trio

from consensus.evidence import offences_of
from consensus.messages import Block, BlockEvidence, Proposal, VoteKind, Votes, hash_of
from gossip.network import Lane
from gossip.reasons import GossipReason
from ledger.staking.state import get_punishment
from node.genesis import GenesisDocument
from node.genesis_defaults import default_staking
from node.storage.epoch_files import EpochFiles
from node.storage.evidence_files import EvidenceFiles
from primitives.codec import decode_own, encode
from tests.consensus.builders import a_block as an_unjustified_block
from tests.node import network_of_nodes
from tests.node.network_of_nodes import Nodes, a_genesis, running_nodes
from tests.node.test_node_cluster import a_vote, inject

EPOCH_BLOCKS = 6


def a_staking_genesis(validators: int = 4) -> GenesisDocument:
    """Epochs of six blocks."""
    genesis = a_genesis(validators)
    staking = msgspec.structs.replace(default_staking(genesis.validators), epoch_blocks=EPOCH_BLOCKS)
    ledger = msgspec.structs.replace(genesis.ledger, staking=staking)
    return msgspec.structs.replace(genesis, ledger=ledger)


def epochs_of(nodes: Nodes) -> list[int]:
    return [node.core.epoch.number for node, _, _ in nodes.running.values()]


async def wait_epoch(nodes: Nodes, number: int, seconds: float = 20) -> None:
    with trio.fail_after(seconds):
        while min(epochs_of(nodes)) < number:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_nodes_change_epochs_and_a_restarted_one_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(network_of_nodes, "a_genesis", a_staking_genesis)
    async with running_nodes(tmp_path, monkeypatch) as (nodes, nursery):
        await wait_epoch(nodes, 2)
        await nodes.stop(3)
        del nodes.running[3]
        await wait_epoch(nodes, 4)
        await nodes.start(nursery, 3)
        await wait_epoch(nodes, 6)
        assert not any(node.consensus.halted or node.observer for node, _, _ in nodes.running.values())
        kept = EpochFiles(nodes.config(3).data_path / "epochs").load(0, EPOCH_BLOCKS)
        assert [opened.number for opened in kept] == list(range(1, len(kept) + 1))
        assert [opened.first_height for opened in kept] == [one.number * EPOCH_BLOCKS for one in kept]
        assert nodes.network(0).blamed == []


async def test_a_double_vote_is_punished_by_the_ledger_in_a_later_epoch(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(network_of_nodes, "a_genesis", a_staking_genesis)
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        await nodes.wait_height(1)
        view = nodes[0].consensus.view + 40
        votes = [a_vote(nodes, view, bytes([n]) * 32, signer=3, key=3) for n in (1, 2)]
        inject(nodes, 0, 3, Lane.VOTE, *(encode(Votes((vote,))) for vote in votes))
        assert all(vote.kind == VoteKind.NOTARIZE for vote in votes)
        await wait_epoch(nodes, 2)
        for index in range(3):
            punishment = await nodes[index].ledger.read(lambda state: get_punishment(state, 3))
            assert punishment is not None
            assert punishment.offences == ((0, "E1"),)


async def test_a_node_without_journal_and_watermark_watches_and_then_signs_again(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(network_of_nodes, "a_genesis", a_staking_genesis)
    async with running_nodes(tmp_path, monkeypatch) as (nodes, nursery):
        await wait_epoch(nodes, 1)
        await nodes.stop(3)
        shutil.rmtree(nodes.config(3).journal_path)
        nodes.config(3).watermark_path.unlink()
        await nodes.start(nursery, 3)
        assert nodes[3].observer
        begun = nodes[3].core.epoch.number
        await wait_epoch(nodes, begun + 4)
        assert not nodes[3].observer
        assert not nodes[3].core.is_watching
        with trio.fail_after(5):
            while not nodes[3].core.state.own.views_above(0):  # noqa: ASYNC110
                await trio.sleep(0.005)
        await nodes.stop(3)
        await nodes.start(nursery, 3)
        assert not nodes[3].observer


async def test_a_vote_for_an_unjustified_block_is_refused_and_proved(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """Its block claims to stand on genesis and skips four views without saying why."""
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        await nodes.wait_height(1)
        block = an_unjustified_block(5, epoch=nodes[0].core.epoch)
        vote = a_vote(nodes, 5, hash_of(block.header), signer=3, key=3)
        inject(nodes, 0, 3, Lane.BULK, encode(Proposal(block, vote)))
        kept = nodes.config(0).data_path / "evidence"
        with trio.fail_after(5):
            while not kept.is_dir() or not list(kept.glob("*.msgpack")):  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert EvidenceFiles(kept).load() == [BlockEvidence(vote, block.header, block.justification)]
        assert nodes.network(0).blamed == [(3, GossipReason.INVALID_MESSAGE)]
        height = nodes[0].ledger.final_height
        await nodes.wait_height(height + 12)
        stored = [nodes[1].store.block_at(at) or b"" for at in range(1, height + 12)]
        named = [offences_of(decode_own(Block, raw).evidence) for raw in stored]
        assert [one for one in named if one] == [((3, 0, "E6", 5),)]
