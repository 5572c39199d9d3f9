"""Whole nodes that catch up over the memory network: from a long history, past liars, across epochs, as followers."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import trio

from consensus.messages import Block
from gossip.network import PeerName
from gossip.reasons import GossipReason
from ledger.transactions import transaction_id
from node.genesis import GenesisDocument
from node.genesis_defaults import default_staking
from node.sync import service as sync_service
from node.sync.messages import Range, RangeRequest, Tip, TipRequest, decode_question
from primitives.codec import decode_own, encode
from testnet.bench.history import History
from tests.ledger.exchange import buy
from tests.node import network_of_nodes
from tests.node.network_of_nodes import (
    BTC_PERP,
    INDEX_UUSD,
    Nodes,
    a_genesis,
    keys_of,
    running_nodes,
    sent_by,
)

BLOCKS = 70
EPOCH_BLOCKS = 30
FOLLOWER = 4

Answerer = Callable[[PeerName, bytes], Awaitable[bytes]]


@pytest.fixture(autouse=True)
def small(monkeypatch: Any) -> None:
    """Ranges of a few blocks, so that a short history has many; a lag of a few counts."""
    monkeypatch.setattr(sync_service, "RANGE_BLOCKS_MAX", 4)
    monkeypatch.setattr(sync_service, "LAG_BLOCKS", 6)
    monkeypatch.setattr(sync_service, "POLL_MS", 300)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Log lines go to a list instead of the terminal."""
    with structlog.testing.capture_logs() as lines:
        yield lines


def a_short_epoch_genesis(validators: int = 4) -> GenesisDocument:
    genesis = a_genesis(validators)
    staking = msgspec.structs.replace(default_staking(genesis.validators), epoch_blocks=EPOCH_BLOCKS)
    ledger = msgspec.structs.replace(genesis.ledger, staking=staking)
    return msgspec.structs.replace(genesis, ledger=ledger)


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, Path]:
    """A node's data directory with BLOCKS final blocks, for each genesis."""
    made: dict[bytes, Path] = {}
    for genesis in (a_genesis(), a_short_epoch_genesis()):
        data = made[encode(genesis)] = tmp_path_factory.mktemp("history")
        chain = History(genesis, [keys_of(i) for i in range(4)], data, INDEX_UUSD, absent=(3,))
        trio.run(chain.grow, BLOCKS)
        chain.store.close()
    return made


def give(nodes: Nodes, data: Path, *who: int) -> None:
    """The history in some homes; the others are new."""
    for index in who:
        shutil.copytree(data, nodes.homes[index] / "data", dirs_exist_ok=True)


async def is_at(nodes: Nodes, index: int, height: int, seconds: float = 20) -> None:
    await nodes.wait_height(height, [index], seconds)


@pytest.fixture
def nodes_with_history(
    tmp_path: Path, monkeypatch: Any, histories: dict[bytes, Path]
) -> Callable[..., Nodes]:
    def build(*who: int, genesis: Callable[[int], GenesisDocument] = a_genesis) -> Nodes:
        monkeypatch.setattr(network_of_nodes, "a_genesis", genesis)
        nodes = Nodes(tmp_path)
        nodes.join_by_memory(monkeypatch)
        give(nodes, histories[encode(nodes.genesis)], *who)
        return nodes

    return build


async def test_a_validator_far_behind_fetches_ranges_and_votes_again(nodes_with_history: Any) -> None:
    nodes = nodes_with_history(0, 1, 2)
    async with trio.open_nursery() as nursery:
        for index in range(4):
            await nodes.start(nursery, index)
        await is_at(nodes, 3, BLOCKS + 10)
        late = nodes[3]
        assert late.sync.progress.blocks >= BLOCKS - 6
        assert (late.sync.progress.liars, late.consensus.halted) == ({}, "")
        assert nodes.final_root(3, BLOCKS) == nodes.final_root(0, BLOCKS)
        await nodes.stop(2)
        # Three of four are left: without its votes nothing would become final.
        await is_at(nodes, 3, nodes[0].ledger.final_height + 5)
        nursery.cancel_scope.cancel()


async def test_a_follower_crosses_epochs_and_goes_on_with_what_it_hears(nodes_with_history: Any) -> None:
    nodes = nodes_with_history(0, 1, 2, 3, genesis=a_short_epoch_genesis)
    async with trio.open_nursery() as nursery:
        for index in range(4):
            await nodes.start(nursery, index)
        await nodes.start(nursery, FOLLOWER)
        await is_at(nodes, FOLLOWER, 3 * EPOCH_BLOCKS + 5, 30)
        follower = nodes[FOLLOWER]
        assert follower.core.epoch.number == 3
        assert follower.own_index is None
        for height in (EPOCH_BLOCKS, EPOCH_BLOCKS + 1, 2 * EPOCH_BLOCKS, 3 * EPOCH_BLOCKS + 5):
            assert nodes.final_root(FOLLOWER, height) == nodes.final_root(0, height)
        heard = follower.metrics.text().decode()
        assert 'quorate_events_total{name="final_block_heard",reason="taken"}' in heard
        assert nodes.network(FOLLOWER).blamed == []
        nursery.cancel_scope.cancel()


async def test_an_order_given_to_a_follower_is_traded_by_the_validators(
    tmp_path: Path, monkeypatch: Any
) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, nursery):
        await nodes.start(nursery, FOLLOWER)
        raw = sent_by("alice", nodes.chain_id, 0, buy(BTC_PERP, 99_000, 5))
        replies = await nodes[FOLLOWER].transactions.submit([raw])
        assert [reply.reason for reply in replies] == [""]
        with trio.fail_after(10):
            while nodes[FOLLOWER].store.height_of_transaction(transaction_id(raw)) is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert nodes[0].store.height_of_transaction(transaction_id(raw)) is not None


async def test_catch_up_goes_on_where_it_was_interrupted(nodes_with_history: Any) -> None:
    nodes = nodes_with_history(0, 1, 2, 3)
    async with trio.open_nursery() as nursery:
        for index in range(4):
            await nodes.start(nursery, index)
        await nodes.start(nursery, FOLLOWER)
        await is_at(nodes, FOLLOWER, 10)
        await nodes.stop(FOLLOWER)
        stored = nodes[FOLLOWER].ledger.final_height
        await nodes.start(nursery, FOLLOWER)
        assert nodes[FOLLOWER].restored.tip_height == stored >= 10
        await is_at(nodes, FOLLOWER, BLOCKS + 5)
        assert nodes[FOLLOWER].sync.progress.started_height >= stored
        nursery.cancel_scope.cancel()


# --- what bad peers may try ---


def forge_transactions(answer: Range) -> Range:
    block = decode_own(Block, answer.blocks[-1])
    forged = msgspec.structs.replace(block, transactions=(*block.transactions, b"a gift"))
    return msgspec.structs.replace(answer, blocks=(*answer.blocks[:-1], encode(forged)))


def forge_signature(answer: Range) -> Range:
    assert answer.proof is not None
    proof = msgspec.structs.replace(answer.proof, signatures=(bytes(64), *answer.proof.signatures[1:]))
    return msgspec.structs.replace(answer, proof=proof)


def without_proof(answer: Range) -> Range:
    return msgspec.structs.replace(answer, proof=None)


LIES = [
    (forge_transactions, "wrong_root"),
    (forge_signature, "sync_bad_signature"),
    (without_proof, "sync_unproved"),
]


def lie_about_ranges(honest: Answerer, lie: Callable[[Range], Range]) -> Answerer:
    async def answer(peer: PeerName, raw: bytes) -> bytes:
        reply = await honest(peer, raw)
        if not isinstance(decode_question(raw), RangeRequest):
            return reply
        found = decode_own(Range, reply)
        return encode(lie(found)) if len(found.blocks) > 1 else reply

    return answer


@pytest.mark.parametrize(("lie", "reason"), LIES, ids=[lie.__name__ for lie, _ in LIES])
async def test_who_lies_about_blocks_is_dropped_and_named_and_the_others_suffice(
    nodes_with_history: Any, quiet: list[dict[str, Any]], lie: Callable[[Range], Range], reason: str
) -> None:
    nodes = nodes_with_history(0, 1, 2, 3)
    async with trio.open_nursery() as nursery:
        for index in range(4):
            await nodes.start(nursery, index)
        liar = nodes.network(0)
        assert liar.on_request is not None
        liar.on_request = lie_about_ranges(liar.on_request, lie)
        await nodes.start(nursery, FOLLOWER)
        await is_at(nodes, FOLLOWER, BLOCKS)
        assert nodes[FOLLOWER].sync.progress.liars == {0: reason}
        assert dict(nodes[FOLLOWER].answers.status().counters)["sync_liars"] == 1
        assert set(nodes.network(FOLLOWER).blamed) == {(0, GossipReason.FALSE_ANSWER)}
        named = [line for line in quiet if line["event"] == "sync_liar"]
        assert {(line["peer"], line["reason"]) for line in named} == {(0, reason)}
        assert nodes.final_root(FOLLOWER, BLOCKS) == nodes.final_root(1, BLOCKS)
        nursery.cancel_scope.cancel()


async def test_a_fake_height_is_no_target(nodes_with_history: Any) -> None:
    nodes = nodes_with_history(0, 1, 2, 3)
    async with trio.open_nursery() as nursery:
        for index in range(4):
            await nodes.start(nursery, index)
        liar = nodes.network(0)
        honest = liar.on_request
        assert honest is not None

        async def answer(peer: PeerName, raw: bytes) -> bytes:
            reply = await honest(peer, raw)
            if not isinstance(decode_question(raw), TipRequest):
                return reply
            tip = decode_own(Tip, reply)
            assert tip.header is not None
            return encode(Tip(msgspec.structs.replace(tip.header, height=2**40), tip.proof, None))

        liar.on_request = answer
        await nodes.start(nursery, FOLLOWER)
        await is_at(nodes, FOLLOWER, BLOCKS)
        assert nodes[FOLLOWER].sync.progress.liars == {0: "unproved"}
        assert nodes[FOLLOWER].sync.progress.target_height < 2**40
        nursery.cancel_scope.cancel()


async def test_slow_and_silent_peers_hold_up_nobody(nodes_with_history: Any, monkeypatch: Any) -> None:
    nodes = nodes_with_history(0, 1, 2, 3)
    async with trio.open_nursery() as nursery:
        for index in range(4):
            await nodes.start(nursery, index)

        async def never(peer: PeerName, raw: bytes) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        nodes.network(0).on_request = nodes.network(1).on_request = never
        await nodes.start(nursery, FOLLOWER)
        await is_at(nodes, FOLLOWER, BLOCKS, 15)
        assert nodes[FOLLOWER].sync.progress.liars == {}
        nursery.cancel_scope.cancel()
