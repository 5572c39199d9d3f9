"""One validator peer: bounded queues, a reader and a writer per lane. I/O: through the streams it is given.

One writer task per lane takes everything queued since its last write as one frame (or a few), so that many
small messages cost one write. Nothing cancels a write half-way except the end of the connection, which is cut
first.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import trio

from gossip.counters import Counters
from gossip.envelope import FRAME_LIMITS, Frame, FrameDecoder, Kind, encode_frame, take_frame
from gossip.limits import LANE_BUDGETS, Budget, BudgetLimits
from gossip.network import MESSAGE_BYTES_MAX, Inbound, Lane
from gossip.reasons import GossipReason, Traffic
from primitives.amounts import NS
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex

QUEUE_MESSAGES_MAX = {Lane.VOTE: 1024, Lane.BULK: 512}
"""Messages waiting for one peer. Full: the vote lane loses its oldest, the bulk lane refuses."""
QUEUE_BYTES_MAX = {Lane.VOTE: 1 << 20, Lane.BULK: 16 << 20}
"""Bytes waiting for one peer; the same rules."""
HEARTBEAT_NS = NS // 2
"""A peer that got nothing from us for this long gets a ping."""
SILENCE_NS_MAX = 3 * HEARTBEAT_NS
"""A peer not heard for this long is dead: its socket is shut down and dialled again."""
RTT_EVERY_NS = 5 * NS
"""A ping is sent this often even on a busy link, to know the round trip."""


class StreamBroken(Exception):
    """The one exception of a stream: reset, ended, timed out or cut. Its connection is done with."""


class Stream(Protocol):
    """What a lane needs of a stream; `gossip.host.ByteStream` is one."""

    async def read(self) -> bytes: ...
    async def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...


class _LaneQueue:
    """Messages waiting for one peer on one lane, and what the lane's two tasks share."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.messages: deque[bytes] = deque()
        self.bytes = 0
        self.dropped = 0
        self.control: list[bytes] = []
        """Ready heartbeat frames; at most a ping and a pong."""
        self.waiting = trio.lowlevel.ParkingLot()
        self.stream: Stream | None = None

    def is_full(self, extra_bytes: int) -> bool:
        return (
            len(self.messages) >= QUEUE_MESSAGES_MAX[self.lane]
            or self.bytes + extra_bytes > QUEUE_BYTES_MAX[self.lane]
        )

    def drop_oldest(self) -> None:
        self.bytes -= len(self.messages.popleft())
        self.dropped += 1

    def wake(self) -> None:
        self.waiting.unpark_all()


class PeerLink:
    """Everything about one remote validator that changes."""

    def __init__(
        self,
        index: ValidatorIndex,
        counters: Counters,
        deliver: Callable[[Inbound], Awaitable[None]],
        blame: Callable[[ValidatorIndex, GossipReason], None],
        budgets: Mapping[Lane, BudgetLimits] = LANE_BUDGETS,
        address_bytes: int = 0,
    ) -> None:
        """`address_bytes`: how much longer than a lane's longest message one of this link may be."""
        self.index = index
        self.rtt_ns: int | None = None
        self.heard_ns: int | None = None
        self._sent_ns = 0
        self._pinged_ns = 0
        self._counters = counters
        self._deliver = deliver
        self._blame = blame
        self._queues = {lane: _LaneQueue(lane) for lane in Lane}
        self._budgets = {lane: Budget(budgets[lane], time.monotonic_ns()) for lane in Lane}
        self._message_bytes_max = {lane: MESSAGE_BYTES_MAX[lane] + address_bytes for lane in Lane}

    def is_up(self) -> bool:
        """Whether both lanes have a stream."""
        return all(queue.stream is not None for queue in self._queues.values())

    def queued(self, lane: Lane) -> int:
        """Messages waiting."""
        return len(self._queues[lane].messages)

    def dropped(self, lane: Lane) -> int:
        """Messages lost since the start."""
        return self._queues[lane].dropped

    def send(self, lane: Lane, message: bytes) -> bool:
        """Queue a message by the lane's rule; see `Network.send`."""
        queue = self._queues[lane]
        if not 0 < len(message) <= self._message_bytes_max[lane]:
            return self._refuse(queue, GossipReason.TOO_LARGE)
        if lane is Lane.BULK:
            if queue.stream is None:
                return self._refuse(queue, GossipReason.NOT_CONNECTED)
            if queue.is_full(len(message)):
                return self._refuse(queue, GossipReason.QUEUE_FULL)
        while queue.is_full(len(message)):
            queue.drop_oldest()
            self._counters.add(GossipReason.QUEUE_FULL, lane.label)
        queue.messages.append(message)
        queue.bytes += len(message)
        if queue.waiting:
            queue.wake()
        return True

    def _refuse(self, queue: _LaneQueue, reason: GossipReason) -> bool:
        queue.dropped += 1
        self._counters.add(reason, queue.lane.label)
        return False

    def forgive(self, now_ns: int) -> None:
        """Our own loop stood still, so the peer's silence says nothing: start counting it anew."""
        if self.heard_ns is not None:
            self.heard_ns = now_ns

    def tick(self, now_ns: int) -> None:
        """Ping a quiet link; cut a silent one. Called every quarter of a heartbeat or so."""
        queue = self._queues[Lane.VOTE]
        if queue.stream is None or self.heard_ns is None:
            return
        if now_ns - self.heard_ns > SILENCE_NS_MAX:
            self._counters.add(GossipReason.SILENT)
            self.abort()
        elif now_ns - self._sent_ns >= HEARTBEAT_NS or now_ns - self._pinged_ns >= RTT_EVERY_NS:
            self._pinged_ns = self._sent_ns = now_ns
            self._control(Kind.PING, now_ns.to_bytes(8, "big"))

    def _control(self, kind: Kind, nonce: bytes) -> None:
        queue = self._queues[Lane.VOTE]
        if len(queue.control) < 2:
            queue.control.append(encode_frame(kind, [nonce]))
            queue.wake()

    def abort(self) -> None:
        """Cut the connection under the link; its tasks end by themselves."""
        for queue in self._queues.values():
            if queue.stream is not None:
                queue.stream.abort()

    async def serve(self, lane: Lane, stream: Stream, decoder: FrameDecoder) -> None:
        """Read and write one lane until the stream ends; never raises for what the peer does."""
        queue = self._queues[lane]
        if queue.stream is not None:
            # The peer came back before we noticed that the old connection is dead.
            self._counters.add(GossipReason.REPLACED, lane.label)
            queue.stream.abort()
        queue.stream = stream
        queue.control.clear()
        self.heard_ns = time.monotonic_ns()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, queue, stream, nursery.cancel_scope)
                await self._read(lane, stream, decoder)
                nursery.cancel_scope.cancel()
        finally:
            stream.abort()
            if queue.stream is stream:
                self._detach(queue)

    def _detach(self, queue: _LaneQueue) -> None:
        queue.stream = None
        self._counters.add(GossipReason.LINK_LOST, queue.lane.label)
        if queue.lane is Lane.BULK:
            queue.dropped += len(queue.messages)
            queue.messages.clear()
            queue.bytes = 0

    async def _write(self, queue: _LaneQueue, stream: Stream, scope: trio.CancelScope) -> None:
        limits = FRAME_LIMITS[queue.lane]
        label = queue.lane.label
        try:
            while True:
                while not queue.messages and not queue.control:
                    await queue.waiting.park()
                if queue.stream is not stream:
                    return
                data = b"".join(queue.control)
                queue.control.clear()
                if queue.messages:
                    frame, count, size = take_frame(queue.messages, limits)
                    queue.bytes -= size
                    data += frame
                    self._counters.add(Traffic.MESSAGES_SENT, label, count)
                    self._counters.add(Traffic.FRAMES_SENT, label)
                self._counters.add(Traffic.BYTES_SENT, label, len(data))
                if queue.lane is Lane.VOTE:
                    self._sent_ns = time.monotonic_ns()
                await stream.write(data)
        except StreamBroken:
            pass
        finally:
            stream.abort()
            scope.cancel()

    async def _read(self, lane: Lane, stream: Stream, decoder: FrameDecoder) -> None:
        decoder.limits = FRAME_LIMITS[lane]
        data = b""
        try:
            while True:
                frames = decoder.feed(data)
                if frames:
                    await self._accept(lane, frames)
                data = await stream.read()
                self.heard_ns = time.monotonic_ns()
        except ProtocolViolation as error:
            self._counters.add(error.reason, lane.label)
            self._blame(self.index, GossipReason(error.reason))
        except StreamBroken:
            pass

    async def _accept(self, lane: Lane, frames: list[Frame]) -> None:
        for frame in frames:
            now_ns = time.monotonic_ns()
            if frame.kind is Kind.MESSAGES:
                await self._receive(lane, frame.messages, now_ns)
            elif frame.kind is Kind.HELLO or lane is Lane.BULK:
                raise ProtocolViolation(GossipReason.BAD_KIND, f"{frame.kind.name} in mid-stream")
            elif frame.kind is Kind.PING:
                self._control(Kind.PONG, frame.messages[0])
            else:
                sent_ns = int.from_bytes(frame.messages[0], "big")
                if sent_ns == self._pinged_ns:
                    self.rtt_ns = now_ns - sent_ns

    async def _receive(self, lane: Lane, messages: tuple[bytes, ...], now_ns: int) -> None:
        size = sum(map(len, messages))
        budget = self._budgets[lane]
        self._counters.add(Traffic.FRAMES_RECEIVED, lane.label)
        self._counters.add(Traffic.MESSAGES_RECEIVED, lane.label, len(messages))
        self._counters.add(Traffic.BYTES_RECEIVED, lane.label, size)
        if lane is Lane.BULK:
            if wait_ns := budget.pace_ns(len(messages), size, now_ns):
                await trio.sleep(wait_ns / NS)
        elif not budget.spend(len(messages), size, now_ns):
            self._counters.add(GossipReason.OVER_BUDGET, lane.label)
            self._blame(self.index, GossipReason.OVER_BUDGET)
            return
        await self._deliver(Inbound(self.index, lane, messages, now_ns))
