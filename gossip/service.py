"""The network edge at work: accepts, greets, keeps links alive. I/O: TCP through libp2p, the clock.

A sentry has two edges: its face, which is its validator's, and an eye of its own, through which it follows the
chain. Other validators see the face only while its validator is there, so that several sentries can stand ready.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from gossip.counters import Counters
from gossip.dialler import Dialler
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
STAND_BY_SECONDS = 3.0
"""How long a sentry keeps its validator's links while that is away; then another sentry may have them undisturbed."""

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
        self._links = {index: self._link_to(index) for index in sorted(self._peers)}
        self._private = self._private_link() if config.sentry_of else None
        self._in_charge = False
        """A sentry's: whether its validator is, or was a moment ago, connected to it."""
        self._left_at: float | None = None
        self._answerer = Answerer(on_request, self.counters) if on_request else None
        self._edge: Edge | None = None
        self._eye: Edge | None = None
        self._face: Dialler | None = None
        self._follower: Dialler | None = None
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

    def know(self, validators: Sequence[PeerConfig]) -> None:
        """See `Network.know`."""
        self._book.know(validators)
        before = self._peers
        self._peers = {peer.index: peer for peer in validators if peer.index != self.config.own_index}
        for index, peer in before.items():
            now = self._peers.get(index)
            if now is None or now.peer_id != peer.peer_id:
                del self._links[index]
                self._cut(peer.peer_id)
        fresh = self._peers.keys() - self._links.keys()
        links = self._links | {index: self._link_to(index) for index in fresh}
        self._links = {index: links[index] for index in sorted(links)}
        self._dial()

    def _link_to(self, index: ValidatorIndex) -> PeerLink:
        return PeerLink(index, self.counters, self._deliver, self._blame)

    def _dial(self) -> None:
        """Tell both diallers whom to reach: the face nobody, while the validator behind it is away."""
        if self._face is not None:
            self._face.know({} if self._stands_by() else self._peers)
        if self._follower is not None:
            self._follower.know(self._peers)

    def penalise(self, peer: PeerName, reason: GossipReason) -> None:
        """See `Network.penalise`."""
        self.counters.add(reason)
        self._blame(peer, reason)

    async def request(self, to: ValidatorIndex, body: bytes) -> bytes:
        """See `Network.request`."""
        peer, stream = self._peers.get(to), None
        if self._eye is None or peer is None:
            raise NoAnswer("no such validator, or not started")
        try:
            stream = await self._eye.open(peer.peer_id, FOLLOW_PROTOCOL)
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
        edge, eye = self._edge, self._eye = self._edges()
        async with AsyncExitStack() as stack:
            for one in dict.fromkeys((edge, eye)):
                await stack.enter_async_context(one.run())
                topics = self._topics_of(one)
                await stack.enter_async_context(topics.run(self.config.topics))
                self._topics = self._topics or topics
            nursery = await stack.enter_async_context(trio.open_nursery())
            nursery.start_soon(self._tick)
            for dialler in self._diallers(edge, eye):
                nursery.start_soon(dialler.run)
            self._dial()
            log.info("network_started", host=self.config.listen_host, port=self.config.listen_port)
            task_status.started()

    def _edges(self) -> tuple[Edge, Edge]:
        """What others see of us, and what we see others with: one and the same, but for a sentry."""
        from gossip.host import Edge

        edge = Edge(self.config, self.counters, self._admit, self._on_connected)
        for lane, protocol in LANE_PROTOCOLS.items():
            edge.serve(protocol, partial(self._on_lane, lane))
        edge.serve(FOLLOW_PROTOCOL, self._on_follower)
        if self._private is None:
            return edge, edge
        for lane, protocol in RELAY_PROTOCOLS.items():
            edge.serve(protocol, partial(self._on_private, lane))
        return edge, Edge(self.config, self.counters, lambda _: True, lambda _: None, os.urandom(32))

    def _diallers(self, edge: Edge, eye: Edge) -> list[Dialler]:
        """One for lanes, one for following; a sentry has both."""
        if self.config.own_index is not None:
            self._face = Dialler(self.config, self.counters, edge, self._open_lane, self._is_up)
        if self.config.own_index is None or self._private is not None:
            self._follower = Dialler(self.config, self.counters, eye, None, self._is_up)
        return [one for one in (self._face, self._follower) if one is not None]

    def _topics_of(self, edge: Edge) -> TopicGossip:
        from gossip.pubsub import TopicGossip

        chain_id = self.config.chain_id
        return TopicGossip(edge.host, chain_id, self.counters, self._deliver_topic, self._blame_peer_id)

    def _is_up(self, index: ValidatorIndex) -> bool:
        link = self._links.get(index)
        return link is not None and link.is_up()

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
                self._look_behind(self._private)
            expected_ns = now_ns

    # Streams.

    async def _open_lane(self, lane: Lane, peer: PeerConfig, *, task_status: TaskStatus[None]) -> None:
        if self._private is not None and not self._private.is_up():
            raise StreamBroken("our validator is away")
        stream = await self._running().open(peer.peer_id, LANE_PROTOCOLS[lane])
        try:
            decoder = await self._greet(stream, peer.index, lane)
        except BaseException as error:
            # The dialler cuts the connection, unless the peer only follows.
            await end_stream(stream)
            if isinstance(error, ProtocolViolation):
                self._refuse(peer.index, error)
            raise
        try:
            task_status.started()
            await self._serve(lane, peer.index, stream, decoder)
        finally:
            stream.abort()

    async def _on_lane(self, lane: Lane, peer_id: str, stream: ByteStream) -> None:
        index = self._book.index_of(peer_id)
        own_index = self.config.own_index
        if own_index is None:
            await self._decline(lane, stream)
            return
        try:
            if index is None or index >= own_index:
                raise ProtocolViolation(GossipReason.UNKNOWN_PEER, "may not open a lane to us")
            decoder = await self._greet(stream, index, lane)
            await self._serve(lane, index, stream, decoder)
        except ProtocolViolation as error:
            self._refuse(self._book.name_of(peer_id), error)
        except (StreamBroken, trio.TooSlowError):
            self.counters.add(GossipReason.HANDSHAKE_FAILED, lane.label)
        finally:
            stream.abort()

    async def _decline(self, lane: Lane, stream: ByteStream) -> None:
        """We only follow, and whoever opens a lane takes us for a validator that we are to be, or were: tell it."""
        with suppress(StreamBroken), trio.move_on_after(HELLO_SECONDS_MAX):
            await stream.write(encode_hello(self.config.chain_id, None, lane))
        await end_stream(stream, politely=True)

    async def _serve(
        self, lane: Lane, index: ValidatorIndex, stream: ByteStream, decoder: FrameDecoder
    ) -> None:
        if lane is Lane.BULK:
            await stream.widen()
        link = self._links.get(index)
        if link is None:
            raise StreamBroken("no validator any more")
        log.info("lane_up", peer=index, lane=lane.label)
        await link.serve(lane, stream, decoder)
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
        tell = log.info if reason is GossipReason.FOLLOWS_ONLY else log.warning
        tell("peer_refused", peer=peer, reason=reason.value, detail=error.detail)
        self.penalise(peer, reason)

    # Callbacks.

    def _admit(self, peer_id: str) -> bool:
        """Whether this peer id may be connected at all; asked right after the noise handshake proved it."""
        name = self._book.name_of(peer_id)
        if self._book.is_banned(name, time.monotonic_ns()):
            self.counters.add(GossipReason.BANNED)
            return False
        if not isinstance(name, str):
            return not self._stands_by()
        if peer_id == self.config.sentry_of:
            return True
        connected = self._running().connected_peers()
        others = [other for other in connected if self._book.index_of(other) is None and other != peer_id]
        if len(others) >= FOLLOWERS_MAX:
            self.counters.add(GossipReason.TOO_MANY_FOLLOWERS)
            return False
        return True

    def _on_connected(self, peer_id: str) -> None:
        if self._face is not None:
            self._face.on_connected(peer_id)

    def _cut(self, peer_id: str) -> None:
        for edge in (self._edge, self._eye):
            if edge is not None:
                edge.abort_peer(peer_id)

    # A sentry's work.

    def _stands_by(self) -> bool:
        """Whether we are a sentry whose validator is not behind it."""
        return self._private is not None and not self._in_charge

    def _look_behind(self, private: PeerLink) -> None:
        """Show the validator's face when it has come; hide it when it has been away for some time."""
        if private.is_up():
            self._left_at = None
            if not self._in_charge:
                self._in_charge = True
                log.info("sentry_in_charge")
                self._dial()
        elif self._in_charge:
            now = trio.current_time()
            self._left_at = now if self._left_at is None else self._left_at
            if now - self._left_at > STAND_BY_SECONDS:
                self._in_charge = False
                log.info("sentry_stands_by")
                self._dial()
                for peer in self._peers.values():
                    self._running().abort_peer(peer.peer_id)

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
        if isinstance(peer, str):
            self._cut(peer)
        elif peer in self._peers:
            self._cut(self._peers[peer].peer_id)

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
        return self._eye is not None and self._eye.is_connected(self._peers[index].peer_id)

    def _running(self) -> Edge:
        if self._edge is None:
            raise InvariantViolation("the network is used before it runs")
        return self._edge
