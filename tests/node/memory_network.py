"""`gossip.network.Network` between nodes of one process: same lanes, same limits, nothing lost unless cut."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from gossip.counters import Counters
from gossip.network import (
    BULK_INBOX_FRAMES_MAX,
    MESSAGE_BYTES_MAX,
    VOTE_INBOX_FRAMES_MAX,
    Inbound,
    Lane,
    NetworkConfig,
    NoAnswer,
    PeerConfig,
    PeerName,
    PeerStanding,
    Topic,
)
from gossip.reasons import GossipReason
from gossip.request_response import OnRequest
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex

if TYPE_CHECKING:
    from trio_typing import TaskStatus


class MemoryNetwork:
    """One node's place at the hub."""

    def __init__(self, hub: Hub, index: ValidatorIndex, on_request: OnRequest | None) -> None:
        self.hub = hub
        self.on_request = on_request
        self.index = index
        self.counters = Counters()
        self.inboxes: dict[Lane, trio.MemorySendChannel[Inbound]] = {}
        self.inboxes[Lane.VOTE], self.votes = trio.open_memory_channel[Inbound](VOTE_INBOX_FRAMES_MAX)
        self.inboxes[Lane.BULK], self.bulk = trio.open_memory_channel[Inbound](BULK_INBOX_FRAMES_MAX)
        self.sent: list[tuple[Lane, bytes]] = []
        """What was broadcast or sent, in order."""
        self.published: list[tuple[Topic, bytes]] = []
        self.known: tuple[PeerConfig, ...] = ()
        self.blamed: list[tuple[PeerName, GossipReason]] = []

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be there until cancelled."""
        async with trio.open_nursery() as self.nursery:
            self.hub.places[self.index] = self
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                del self.hub.places[self.index]

    def send(self, to: ValidatorIndex, lane: Lane, message: bytes) -> bool:
        """See `Network.send`."""
        if self.index >= self.hub.count:
            return False
        self.sent.append((lane, message))
        place = self.hub.places.get(to)
        if len(message) > MESSAGE_BYTES_MAX[lane] or place is None or self.hub.is_cut(self.index, to):
            return False
        try:
            frame = Inbound(self.index, lane, (message,), time.monotonic_ns())
            place.inboxes[lane].send_nowait(frame)
        except trio.WouldBlock:
            return False
        return True

    def broadcast(self, lane: Lane, message: bytes) -> int:
        """See `Network.broadcast`."""
        others = [index for index in range(self.hub.count) if index != self.index]
        return sum(self.send(ValidatorIndex(index), lane, message) for index in others)

    async def request(self, to: ValidatorIndex, body: bytes) -> bytes:
        """See `Network.request`."""
        await trio.lowlevel.checkpoint()
        place = self.hub.places.get(to)
        if place is None or place.on_request is None or self.hub.is_cut(self.index, to):
            raise NoAnswer("not there")
        answers: list[bytes] = []
        ended = trio.Event()

        async def answer(handler: OnRequest) -> None:
            # In the answering node's life: it ends before that node's store is closed.
            try:
                answers.append(await handler(self.index, body))
            except ProtocolViolation:
                place.blamed.append((self.index, GossipReason.BAD_REQUEST))
            finally:
                ended.set()

        place.nursery.start_soon(answer, place.on_request)
        await ended.wait()
        if not answers:
            raise NoAnswer("refused, or gone")
        return answers[0]

    def publish(self, topic: Topic, message: bytes) -> bool:
        """See `Network.publish`; kept, and heard by every follower."""
        self.published.append((topic, message))
        for place in self.hub.places.values():
            if place.index >= self.hub.count and not self.hub.is_cut(self.index, place.index):
                frame = Inbound(self.index, topic, (message,), time.monotonic_ns())
                with suppress(trio.WouldBlock):
                    place.inboxes[Lane.BULK].send_nowait(frame)
        return True

    def peers(self) -> Sequence[PeerStanding]:
        """See `Network.peers`."""
        return [
            PeerStanding(
                ValidatorIndex(index), index in self.hub.places, None, None, (0, 0), (0, 0), 0, False
            )
            for index in range(self.hub.count)
            if index != self.index
        ]

    def know(self, validators: Sequence[PeerConfig]) -> None:
        """See `Network.know`; the hub joins everybody anyway."""
        self.known = tuple(validators)

    def penalise(self, peer: PeerName, reason: GossipReason) -> None:
        """See `Network.penalise`; remembered for the test."""
        self.blamed.append((peer, reason))


class Hub:
    """Joins `count` validators and one follower, which has the number after theirs; a test may cut one off."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.places: dict[int, MemoryNetwork] = {}
        self.cut: set[int] = set()
        """Nodes that neither hear nor are heard."""

    def is_cut(self, a: int, b: int) -> bool:
        """Whether nothing passes between two nodes."""
        return a in self.cut or b in self.cut

    def join(self, config: NetworkConfig, on_request: OnRequest | None = None) -> MemoryNetwork:
        """Stands for Libp2pNetwork(config, on_request)."""
        index = config.own_index
        return MemoryNetwork(self, ValidatorIndex(self.count) if index is None else index, on_request)
