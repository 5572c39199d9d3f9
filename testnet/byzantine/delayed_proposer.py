"""Holds its proposals back to just before, or just after, the others' patience ends. No I/O."""

from __future__ import annotations

from consensus.effects import Broadcast, Effect, SetTimer
from consensus.inputs import TimerKind
from consensus.messages import Proposal
from testnet.byzantine.actor import Actor, Later


class DelayedProposer(Actor):
    """Knows the others' patience from its own timer."""

    patience_ms = 0

    def act(self, effect: Effect) -> list[Effect | Later]:
        if isinstance(effect, SetTimer) and effect.kind is TimerKind.PROPOSAL:
            self.patience_ms = effect.delay_ms
        if isinstance(effect, Broadcast) and isinstance(effect.message, Proposal):
            return [Later(effect, max(0, self.patience_ms - self.rng.randint(-50, 200)))]
        return [effect]
