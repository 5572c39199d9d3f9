"""Denies in its nullify votes what it notarized, or reports what it never did. No I/O."""

from __future__ import annotations

from consensus.effects import Broadcast, Effect
from consensus.messages import Proposal, Vote, VoteKind, Votes
from primitives.identifiers import NO_BLOCK
from testnet.byzantine.actor import Actor, Later


class FalseReporter(Actor):
    """Nullifies every view that it voted in, with a report of its choice."""

    forks = True

    def act(self, effect: Effect) -> list[Effect | Later]:
        if not isinstance(effect, Broadcast):
            return [effect]
        if isinstance(effect.message, Proposal):
            return [effect, Broadcast(Votes((self._lie(effect.message.leader_vote),)))]
        if isinstance(effect.message, Votes):
            lies = [self._lie(vote) for vote in effect.message.votes]
            honest = [vote for vote in effect.message.votes if vote.kind != VoteKind.NULLIFY]
            return [Broadcast(Votes((*honest, *lies)))]
        return [effect]

    def _lie(self, vote: Vote) -> Vote:
        report = (
            NO_BLOCK if vote.kind != VoteKind.NULLIFY or self.rng.random() < 0.5 else self.rng.randbytes(32)
        )
        return self.vote(VoteKind.NULLIFY, vote.view, report)
