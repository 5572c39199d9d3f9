"""The network edge at work: dials, accepts, greets, keeps links alive. I/O: TCP through libp2p, the clock.

Of two validators the one with the lower index opens the lanes. The other only knocks, once, when it starts:
the connection that it makes tells the lower one to stop waiting for its next attempt.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from gossip.counters import Counters
from gossip.envelope import FOLLOW_STREAM, FrameDecoder, check_hello, encode_hello
from gossip.limits import RELAY_BUDGETS
from gossip.link import HEARTBEAT_NS, PeerLink, StreamBroken
from gossip.network import (
    BULK_INBOX_FRAMES_MAX,
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
from gossip.peer_book import FOLLOWERS_MAX, PeerBook, Reaction
from gossip.reasons import GossipReason
from gossip.relay import (
    ADDRESS_BYTES,
    BLAME,
    RELAY_PROTOCOLS,
    TO_ALL,
    TO_TOPIC,
    TOPICS,
    address_of,
    addressed,
)
from gossip.request_response import (
    FOLLOW_PROTOCOL,
    HELLO_SECONDS_MAX,
    Answerer,
    OnRequest,
    ask,
    end_stream,
    hello_decoder,
    read_frame,
)
from primitives.amounts import NS
from primitives.errors import InvariantViolation, ProtocolViolation
from primitives.identifiers import ValidatorIndex

if TYPE_CHECKING:
    from trio_typing import TaskStatus

    from gossip.host import ByteStream, Edge
    from gossip.pubsub import TopicGossip

LANE_PROTOCOLS = {Lane.VOTE: "/quorate/vote/1", Lane.BULK: "/quorate/bulk/1"}
BACKOFF_SECONDS_MIN = 0.05
BACKOFF_SECONDS_MAX = 2.0
"""Longest wait between two attempts at a validator that does not answer."""
KNOCK_AFTER_SECONDS = 0.3
"""How long the higher index waits, after its start, before it knocks."""
CLEAN_UP_SECONDS_MAX = 3
"""How long libp2p gets to forget a connection that was cut, before it is dialled anew."""

log = structlog.get_logger(__name__)


class Libp2pNetwork:
    """`gossip.network.Network` over real sockets. Build it, start `run` once, then use it."""

    def __init__(self, config: NetworkConfig, on_request: OnRequest | None = None) -> None:
        """`on_request(peer, request) -> reply` answers who asks; None: this node answers nobody."""
        self.config = config
        self.counters = Counters()
        self._vote_inbox, self.votes = trio.open_memory_channel[Inbound](VOTE_INBOX_FRAMES_MAX)
        self._bulk_inbox, self.bulk = trio.open_memory_channel[Inbound](BULK_INBOX_FRAMES_MAX)
        self._book = PeerBook(config.validators)
        self._peers = {peer.index: peer for peer in config.validators if peer.index != config.own_index}
        self._links = {
            index: PeerLink(index, self.counters, self._deliver, self._blame) for index in sorted(self._peers)
        }
        self._private = self._private_link() if config.sentry_of else None
        self._arrivals = {peer.peer_id: trio.Event() for peer in self._peers.values()}
        self._answerer = Answerer(on_request, self.counters) if on_request else None
        self._edge: Edge | None = None
        self._topics: TopicGossip | None = None

    # What the node calls.

    def send(self, to: ValidatorIndex, lane: Lane, message: bytes) -> bool:
        """See `Network.send`; False to ourselves: an observer's core asks every validator, its own index too.

        False to everybody for a follower, which has no lanes, and for a sentry, whose lanes are its validator's.
        """
        if self.config.own_index is None or self._private is not None:
            return False
        link = self._links.get(to)
        return link is not None and link.send(lane, message)

    def broadcast(self, lane: Lane, message: bytes) -> int:
        """See `Network.broadcast`."""
        return sum(self.send(index, lane, message) for index in self._links)

    def publish(self, topic: Topic, message: bytes) -> bool:
        """See `Network.publish`; False also before `run` has started."""
        return self._topics is not None and self._topics.publish(topic, message)

    def peers(self) -> Sequence[PeerStanding]:
        """See `Network.peers`."""
        now_ns = time.monotonic_ns()
        return tuple(self._standing(link, now_ns) for link in self._links.values())

    def penalise(self, peer: PeerName, reason: GossipReason) -> None:
        """See `Network.penalise`."""
        self.counters.add(reason)
        self._blame(peer, reason)

    async def request(self, to: ValidatorIndex, body: bytes) -> bytes:
        """See `Network.request`."""
        edge = self._running()
        stream: ByteStream | None = None
        try:
            stream = await edge.open(self._peers[to].peer_id, FOLLOW_PROTOCOL)
            decoder = await self._greet(stream, to, FOLLOW_STREAM)
        except (StreamBroken, trio.TooSlowError) as error:
            if stream is not None:
                await end_stream(stream)
            raise NoAnswer(str(error)) from None
        try:
            return await ask(stream, decoder, body)
        except (StreamBroken, trio.TooSlowError) as error:
            raise NoAnswer(str(error)) from None

    # The loops.

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `started` once listening. Raises OperatorError when the port is not to be
        had."""
        from gossip.host import Edge
        from gossip.pubsub import TopicGossip

        edge = Edge(self.config, self.counters, self._admit, self._on_connected)
        for lane, protocol in LANE_PROTOCOLS.items():
            edge.serve(protocol, partial(self._on_lane, lane))
        edge.serve(FOLLOW_PROTOCOL, self._on_follower)
        if self._private is not None:
            for lane, protocol in RELAY_PROTOCOLS.items():
                edge.serve(protocol, partial(self._on_private, lane))
        topics = TopicGossip(
            edge.host, self.config.chain_id, self.counters, self._deliver_topic, self._blame_peer_id
        )
        self._edge, self._topics = edge, topics
        async with edge.run(), topics.run(self.config.topics), trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            for index, peer in sorted(self._peers.items()):
                nursery.start_soon(self._task_for(index), peer)
            log.info("network_started", host=self.config.listen_host, port=self.config.listen_port)
            task_status.started()

    def _task_for(self, index: ValidatorIndex) -> Callable[[PeerConfig], Awaitable[None]]:
        if self.config.own_index is None:
            return self._follow
        return self._keep_link if self.config.own_index < index else self._knock

    async def _tick(self) -> None:
        expected_ns = time.monotonic_ns()
        while True:
            await trio.sleep(HEARTBEAT_NS / NS / 4)
            now_ns = time.monotonic_ns()
            if now_ns - expected_ns > HEARTBEAT_NS:
                for link in self._links.values():
                    link.forgive(now_ns)
            for link in self._links.values():
                link.tick(now_ns)
            if self._private is not None:
                self._private.tick(now_ns)
            expected_ns = now_ns

    async def _keep_link(self, peer: PeerConfig) -> None:
        """Dial, open both lanes, serve them until the link is lost; for ever."""
        edge = self._running()
        backoff_seconds = BACKOFF_SECONDS_MIN
        while True:
            began = trio.current_time()
            try:
                await edge.connect(peer)
                async with trio.open_nursery() as nursery:
                    for lane in Lane:
                        nursery.start_soon(self._open_lane, lane, peer)
            except* (StreamBroken, trio.TooSlowError, ProtocolViolation) as errors:
                self.counters.add(GossipReason.DIAL_FAILED)
                log.debug("dial_failed", peer=peer.index, errors=[str(e) for e in errors.exceptions])
            if trio.current_time() - began > 2 * BACKOFF_SECONDS_MAX:
                backoff_seconds = BACKOFF_SECONDS_MIN
            await self._clear(peer)
            await self._pause(peer, backoff_seconds)
            backoff_seconds = min(2 * backoff_seconds, BACKOFF_SECONDS_MAX)

    async def _clear(self, peer: PeerConfig) -> None:
        edge = self._running()
        with trio.move_on_after(CLEAN_UP_SECONDS_MAX):
            while edge.is_connected(peer.peer_id):
                edge.abort_peer(peer.peer_id)
                await trio.sleep(0.02)

    async def _pause(self, peer: PeerConfig, seconds: float) -> None:
        """Wait, with jitter, or until a connection of the peer arrives."""
        self._arrivals[peer.peer_id] = trio.Event()
        with trio.move_on_after(seconds * random.uniform(0.5, 1)):
            await self._arrivals[peer.peer_id].wait()

    async def _knock(self, peer: PeerConfig) -> None:
        await trio.sleep(KNOCK_AFTER_SECONDS)
        if not self._links[peer.index].is_up():
            await self._try_connect(peer)

    async def _follow(self, peer: PeerConfig) -> None:
        """As a follower: keep a connection, over which gossipsub and requests run."""
        edge = self._running()
        backoff_seconds = BACKOFF_SECONDS_MIN
        while peer.host:
            if edge.is_connected(peer.peer_id) or await self._try_connect(peer):
                backoff_seconds = BACKOFF_SECONDS_MIN
                await trio.sleep(BACKOFF_SECONDS_MAX / 4)
            else:
                await self._pause(peer, backoff_seconds)
                backoff_seconds = min(2 * backoff_seconds, BACKOFF_SECONDS_MAX)

    async def _try_connect(self, peer: PeerConfig) -> bool:
        try:
            await self._running().connect(peer)
        except StreamBroken as error:
            self.counters.add(GossipReason.DIAL_FAILED)
            log.debug("dial_failed", peer=peer.index, error=str(error))
            return False
        return True

    # Streams.

    async def _open_lane(self, lane: Lane, peer: PeerConfig) -> None:
        stream = await self._running().open(peer.peer_id, LANE_PROTOCOLS[lane])
        try:
            decoder = await self._greet(stream, peer.index, lane)
            await self._serve(lane, peer.index, stream, decoder)
        except ProtocolViolation as error:
            self._refuse(peer.index, error)
            raise
        finally:
            stream.abort()

    async def _on_lane(self, lane: Lane, peer_id: str, stream: ByteStream) -> None:
        index = self._book.index_of(peer_id)
        own_index = self.config.own_index
        try:
            if index is None or own_index is None or index >= own_index:
                raise ProtocolViolation(GossipReason.UNKNOWN_PEER, "may not open a lane to us")
            decoder = await self._greet(stream, index, lane)
            await self._serve(lane, index, stream, decoder)
        except ProtocolViolation as error:
            self._refuse(self._book.name_of(peer_id), error)
        except (StreamBroken, trio.TooSlowError):
            self.counters.add(GossipReason.HANDSHAKE_FAILED, lane.label)
        finally:
            stream.abort()

    async def _serve(
        self, lane: Lane, index: ValidatorIndex, stream: ByteStream, decoder: FrameDecoder
    ) -> None:
        if lane is Lane.BULK:
            await stream.widen()
        log.info("lane_up", peer=index, lane=lane.label)
        await self._links[index].serve(lane, stream, decoder)
        log.info("lane_down", peer=index, lane=lane.label)

    async def _on_follower(self, peer_id: str, stream: ByteStream) -> None:
        name = self._book.name_of(peer_id)
        try:
            if self._answerer is None:
                raise ProtocolViolation(GossipReason.UNKNOWN_PEER, "this node answers no requests")
            index = self._book.index_of(peer_id)
            decoder = await self._greet(stream, index, FOLLOW_STREAM)
            await self._answerer.answer(name, stream, decoder)
        except ProtocolViolation as error:
            self._refuse(name, error)
            await end_stream(stream)
        except (StreamBroken, trio.TooSlowError):
            self.counters.add(GossipReason.BAD_REQUEST)
            await end_stream(stream)

    async def _greet(self, stream: ByteStream, index: ValidatorIndex | None, kind: int) -> FrameDecoder:
        """Exchange hellos. Raises ProtocolViolation, StreamBroken or trio.TooSlowError."""
        decoder = hello_decoder()
        with trio.fail_after(HELLO_SECONDS_MAX):
            await stream.write(encode_hello(self.config.chain_id, self.config.own_index, kind))
            check_hello(await read_frame(stream, decoder), self.config.chain_id, index, kind)
        return decoder

    def _refuse(self, peer: PeerName, error: ProtocolViolation) -> None:
        known = isinstance(error.reason, GossipReason)
        reason = GossipReason(error.reason) if known else GossipReason.BAD_REQUEST
        log.warning("peer_refused", peer=peer, reason=reason.value, detail=error.detail)
        self.penalise(peer, reason)

    # Callbacks.

    def _admit(self, peer_id: str) -> bool:
        """Whether this peer id may be connected at all; asked right after the noise handshake proved it."""
        name = self._book.name_of(peer_id)
        if self._book.is_banned(name, time.monotonic_ns()):
            self.counters.add(GossipReason.BANNED)
            return False
        if not isinstance(name, str) or peer_id == self.config.sentry_of:
            return True
        connected = self._running().connected_peers()
        others = [other for other in connected if self._book.index_of(other) is None and other != peer_id]
        if len(others) >= FOLLOWERS_MAX:
            self.counters.add(GossipReason.TOO_MANY_FOLLOWERS)
            return False
        return True

    def _on_connected(self, peer_id: str) -> None:
        if arrival := self._arrivals.get(peer_id):
            arrival.set()

    # A sentry's work.

    def _private_link(self) -> PeerLink:
        if self.config.own_index is None:
            raise InvariantViolation("a sentry is a validator's")
        return PeerLink(
            self.config.own_index,
            self.counters,
            self._pass_out,
            self._blame_nobody,
            RELAY_BUDGETS,
            ADDRESS_BYTES,
        )

    async def _on_private(self, lane: Lane, peer_id: str, stream: ByteStream) -> None:
        """Our validator opens a lane."""
        index, private = self.config.own_index, self._private
        try:
            if peer_id != self.config.sentry_of or private is None:
                raise ProtocolViolation(
                    GossipReason.UNKNOWN_PEER, "is not the validator that we stand before"
                )
            decoder = await self._greet(stream, index, lane)
            if lane is Lane.BULK:
                await stream.widen()
            log.info("private_lane_up", lane=lane.label)
            await private.serve(lane, stream, decoder)
            log.info("private_lane_down", lane=lane.label)
        except ProtocolViolation as error:
            self._refuse(self._book.name_of(peer_id), error)
        except (StreamBroken, trio.TooSlowError):
            self.counters.add(GossipReason.HANDSHAKE_FAILED, lane.label)
        finally:
            stream.abort()

    async def _pass_out(self, inbound: Inbound) -> None:
        """From our validator to whom it names."""
        lane = inbound.lane
        for raw in inbound.messages:
            address, message = address_of(raw)
            if address == TO_ALL and isinstance(lane, Lane):
                for link in self._links.values():
                    link.send(lane, message)
            elif address >= TO_TOPIC and address - TO_TOPIC < len(TOPICS):
                self.publish(TOPICS[address - TO_TOPIC], message)
            elif BLAME <= address < TO_TOPIC and address - BLAME in self._links:
                self.penalise(ValidatorIndex(address - BLAME), GossipReason.INVALID_MESSAGE)
            elif address in self._links and isinstance(lane, Lane):
                self._links[ValidatorIndex(address)].send(lane, message)

    def _pass_in(self, inbound: Inbound, private: PeerLink) -> None:
        """From another validator to ours; without it the newest votes wait, as on any link."""
        for message in inbound.messages:
            if isinstance(inbound.lane, Lane) and not isinstance(inbound.peer, str):
                private.send(inbound.lane, addressed(inbound.peer, message))

    def _blame_nobody(self, peer: ValidatorIndex, reason: GossipReason) -> None:
        log.warning("private_frame_refused", peer=peer, reason=reason.value)

    async def _deliver(self, inbound: Inbound) -> None:
        if self._private is not None:
            self._pass_in(inbound, self._private)
            return
        if inbound.lane is Lane.BULK:
            await self._bulk_inbox.send(inbound)
            return
        try:
            self._vote_inbox.send_nowait(inbound)
        except trio.WouldBlock:
            self.counters.add(GossipReason.INBOX_FULL, Lane.VOTE.label)

    def _deliver_topic(self, peer_id: str, topic: Topic, data: bytes) -> None:
        inbound = Inbound(self._book.name_of(peer_id), topic, (data,), time.monotonic_ns())
        try:
            self._bulk_inbox.send_nowait(inbound)
        except trio.WouldBlock:
            self.counters.add(GossipReason.INBOX_FULL, topic.value)

    def _blame_peer_id(self, peer_id: str, reason: GossipReason) -> None:
        self._blame(self._book.name_of(peer_id), reason)

    def _blame(self, peer: PeerName, reason: GossipReason) -> None:
        reaction = self._book.blame(peer, reason, time.monotonic_ns())
        if reaction is Reaction.COUNTED:
            return
        log.warning("peer_cut", peer=peer, reason=reason.value, reaction=reaction.value)
        peer_id = peer if isinstance(peer, str) else self._peers[peer].peer_id
        self._running().abort_peer(peer_id)

    def _standing(self, link: PeerLink, now_ns: int) -> PeerStanding:
        return PeerStanding(
            index=link.index,
            connected=link.is_up() if self.config.own_index is not None else self._is_connected(link.index),
            rtt_ms=None if link.rtt_ns is None else link.rtt_ns / 1e6,
            heard_ms_ago=None if link.heard_ns is None else (now_ns - link.heard_ns) // 1_000_000,
            queued=(link.queued(Lane.VOTE), link.queued(Lane.BULK)),
            dropped=(link.dropped(Lane.VOTE), link.dropped(Lane.BULK)),
            score=self._book.score(link.index, now_ns),
            banned=self._book.is_banned(link.index, now_ns),
        )

    def _is_connected(self, index: ValidatorIndex) -> bool:
        """What a follower has with a validator instead of lanes."""
        return self._edge is not None and self._edge.is_connected(self._peers[index].peer_id)

    def _running(self) -> Edge:
        if self._edge is None:
            raise InvariantViolation("the network is used before it runs")
        return self._edge
