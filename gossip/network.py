"""The network as the node sees it: lanes, topics, peers and one Protocol. Pure but for trio's channels.

`gossip.service.Libp2pNetwork` implements `Network` over real sockets, `gossip.relay.SentryNetwork` through a sentry,
and tests do in memory. Nothing here imports libp2p, which costs a second to load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NewType, Protocol

import trio

from gossip.counters import Counters
from gossip.reasons import GossipReason
from primitives.identifiers import ChainId, ValidatorIndex

FollowerId = NewType("FollowerId", str)
"""Base58 libp2p peer id of a node that follows and does not vote."""

PeerName = ValidatorIndex | FollowerId


class Lane(IntEnum):
    """Two streams between each pair of validators, so that a fat body never holds up a vote."""

    VOTE = 0
    """Votes, certificates, status: small, never behind bulk. When a peer's queue is full its oldest goes."""
    BULK = 1
    """Proposals, bodies, order bundles, oracle reports, block fetch. When a queue is full `send` refuses."""

    @property
    def label(self) -> str:
        """The lane's name in counters and logs."""
        return self.name.lower()


class Topic(StrEnum):
    """What followers hear, through gossipsub: a few messages a second, each proving itself."""

    FINAL_BLOCKS = "final-blocks"
    ORACLE = "oracle"
    EVIDENCE = "evidence"


VOTE_MESSAGE_BYTES_MAX = 60 * 1024
"""A longer vote-lane message is refused (`send` returns False); keeps a frame within 64 KiB."""
BULK_MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""A longer bulk message is refused (`send` returns False): blocks and bundles stay below it by genesis."""
TOPIC_MESSAGE_BYTES_MAX = 512 * 1024
"""A longer publication is refused: gossipsub drops above 1 MiB without a word, so we stay well below."""

MESSAGE_BYTES_MAX = {Lane.VOTE: VOTE_MESSAGE_BYTES_MAX, Lane.BULK: BULK_MESSAGE_BYTES_MAX}

VOTE_INBOX_FRAMES_MAX = 4096
"""Frames not read by the node yet; when full an arriving vote frame is dropped and counted."""
BULK_INBOX_FRAMES_MAX = 256
"""When full, reading of bulk streams waits (so senders' queues fill) and topic messages are dropped."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """One frame as it arrived; its messages are in the sender's order."""

    peer: PeerName
    """Who sent it. For a topic: who passed it on, which need not be its author."""
    lane: Lane | Topic
    messages: tuple[bytes, ...]
    received_ns: int
    """Monotonic clock of this process, nanoseconds."""


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """One validator's addresses and libp2p identity, from genesis, the node's configuration and the chain."""

    index: ValidatorIndex
    peer_id: str
    """`gossip.peer_id.peer_id_of(its libp2p public key)`."""
    host: str
    """IPv4 or IPv6 address, or a DNS name: where our operator says that it is; empty: the operator says nothing."""
    port: int
    announced: tuple[tuple[str, int], ...] = ()
    """Where it says itself that it is: (host, port), tried after `host`."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Everything the network edge needs to know before it starts."""

    chain_id: ChainId
    own_index: ValidatorIndex | None
    """None: this node follows and does not vote."""
    identity_seed: bytes
    """32 secret bytes of the libp2p Ed25519 key; never the consensus key."""
    listen_host: str
    listen_port: int
    validators: tuple[PeerConfig, ...]
    """All validators, in index order, ourselves included; until `Network.know` tells more."""
    sentry_of: str = ""
    """A sentry's: the peer id under which its validator dials it. All lanes are that validator's, none ours."""
    dials_private: bool = False
    """Whether announced addresses in private ranges are dialled: in local networks only."""
    topics: tuple[Topic, ...] = ()
    """Topics whose messages this node wants delivered. Publishing needs no subscription."""

    def __repr__(self) -> str:
        return f"NetworkConfig(own_index={self.own_index}, listen={self.listen_host}:{self.listen_port})"


@dataclass(frozen=True, slots=True)
class PeerStanding:
    """What we know of one other validator at this moment."""

    index: ValidatorIndex
    connected: bool
    """Both lanes are up and the peer was heard within the silence limit; for a follower, which has none: connected."""
    rtt_ms: float | None
    """Round trip of the last heartbeat, milliseconds; None before the first."""
    heard_ms_ago: int | None
    """Since the last frame of the peer; None if never connected."""
    queued: tuple[int, int]
    """Messages waiting for the peer, by lane."""
    dropped: tuple[int, int]
    """Messages lost to full queues or a missing link since the start, by lane."""
    score: int
    """0 is spotless; penalties raise it, time lowers it."""
    banned: bool


class NoAnswer(Exception):
    """A request to a peer came to nothing: not connected, reset, too slow. Nobody is to blame."""


class Network(Protocol):
    """Bytes to and from other nodes. Every method returns at once; none raises for a peer's condition."""

    counters: Counters
    votes: trio.MemoryReceiveChannel[Inbound]
    """Lane.VOTE frames of validators."""
    bulk: trio.MemoryReceiveChannel[Inbound]
    """Lane.BULK frames of validators, and topic messages."""

    def send(self, to: ValidatorIndex, lane: Lane, message: bytes) -> bool:
        """Queue one message; all that is queued in one loop turn leaves as one frame, in order.

        Returns:
            Whether it was queued. VOTE: always, unless too large (a full queue loses its oldest; while the
            link is down the newest are kept for its return). BULK: False when too large, the queue is full,
            or no link is up.
        """

    def broadcast(self, lane: Lane, message: bytes) -> int:
        """`send` to every other validator; returns how many queued it."""

    async def request(self, to: ValidatorIndex, body: bytes) -> bytes:
        """Ask a peer on a stream of its own; its answer of at most BULK_MESSAGE_BYTES_MAX.

        Raises:
            NoAnswer: there is none.
            ProtocolViolation: what came breaks the frame format.
        """

    def publish(self, topic: Topic, message: bytes) -> bool:
        """Queue one publication; False when too large or the queue is full. Our own is not delivered to us."""

    def peers(self) -> Sequence[PeerStanding]:
        """The other validators, by index."""

    def know(self, validators: Sequence[PeerConfig]) -> None:
        """These are all validators from now on, by index, ourselves perhaps among them.

        Links to those that are still the same go on; new ones are dialled, or waited for; the rest are cut.
        """

    def penalise(self, peer: PeerName, reason: GossipReason) -> None:
        """Blame a peer for a message the node found wrong: count, then score, then disconnect, then ban."""
