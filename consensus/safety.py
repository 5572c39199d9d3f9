"""What we have signed, and what we may still sign: the rules that a crash must not break. Pure.

`OwnVotes` holds own[e,v] and the floor of consensus.md section 4; nothing else is needed for safety. The
journal records returned here are durable before the signature leaves the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from consensus.effects import (
    Admitted,
    ClosedEpoch,
    Conflict,
    HeldBlock,
    JournalRecord,
    OwnProposal,
    OwnVote,
    RaisedFloor,
)
from consensus.messages import Block, Certificate, EpochProof, Vote, VoteKind, hash_of, sign_bytes
from primitives.errors import ensure
from primitives.identifiers import NO_BLOCK, BlockHash

Sign = Callable[[bytes], bytes | None]
"""The signature of the bytes; None: the key's holder is away, or refuses."""
Signed = tuple[Vote, OwnVote]


@dataclass(slots=True)
class OwnView:
    """Our three votes in one view; None is not signed. A nullification holds its report."""

    notarized: BlockHash | None = None
    nullified: BlockHash | None = None
    finalized: BlockHash | None = None

    def subjects(self) -> Iterator[tuple[int, BlockHash]]:
        """(kind, subject) of each vote, by kind."""
        for kind, subject in ((1, self.notarized), (2, self.nullified), (3, self.finalized)):
            if subject is not None:
                yield kind, subject


_UNSIGNED = OwnView()


class OwnVotes:
    """Signs at most one vote of each kind per view, and never two that contradict each other."""

    def __init__(self, chain_id: bytes, epoch: int, index: int | None, sign: Sign) -> None:
        """`index` is our place in the validator set; None for an observer, which signs nothing."""
        self._chain_id = chain_id
        self.epoch = epoch
        self._index = index
        self._sign = sign
        self._views: dict[int, OwnView] = {}
        self._signatures: dict[tuple[int, int], Vote] = {}
        self.floor = 0
        self.halted = False
        self.closed = False
        """The epoch is over: nothing is signed in it any more."""

    def of(self, view: int) -> OwnView:
        """What we signed in `view`."""
        return self._views.get(view, _UNSIGNED)

    def _may_sign(self, view: int) -> bool:
        """R0, R9 and the end of the epoch; an observer signs nothing."""
        return self._index is not None and not self.halted and not self.closed and view > self.floor

    def may_notarize(self, view: int, block: BlockHash) -> bool:
        """R3, the part about our own votes."""
        own = self.of(view)
        return (
            self._may_sign(view)
            and own.notarized is None
            and own.nullified is None
            and own.finalized in (None, block)
        )

    def may_nullify(self, view: int) -> bool:
        """R4, the part about our own votes."""
        own = self.of(view)
        return self._may_sign(view) and own.nullified is None and own.finalized is None

    def may_finalize(self, view: int, block: BlockHash) -> bool:
        """R5, the part about our own votes."""
        own = self.of(view)
        return (
            self._may_sign(view)
            and own.nullified is None
            and own.finalized is None
            and own.notarized in (None, block)
        )

    def notarize(self, view: int, block: BlockHash) -> Signed | None:
        """The vote and the record that precedes it; None: the signer gives no signature, and nothing has changed."""
        ensure(self.may_notarize(view, block), "R3 allows this notarize vote")
        return self._signed(VoteKind.NOTARIZE, view, block)

    def nullify(self, view: int) -> Signed | None:
        """As notarize. The report is our own notarize vote, never a proposal seen."""
        ensure(self.may_nullify(view), "R4 allows this nullify vote")
        return self._signed(VoteKind.NULLIFY, view, self.of(view).notarized or NO_BLOCK)

    def finalize(self, view: int, block: BlockHash) -> Signed | None:
        """As notarize."""
        ensure(self.may_finalize(view, block), "R5 allows this finalize vote")
        return self._signed(VoteKind.FINALIZE, view, block)

    def _signed(self, kind: VoteKind, view: int, subject: BlockHash) -> Signed | None:
        vote = self._vote(kind, view, subject)
        if vote is None:
            return None
        self._record(kind, view, subject)
        return vote, OwnVote(kind, self.epoch, view, subject)

    def _record(self, kind: int, view: int, subject: BlockHash) -> None:
        own = self._views.setdefault(view, OwnView())
        name = {1: "notarized", 2: "nullified", 3: "finalized"}[kind]
        ensure(
            getattr(own, name) in (None, subject), "the journal never holds two votes of one kind in a view"
        )
        setattr(own, name, subject)

    def _vote(self, kind: int, view: int, subject: BlockHash) -> Vote | None:
        ensure(self._index is not None, "only a validator signs")
        vote = self._signatures.get((view, kind))
        if vote is None:
            signature = self._sign(sign_bytes(self._chain_id, kind, self.epoch, view, subject))
            if signature is None:
                return None
            vote = Vote(kind, self.epoch, view, subject, self._index or 0, signature)
            self._signatures[view, kind] = vote
        return vote

    def votes_in(self, view: int) -> Iterator[Vote]:
        """Our recorded votes in a view, signed again: the same bytes as the first time (Ed25519 is deterministic).

        Those that the signer does not give are left out.
        """
        if self._index is None or self.halted or view <= self.floor:
            return
        for kind, subject in self.of(view).subjects():
            vote = self._vote(kind, view, subject)
            if vote is not None:
                yield vote

    def views_above(self, view: int) -> list[int]:
        """The views above `view` in which we signed something, ascending."""
        return sorted(one for one in self._views if one > view)

    def restore(self, record: OwnVote) -> None:
        """Take in a vote of an earlier life; of another epoch's votes, or below the floor, nothing is needed."""
        if record.epoch == self.epoch and record.view > self.floor:
            self._record(record.kind, record.view, BlockHash(record.subject))

    def raise_floor(self, view: int) -> RaisedFloor:
        """R0: nothing at or below `view` is signed any more, so its records may go."""
        self.floor = max(self.floor, view)
        self._views = {one: own for one, own in self._views.items() if one > self.floor}
        self._signatures = {key: vote for key, vote in self._signatures.items() if key[0] > self.floor}
        return RaisedFloor(self.epoch, self.floor)

    def records(self) -> Iterator[JournalRecord]:
        """The records that a rewritten journal needs."""
        yield RaisedFloor(self.epoch, self.floor)
        for view, own in sorted(self._views.items()):
            for kind, subject in own.subjects():
                yield OwnVote(kind, self.epoch, view, subject)


@dataclass(slots=True)
class Restored:
    """What a journal says beside our votes."""

    view: int = 1
    """The lowest view that we may be in without going back."""
    admitted: list[Certificate] = field(default_factory=list)
    proposals: dict[int, Block] = field(default_factory=dict)
    held: dict[BlockHash, Block] = field(default_factory=dict)
    conflict: Conflict | None = None
    closed: EpochProof | None = None
    """Why our epoch is over."""


def epoch_of_record(record: JournalRecord) -> int | None:
    """The epoch that a record belongs to; None for a conflict, which stops us in every epoch."""
    match record:
        case OwnVote(epoch=epoch) | RaisedFloor(epoch=epoch):
            return epoch
        case OwnProposal(block=block) | HeldBlock(block=block):
            return block.header.epoch
        case Admitted(certificate=certificate):
            return certificate.epoch
        case ClosedEpoch(proof=proof):
            return proof.headers[0].epoch
        case Conflict():
            return None


def restore(own: OwnVotes, records: Iterable[JournalRecord]) -> Restored:
    """Replay a journal into `own`; what remains is for the core.

    Records of an earlier epoch say nothing about this one. One of a later epoch says that this one was closed:
    then nothing is signed in it any more.
    """
    restored = Restored()
    for record in records:
        epoch = epoch_of_record(record)
        if epoch is not None and epoch > own.epoch:
            own.closed = True
        if epoch is not None and epoch != own.epoch:
            continue
        match record:
            case ClosedEpoch(proof=proof):
                restored.closed = proof
                own.closed = True
            case OwnVote():
                own.restore(record)
                passed = record.view + (1 if record.kind == VoteKind.FINALIZE else 0)
                restored.view = max(restored.view, passed)
            case OwnProposal(block=block):
                restored.proposals[block.header.view] = block
                restored.held[hash_of(block.header)] = block
            case HeldBlock(block=block):
                restored.held[hash_of(block.header)] = block
            case RaisedFloor(view=view):
                own.raise_floor(view)
            case Admitted(view=view, certificate=certificate):
                restored.view = max(restored.view, view)
                restored.admitted.append(certificate)
            case Conflict():
                restored.conflict = record
    own.halted = restored.conflict is not None
    return restored
