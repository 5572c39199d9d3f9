"""Listens and never says a word. No I/O."""

from __future__ import annotations

from consensus.effects import Broadcast, Effect, Send
from testnet.byzantine.actor import Actor, Later


class Silent(Actor):
    """Up, but mute."""

    def act(self, effect: Effect) -> list[Effect | Later]:
        return [] if isinstance(effect, Send | Broadcast) else [effect]
