"""The signer's own memory of how far it has signed, apart from the journal. Reads and writes one small file.

Per write: `signed`, the highest (epoch, view) whose records are in the journal; `place`, how far the journal
reached then; and `reserved`, a view that no signature may pass before the file is fsynced with a higher one. So
it costs one fsync in RESERVE_VIEWS views, and still a journal that is missing, rolled back or cut is found out:
see `observer_reason` and `floor_after`. Source: consensus.md section 16.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from node.storage.files import DISK, Files
from node.storage.journal import NO_PLACE, Journal, Place
from primitives.errors import OperatorError, ensure

RESERVE_VIEWS = 64
"""Views reserved ahead: one fsync in so many; after a lost journal frame as many views pass unsigned."""

_SLOT = struct.Struct(">8sQQQQQQQ")
_SLOT_BYTES = _SLOT.size + 4
_SLOT_OFFSETS = (0, 4096)
_MAGIC = b"QRTMARK2"


class Position(NamedTuple):
    """A place in the order of everything a validator signs."""

    epoch: int
    view: int


START = Position(0, 0)


class Watermark:
    """Highest position signed; two slots written in turn: a torn write loses at most the last step."""

    def __init__(
        self, path: Path, signed: Position, reserved: Position, place: Place, writes: int, files: Files
    ) -> None:
        """Use `create` or `open`."""
        self.signed = signed
        self.reserved = reserved
        self.place = place
        self._path = path
        self._writes = writes
        self._file = files.open(path, append=False)

    @classmethod
    def create(cls, path: Path, files: Files = DISK) -> None:
        """The watermark of a new key, which has signed nothing. Only `quorate init` may do this."""
        ensure(path.name not in files.names(path.parent), "the watermark of a key is created once")
        files.write_durably(path, _slot_bytes(START, START, NO_PLACE, 1))

    @classmethod
    def open(cls, path: Path, files: Files = DISK) -> Watermark | None:
        """The watermark, or None when it is missing or unreadable: then the validator must not sign."""
        try:
            raw = files.read(path)
        except OSError:
            return None
        slots = [slot for offset in _SLOT_OFFSETS if (slot := _read_slot(raw, offset)) is not None]
        if not slots:
            return None
        writes, signed, reserved, place = max(slots)
        return cls(path, signed, reserved, place, writes, files)

    def reserve(self, position: Position) -> None:
        """Before journaling: make sure that the file on disk covers `position`. Fsyncs once in RESERVE_VIEWS
        views."""
        if position <= self.reserved:
            return
        self.reserved = Position(position.epoch, position.view + RESERVE_VIEWS)
        self._write()
        self._sync()

    def advance(self, position: Position, place: Place) -> None:
        """After journaling: note it. Not fsynced, but for the very first note: the journal is, and after a power
        loss may be ahead of this note."""
        ensure(position <= self.reserved, "nothing is signed above the reserved view")
        is_first = self.place == NO_PLACE
        self.signed, self.place = max(position, self.signed), place
        self._write()
        if is_first:
            self._sync()

    def _sync(self) -> None:
        try:
            self._file.sync()
        except OSError as error:
            raise _failed(self._path, error) from None

    def close(self) -> None:
        """Make the last note durable and release the file."""
        self._file.sync()
        self._file.close()

    def _write(self) -> None:
        self._writes += 1
        raw = _slot_bytes(self.signed, self.reserved, self.place, self._writes)
        try:
            self._file.write_at(_SLOT_OFFSETS[self._writes % 2], raw)
        except OSError as error:
            raise _failed(self._path, error) from None


def append_signed(
    journal: Journal, watermark: Watermark, records: Sequence[bytes], position: Position
) -> None:
    """Journal the records of what is about to be signed at `position`, in the one safe order.

    Raises:
        OperatorError: the disk failed; the caller must stop without sending.
    """
    watermark.reserve(position)
    journal.append(records)
    watermark.advance(position, journal.place)


def observer_reason(watermark: Watermark | None, journaled: Position) -> str | None:
    """Why this validator must only observe, as one sentence; None when it may sign.

    `journaled` is the highest position found in the replayed journal (START for an empty one).
    """
    if watermark is None:
        return (
            "the signer's watermark is missing or unreadable: this validator observes and signs nothing, "
            "for it cannot know what it signed before"
        )
    if journaled < watermark.signed:
        return (
            f"the journal ends at {_spoken(journaled)} but this key signed up to "
            f"{_spoken(watermark.signed)}: this validator observes and signs nothing"
        )
    if journaled > watermark.reserved:
        return (
            f"the signer's watermark ({_spoken(watermark.reserved)}) is older than the journal "
            f"({_spoken(journaled)}): this validator observes and signs nothing"
        )
    return None


def floor_after(journal: Journal, watermark: Watermark) -> Position:
    """Sign nothing at or below this: all that was reserved when synced frames are gone, else no restriction.

    A torn tail alone restricts nothing: its sync never came back, so what it held was never sent. More would cost
    liveness: while more than f validators keep silent, no view passes, and none would ever get beyond its floor.
    """
    return watermark.reserved if journal.place < watermark.place else START


def _spoken(position: Position) -> str:
    return f"epoch {position.epoch} view {position.view}"


def _slot_bytes(signed: Position, reserved: Position, place: Place, writes: int) -> bytes:
    raw = _SLOT.pack(_MAGIC, writes, *signed, *reserved, *place)
    return raw + crc32(raw).to_bytes(4, "big")


def _read_slot(raw: bytes, offset: int) -> tuple[int, Position, Position, Place] | None:
    slot = raw[offset : offset + _SLOT_BYTES]
    if len(slot) < _SLOT_BYTES or crc32(slot[:-4]) != int.from_bytes(slot[-4:], "big"):
        return None
    magic, writes, *numbers = _SLOT.unpack(slot[:-4])
    if magic != _MAGIC:
        return None
    return writes, Position(*numbers[:2]), Position(*numbers[2:4]), Place(*numbers[4:])


def _failed(path: Path, error: OSError) -> OperatorError:
    return OperatorError(
        f"the signer's watermark {path} cannot be written ({error.strerror}): the node stops"
    )
