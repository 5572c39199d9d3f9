"""Who the peers are, how they stand, and who is banned. Pure: the caller tells the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from gossip.network import FollowerId, PeerConfig, PeerName
from gossip.reasons import GossipReason
from primitives.amounts import NS
from primitives.identifiers import ValidatorIndex

SCORE_DISCONNECT = 100
"""At this score the connection is closed; a validator may come back at once."""
SCORE_BAN = 200
"""At this score the peer is banned for a time and starts again at 0."""
SCORE_DECAY_PER_SECOND = 1
"""How fast a score is forgiven."""
VALIDATOR_BAN_NS = 30 * NS
"""Short: a banned validator costs the chain a vote."""
FOLLOWER_BAN_NS = 600 * NS
FOLLOWER_STANDINGS_MAX = 1024
"""Followers remembered. When full, the longest known that is not banned is forgotten, or else the oldest."""
FOLLOWERS_MAX = 32
"""Followers connected at once; a further one is refused. Separate from validators, who always have room."""

_PENALTIES = {
    GossipReason.OVER_BUDGET: 2,
    GossipReason.INVALID_MESSAGE: 10,
    GossipReason.BAD_REQUEST: 10,
    GossipReason.FALSE_ANSWER: SCORE_DISCONNECT,
    GossipReason.DUPLICATE: 0,
    GossipReason.WRONG_CHAIN: 0,
    GossipReason.WRONG_PROTOCOL: 0,
    GossipReason.FOLLOWS_ONLY: 0,
    GossipReason.UNKNOWN_PEER: 1,  # It may know of a new set before us.
}
_PENALTY_DEFAULT = 50
"""For breaches of the frame format, which no honest program commits."""


class Reaction(Enum):
    """The ladder: what to do with a peer after blaming it."""

    COUNTED = "counted"
    DISCONNECT = "disconnect"
    BAN = "ban"


@dataclass(slots=True)
class _Standing:
    score: int = 0
    scored_ns: int = 0
    banned_until_ns: int = 0
    disconnected_at_score: bool = False


class PeerBook:
    """Validators by peer id; followers as they come, bounded."""

    def __init__(self, validators: Sequence[PeerConfig]) -> None:
        self._indices: dict[str, ValidatorIndex] = {}
        self.know(validators)
        self._standings: dict[PeerName, _Standing] = {peer.index: _Standing() for peer in validators}

    def know(self, validators: Sequence[PeerConfig]) -> None:
        """These are all validators from now on; what was held against an index is forgotten with its peer id.

        Of two with the same peer id the lower index has it.
        """
        before = self._indices
        self._indices = {peer.peer_id: peer.index for peer in reversed(validators)}
        for peer_id, index in before.items():
            if self._indices.get(peer_id) != index:
                self._standings.pop(index, None)

    def index_of(self, peer_id: str) -> ValidatorIndex | None:
        """The validator to whom this peer id is bound; None for a stranger."""
        return self._indices.get(peer_id)

    def name_of(self, peer_id: str) -> PeerName:
        """Validator index, or the follower's own name."""
        return self._indices.get(peer_id, FollowerId(peer_id))

    def score(self, peer: PeerName, now_ns: int) -> int:
        """Current score; 0 for a peer never blamed."""
        standing = self._standings.get(peer)
        return _decayed(standing, now_ns) if standing else 0

    def is_banned(self, peer: PeerName, now_ns: int) -> bool:
        """Whether a ban runs."""
        standing = self._standings.get(peer)
        return standing is not None and standing.banned_until_ns > now_ns

    def blame(self, peer: PeerName, reason: GossipReason, now_ns: int) -> Reaction:
        """Raise a peer's score by the reason's penalty and say what follows."""
        standing = self._standing(peer, now_ns)
        standing.score = _decayed(standing, now_ns) + _PENALTIES.get(reason, _PENALTY_DEFAULT)
        standing.scored_ns = now_ns
        if standing.score >= SCORE_BAN:
            ban_ns = FOLLOWER_BAN_NS if isinstance(peer, str) else VALIDATOR_BAN_NS
            standing.score, standing.disconnected_at_score = 0, False
            standing.banned_until_ns = now_ns + ban_ns
            return Reaction.BAN
        if standing.score < SCORE_DISCONNECT:
            standing.disconnected_at_score = False
            return Reaction.COUNTED
        if standing.disconnected_at_score:
            return Reaction.COUNTED
        standing.disconnected_at_score = True
        return Reaction.DISCONNECT

    def _standing(self, peer: PeerName, now_ns: int) -> _Standing:
        standing = self._standings.get(peer)
        if standing is None:
            self._make_room(now_ns)
            standing = self._standings[peer] = _Standing()
        return standing

    def _make_room(self, now_ns: int) -> None:
        followers = [peer for peer in self._standings if isinstance(peer, str)]
        if len(followers) < FOLLOWER_STANDINGS_MAX:
            return
        free = (peer for peer in followers if not self.is_banned(peer, now_ns))
        del self._standings[next(free, followers[0])]


def _decayed(standing: _Standing, now_ns: int) -> int:
    forgiven = max(0, now_ns - standing.scored_ns) // NS * SCORE_DECAY_PER_SECOND
    return max(0, standing.score - forgiven)
