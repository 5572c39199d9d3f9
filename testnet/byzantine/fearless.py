"""The core of a traitor: what it says is twisted behind its back, and must not stop it. No I/O."""

from __future__ import annotations

from consensus.core import Core
from consensus.epoch import Epoch
from consensus.epochs import EpochManager
from consensus.state import FinalTip


class FearlessManager(EpochManager):
    """A traitor's: it must not take fright at words under its key that it never journaled."""

    def _core_of(self, epoch: Epoch, tip: FinalTip | None) -> Core:
        core = super()._core_of(epoch, tip)
        core._check_own = lambda vote: None  # type: ignore[method-assign]
        return core
