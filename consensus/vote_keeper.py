"""Votes in; a certificate when a quorum is complete, evidence when a signer contradicts itself. Pure.

Counting goes on after a quorum: a notarization can become heavy, and a second timeout certificate may resolve
differently (R8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from consensus.certificates import assemble_quorum, assemble_timeout, resolve
from consensus.evidence import offence_of, pair
from consensus.messages import Certificate, PairEvidence, Vote, VoteKind
from consensus.validator_set import ValidatorSet

VOTES_PER_KIND_MAX = 2
"""Distinct votes kept per signer, view and kind: the first and one that contradicts it; more prove nothing new."""


class Counted(NamedTuple):
    """What a new vote brought: a certificate that it completed, and what it proves against its signer."""

    certificate: Certificate | None
    evidence: tuple[PairEvidence, ...]


@dataclass(slots=True)
class _Tally:
    weight: int = 0
    votes: dict[int, Vote] = field(default_factory=dict)


@dataclass(slots=True)
class _ViewVotes:
    by_signer: dict[int, list[Vote]] = field(default_factory=dict)
    tallies: dict[tuple[int, bytes], _Tally] = field(default_factory=dict)
    nullify: _Tally = field(default_factory=_Tally)
    resolutions: set[bytes] = field(default_factory=set)


class VoteKeeper:
    """Every vote of the views that still matter; bounded by views kept x validators x 3 kinds x 2."""

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._views: dict[int, _ViewVotes] = {}
        self._lowest = 0

    def add(self, vote: Vote) -> Counted | None:
        """Count one vote (epoch, structure and signature checked); None when it is not new."""
        if vote.view < self._lowest:
            return None
        view = self._views.get(vote.view)
        if view is None:
            view = self._views[vote.view] = _ViewVotes()
        known = view.by_signer.setdefault(vote.signer, [])
        contradictions = 0
        for other in known:
            if other.kind == vote.kind:
                if other.subject == vote.subject:
                    return None
                contradictions += 1
        if contradictions >= VOTES_PER_KIND_MAX:
            return None
        evidence: tuple[PairEvidence, ...] = ()
        if known:
            evidence = tuple(pair(other, vote) for other in known if offence_of(other, vote) is not None)
        known.append(vote)
        if vote.kind != VoteKind.NULLIFY:
            return Counted(self._count(view, vote), evidence)
        return Counted(self._count_nullify(view, vote) if contradictions == 0 else None, evidence)

    def _count(self, view: _ViewVotes, vote: Vote) -> Certificate | None:
        tally = view.tallies.setdefault((vote.kind, vote.subject), _Tally())
        before = tally.weight
        tally.votes[vote.signer] = vote
        validators = self._validators
        tally.weight += validators.weights[vote.signer]
        is_quorum = before < validators.quorum <= tally.weight
        is_heavy = vote.kind == VoteKind.NOTARIZE and before < validators.final_weight <= tally.weight
        return assemble_quorum(tally.votes) if is_quorum or is_heavy else None

    def _count_nullify(self, view: _ViewVotes, vote: Vote) -> Certificate | None:
        """A signer's first nullify vote counts, so that no signer stands under two reports."""
        tally = view.nullify
        tally.votes[vote.signer] = vote
        tally.weight += self._validators.weights[vote.signer]
        if tally.weight < self._validators.quorum:
            return None
        certificate = assemble_timeout(tally.votes)
        resolution = resolve(certificate, self._validators)
        if resolution in view.resolutions:
            return None
        view.resolutions.add(resolution)
        return certificate

    def votes_by(self, view: int, signer: int, kind: int) -> list[Vote]:
        """The distinct votes of one kind by one signer in one view, oldest first."""
        votes = self._views.get(view)
        if votes is None:
            return []
        return [vote for vote in votes.by_signer.get(signer, ()) if vote.kind == kind]

    def has(self, view: int, signer: int, kind: int, subject: bytes) -> bool:
        """Whether this very vote is known."""
        return any(vote.subject == subject for vote in self.votes_by(view, signer, kind))

    def notarized_hashes(self, view: int) -> Iterator[bytes]:
        """Blocks that somebody notarized in a view, in order of arrival."""
        votes = self._views.get(view)
        for kind, subject in votes.tallies if votes is not None else ():
            if kind == VoteKind.NOTARIZE:
                yield subject

    def highest_view(self) -> int:
        """The highest view of which a vote is kept."""
        return max(self._views, default=0)

    def prune(self, lowest: int) -> None:
        """Forget the views below `lowest`; later votes for them are not new."""
        if lowest - self._lowest > len(self._views):
            self._views = {view: votes for view, votes in self._views.items() if view >= lowest}
        else:
            for view in range(self._lowest, lowest):
                self._views.pop(view, None)
        self._lowest = max(lowest, self._lowest)
