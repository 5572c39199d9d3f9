"""Says everything many times over, with junk between: far views, empty requests, requests for everything. No I/O."""

from __future__ import annotations

from consensus.effects import Broadcast, Effect
from consensus.messages import (
    BlockRequest,
    CertificateRequest,
    ConsensusMessage,
    StatusRequest,
    VoteKind,
    Votes,
)
from testnet.byzantine.actor import Actor, Later


class Spammer(Actor):
    """A handful of extra messages for each broadcast."""

    def act(self, effect: Effect) -> list[Effect | Later]:
        if not isinstance(effect, Broadcast):
            return [effect]
        far = self.rng.choice([70, 10_000, 2**61])
        junk: list[ConsensusMessage] = [
            Votes((self.vote(VoteKind.NULLIFY, far, self.rng.randbytes(32)),)),
            Votes(
                tuple(self.vote(VoteKind.NOTARIZE, far + one, self.rng.randbytes(32)) for one in range(20))
            ),
            CertificateRequest(1, 256),
            StatusRequest(0, 0),
            BlockRequest(self.rng.randbytes(32), 0, 64),
        ]
        chosen = self.rng.sample(junk, 2)
        return [effect, effect, *(Broadcast(one) for one in chosen)]
