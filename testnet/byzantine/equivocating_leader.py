"""Proposes two blocks in one view, one to each part of the others. No I/O."""

from __future__ import annotations

from consensus.effects import Broadcast, Effect
from consensus.messages import Proposal
from testnet.byzantine.actor import Actor, Later, twin_of


class EquivocatingLeader(Actor):
    """Splits the others anew in every view that it leads."""

    forks = True

    def act(self, effect: Effect) -> list[Effect | Later]:
        if not isinstance(effect, Broadcast) or not isinstance(effect.message, Proposal):
            return [effect]
        honest = effect.message
        twin = twin_of(honest.block)
        other = Proposal(twin, self.leader_vote(twin))
        return self.to_each(lambda peer: self.rng.choice([honest, other]))
