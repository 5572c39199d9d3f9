"""Forks on purpose, with others of its kind: two blocks, one for each half, and every vote for both. No I/O.

The halves are the same for every colluder.
"""

from __future__ import annotations

from consensus.effects import Broadcast, Effect, Send
from consensus.messages import ConsensusMessage, Proposal, VoteKind, Votes
from testnet.byzantine.actor import Actor, Later, twin_of

BLOCKS_REMEMBERED_MAX = 256
"""Blocks that it has confirmed already; forgotten all at once, then confirmed again."""


class Colluder(Actor):
    """Never gives a view up, and confirms every block that anybody notarizes."""

    forks = True

    def act(self, effect: Effect) -> list[Effect | Later]:
        if not isinstance(effect, Broadcast):
            return [effect]
        if isinstance(effect.message, Proposal):
            honest = effect.message
            twin = twin_of(honest.block)
            other = Proposal(twin, self.leader_vote(twin))
            halves: list[Effect | Later] = [
                Send(peer, honest if peer in self.first_half else other) for peer in self.others
            ]
            return [*halves, *self.hear(honest), *self.hear(other)]
        if isinstance(effect.message, Votes):
            kept = tuple(vote for vote in effect.message.votes if vote.kind != VoteKind.NULLIFY)
            return [Broadcast(Votes(kept))] if kept else []
        return [effect]

    def hear(self, message: ConsensusMessage) -> list[Effect]:
        """Confirm and finalize what is proposed or notarized, whoever says so."""
        match message:
            case Proposal(leader_vote=vote):
                votes = [vote]
            case Votes(votes=heard):
                votes = [vote for vote in heard if vote.kind == VoteKind.NOTARIZE]
            case _:
                return []
        confirmed: set[tuple[int, bytes]] = self.__dict__.setdefault("confirmed", set())
        said = []
        for vote in votes:
            if (vote.view, vote.subject) not in confirmed:
                confirmed.add((vote.view, vote.subject))
                said.append(self.vote(VoteKind.NOTARIZE, vote.view, vote.subject))
                said.append(self.vote(VoteKind.FINALIZE, vote.view, vote.subject))
        if len(confirmed) > BLOCKS_REMEMBERED_MAX:
            confirmed.clear()
        return [Broadcast(Votes(tuple(said)))] if said else []
