"""Says everything, but long after it mattered. No I/O."""

from __future__ import annotations

from consensus.effects import Broadcast, Effect, Send
from testnet.byzantine.actor import Actor, Later


class LateReleaser(Actor):
    """Up to ten seconds late."""

    def act(self, effect: Effect) -> list[Effect | Later]:
        if isinstance(effect, Send | Broadcast):
            return [Later(effect, self.rng.randint(200, 10_000))]
        return [effect]
