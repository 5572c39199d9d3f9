"""Gives its votes to a few only, so that quorums are complete here and not there. No I/O."""

from __future__ import annotations

from consensus.effects import Broadcast, Effect
from consensus.messages import Votes
from testnet.byzantine.actor import Actor, Later


class VoteWithholder(Actor):
    """Draws the lucky ones anew for each message."""

    def act(self, effect: Effect) -> list[Effect | Later]:
        if not isinstance(effect, Broadcast) or not isinstance(effect.message, Votes):
            return [effect]
        votes = effect.message
        return self.to_each(lambda peer: votes if self.rng.random() < 0.3 else None)
