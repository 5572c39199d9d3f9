"""Whole nodes, wired as `quorate start` wires them, over a memory network: agreement, restarts, bad peers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from consensus.messages import (
    BlockRequest,
    BlockResponse,
    EvidenceMessage,
    PairEvidence,
    QuorumCertificate,
    Vote,
    Votes,
    sign_bytes,
)
from gossip.network import Inbound, Lane, Topic
from gossip.reasons import GossipReason
from ledger.events import Trade
from ledger.transactions import transaction_id
from node.messages import FinalBlockMessage, ReportMessage
from node.rpc.client_trio import open_node_client
from node.rpc.protocol import BlockTiming, FinalBlockNotice
from primitives.amounts import USD
from primitives.codec import decode_own, encode
from primitives.errors import OperatorError
from primitives.identifiers import ValidatorIndex
from tests.ledger.exchange import buy, sell
from tests.node.network_of_nodes import (
    BTC_PERP,
    TIME_NS,
    Nodes,
    a_report,
    keys_of,
    running_nodes,
    sent_by,
)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Log lines go to a list instead of the terminal."""
    with structlog.testing.capture_logs() as lines:
        yield lines


async def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event.
            await trio.sleep(0.005)


def roots_at(nodes: Nodes, height: int, who: tuple[int, ...] = (0, 1, 2, 3)) -> set[bytes]:
    return {nodes.final_root(index, height) for index in who}


async def test_four_nodes_trade_and_reach_equal_roots(tmp_path: Path, monkeypatch: Any) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        offer = sent_by("alice", nodes.chain_id, 0, sell(BTC_PERP, 100_000, 5))
        bid = sent_by("bob", nodes.chain_id, 0, buy(BTC_PERP, 100_000, 3))
        assert [reply.reason for reply in await nodes[0].transactions.submit([offer])] == [""]
        assert [reply.reason for reply in await nodes[3].transactions.submit([bid])] == [""]
        await nodes.wait_height(12)
        for height in range(1, 12):
            assert len(roots_at(nodes, height)) == 1
        for index in range(4):
            store = nodes[index].store
            assert None not in [store.height_of_transaction(transaction_id(raw)) for raw in (offer, bid)]
            traded = [
                event
                for height in range(1, 12)
                for event in decode_own(tuple[Any, ...], store.events_at(height) or b"")
                if event[0] == Trade.__struct_config__.tag
            ]
            assert [(event[2], event[3]) for event in traded] == [(100_000 * USD, 3)]
        assert [nodes.network(index).blamed for index in range(4)] == [[]] * 4


async def test_fast_finality_is_the_rule_among_four_good_nodes(tmp_path: Path, monkeypatch: Any) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        await nodes.wait_height(15)
        shares = [nodes[index].metrics.fast_share_ppm() for index in range(4)]
        assert min(shares) > 500_000
        assert {nodes[index].consensus.halted for index in range(4)} == {""}


async def test_nothing_is_sent_while_the_disk_is_busy_and_the_core_goes_on_counting(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def sent() -> int:
        return sum(lane is Lane.VOTE for lane, _ in network.sent)

    def slow_append(records: Any) -> None:
        sent_before.append(sent())
        assert disk_is_back.wait(10)
        append(records)

    sent_before: list[int] = []
    disk_is_back = threading.Event()
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        await nodes.wait_height(3)
        append, network = nodes[0].safety.append, nodes.network(0)
        monkeypatch.setattr(nodes[0].safety, "append", slow_append)
        await eventually(lambda: len(sent_before) == 1)
        views, height = nodes[0].consensus._core.view + 3, nodes[0].ledger.final_height
        await nodes.wait_height(height + 4, who=(1, 2, 3))
        await eventually(lambda: nodes[0].consensus._core.view >= views)
        assert (sent(), nodes[0].ledger.final_height) == (sent_before[0], height)
        disk_is_back.set()
        await nodes.wait_height(height + 6)
        assert sent() > sent_before[0]


async def test_a_single_validator_is_a_chain_of_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    async with running_nodes(tmp_path, monkeypatch, count=1) as (nodes, _):
        await nodes.wait_height(5)


async def test_three_of_four_go_on_and_the_fourth_comes_back_to_the_same_roots_and_votes(
    tmp_path: Path, monkeypatch: Any
) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, nursery):
        await nodes.wait_height(5)
        await nodes.stop(2)
        before = nodes[2].ledger.final_height
        others = (0, 1, 3)
        await nodes.wait_height(before + 12, others)
        assert nodes[2].ledger.final_height == before
        await nodes.start(nursery, 2)
        assert nodes[2].ledger.final_height >= before
        target = nodes[0].ledger.final_height
        await nodes.wait_height(target + 3)
        assert len(roots_at(nodes, target)) == 1

        def has_voted() -> bool:
            return any(
                raw is not None and 2 in decode_own(QuorumCertificate, raw).signers
                for height in range(target, nodes[0].ledger.final_height + 1)
                if (raw := nodes[0].store.proof_at(height)) is not None
            )

        await eventually(has_voted)
        assert [nodes.network(index).blamed for index in range(4)] == [[]] * 4


async def test_all_stop_at_once_and_go_on_where_they_were(tmp_path: Path, monkeypatch: Any) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, nursery):
        raw = sent_by("alice", nodes.chain_id, 0, buy(BTC_PERP, 99_000, 5))
        await nodes[1].transactions.submit([raw])
        await eventually(lambda: nodes[1].store.height_of_transaction(transaction_id(raw)) is not None)
        for index in range(4):
            await nodes.stop(index)
        heights = [nodes[index].ledger.final_height for index in range(4)]
        root = nodes[1].ledger.final_root
        for index in range(4):
            await nodes.start(nursery, index)
        assert [nodes[index].restored.tip_height for index in range(4)] == heights
        await nodes.wait_height(max(heights) + 5)
        assert nodes.final_root(1, heights[1] + 1) == root
        assert len(roots_at(nodes, max(heights) + 5)) == 1
        assert None not in [nodes[i].store.height_of_transaction(transaction_id(raw)) for i in range(4)]


async def test_without_a_quorum_nothing_becomes_final_and_then_it_goes_on(
    tmp_path: Path, monkeypatch: Any
) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        await nodes.wait_height(3)
        nodes.hub.cut = {0, 1}
        await trio.sleep(0.1)
        heights = [nodes[index].ledger.final_height for index in range(4)]
        await trio.sleep(0.8)
        assert [nodes[index].ledger.final_height for index in range(4)] == heights
        nodes.hub.cut = set()
        await nodes.wait_height(max(heights) + 5)
        assert len(roots_at(nodes, max(heights) + 3)) == 1


# --- what a bad peer may try ---


def inject(nodes: Nodes, to: int, sender: int, lane: Lane, *raws: bytes) -> None:
    frame = Inbound(ValidatorIndex(sender), lane, raws, 0)
    nodes.network(to).inboxes[lane].send_nowait(frame)


def a_vote(nodes: Nodes, view: int, subject: bytes, *, signer: int, key: int, kind: int = 1) -> Vote:
    signature = keys_of(key).consensus.sign(sign_bytes(nodes.chain_id, kind, 0, view, subject))
    return Vote(kind, 0, view, subject, signer, signature)


async def test_every_violation_is_blamed_on_its_sender_and_the_node_goes_on(
    tmp_path: Path, monkeypatch: Any, quiet: list[dict[str, Any]]
) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        await nodes.wait_height(2)
        forged = encode(Votes((a_vote(nodes, 9, b"\x01" * 32, signer=1, key=3),)))
        stranger = encode(Votes((a_vote(nodes, 9, b"\x01" * 32, signer=99, key=3),)))
        report = a_report(1, nodes.chain_id, TIME_NS)
        other_chain = encode(ReportMessage(a_report(1, bytes(32), TIME_NS)))
        unsigned = encode(ReportMessage(type(report)(report.payload, 1, bytes(64))))
        unknown = encode(ReportMessage(type(report)(report.payload, 9, bytes(64))))
        garbled = encode(ReportMessage(type(report)(b"\xff", 1, bytes(64))))
        bulk = (other_chain, unsigned, unknown, garbled, b"", b"\xff" * 100, forged)
        inject(nodes, 0, 3, Lane.VOTE, forged, stranger, b"\x90", unsigned)
        inject(nodes, 0, 3, Lane.BULK, *bulk)
        await eventually(lambda: len(nodes.network(0).blamed) == 11)
        assert set(nodes.network(0).blamed) == {(3, GossipReason.INVALID_MESSAGE)}
        refused = [line["reason"] for line in quiet if line["event"] == "message_refused"]
        assert sorted(refused) == sorted(
            ["bad_signature"] * 2 + ["malformed"] * 6 + ["out_of_range"] * 2 + ["unknown_signer"]
        ), refused
        await nodes.wait_height(nodes[0].ledger.final_height + 3)


async def test_the_good_messages_of_a_bad_frame_still_count(tmp_path: Path, monkeypatch: Any) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        await nodes.wait_height(1)
        report = a_report(1, nodes.chain_id, TIME_NS + 2**50)
        inject(nodes, 0, 3, Lane.BULK, b"\xff", encode(ReportMessage(report)))
        await eventually(lambda: report in nodes[0].reports.newest())
        assert nodes.network(0).blamed == [(3, GossipReason.INVALID_MESSAGE)]


async def test_topics_and_followers_decide_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        inbox = nodes.network(0).inboxes[Lane.BULK]
        inbox.send_nowait(Inbound(ValidatorIndex(1), Topic.FINAL_BLOCKS, (b"\xff",), 0))
        inbox.send_nowait(Inbound("12D3KooWfollower", Lane.BULK, (b"\xff",), 0))  # type: ignore[arg-type]
        await nodes.wait_height(3)
        assert nodes.network(0).blamed == []


async def test_an_equivocation_is_proved_kept_on_disk_and_told(tmp_path: Path, monkeypatch: Any) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        await nodes.wait_height(2)
        view = nodes[0].consensus.view + 40
        votes = [a_vote(nodes, view, bytes([n]) * 32, signer=3, key=3) for n in (1, 2)]
        inject(nodes, 0, 3, Lane.VOTE, *(encode(Votes((vote,))) for vote in votes))
        kept = nodes.config(0).data_path / "evidence"
        await eventually(lambda: kept.is_dir() and len(list(kept.iterdir())) == 1)
        (path,) = kept.iterdir()
        evidence = decode_own(PairEvidence, path.read_bytes())
        assert {evidence.vote_a, evidence.vote_b} == set(votes)
        assert (Topic.EVIDENCE, encode(EvidenceMessage(evidence))) in nodes.network(0).published
        await nodes.wait_height(nodes[0].ledger.final_height + 2)


async def test_old_blocks_are_served_from_the_store_and_unknown_ones_answered_empty(
    tmp_path: Path, monkeypatch: Any
) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        await nodes.wait_height(8)
        wanted = nodes[0].store.hash_at(5)
        assert wanted is not None
        unknown = b"\x09" * 32
        for block in (wanted, unknown):
            inject(nodes, 0, 3, Lane.BULK, encode(BlockRequest(block, 1, 3)))

        def answers() -> dict[bytes, list[int]]:
            found = {}
            for lane, raw in nodes.network(0).sent:
                if lane is Lane.BULK and raw[1] == BlockResponse.__struct_config__.tag:
                    response = decode_own(BlockResponse, raw)
                    found[response.requested] = [block.header.height for block in response.blocks]
            return found

        await eventually(lambda: len(answers()) == 2)
        assert answers() == {wanted: [5, 4, 3], unknown: []}
        assert nodes.network(0).blamed == []


# --- what clients and followers are told ---


async def test_a_subscriber_hears_of_each_final_block_once_and_in_order(
    tmp_path: Path, monkeypatch: Any
) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        async with open_node_client(nodes.config(1).socket_path) as client:
            start = await client.subscribe()
            seen: list[FinalBlockNotice] = []
            timings: list[BlockTiming] = []
            with trio.fail_after(5):
                async for notice in client.notices:
                    if isinstance(notice, FinalBlockNotice):
                        seen.append(notice)
                    elif isinstance(notice, BlockTiming):
                        timings.append(notice)
                    if len(seen) == 6:
                        break
            status = await client.status()
            metrics = await client.metrics()
        assert [notice.height for notice in seen] == list(range(start + 1, start + 7))
        assert {len(timing.signers) for timing in timings} <= {3, 4}
        store = nodes[1].store
        assert [notice.block_hash for notice in seen] == [store.hash_at(notice.height) for notice in seen]
        assert [notice.state_root for notice in seen[:-1]] == [
            nodes.final_root(1, notice.height + 1) for notice in seen[:-1]
        ]
        assert (status.name, status.index, status.validators, status.halted) == ("node1", 1, 4, "")
        assert (status.observer, [peer.index for peer in status.peers]) == ("", [0, 2, 3])
        assert status.height >= status.final_height >= seen[-1].height
        assert (status.finality_count > 0, status.rss_bytes > 10**7) == (True, True)
        assert b"quorate_final_blocks_total" in metrics


async def test_followers_hear_a_block_from_its_proposer_alone(tmp_path: Path, monkeypatch: Any) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        await nodes.wait_height(10)
        told: dict[int, int] = {}
        for index in range(4):
            for topic, raw in nodes.network(index).published:
                assert topic is Topic.FINAL_BLOCKS
                message = decode_own(FinalBlockMessage, raw)
                assert message.block.header.proposer == index
                told[message.block.header.height] = told.get(message.block.header.height, 0) + 1
        assert set(told.values()) == {1}
        assert len(told) >= 5


# --- a node that must not sign ---


async def test_a_lost_watermark_makes_an_observer_that_follows_and_signs_nothing(
    tmp_path: Path, monkeypatch: Any
) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, nursery):
        await nodes.wait_height(2)
        await nodes.stop(3)
        nodes.config(3).watermark_path.unlink()
        await nodes.start(nursery, 3)
        target = nodes[0].ledger.final_height + 5
        await nodes.wait_height(target)
        assert len(roots_at(nodes, target)) == 1
        assert "observes and signs nothing" in nodes[3].observer
        assert votes_of(nodes, 3) == []


def votes_of(nodes: Nodes, index: int) -> list[Vote]:
    """Every vote that a node has sent since its last start."""
    sent = [raw for lane, raw in nodes.network(index).sent if lane is Lane.VOTE]
    return [
        vote for raw in sent if raw[1] == Votes.__struct_config__.tag for vote in decode_own(Votes, raw).votes
    ]


async def test_a_torn_tail_was_never_sent_and_holds_nobody_up(tmp_path: Path, monkeypatch: Any) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, nursery):
        await nodes.wait_height(3)
        await nodes.stop(3)
        (segment,) = nodes.config(3).journal_path.glob("segment-*")
        with segment.open("ab") as file:
            file.write(b"\x51\xf7\xa3\xc9 and then the power went")
        await nodes.start(nursery, 3)
        assert (nodes[3].observer, nodes[3].core.state.own.floor) == ("", 0)
        await eventually(lambda: len(votes_of(nodes, 3)) > 5)


async def test_lost_frames_of_the_journal_silence_every_view_they_could_be_of(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """Its last synced record is gone: that may have been a vote, and it was sent."""
    async with running_nodes(tmp_path, monkeypatch) as (nodes, nursery):
        await nodes.wait_height(3)
        await nodes.stop(3)
        watermark = nodes[3].watermark
        assert watermark is not None
        (segment,) = nodes.config(3).journal_path.glob("segment-*")
        with segment.open("r+b") as file:
            file.truncate(segment.stat().st_size - 1)
        for _ in range(2):
            await nodes.start(nursery, 3)
            assert nodes[3].observer or nodes[3].core.state.own.floor >= watermark.reserved.view
            await nodes.wait_height(nodes[0].ledger.final_height + 5)
            assert all(vote.view > watermark.reserved.view for vote in votes_of(nodes, 3))
            await nodes.stop(3)


async def test_a_damaged_journal_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        await nodes.wait_height(3)
        await nodes.stop(3)
        (segment,) = nodes.config(3).journal_path.glob("segment-*")
        raw = bytearray(segment.read_bytes())
        raw[60] ^= 1
        segment.write_bytes(raw)
        with pytest.RaisesGroup(OperatorError, allow_unwrapped=True, flatten_subgroups=True) as refused:
            async with trio.open_nursery() as inner:
                await nodes.start(inner, 3)
        assert "journal corrupt at byte" in repr(refused.value.exceptions)
        assert segment.read_bytes() == raw
