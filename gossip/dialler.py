"""Who is dialled, when, and when again: one task for each other validator. I/O: TCP through libp2p, the clock.

Of two validators the one with the lower index opens the lanes. The other knocks: the connection that it makes tells
the lower one, which may not know where to find it, to stop waiting for its next attempt. A follower keeps a connection.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from gossip.addresses import locate
from gossip.counters import Counters
from gossip.link import StreamBroken
from gossip.network import Lane, NetworkConfig, PeerConfig
from gossip.reasons import GossipReason
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex

if TYPE_CHECKING:
    from trio_typing import TaskStatus

    from gossip.host import Edge

BACKOFF_SECONDS_MIN = 0.05
BACKOFF_SECONDS_MAX = 2.0
"""Longest wait between two attempts at a validator that does not answer where our operator says that it is."""
ANNOUNCED_SECONDS_MAX = 30.0
"""The same where only the validator itself says so: a false address costs us, and whoever is there, no more."""
KNOCK_SECONDS_MIN = 0.3
"""How long the higher index waits, after its start, before it knocks."""
KNOCK_SECONDS_MAX = 30.0
"""How often it looks, at least, whether there is a link by now."""
FOLLOWED_MAX = 8
"""Validators that a follower is connected to at a time; when one is lost another takes its turn. Each has few places
for followers (`peer_book.FOLLOWERS_MAX`), so one who took one of everybody would keep others out."""
CLEAN_UP_SECONDS_MAX = 3
"""How long libp2p gets to forget a connection that was cut, before it is dialled anew."""

log = structlog.get_logger(__name__)


class OpenLane(Protocol):
    """Opens a lane and serves it for as long as it lasts; `started` once both sides have greeted."""

    async def __call__(self, lane: Lane, peer: PeerConfig, *, task_status: TaskStatus[None]) -> None: ...


@dataclass(slots=True)
class _Course:
    """One validator, and how far we are with it."""

    peer: PeerConfig
    turn: int = 0
    """Which of its addresses is next."""
    arrived: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def backoff_seconds_max(self) -> float:
        return BACKOFF_SECONDS_MAX if self.peer.host else ANNOUNCED_SECONDS_MAX


class Dialler:
    """The tasks of one edge."""

    def __init__(
        self,
        config: NetworkConfig,
        counters: Counters,
        edge: Edge,
        open_lane: OpenLane | None,
        is_up: Callable[[ValidatorIndex], bool],
    ) -> None:
        """Without `open_lane` connections are kept, as a follower does; `is_up` tells of links."""
        self._config = config
        self._counters = counters
        self._edge = edge
        self._open_lane = open_lane
        self._is_up = is_up
        self._courses: dict[ValidatorIndex, _Course] = {}
        self._nursery: trio.Nursery | None = None
        self._followed = trio.Semaphore(FOLLOWED_MAX)

    async def run(self) -> None:
        """Until cancelled; what `know` says before is taken up then."""
        async with trio.open_nursery() as self._nursery:
            for course in self._courses.values():
                self._nursery.start_soon(self._keep, course)
            await trio.sleep_forever()

    def know(self, validators: dict[ValidatorIndex, PeerConfig]) -> None:
        """Exactly these are to be reached from now on; the tasks of those that only moved go on."""
        for index in sorted(self._courses.keys() | validators.keys()):
            course, peer = self._courses.get(index), validators.get(index)
            if course is not None and peer is not None and course.peer.peer_id == peer.peer_id:
                course.peer = peer
                continue
            if course is not None:
                course.scope.cancel()
                del self._courses[index]
            if peer is not None:
                course = self._courses[index] = _Course(peer)
                if self._nursery is not None:
                    self._nursery.start_soon(self._keep, course)

    def on_connected(self, peer_id: str) -> None:
        """A connection is there: whoever waits to dial that peer waits no longer."""
        for course in self._courses.values():
            if course.peer.peer_id == peer_id:
                course.arrived.set()

    async def _keep(self, course: _Course) -> None:
        own_index = self._config.own_index
        with course.scope:
            if self._open_lane is None or own_index is None:
                await self._follow(course)
            elif own_index < course.peer.index:
                await self._keep_link(course, self._open_lane)
            else:
                await self._knock(course)

    async def _keep_link(self, course: _Course, open_lane: OpenLane) -> None:
        """Dial, open both lanes, serve them until the link is lost; for ever."""
        backoff_seconds = BACKOFF_SECONDS_MIN
        while True:
            began, only_follows = trio.current_time(), False
            try:
                await self._connect(course)
                async with trio.open_nursery() as nursery:
                    # One after the other: who only follows says so once, and no other stream is cancelled as it
                    # opens, which would break the connection.
                    for lane in Lane:
                        await nursery.start(open_lane, lane, course.peer)
            except* (StreamBroken, trio.TooSlowError, ProtocolViolation) as errors:
                only_follows = errors.subgroup(_says_that_it_follows) is not None
                self._failed(course, "; ".join(str(error) for error in errors.exceptions))
            if trio.current_time() - began > 2 * BACKOFF_SECONDS_MAX:
                backoff_seconds = BACKOFF_SECONDS_MIN
            if not only_follows:
                await self._clear(course.peer)
            await self._pause(course, backoff_seconds)
            backoff_seconds = min(2 * backoff_seconds, course.backoff_seconds_max)

    async def _connect(self, course: _Course) -> None:
        """Have a connection, by dialling the next of its addresses unless there is one. Raises StreamBroken."""
        peer = course.peer
        if not self._edge.is_connected(peer.peer_id):
            endpoint = await locate(peer, course.turn, self._config.dials_private)
            await self._edge.connect(peer.peer_id, *endpoint)

    def _failed(self, course: _Course, why: str) -> None:
        course.turn += 1
        self._counters.add(GossipReason.DIAL_FAILED)
        log.debug("dial_failed", peer=course.peer.index, error=why)

    async def _clear(self, peer: PeerConfig) -> None:
        with trio.move_on_after(CLEAN_UP_SECONDS_MAX):
            while self._edge.is_connected(peer.peer_id):
                self._edge.abort_peer(peer.peer_id)
                await trio.sleep(0.02)

    async def _pause(self, course: _Course, seconds: float) -> None:
        """Wait, with jitter, or until a connection of the peer arrives."""
        course.arrived = trio.Event()
        with trio.move_on_after(seconds * random.uniform(0.5, 1)):
            await course.arrived.wait()

    async def _knock(self, course: _Course) -> None:
        """Make a connection whenever there is no link; the other one opens the lanes over it."""
        seconds = KNOCK_SECONDS_MIN
        while True:
            await trio.sleep(seconds * random.uniform(0.8, 1))
            if not self._is_up(course.peer.index):
                await self._try_connect(course)
            seconds = min(2 * seconds, KNOCK_SECONDS_MAX)

    async def _follow(self, course: _Course) -> None:
        """As a follower: keep a connection, over which gossipsub and requests run, or wait for one's turn."""
        backoff_seconds = BACKOFF_SECONDS_MIN
        if not course.peer.host:
            # Those that our operator wrote go first; of the others each follower takes some at random.
            await trio.sleep(random.uniform(0.5, 1.5))
        while True:
            async with self._followed:
                while await self._try_connect(course):
                    backoff_seconds = BACKOFF_SECONDS_MIN
                    await trio.sleep(BACKOFF_SECONDS_MAX / 4)
            await self._pause(course, backoff_seconds)
            backoff_seconds = min(2 * backoff_seconds, course.backoff_seconds_max)

    async def _try_connect(self, course: _Course) -> bool:
        try:
            await self._connect(course)
        except StreamBroken as error:
            self._failed(course, str(error))
            return False
        return True


def _says_that_it_follows(error: BaseException) -> bool:
    return isinstance(error, ProtocolViolation) and error.reason is GossipReason.FOLLOWS_ONLY
