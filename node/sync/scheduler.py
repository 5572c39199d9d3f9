"""Which piece to ask of whom: the lowest first, each of one peer, a late one of a second. Pure.

A piece is a run of numbers (heights, or chunks of a snapshot). Peers pull: whoever is quick asks for more, whoever is
slow holds up nobody, for the lowest piece is asked of a second peer when it is late. Who fails rests, longer each time;
who lied is dropped for good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from gossip.network import PeerName

AHEAD_PIECES_MAX = 16
"""Pieces wanted but not consumed yet, whether asked for, arrived or neither: what bounds the memory."""
ASKED_MAX = 2
"""Peers asked for the same piece at a time."""
PATIENCE_MS_MIN = 1_000
"""A piece is late after this, or three times what the newest ones took, if that is more."""
REST_MS_MIN = 250
REST_MS_MAX = 8_000
"""How long a peer rests after failures in a row: doubled each time from the first to the second."""
TIMES_MAX = 32


@dataclass(slots=True)
class Piece:
    """Numbers `first` to `last`, both included."""

    first: int
    last: int
    asked: dict[PeerName, int] = field(default_factory=dict)
    """Who was asked, and when (ms)."""


@dataclass(slots=True)
class _Standing:
    failures: int = 0
    rest_until_ms: int = 0
    is_dropped: bool = False


class Scheduler:
    """Plans numbers `first` to `last` in pieces of at most `piece_size`."""

    def __init__(self, peers: Iterable[PeerName], first: int, last: int, piece_size: int) -> None:
        self._peers = {peer: _Standing() for peer in peers}
        self._last = last
        self._size = piece_size
        self._consumed = self._planned = first - 1
        self._open: dict[int, Piece] = {}
        self._times_ms: deque[int] = deque(maxlen=TIMES_MAX)
        self._plan()

    @property
    def is_done(self) -> bool:
        """Whether everything was consumed."""
        return self._consumed >= self._last

    @property
    def is_hopeless(self) -> bool:
        """Whether nobody is left to ask."""
        return all(standing.is_dropped for standing in self._peers.values())

    def take(self, peer: PeerName, now_ms: int) -> Piece | None:
        """What to ask of this peer now; None when it rests, or there is nothing for it."""
        standing = self._peers[peer]
        if standing.is_dropped or now_ms < standing.rest_until_ms:
            return None
        pieces = [self._open[first] for first in sorted(self._open)]
        piece = next((one for one in pieces if not one.asked), None)
        if piece is None and pieces and self._is_late(pieces[0], peer, now_ms):
            piece = pieces[0]
        if piece is not None:
            piece.asked[peer] = now_ms
        return piece

    def _is_late(self, piece: Piece, peer: PeerName, now_ms: int) -> bool:
        if peer in piece.asked or len(piece.asked) >= ASKED_MAX:
            return False
        usual_ms = 3 * int(median(self._times_ms)) if self._times_ms else 0
        return now_ms - min(piece.asked.values()) >= max(PATIENCE_MS_MIN, usual_ms)

    def answered(self, peer: PeerName, piece: Piece, through: int, now_ms: int) -> bool:
        """A good answer, as far as `through`; what is left becomes a piece. False if another peer was faster."""
        self._peers[peer].failures = 0
        if self._open.get(piece.first) is not piece:
            return False
        self._times_ms.append(now_ms - piece.asked.get(peer, now_ms))
        del self._open[piece.first]
        if through < piece.last:
            self._open[through + 1] = Piece(through + 1, piece.last)
        return True

    def failed(self, peer: PeerName, piece: Piece, now_ms: int) -> None:
        """No answer, or one without what was asked: the peer rests, the piece is anybody's."""
        standing = self._peers[peer]
        standing.rest_until_ms = now_ms + min(REST_MS_MIN << min(standing.failures, 16), REST_MS_MAX)
        standing.failures += 1
        piece.asked.pop(peer, None)

    def drop(self, peer: PeerName) -> None:
        """A liar: never asked again, and what it was asked for is anybody's."""
        self._peers[peer].is_dropped = True
        for piece in self._open.values():
            piece.asked.pop(peer, None)

    def consumed(self, through: int) -> None:
        """Everything as far as `through` is used up: there is room for more."""
        self._consumed = through
        self._plan()

    def _plan(self) -> None:
        limit = min(self._last, self._consumed + AHEAD_PIECES_MAX * self._size)
        while self._planned < limit:
            first = self._planned + 1
            self._planned = min(first + self._size - 1, limit)
            self._open[first] = Piece(first, self._planned)
