"""A validator behind sentries: it talks to one of its own sentries only, which is its face to all others.

I/O: TCP through libp2p. The sentry runs `Libp2pNetwork` under the validator's network identity and passes every
frame on, both ways; votes, proposals and reports are signed end to end with keys that the sentry has not, so it can
withhold or garble what it passes on, and no more. The validator listens nowhere: it dials the sentry, under an
identity that only the two can derive, and nobody else learns its address.

On the link between the two each message has an address before it: two bytes, big-endian.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import cycle, groupby
from typing import TYPE_CHECKING

import structlog
import trio

from gossip.counters import Counters
from gossip.envelope import FOLLOW_STREAM, FrameDecoder, check_hello, encode_hello
from gossip.limits import RELAY_BUDGETS
from gossip.link import HEARTBEAT_NS, PeerLink, StreamBroken
from gossip.network import (
    BULK_INBOX_FRAMES_MAX,
    TOPIC_MESSAGE_BYTES_MAX,
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
from gossip.peer_id import peer_id_of
from gossip.reasons import GossipReason
from gossip.request_response import FOLLOW_PROTOCOL, HELLO_SECONDS_MAX, ask, hello_decoder, read_frame
from primitives.amounts import NS
from primitives.errors import InvariantViolation, ProtocolViolation
from primitives.hashing import digest
from primitives.identifiers import ValidatorIndex
from primitives.signing import SigningKey

if TYPE_CHECKING:
    from trio_typing import TaskStatus

    from gossip.host import ByteStream, Edge

RELAY_PROTOCOLS = {Lane.VOTE: "/quorate/relay-vote/1", Lane.BULK: "/quorate/relay-bulk/1"}
ADDRESS_BYTES = 2
TO_ALL = 0xFFFF
"""To every other validator."""
TO_TOPIC = 0xFF00
"""And the topic's number: a publication."""
BLAME = 0xFE00
"""And a validator's index: it is to be blamed; the message is the reason."""
BACKOFF_SECONDS = 0.5
"""Between two attempts; each goes to the next sentry."""
TOPICS = tuple(Topic)

log = structlog.get_logger(__name__)


def private_seed(network_seed: bytes) -> bytes:
    """The identity under which a validator dials its own sentries: from the seed that both have."""
    return digest(b"quorate-sentry", network_seed)


def private_peer_id(network_seed: bytes) -> str:
    """libp2p peer id of that identity."""
    return peer_id_of(SigningKey(private_seed(network_seed)).public_key)


def addressed(address: int, message: bytes) -> bytes:
    """A message of the link."""
    return address.to_bytes(ADDRESS_BYTES, "big") + message


def address_of(message: bytes) -> tuple[int, bytes]:
    """The address and what it is before. Raises ProtocolViolation(TRUNCATED)."""
    if len(message) <= ADDRESS_BYTES:
        raise ProtocolViolation(GossipReason.TRUNCATED, "a relayed message without content")
    return int.from_bytes(message[:ADDRESS_BYTES], "big"), message[ADDRESS_BYTES:]


class SentryNetwork:
    """`gossip.network.Network` through whichever of our own sentries answers."""

    def __init__(self, config: NetworkConfig, sentries: Sequence[tuple[str, int]]) -> None:
        """`config`: as without sentries, but for the addresses; `sentries`: (host, port), tried in turn."""
        self.config = config
        self.counters = Counters()
        self._vote_inbox, self.votes = trio.open_memory_channel[Inbound](VOTE_INBOX_FRAMES_MAX)
        self._bulk_inbox, self.bulk = trio.open_memory_channel[Inbound](BULK_INBOX_FRAMES_MAX)
        if config.own_index is None:
            raise InvariantViolation("only a validator has sentries")
        self._own_index = config.own_index
        (self._own_peer_id,) = (peer.peer_id for peer in config.validators if peer.index == config.own_index)
        self._others = [peer.index for peer in config.validators if peer.index != config.own_index]
        self._sentries = tuple(sentries)
        self._link = PeerLink(
            config.own_index,
            self.counters,
            self._deliver,
            self._on_broken_frame,
            RELAY_BUDGETS,
            ADDRESS_BYTES,
        )
        self._edge: Edge | None = None

    # What the node calls.

    def send(self, to: ValidatorIndex, lane: Lane, message: bytes) -> bool:
        """See `Network.send`."""
        return to in self._others and self._link.send(lane, addressed(to, message))

    def broadcast(self, lane: Lane, message: bytes) -> int:
        """See `Network.broadcast`; one message goes to the sentry."""
        return len(self._others) if self._link.send(lane, addressed(TO_ALL, message)) else 0

    def publish(self, topic: Topic, message: bytes) -> bool:
        """See `Network.publish`."""
        if not 0 < len(message) <= TOPIC_MESSAGE_BYTES_MAX:
            return False
        return self._link.send(Lane.BULK, addressed(TO_TOPIC + TOPICS.index(topic), message))

    def peers(self) -> Sequence[PeerStanding]:
        """See `Network.peers`: whether the sentry is there, which is all that we know."""
        link, now_ns = self._link, time.monotonic_ns()
        heard_ms = None if link.heard_ns is None else (now_ns - link.heard_ns) // 1_000_000
        rtt_ms = None if link.rtt_ns is None else link.rtt_ns / 1e6
        queued = (link.queued(Lane.VOTE), link.queued(Lane.BULK))
        dropped = (link.dropped(Lane.VOTE), link.dropped(Lane.BULK))
        return tuple(
            PeerStanding(index, link.is_up(), rtt_ms, heard_ms, queued, dropped, 0, banned=False)
            for index in self._others
        )

    def penalise(self, peer: PeerName, reason: GossipReason) -> None:
        """See `Network.penalise`: the sentry does it."""
        self.counters.add(reason)
        if not isinstance(peer, str):
            self._link.send(Lane.VOTE, addressed(BLAME + peer, reason.value.encode()))

    async def request(self, to: ValidatorIndex, body: bytes) -> bytes:
        """See `Network.request`: the sentry answers, whoever is asked, for it follows the chain itself."""
        del to
        if self._edge is None or not self._link.is_up():
            raise NoAnswer("no sentry is there")
        try:
            stream = await self._edge.open(self._own_peer_id, FOLLOW_PROTOCOL)
            decoder = await self._greet(stream, FOLLOW_STREAM, own_index=None)
            return await ask(stream, decoder, body)
        except (StreamBroken, trio.TooSlowError) as error:
            raise NoAnswer(str(error)) from None

    def know(self, validators: Sequence[PeerConfig]) -> None:
        """See `Network.know`; the sentry follows the chain, and learns it by itself."""
        self._others = [peer.index for peer in validators if peer.index != self._own_index]

    # The loops.

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        from gossip.host import Edge

        seed = private_seed(self.config.identity_seed)
        self._edge = Edge(self.config, self.counters, self._admit, lambda _: None, seed)
        async with self._edge.run(), trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            nursery.start_soon(self._keep_link)
            task_status.started()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(HEARTBEAT_NS / NS / 4)
            self._link.tick(time.monotonic_ns())

    async def _keep_link(self) -> None:
        """One sentry at a time, for as long as it answers; then the next."""
        for host, port in cycle(self._sentries):
            try:
                await self._connected().connect(self._own_peer_id, host, port)
                log.info("sentry_up", host=host, port=port)
                async with trio.open_nursery() as nursery:
                    for lane in Lane:
                        nursery.start_soon(self._open_lane, lane)
            except* (StreamBroken, trio.TooSlowError, ProtocolViolation) as errors:
                self.counters.add(GossipReason.DIAL_FAILED)
                log.warning("sentry_down", host=host, port=port, errors=[str(e) for e in errors.exceptions])
            with trio.move_on_after(HELLO_SECONDS_MAX):
                while self._connected().is_connected(self._own_peer_id):
                    self._connected().abort_peer(self._own_peer_id)
                    await trio.sleep(0.02)
            await trio.sleep(BACKOFF_SECONDS)

    async def _open_lane(self, lane: Lane) -> None:
        stream = await self._connected().open(self._own_peer_id, RELAY_PROTOCOLS[lane])
        try:
            decoder = await self._greet(stream, lane, own_index=self._own_index)
            if lane is Lane.BULK:
                await stream.widen()
            await self._link.serve(lane, stream, decoder)
        finally:
            stream.abort()

    async def _greet(self, stream: ByteStream, kind: int, own_index: ValidatorIndex | None) -> FrameDecoder:
        decoder = hello_decoder()
        with trio.fail_after(HELLO_SECONDS_MAX):
            await stream.write(encode_hello(self.config.chain_id, own_index, kind))
            check_hello(await read_frame(stream, decoder), self.config.chain_id, self._own_index, kind)
        return decoder

    async def _deliver(self, inbound: Inbound) -> None:
        """A frame of the sentry's, cut where the sender changes."""
        lane = inbound.lane
        assert isinstance(lane, Lane)
        parts = map(address_of, inbound.messages)
        for origin, group in groupby(parts, key=lambda part: part[0]):
            if origin not in self._others:
                # The sentry may know of a new validator before us.
                self.counters.add(GossipReason.UNKNOWN_PEER)
                continue
            messages = tuple(message for _, message in group)
            frame = Inbound(ValidatorIndex(origin), lane, messages, inbound.received_ns)
            if lane is Lane.BULK:
                await self._bulk_inbox.send(frame)
                continue
            try:
                self._vote_inbox.send_nowait(frame)
            except trio.WouldBlock:
                self.counters.add(GossipReason.INBOX_FULL, lane.label)

    def _on_broken_frame(self, peer: ValidatorIndex, reason: GossipReason) -> None:
        log.warning("sentry_frame_refused", reason=reason.value)

    def _admit(self, peer_id: str) -> bool:
        return peer_id == self._own_peer_id

    def _connected(self) -> Edge:
        if self._edge is None:
            raise InvariantViolation("the network is used before it runs")
        return self._edge
