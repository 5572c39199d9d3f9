"""All of it at random: equivocates as a leader, lies in its reports, votes on both sides, is silent to some. No I/O."""

from __future__ import annotations

from consensus.effects import Broadcast, Effect
from consensus.messages import Proposal, Vote, VoteKind, Votes
from node.sync.messages import Question, Range, Tip
from primitives.identifiers import NO_BLOCK, ValidatorIndex
from testnet.byzantine.actor import Actor, Later, twin_of
from testnet.byzantine.sync_liar import lie_about

ZEAL = 0.7
"""How often it lies when it could."""
BLOCKS_REMEMBERED_MAX = 64
"""Views whose blocks it can still name."""


class Liar(Actor):
    """Draws a lie for every receiver."""

    forks = True

    def act(self, effect: Effect) -> list[Effect | Later]:
        if not isinstance(effect, Broadcast) or self.rng.random() > ZEAL:
            return [effect]
        if isinstance(effect.message, Proposal):
            return self._equivocate(effect.message)
        if isinstance(effect.message, Votes):
            votes = effect.message
            return self.to_each(lambda peer: self._lies(votes))
        return [effect]

    def answer(self, question: Question, honest: Range | Tip) -> Range | Tip | None:
        """Those who catch up hear no better."""
        return lie_about(honest, self.rng)

    def _known(self, view: int) -> list[bytes]:
        self.blocks: dict[int, list[bytes]] = getattr(self, "blocks", {})
        while len(self.blocks) > BLOCKS_REMEMBERED_MAX:
            del self.blocks[next(iter(self.blocks))]
        return self.blocks.setdefault(view, [])

    def _equivocate(self, honest: Proposal) -> list[Effect | Later]:
        twin = twin_of(honest.block)
        other = Proposal(twin, self.leader_vote(twin))
        self._known(honest.leader_vote.view)[:] = [honest.leader_vote.subject, other.leader_vote.subject]
        done: list[Effect | Later] = []
        for _ in range(self.rng.randint(1, 2)):
            done += self.to_each(lambda peer: self._one_of(honest, other, peer))
        return done

    def _one_of(self, honest: Proposal, other: Proposal, peer: ValidatorIndex) -> Proposal | None:
        return self.rng.choice([honest, honest, honest, other, other, other, None])

    def _lies(self, votes: Votes) -> Votes | None:
        told: list[Vote] = []
        for vote in votes.votes:
            known = self._known(vote.view)
            if vote.subject not in (NO_BLOCK, *known):
                known.append(vote.subject)
            subjects = [*known, NO_BLOCK]
            for kind in self.rng.sample(list(VoteKind), self.rng.randint(0, 3)):
                subject = self.rng.choice(subjects)
                if kind == VoteKind.NULLIFY or subject != NO_BLOCK:
                    told.append(self.vote(kind, vote.view, subject))
        return Votes(tuple(told)) if told else None
