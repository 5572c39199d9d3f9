"""Forks on purpose, with others of its kind: a block for each half, and every vote for what each half sees. No I/O.

The halves are the even and the odd validators, the same for every colluder. To each half it confirms whatever block
that half has seen, and finalizes it; so with enough colluders both blocks of a view become final.
"""

from __future__ import annotations

from consensus.effects import Broadcast, Effect, Send
from consensus.messages import Proposal, Vote, VoteKind, Votes
from primitives.identifiers import ValidatorIndex
from testnet.byzantine.actor import Actor, Later, twin_of

VIEWS_REMEMBERED_MAX = 64
"""Views whose two blocks it can still name."""


class Colluder(Actor):
    """As a leader it makes the twin by rule, so that every colluder can name it without being told."""

    forks = True

    def act(self, effect: Effect) -> list[Effect | Later]:
        if not isinstance(effect, Broadcast):
            return [effect]
        if isinstance(effect.message, Proposal):
            honest = effect.message
            twin = twin_of(honest.block)
            other = Proposal(twin, self.leader_vote(twin))
            return [*self._halves(honest, other), *self._halves(*map(self._votes_for, (honest, other)))]
        if isinstance(effect.message, Votes):
            return self._confirm(effect.message)
        return [effect]

    def _halves(self, even: Proposal | Votes, odd: Proposal | Votes) -> list[Effect | Later]:
        return [Send(peer, even if peer % 2 == 0 else odd) for peer in self.others]

    def _votes_for(self, proposal: Proposal) -> Votes:
        vote = proposal.leader_vote
        return Votes((vote, self.vote(VoteKind.FINALIZE, vote.view, vote.subject)))

    def _confirm(self, votes: Votes) -> list[Effect | Later]:
        """Whatever our core votes for, finalize too; and never give a view up."""
        said: list[Vote] = []
        for vote in votes.votes:
            if vote.kind == VoteKind.NOTARIZE:
                said += [vote, self.vote(VoteKind.FINALIZE, vote.view, vote.subject)]
            else:
                said.append(vote)
        return [Broadcast(Votes(tuple(said)))] if said else []

    def on_heard(self, peer: ValidatorIndex, vote: Vote) -> Vote | None:
        """Confirm to one peer what it notarized itself."""
        if vote.kind != VoteKind.NOTARIZE or vote.signer != peer:
            return None
        return self.vote(VoteKind.NOTARIZE, vote.view, vote.subject)
