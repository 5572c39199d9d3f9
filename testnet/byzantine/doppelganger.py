"""Somebody else's process signs with its key: votes that its own journal does not know. No I/O.

The validator itself is honest and must stop as soon as it hears one of them.
"""

from __future__ import annotations

from consensus.effects import Broadcast, Effect, Send
from consensus.messages import VoteKind, Votes
from primitives.identifiers import ValidatorIndex
from testnet.byzantine.actor import Actor, Later

SHARE = 0.02
"""Of its own votes, after which the other process says something too."""


class Doppelganger(Actor):
    """Says what its core says; now and then a vote of a view to come, which also reaches its core."""

    def act(self, effect: Effect) -> list[Effect | Later]:
        if not isinstance(effect, Broadcast) or not isinstance(effect.message, Votes):
            return [effect]
        if self.rng.random() >= SHARE:
            return [effect]
        view = effect.message.votes[0].view + 2
        foreign = Votes((self.vote(VoteKind.NOTARIZE, view, self.rng.randbytes(32)),))
        return [effect, Broadcast(foreign), Send(ValidatorIndex(self.index), foreign)]
