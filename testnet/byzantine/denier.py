"""Votes for a block towards one half, and denies towards the other that it ever did: it gives the view up. No I/O.

The halves change places with every view. With enough of its kind one half finalizes a block in a view that the other
half skips, and goes on from there.
"""

from __future__ import annotations

from consensus.effects import Broadcast, Effect, Send
from consensus.messages import ConsensusMessage, Proposal, Vote, VoteKind, Votes
from primitives.identifiers import NO_BLOCK
from testnet.byzantine.actor import Actor, Later


class Denier(Actor):
    """The first half gets every vote that makes a block final, the other a nullify vote without a report."""

    forks = True

    def act(self, effect: Effect) -> list[Effect | Later]:
        if not isinstance(effect, Broadcast):
            return [effect]
        match effect.message:
            case Proposal(leader_vote=vote) as proposal:
                view = vote.view
                denial = Votes((self.vote(VoteKind.NULLIFY, vote.view, NO_BLOCK),))
                return self.to_each(lambda peer: proposal if self._is_told(peer, view) else denial)
            case Votes(votes=votes):
                view = votes[0].view
                lies = [self._denial(vote.view) for vote in votes]
                told = Votes(tuple(vote for vote in votes if vote.kind != VoteKind.NULLIFY) or votes)
                denied = Votes(tuple(dict.fromkeys(lies)))
                return self.to_each(lambda peer: told if self._is_told(peer, view) else denied)
        return [effect]

    def _is_told(self, peer: int, view: int) -> bool:
        return (peer in self.first_half) == (view % 2 == 1)

    def _denial(self, view: int) -> Vote:
        return self.vote(VoteKind.NULLIFY, view, NO_BLOCK)

    def hear(self, message: ConsensusMessage) -> list[Effect]:
        """Finalize towards the first half whatever is proposed; and give the view up towards the other, at once."""
        if not isinstance(message, Proposal):
            return []
        vote = message.leader_vote
        yes = Votes(
            (
                self.vote(VoteKind.NOTARIZE, vote.view, vote.subject),
                self.vote(VoteKind.FINALIZE, vote.view, vote.subject),
            )
        )
        no = Votes((self._denial(vote.view),))
        return [Send(peer, yes if self._is_told(peer, vote.view) else no) for peer in self.others]
