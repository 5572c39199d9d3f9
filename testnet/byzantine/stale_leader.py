"""Leads from the past: proposes on an old parent, or repeats an old block, when its turn comes. No I/O."""

from __future__ import annotations

import msgspec

from consensus.effects import Broadcast, Effect
from consensus.messages import Block, Proposal, justification_root
from testnet.byzantine.actor import Actor, Later


class StaleLeader(Actor):
    """Keeps its last block, and gives the new one the old one's parent and justification."""

    last: Block | None = None

    def act(self, effect: Effect) -> list[Effect | Later]:
        if not isinstance(effect, Broadcast) or not isinstance(effect.message, Proposal):
            return [effect]
        new, old = effect.message.block, self.last
        self.last = new
        if old is None or self.rng.random() < 0.3:
            return [effect]
        if self.rng.random() < 0.3:
            return [Broadcast(Proposal(old, self.leader_vote(old)))]
        header = msgspec.structs.replace(
            new.header,
            height=old.header.height,
            parent_hash=old.header.parent_hash,
            parent_view=old.header.parent_view,
            parent_state_root=old.header.parent_state_root,
            justification_root=justification_root(old.justification),
        )
        stale = msgspec.structs.replace(new, header=header, justification=old.justification)
        return [Broadcast(Proposal(stale, self.leader_vote(stale)))]
