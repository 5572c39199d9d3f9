"""Epochs that have begun here, and why the ones before are closed: a small file each, in one directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from consensus.effects import EpochOpened, OpenedEpoch
from consensus.messages import EpochProof
from node.storage.files import write_durably
from primitives.codec import Wire, decode_own, encode
from primitives.errors import OperatorError


class _EpochFile(Wire):
    opened: OpenedEpoch
    proof: EpochProof
    """That the epoch before is closed."""


class EpochFiles:
    """Kept for ever: a peer may be any number of epochs behind; about 10 KB each."""

    def __init__(self, directory: Path) -> None:
        """The directory is made with the first epoch change."""
        self.directory = directory

    def keep(self, effect: EpochOpened) -> None:
        """Store durably."""
        self.directory.mkdir(exist_ok=True)
        write_durably(self._path(effect.opened.number), encode(_EpochFile(effect.opened, effect.proof)))

    def load(self, tip_height: int, epoch_blocks: int) -> list[OpenedEpoch]:
        """Every epoch that began here, oldest first, up to that of the block after `tip_height`.

        Raises:
            OperatorError: one that the chain in the block store has reached is missing or does not read.
        """
        needed = max(0, tip_height - 1) // epoch_blocks if epoch_blocks else 0
        present = len(list(self.directory.glob("*.msgpack")))
        return [self._read(number) for number in range(1, max(needed, present) + 1)]

    def _read(self, number: int) -> OpenedEpoch:
        path = self._path(number)
        try:
            return decode_own(_EpochFile, path.read_bytes()).opened
        except (OSError, msgspec.MsgspecError) as error:
            raise OperatorError(
                f"the epoch file {path} does not read ({error}): copy it from another node of the chain"
            ) from None

    def proof_of(self, epoch: int) -> EpochProof | None:
        """Why `epoch` is closed, or None when it is not, as far as we know."""
        path = self._path(epoch + 1)
        return decode_own(_EpochFile, path.read_bytes()).proof if path.exists() else None

    def opened(self, epoch: int) -> OpenedEpoch | None:
        """An epoch that began here; None for epoch 0, which genesis describes."""
        path = self._path(epoch)
        return decode_own(_EpochFile, path.read_bytes()).opened if path.exists() else None

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:010d}.msgpack"
