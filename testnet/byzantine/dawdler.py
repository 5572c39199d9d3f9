"""Answers those who catch up truly, but as late as an answer is waited for, and one block at a time. No I/O."""

from __future__ import annotations

from consensus.effects import Effect
from consensus.messages import SUFFIX_HEADERS_MAX, Block
from node.sync.messages import Question, Range, Tip
from primitives.codec import decode_own
from testnet.byzantine.actor import Actor, Later

DELAY_MS = 9_500
"""An answer is waited for 10 s."""


class Dawdler(Actor):
    """Honest in voting, and prompt about the tip: so it is asked."""

    def act(self, effect: Effect) -> list[Effect | Later]:
        return [effect]

    def answer(self, question: Question, honest: Range | Tip) -> Range | Tip | None:
        """The first block, and only headers of the others up to the certificate."""
        if isinstance(honest, Tip) or not honest.blocks:
            return honest
        others = [decode_own(Block, raw).header for raw in honest.blocks[1:]]
        return Range(honest.blocks[:1], (*others, *honest.headers)[:SUFFIX_HEADERS_MAX], honest.proof)

    def answer_delay_ms(self, answer: Range | Tip) -> int:
        """As long as it dares."""
        return 0 if isinstance(answer, Tip) else DELAY_MS
