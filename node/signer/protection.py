"""What one validator has signed, and the rule that no request may contradict it. Pure.

Written apart from `consensus.safety`, which decides in the node: a mistake there must not pass here. One record serves
all keys of the validator. Per (epoch, view) at most one vote of each kind, and never two that contradict each other;
nothing in an epoch before the latest one, nothing at or below the floor. Source: consensus.md section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from consensus.effects import JournalRecord, OwnVote, RaisedFloor
from consensus.messages import VoteKind, sign_bytes
from node.signer.reasons import SignerReason
from node.storage.watermark import Position
from primitives.errors import ProtocolViolation
from primitives.identifiers import NO_BLOCK

VIEWS_MAX = 4_096
"""Views below the highest signed one whose votes are remembered; the floor follows. A node signs at most some 1,300
views behind its own (retain_views and a step)."""
_VOTE_BYTES = len(sign_bytes(bytes(32), 0, 0, 0, bytes(32)))
_EPOCH_MAX = 2**32 - 1
_VIEW_MAX = 2**63 - 1
_NAMES = {VoteKind.NOTARIZE: "notarized", VoteKind.NULLIFY: "nullified", VoteKind.FINALIZE: "finalized"}
_DOUBLE = {
    VoteKind.NOTARIZE: SignerReason.DOUBLE_NOTARIZE,
    VoteKind.NULLIFY: SignerReason.DOUBLE_NULLIFY,
    VoteKind.FINALIZE: SignerReason.DOUBLE_FINALIZE,
}


def parse_vote(chain_id: bytes, message: bytes) -> OwnVote:
    """The vote that these sign bytes are of. Raises ProtocolViolation: NOT_A_VOTE or WRONG_CHAIN."""
    not_a_vote = ProtocolViolation(SignerReason.NOT_A_VOTE, "these are not the bytes of a vote")
    if len(message) != _VOTE_BYTES:
        raise not_a_vote
    kind, chain = message[13], message[14:46]
    epoch, view = int.from_bytes(message[46:54], "big"), int.from_bytes(message[54:62], "big")
    if kind not in tuple(VoteKind) or epoch > _EPOCH_MAX or not 0 < view <= _VIEW_MAX:
        raise not_a_vote
    if sign_bytes(chain, kind, epoch, view, message[62:]) != message:
        raise not_a_vote
    if chain != chain_id:
        raise ProtocolViolation(SignerReason.WRONG_CHAIN, f"a vote of chain {chain.hex()[:16]}")
    return OwnVote(kind, epoch, view, message[62:])


class Protection:
    """The record in memory; `node.signer.desk` makes it durable."""

    def __init__(self, records: Iterable[JournalRecord] = ()) -> None:
        """`records`: those of an earlier life, oldest first."""
        self.epoch = 0
        self.floor = 0
        self._views: dict[int, dict[int, bytes]] = {}
        """View -> kind -> subject, of the latest epoch, above the floor."""
        for record in records:
            match record:
                case OwnVote():
                    self.record(record)
                case RaisedFloor(epoch=epoch, view=view):
                    self.raise_to(Position(epoch, view))

    @property
    def highest(self) -> Position:
        """The highest place at which something was signed, or will never be."""
        return Position(self.epoch, max(self._views, default=self.floor))

    def check(self, vote: OwnVote) -> bool:
        """Whether the vote is new; False: the very same one was signed before. Raises ProtocolViolation."""
        if vote.epoch < self.epoch:
            raise _refused(
                SignerReason.OLD_EPOCH, f"epoch {vote.epoch} is over: {self.epoch} has begun", vote
            )
        if vote.epoch > self.epoch:
            signed: dict[int, bytes] = {}
        elif vote.view <= self.floor:
            raise _refused(SignerReason.BELOW_FLOOR, f"nothing is signed up to view {self.floor}", vote)
        else:
            signed = self._views.get(vote.view, {})
        before = signed.get(vote.kind)
        if before == vote.subject:
            return False
        reason = _DOUBLE[VoteKind(vote.kind)] if before is not None else _conflict(signed, vote)
        if reason is not None:
            raise _refused(reason, _spoken(signed), vote)
        return True

    def record(self, vote: OwnVote) -> None:
        """Remember a vote that `check` allowed; of an earlier epoch or below the floor nothing is needed."""
        if vote.epoch > self.epoch:
            self.raise_to(Position(vote.epoch, 0))
        if vote.epoch < self.epoch or vote.view <= self.floor:
            return
        self._views.setdefault(vote.view, {})[vote.kind] = vote.subject
        if vote.view - VIEWS_MAX > self.floor:
            self.raise_to(Position(self.epoch, vote.view - VIEWS_MAX))

    def raise_to(self, position: Position) -> None:
        """Sign nothing at or below `position` any more. Never lowers anything."""
        if position.epoch > self.epoch:
            self.epoch, self.floor, self._views = position.epoch, position.view, {}
        elif position.epoch == self.epoch and position.view > self.floor:
            self.floor = position.view
            self._views = {view: votes for view, votes in self._views.items() if view > self.floor}

    def votes(self, newest: int = VIEWS_MAX) -> Iterator[OwnVote]:
        """What was signed in the newest views, ascending."""
        for view in sorted(self._views)[-newest:]:
            for kind, subject in sorted(self._views[view].items()):
                yield OwnVote(kind, self.epoch, view, subject)

    def records(self) -> list[JournalRecord]:
        """What a rewritten journal must hold."""
        return [RaisedFloor(self.epoch, self.floor), *self.votes()]


def _conflict(signed: dict[int, bytes], vote: OwnVote) -> SignerReason | None:
    """How a first vote of its kind contradicts the others of its view."""
    notarized, finalized = signed.get(VoteKind.NOTARIZE), signed.get(VoteKind.FINALIZE)
    is_nullified = VoteKind.NULLIFY in signed
    match vote.kind:
        case VoteKind.NOTARIZE:
            if is_nullified:
                return SignerReason.NOTARIZE_AFTER_NULLIFY
            return None if finalized in (None, vote.subject) else SignerReason.NOTARIZE_AFTER_FINALIZE
        case VoteKind.NULLIFY:
            if finalized is not None:
                return SignerReason.NULLIFY_AFTER_FINALIZE
            return None if vote.subject == (notarized or NO_BLOCK) else SignerReason.FALSE_REPORT
        case _:
            if is_nullified:
                return SignerReason.FINALIZE_AFTER_NULLIFY
            return None if notarized in (None, vote.subject) else SignerReason.FINALIZE_AFTER_NOTARIZE


def _refused(reason: SignerReason, why: str, vote: OwnVote) -> ProtocolViolation:
    asked = f"{VoteKind(vote.kind).name.lower()} in epoch {vote.epoch} view {vote.view}"
    return ProtocolViolation(reason, f"{asked}: {why}")


def _spoken(signed: dict[int, bytes]) -> str:
    done = [f"{_NAMES[VoteKind(kind)]} {subject.hex()[:12]}" for kind, subject in sorted(signed.items())]
    return f"already {', '.join(done)}" if done else "nothing was signed in this view"
