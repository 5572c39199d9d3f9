"""One signature per (epoch, view, kind), none that contradicts another, each on the disk before the wire. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

from consensus.effects import JournalRecord, OwnVote
from consensus.messages import ConsensusMessage, Proposal, Vote, Votes
from testnet.checkers import Violation

NOTHING = bytes(32)
VIEWS_KEPT = 4_096
"""Views behind the highest whose votes are remembered; the product keeps 1,024."""


class HonestSignatures:
    """Everything that one honest key has ever signed, over all its lives."""

    def __init__(self, node: int) -> None:
        self._node = node
        self._journaled: set[tuple[int, int, int, bytes]] = set()
        self._said: dict[tuple[int, int], dict[int, bytes]] = {}
        self._forgotten = (0, 0)
        self._lost_epoch = -1

    def on_journaled(self, records: Iterable[JournalRecord]) -> None:
        """These records have been synced."""
        for record in records:
            if isinstance(record, OwnVote):
                self._journaled.add((record.kind, record.epoch, record.view, record.subject))

    def on_memory_lost(self) -> None:
        """Its disk forgot what it signed: nothing may carry its signature again up to the epoch of the last vote."""
        self._lost_epoch = max((epoch for epoch, _ in self._said), default=self._lost_epoch)

    def on_sent(self, message: ConsensusMessage) -> None:
        """This message has left the process."""
        if isinstance(message, Votes):
            for vote in message.votes:
                self._on_vote(vote)
        elif isinstance(message, Proposal):
            self._on_vote(message.leader_vote)

    def _on_vote(self, vote: Vote) -> None:
        if vote.epoch <= self._lost_epoch:
            raise Violation(
                "lost disk", f"validator {self._node} votes in epoch {vote.epoch} without its memory"
            )
        said = self._said.setdefault((vote.epoch, vote.view), {})
        if said.get(vote.kind) == vote.subject:
            return
        key = (vote.kind, vote.epoch, vote.view, vote.subject)
        who = f"validator {self._node}"
        if vote.signer != self._node:
            raise Violation("one signature", f"{who} repeats the vote of {vote.signer} as its own")
        if key not in self._journaled:
            raise Violation(
                "persist before send", f"{who} sent a vote of view {vote.view} before it was synced"
            )
        if vote.kind in said:
            raise Violation(
                "one signature", f"{who} signed two votes of kind {vote.kind} in view {vote.view}"
            )
        said[vote.kind] = vote.subject
        notarized, nullified, finalized = said.get(1), said.get(2), said.get(3)
        if nullified is not None and finalized is not None:
            raise Violation("one signature", f"{who} finalized and nullified view {vote.view}")
        if nullified is not None and nullified != (notarized or NOTHING):
            raise Violation("one signature", f"{who} reports in view {vote.view} what it did not notarize")
        if None not in (notarized, finalized) and notarized != finalized:
            raise Violation("one signature", f"{who} notarized and finalized two blocks in view {vote.view}")

    def forget_below(self, epoch: int, highest_view: int) -> None:
        """Bounded memory for long runs; in steps, for it costs a look at everything."""
        lowest = (
            (epoch, max(0, highest_view - VIEWS_KEPT))
            if highest_view > VIEWS_KEPT
            else (max(0, epoch - 2), 0)
        )
        if (
            lowest < (self._forgotten[0], self._forgotten[1] + VIEWS_KEPT // 4)
            and lowest[0] < self._forgotten[0] + 20
        ):
            return
        self._forgotten = lowest
        self._said = {key: said for key, said in self._said.items() if key >= lowest}
        self._journaled = {key for key in self._journaled if key[1:3] >= lowest}
