"""One link: the queues' rules, coalescing, heartbeats; over an in-memory stream."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing

from gossip.counters import Counters
from gossip.envelope import Frame, FrameDecoder, Kind, encode_frame
from gossip.limits import LANE_BUDGETS
from gossip.link import QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX, SILENCE_NS_MAX, PeerLink, StreamBroken
from gossip.network import BULK_MESSAGE_BYTES_MAX, VOTE_MESSAGE_BYTES_MAX, Inbound, Lane
from gossip.reasons import GossipReason
from primitives.identifiers import ValidatorIndex

PEER = ValidatorIndex(1)


class MemoryStream:
    """A stream whose other end is the test."""

    def __init__(self) -> None:
        self.feed, self._arriving = trio.open_memory_channel[bytes](100)
        self.written: list[bytes] = []
        self.stalled = False
        self.aborted = trio.Event()

    async def read(self) -> bytes:
        try:
            return await self._arriving.receive()
        except trio.EndOfChannel:
            raise StreamBroken("ended") from None

    async def write(self, data: bytes) -> None:
        self.written.append(data)
        if self.stalled:
            await self.aborted.wait()
            raise StreamBroken("cut")

    def abort(self) -> None:
        self.aborted.set()
        self.feed.close()

    def frames(self, lane: Lane) -> list[Frame]:
        from gossip.envelope import FRAME_LIMITS

        return FrameDecoder(FRAME_LIMITS[lane]).feed(b"".join(self.written))


class LinkOnTrial:
    """A link with everything it tells its owner."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.delivered: list[Inbound] = []
        self.blamed: list[GossipReason] = []
        self.link = PeerLink(PEER, self.counters, self._deliver, lambda _, reason: self.blamed.append(reason))

    async def _deliver(self, inbound: Inbound) -> None:
        self.delivered.append(inbound)

    def messages(self) -> list[tuple[bytes, ...]]:
        return [inbound.messages for inbound in self.delivered]

    async def serve(self, lane: Lane, stream: MemoryStream) -> None:
        from gossip.envelope import FRAME_LIMITS

        await self.link.serve(lane, stream, FrameDecoder(FRAME_LIMITS[lane]))


async def test_all_that_one_turn_sends_leaves_as_one_frame_in_order(autojump_clock: object) -> None:
    trial, stream = LinkOnTrial(), MemoryStream()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trial.serve, Lane.VOTE, stream)
        await trio.testing.wait_all_tasks_blocked()
        for message in (b"one", b"two", b"three"):
            assert trial.link.send(Lane.VOTE, message)
        await trio.testing.wait_all_tasks_blocked()
        stream.abort()
    assert stream.frames(Lane.VOTE) == [Frame(Kind.MESSAGES, (b"one", b"two", b"three"))]


def test_a_full_vote_queue_loses_its_oldest() -> None:
    trial = LinkOnTrial()
    for number in range(QUEUE_MESSAGES_MAX[Lane.VOTE] + 2):
        assert trial.link.send(Lane.VOTE, number.to_bytes(4, "big"))
    assert trial.link.queued(Lane.VOTE) == QUEUE_MESSAGES_MAX[Lane.VOTE]
    assert trial.link.dropped(Lane.VOTE) == 2
    assert trial.counters.snapshot() == {("queue_full", "vote"): 2}


async def test_after_a_full_vote_queue_the_newest_arrive() -> None:
    trial, stream = LinkOnTrial(), MemoryStream()
    for number in range(QUEUE_MESSAGES_MAX[Lane.VOTE] + 2):
        trial.link.send(Lane.VOTE, number.to_bytes(4, "big"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trial.serve, Lane.VOTE, stream)
        await trio.testing.wait_all_tasks_blocked()
        stream.abort()
    arrived = [int.from_bytes(m, "big") for frame in stream.frames(Lane.VOTE) for m in frame.messages]
    assert arrived == list(range(2, QUEUE_MESSAGES_MAX[Lane.VOTE] + 2))


def test_large_votes_fill_the_queue_by_their_bytes() -> None:
    trial = LinkOnTrial()
    fits = QUEUE_BYTES_MAX[Lane.VOTE] // VOTE_MESSAGE_BYTES_MAX
    for _ in range(fits + 1):
        trial.link.send(Lane.VOTE, b"x" * VOTE_MESSAGE_BYTES_MAX)
    assert (trial.link.queued(Lane.VOTE), trial.link.dropped(Lane.VOTE)) == (fits, 1)


def test_bulk_without_a_link_is_refused() -> None:
    trial = LinkOnTrial()
    assert not trial.link.send(Lane.BULK, b"body")
    assert trial.counters.snapshot() == {("not_connected", "bulk"): 1}


async def test_a_full_bulk_queue_refuses_and_keeps_what_it_has() -> None:
    trial, stream = LinkOnTrial(), MemoryStream()
    stream.stalled = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trial.serve, Lane.BULK, stream)
        await trio.testing.wait_all_tasks_blocked()
        trial.link.send(Lane.BULK, b"under way")
        await trio.testing.wait_all_tasks_blocked()
        accepted = [trial.link.send(Lane.BULK, b"body") for _ in range(QUEUE_MESSAGES_MAX[Lane.BULK] + 1)]
        assert accepted == [True] * QUEUE_MESSAGES_MAX[Lane.BULK] + [False]
        stream.abort()
    assert trial.link.queued(Lane.BULK) == 0
    assert trial.link.dropped(Lane.BULK) == QUEUE_MESSAGES_MAX[Lane.BULK] + 1


@pytest.mark.parametrize(
    ("lane", "size"),
    [(Lane.VOTE, VOTE_MESSAGE_BYTES_MAX + 1), (Lane.BULK, BULK_MESSAGE_BYTES_MAX + 1), (Lane.VOTE, 0)],
)
def test_a_message_too_large_or_empty_is_refused(lane: Lane, size: int) -> None:
    trial = LinkOnTrial()
    assert not trial.link.send(lane, b"x" * size)
    assert trial.counters.snapshot() == {("too_large", lane.label): 1}


async def test_a_ping_is_answered_with_its_nonce() -> None:
    trial, stream = LinkOnTrial(), MemoryStream()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trial.serve, Lane.VOTE, stream)
        await stream.feed.send(encode_frame(Kind.PING, [b"12345678"]))
        await trio.testing.wait_all_tasks_blocked()
        stream.abort()
    assert stream.frames(Lane.VOTE) == [Frame(Kind.PONG, (b"12345678",))]


async def test_a_quiet_link_is_pinged_and_a_silent_one_is_cut() -> None:
    trial, stream = LinkOnTrial(), MemoryStream()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trial.serve, Lane.VOTE, stream)
        await trio.testing.wait_all_tasks_blocked()
        now_ns = time.monotonic_ns()
        trial.link.tick(now_ns)
        await trio.testing.wait_all_tasks_blocked()
        assert [frame.kind for frame in stream.frames(Lane.VOTE)] == [Kind.PING]
        trial.link.tick(now_ns + SILENCE_NS_MAX // 2)
        assert not stream.aborted.is_set()
        trial.link.tick(now_ns + SILENCE_NS_MAX + 1)
        assert stream.aborted.is_set()
    assert trial.counters.get(GossipReason.SILENT) == 1


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\0" * 8, GossipReason.BAD_VERSION),
        (encode_frame(Kind.HELLO, [b"again"]), GossipReason.BAD_KIND),
        (encode_frame(Kind.MESSAGES, [b"x" * 2**16]), GossipReason.TOO_LARGE),
    ],
)
async def test_a_bad_frame_ends_the_stream_and_blames_the_peer(raw: bytes, reason: GossipReason) -> None:
    trial, stream = LinkOnTrial(), MemoryStream()
    await stream.feed.send(encode_frame(Kind.MESSAGES, [b"good"]))
    await stream.feed.send(raw)
    await trial.serve(Lane.VOTE, stream)
    assert (trial.messages(), trial.blamed, stream.aborted.is_set()) == ([(b"good",)], [reason], True)


async def test_votes_over_the_budget_are_dropped_and_blamed() -> None:
    trial, stream = LinkOnTrial(), MemoryStream()
    frame = encode_frame(Kind.MESSAGES, [b"v"] * 1000)
    frames = LANE_BUDGETS[Lane.VOTE].messages.burst // 1000 + 5
    for _ in range(frames):
        await stream.feed.send(frame)
    stream.feed.close()
    await trial.serve(Lane.VOTE, stream)
    assert len(trial.delivered) + len(trial.blamed) == frames
    assert set(trial.blamed) == {GossipReason.OVER_BUDGET}


async def test_a_newer_stream_takes_over_and_the_old_one_is_cut() -> None:
    trial, old, new = LinkOnTrial(), MemoryStream(), MemoryStream()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trial.serve, Lane.VOTE, old)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(trial.serve, Lane.VOTE, new)
        await trio.testing.wait_all_tasks_blocked()
        trial.link.send(Lane.VOTE, b"hello again")
        await trio.testing.wait_all_tasks_blocked()
        assert old.aborted.is_set()
        new.abort()
    assert (old.written, new.frames(Lane.VOTE)) == ([], [Frame(Kind.MESSAGES, (b"hello again",))])
