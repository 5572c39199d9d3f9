"""Changes one field of what it says: one more or less, another chain, a swapped signer, a stale value. No I/O.

After ByzzFuzz: small changes of valid messages reach further than noise. Votes and headers are signed anew with our
own key, so that only meaning is wrong.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from consensus.effects import Broadcast, Effect, Send
from consensus.messages import (
    CertificateMessage,
    ConsensusMessage,
    Proposal,
    QuorumCertificate,
    Vote,
    VoteKind,
    Votes,
)
from node.sync.messages import Question, Range, Tip
from primitives.codec import Wire
from testnet.byzantine.actor import Actor, Later

W = TypeVar("W", bound=Wire)


class Mutator(Actor):
    """Every third message, to one or to all."""

    forks = True

    def act(self, effect: Effect) -> list[Effect | Later]:
        if not isinstance(effect, Send | Broadcast) or self.rng.random() > 0.35:
            return [effect]
        wrong = self._mutated(effect.message)
        if isinstance(effect, Send):
            return [Send(effect.to, wrong)]
        return [effect, Broadcast(wrong)] if self.rng.random() < 0.5 else [Broadcast(wrong)]

    def answer(self, question: Question, honest: Range | Tip) -> Range | Tip | None:
        """Now and then with another certificate, or another header."""
        if self.rng.random() > 0.35:
            return honest
        proof = self._changed(honest.proof) if honest.proof is not None else None
        if isinstance(honest, Range):
            return Range(honest.blocks, honest.headers, proof)
        if honest.header is not None and self.rng.random() < 0.5:
            return Tip(self._changed(honest.header), honest.proof, honest.closing)
        return Tip(honest.header, proof, honest.closing)

    def _mutated(self, message: ConsensusMessage) -> ConsensusMessage:
        match message:
            case Votes(votes=votes):
                at = self.rng.randrange(len(votes))
                return Votes((*votes[:at], self._vote(votes[at]), *votes[at + 1 :]))
            case Proposal(block=block):
                header = self._changed(block.header)
                other = msgspec.structs.replace(block, header=header)
                if self.rng.random() < 0.3:
                    other = msgspec.structs.replace(other, transactions=(b"invalid",))
                return Proposal(other, self.leader_vote(other))
            case CertificateMessage(certificate=QuorumCertificate() as certificate):
                return CertificateMessage(self._changed(certificate))
            case _:
                return self._changed(message)

    def _vote(self, vote: Vote) -> Vote:
        if self.rng.random() < 0.2:
            return self._changed(vote)
        kind = VoteKind(self.rng.randint(1, 3))
        view = max(1, vote.view + self.rng.choice([-1, 0, 0, 0, 1, 1_000]))
        subject = vote.subject if self.rng.random() < 0.7 else self.rng.randbytes(32)
        return self.vote(kind, view, subject)

    def _changed(self, value: W) -> W:
        """One field that is a number or bytes, changed a little."""
        names = [name for name in value.__struct_fields__ if isinstance(getattr(value, name), int | bytes)]
        if not names:
            return value
        name = self.rng.choice(names)
        old = getattr(value, name)
        if isinstance(old, int):
            new: int | bytes = max(0, old + self.rng.choice([-1, 1]))
        else:
            new = bytes([old[0] ^ 1]) + old[1:] if old else old
        return msgspec.structs.replace(value, **{name: new})
