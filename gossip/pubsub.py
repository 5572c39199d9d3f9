"""Gossipsub for what followers hear: publish, subscribe, and our verdicts narrowed to libp2p's booleans.

I/O: through the libp2p host. Every parameter that matters is explicit: the defaults let ten messages a second
through per peer, stretch the heartbeat to 30 s on a small mesh, and sign every message.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio
from libp2p.abc import IHost
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

from gossip.counters import Counters
from gossip.limits import TOPIC_BUDGET, Budget
from gossip.network import TOPIC_MESSAGE_BYTES_MAX, Topic
from gossip.reasons import GossipReason, Traffic
from gossip.seen import SeenSet
from gossip.topics import publication_id, topic_name
from primitives.identifiers import ChainId
from primitives.verdict import Verdict

GOSSIPSUB = TProtocol("/meshsub/1.1.0")
"""1.1: version 1.2 costs three times the CPU here."""
PUBLISH_QUEUE_MAX = 64
"""Publications waiting for gossipsub; when full a further one is refused."""
SEEN_MAX = 8192
"""Publications remembered against replay; when full the oldest is forgotten."""
PEER_QUEUE_BUSY = 24
"""Packets that libp2p has queued for one peer before the next publication waits."""
ROOM_SECONDS_MAX = 0.1
"""How long a slow peer may hold back a publication; then it may lose it, and fetches the block."""
RPC_BYTES_MAX = 1 << 20
"""A larger gossipsub packet ends its stream."""
BUDGETS_MAX = 256
"""Peers whose topic budget is remembered; when full the longest known is forgotten."""

log = structlog.get_logger(__name__)


class TopicGossip:
    """The topics of one node."""

    def __init__(
        self,
        host: IHost,
        chain_id: ChainId,
        counters: Counters,
        deliver: Callable[[str, Topic, bytes], None],
        blame: Callable[[str, GossipReason], None],
    ) -> None:
        """`deliver(who passed it on, topic, data)` is called once per publication and must not block."""
        self._names = {topic: topic_name(chain_id, topic) for topic in Topic}
        self._own_id = host.get_id()
        self._counters = counters
        self._deliver = deliver
        self._blame = blame
        self._seen = SeenSet(SEEN_MAX)
        self._budgets: dict[ID, Budget] = {}
        self._queue: deque[tuple[Topic, bytes]] = deque()
        self._waiting = trio.lowlevel.ParkingLot()
        self._router = _router()
        self._pubsub = Pubsub(
            host,
            self._router,
            cache_size=SEEN_MAX,
            strict_signing=False,  # Publications prove themselves: they carry certificates or signatures.
            msg_id_constructor=_message_id,
            max_inbound_rpc_size=RPC_BYTES_MAX,
            allowed_topics=set(self._names.values()),
        )

    def publish(self, topic: Topic, message: bytes) -> bool:
        """Queue one publication; False when it is too large or the queue is full."""
        if not 0 < len(message) <= TOPIC_MESSAGE_BYTES_MAX:
            self._counters.add(GossipReason.TOO_LARGE, topic.value)
            return False
        if len(self._queue) >= PUBLISH_QUEUE_MAX:
            self._counters.add(GossipReason.QUEUE_FULL, topic.value)
            return False
        self._queue.append((topic, message))
        self._waiting.unpark_all()
        return True

    @asynccontextmanager
    async def run(self, topics: tuple[Topic, ...]) -> AsyncIterator[None]:
        """Publish, relay and deliver `topics` inside the block."""
        for topic in Topic:
            self._pubsub.set_topic_validator(
                self._names[topic], self._validator(topic, topic in topics), is_async_validator=False
            )
        async with (
            background_trio_service(self._pubsub),
            background_trio_service(self._router),
            trio.open_nursery() as nursery,
        ):
            await self._pubsub.wait_until_ready()
            for topic in topics:
                subscription = await self._pubsub.subscribe(self._names[topic])
                nursery.start_soon(_drain, subscription)
            nursery.start_soon(self._publish_queued)
            yield
            nursery.cancel_scope.cancel()

    async def _publish_queued(self) -> None:
        while True:
            while not self._queue:
                await self._waiting.park()
            await self._wait_for_room()
            topic, message = self._queue.popleft()
            self._counters.add(Traffic.MESSAGES_SENT, topic.value)
            self._counters.add(Traffic.BYTES_SENT, topic.value, len(message))
            try:
                await self._pubsub.publish(self._names[topic], message)
            except Exception as error:
                # Threshold: libp2p lets a peer's broken stream out of publish; the next one is not to blame.
                self._counters.add(GossipReason.HANDLER_FAILED, topic.value)
                log.warning("publish_failed", topic=topic.value, error=repr(error))

    async def _wait_for_room(self) -> None:
        """libp2p's queue per peer holds 32 and drops in silence: wait for the slowest, but not long."""
        with trio.move_on_after(ROOM_SECONDS_MAX):
            while any(len(q) >= PEER_QUEUE_BUSY for q in self._pubsub.peer_queues.values()):  # noqa: ASYNC110
                await trio.sleep(0.002)

    def _validator(self, topic: Topic, wanted: bool) -> Callable[[ID, Any], bool]:
        """libp2p's boolean validator, called once per message id. Raising would stop all delivery."""

        def validate(forwarder: ID, message: Any) -> bool:
            if forwarder == self._own_id:
                self._seen.add(_message_id(message))
                return True
            verdict = self._judge(forwarder, topic, message.data, _message_id(message))
            if verdict is Verdict.ACCEPT and wanted:
                self._deliver(forwarder.to_base58(), topic, message.data)
            return verdict is Verdict.ACCEPT

        return validate

    def _judge(self, forwarder: ID, topic: Topic, data: bytes, key: bytes) -> Verdict:
        self._counters.add(Traffic.MESSAGES_RECEIVED, topic.value)
        self._counters.add(Traffic.BYTES_RECEIVED, topic.value, len(data))
        if not 0 < len(data) <= TOPIC_MESSAGE_BYTES_MAX:
            self._counters.add(GossipReason.TOO_LARGE, topic.value)
            self._blame(forwarder.to_base58(), GossipReason.TOO_LARGE)
            return Verdict.REJECT
        if not self._budget(forwarder).spend(1, len(data), time.monotonic_ns()):
            self._counters.add(GossipReason.OVER_BUDGET, topic.value)
            self._blame(forwarder.to_base58(), GossipReason.OVER_BUDGET)
            return Verdict.IGNORE
        if not self._seen.add(key):
            self._counters.add(GossipReason.DUPLICATE, topic.value)
            return Verdict.IGNORE
        return Verdict.ACCEPT

    def _budget(self, peer: ID) -> Budget:
        if peer not in self._budgets:
            if len(self._budgets) >= BUDGETS_MAX:
                del self._budgets[next(iter(self._budgets))]
            self._budgets[peer] = Budget(TOPIC_BUDGET, time.monotonic_ns())
        return self._budgets[peer]


def _router() -> GossipSub:
    return GossipSub(
        protocols=[GOSSIPSUB],
        degree=6,
        degree_low=4,
        degree_high=12,
        gossip_window=3,
        gossip_history=5,
        heartbeat_initial_delay=0.1,
        heartbeat_interval=1,
        direct_connect_interval=3600,
        do_px=False,
        prune_back_off=10,
        unsubscribe_back_off=5,
        adaptive_gossip_enabled=False,
        spam_protection_enabled=False,  # Ours counts what it drops; libp2p's is silent.
        eclipse_protection_enabled=False,
        max_pending_messages_per_peer=64,
        pending_messages_ttl=5.0,
    )


def _message_id(message: Any) -> bytes:
    return publication_id(message.topicIDs[0] if message.topicIDs else "", message.data)


async def _drain(subscription: Any) -> None:
    """The validator has delivered already: this channel of 32 would lose the rest of a burst in silence."""
    while True:
        await subscription.get()
