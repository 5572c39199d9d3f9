"""Watch mode: when a validator that has lost its memory may sign again, and who else uses its key. Pure.

Everything that the lost journal may have held was signed at or below a bound. Whoever entered view v knew a
certificate of v - 1, so a quorum had been in v - 1; it shares an honest member with any quorum that has told us
its view since we started. So nothing was signed above the highest view told plus one, nor in the next epoch
above view 1 (its boundary can be final for us alone). The epoch after that one is safe. Source: consensus.md
section 8; the bound is ours (docs/decisions/0011).
"""

from __future__ import annotations

from consensus.messages import Status, Vote
from consensus.validator_set import ValidatorSet


class Watch:
    """Shared by the cores of all epochs of one life that began without a trustworthy memory."""

    def __init__(self, place: int) -> None:
        """`place`: our own in the directory of validators."""
        self.place = place
        self._told: dict[int, int] = {}
        self._epoch = -1
        self._caught_up: tuple[int, int] | None = None
        """(epoch, highest view told by a quorum): nothing of ours is above it, but for one view."""

    def may_sign(self, epoch: int) -> bool:
        """Whether nothing can have been signed in `epoch` with our key, unless by somebody else."""
        return self._caught_up is not None and epoch >= self._caught_up[0] + 2

    def on_status(self, peer: int, status: Status, epoch: int, validators: ValidatorSet) -> None:
        """A peer told where it stands, while we are in `epoch`; one further ahead says that we lag."""
        if epoch != self._epoch:
            self._told, self._epoch = {}, epoch
        if self._caught_up is not None or status.epoch > epoch or peer == self.place:
            return
        self._told[peer] = status.view if status.epoch == epoch else 0
        if validators.weight_of(self._told) >= validators.quorum:
            self._caught_up = (epoch, max(self._told.values()))

    def is_elsewhere(self, vote: Vote) -> bool:
        """Whether a vote under our key cannot be one that we have forgotten: another process is signing."""
        if self._caught_up is None:
            return False
        epoch, view = self._caught_up
        return (vote.epoch, vote.view) > (epoch, view + 1) and (vote.epoch, vote.view) != (epoch + 1, 1)
