"""A Byzantine validator for the cluster: a real core whose words are twisted on their way out. Pure.

It equivocates as a leader, lies in its reports, votes on both sides and keeps silent towards some: all drawn from
the seed. It cannot forge the signatures of others.
"""

from __future__ import annotations

from random import Random

import msgspec

from consensus.effects import Broadcast, Effect, Send
from consensus.messages import (
    Block,
    Proposal,
    Vote,
    VoteKind,
    Votes,
    hash_of,
    sign_bytes,
    transaction_root,
)
from primitives.identifiers import NO_BLOCK, ValidatorIndex
from tests.consensus.cluster import CHAIN_ID, ModelSigner


def signed(signer: int, kind: int, view: int, subject: bytes, epoch: int = 0) -> Vote:
    signature = ModelSigner(signer).sign(sign_bytes(CHAIN_ID, kind, epoch, view, subject))
    return Vote(kind, epoch, view, subject, signer, signature)


def twin_of(block: Block, text: bytes = b"twin") -> Block:
    """The same place in the chain, other content."""
    header = msgspec.structs.replace(block.header, transaction_root=transaction_root((text,)))
    return msgspec.structs.replace(block, header=header, transactions=(text,))


class Traitor:
    """Replaces what one validator broadcasts; use as `tamper` of a cluster."""

    def __init__(self, index: int, count: int, seed: int, zeal: float = 0.7) -> None:
        self.index, self.zeal = index, zeal
        self.rng = Random(seed * 7919 + index)
        self.others = [ValidatorIndex(i) for i in range(count) if i != index]
        self.blocks: dict[tuple[int, int], list[bytes]] = {}
        """Blocks it knows of, by epoch and view."""

    def __call__(self, sender: int, effect: Effect) -> list[Effect]:
        if sender != self.index or not isinstance(effect, Broadcast) or self.rng.random() > self.zeal:
            return [effect]
        if isinstance(effect.message, Proposal) and not effect.message.block.header.flags:
            return self._equivocate(effect.message)
        if isinstance(effect.message, Votes):
            return [Send(peer, m) for peer in self.others for m in self._lies(effect.message)]
        return [effect]

    def _equivocate(self, proposal: Proposal) -> list[Effect]:
        view, epoch = proposal.leader_vote.view, proposal.leader_vote.epoch
        twin = twin_of(proposal.block)
        vote = signed(self.index, VoteKind.NOTARIZE, view, hash_of(twin.header), epoch)
        self.blocks[epoch, view] = [proposal.leader_vote.subject, vote.subject]
        choices = [[proposal], [Proposal(twin, vote)], [proposal, Proposal(twin, vote)], []]
        return [Send(peer, one) for peer in self.others for one in self.rng.choice(choices[:3] * 3 + choices)]

    def _lies(self, votes: Votes) -> list[Votes]:
        told: list[Vote] = []
        for vote in votes.votes:
            known = self.blocks.setdefault((vote.epoch, vote.view), [])
            if vote.subject not in (NO_BLOCK, *known):
                known.append(vote.subject)
            subjects = [*known, NO_BLOCK]
            for kind in self.rng.sample(list(VoteKind), self.rng.randint(0, 3)):
                subject = self.rng.choice(subjects)
                if kind == VoteKind.NULLIFY or subject != NO_BLOCK:
                    told.append(signed(self.index, kind, vote.view, subject, vote.epoch))
        return [Votes(tuple(told))] if told else []
