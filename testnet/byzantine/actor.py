"""What every traitor has: a real core whose words it twists, its own key, and a stream of chance. No I/O.

It cannot forge the signatures of others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import msgspec

from consensus.effects import Effect, Send
from consensus.messages import Block, ConsensusMessage, Vote, VoteKind, hash_of, sign_bytes, transaction_root
from node.sync.messages import Question, Range, Tip
from primitives.identifiers import ValidatorIndex


@dataclass(frozen=True, slots=True)
class Later:
    """An effect performed after a delay."""

    effect: Effect
    delay_ms: int


class Actor:
    """Sees each effect of its core before it happens; what it gives back happens instead."""

    forks: ClassVar[bool] = False
    """Whether enough of its kind can break safety; the over-threshold campaign draws from these."""

    def __init__(
        self, index: int, count: int, chain_id: bytes, sign: Callable[[bytes], bytes], rng: Random
    ) -> None:
        self.index = index
        self.rng = rng
        self.first_half: frozenset[int] = frozenset(range(0, count, 2))
        """Whom colluders tell one story."""
        self.others = [ValidatorIndex(other) for other in range(count) if other != index]
        self._chain_id = chain_id
        self._sign = sign
        self.epoch = 0
        """In which its core is."""

    def act(self, effect: Effect) -> list[Effect | Later]:
        """What to do instead of `effect`."""
        raise NotImplementedError

    def hear(self, message: ConsensusMessage) -> list[Effect]:
        """A message that its core is about to take; what to say at once."""
        return []

    def answer(self, question: Question, honest: Range | Tip) -> Range | Tip | None:
        """What to tell one who catches up by ranges, instead of what our store says; None: nothing."""
        return honest

    def answer_delay_ms(self, answer: Range | Tip) -> int:
        """How long it keeps that to itself."""
        return 0

    def vote(self, kind: VoteKind, view: int, subject: bytes) -> Vote:
        """Any vote under our own key."""
        signature = self._sign(sign_bytes(self._chain_id, kind, self.epoch, view, subject))
        return Vote(kind, self.epoch, view, subject, self.index, signature)

    def leader_vote(self, block: Block) -> Vote:
        """The vote that authenticates a proposal of ours."""
        return self.vote(VoteKind.NOTARIZE, block.header.view, hash_of(block.header))

    def to_each(self, tell: Callable[[ValidatorIndex], ConsensusMessage | None]) -> list[Effect | Later]:
        """A message of its own to each of the others."""
        told = [(peer, tell(peer)) for peer in self.others]
        return [Send(peer, message) for peer, message in told if message is not None]


def twin_of(block: Block, text: bytes = b"twin") -> Block:
    """The same place in the chain, other content."""
    header = msgspec.structs.replace(block.header, transaction_root=transaction_root((text,)))
    return msgspec.structs.replace(block, header=header, transactions=(text,))
