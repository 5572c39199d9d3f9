"""Votes on every side: for each block that it hears of, and to give the view up. No I/O."""

from __future__ import annotations

from consensus.effects import Broadcast, Effect
from consensus.messages import VoteKind, Votes
from primitives.identifiers import NO_BLOCK
from testnet.byzantine.actor import Actor, Later


class DoubleVoter(Actor):
    """Says what its core says, and to some the contrary."""

    forks = True

    def act(self, effect: Effect) -> list[Effect | Later]:
        if not isinstance(effect, Broadcast) or not isinstance(effect.message, Votes):
            return [effect]
        contrary = []
        for vote in effect.message.votes:
            if vote.kind == VoteKind.NULLIFY:
                continue
            contrary.append(self.vote(VoteKind.NULLIFY, vote.view, NO_BLOCK))
            contrary.append(self.vote(VoteKind.FINALIZE, vote.view, vote.subject))
        if not contrary:
            return [effect]
        lie = Votes(tuple(contrary))
        return [effect, *self.to_each(lambda peer: lie if self.rng.random() < 0.5 else None)]
