"""Listens and never says a word. No I/O."""

from __future__ import annotations

from consensus.effects import Broadcast, Effect, Send
from node.sync.messages import Question, Range, Tip
from testnet.byzantine.actor import Actor, Later


class Silent(Actor):
    """Up, but mute."""

    def answer(self, question: Question, honest: Range | Tip) -> Range | Tip | None:
        return None

    def act(self, effect: Effect) -> list[Effect | Later]:
        return [] if isinstance(effect, Send | Broadcast) else [effect]
