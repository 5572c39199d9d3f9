"""The signer's own memory of how far it has signed, apart from the journal. Reads and writes one small file.

Two numbers per write: `signed`, the highest (epoch, view) whose records are in the journal, and `reserved`,
a view that no signature may pass before the file is fsynced with a higher one. So it costs one fsync in
RESERVE_VIEWS views, and still a journal that is missing, rolled back or cut is found out: see
`observer_reason`. Source: consensus.md section 16.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from node.storage.files import DISK, Files
from node.storage.journal import Journal
from primitives.errors import OperatorError, ensure

RESERVE_VIEWS = 64
"""Views reserved ahead: one fsync in so many; after a torn journal as many views pass unsigned."""

_SLOT = struct.Struct(">8sQQQQQ")
_SLOT_BYTES = _SLOT.size + 4
_SLOT_OFFSETS = (0, 4096)
_MAGIC = b"QRTMARK1"


class Position(NamedTuple):
    """A place in the order of everything a validator signs."""

    epoch: int
    view: int


START = Position(0, 0)


class Watermark:
    """Highest position signed; two slots written in turn: a torn write loses at most the last step."""

    def __init__(self, path: Path, signed: Position, reserved: Position, writes: int, files: Files) -> None:
        """Use `create` or `open`."""
        self.signed = signed
        self.reserved = reserved
        self._path = path
        self._writes = writes
        self._file = files.open(path, append=False)

    @classmethod
    def create(cls, path: Path, files: Files = DISK) -> None:
        """The watermark of a new key, which has signed nothing. Only `quorate init` may do this."""
        ensure(path.name not in files.names(path.parent), "the watermark of a key is created once")
        files.write_durably(path, _slot_bytes(START, START, 1))

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
        writes, signed, reserved = max(slots)
        return cls(path, signed, reserved, writes, files)

    def reserve(self, position: Position) -> None:
        """Before journaling: make sure that the file on disk covers `position`. Fsyncs once in RESERVE_VIEWS
        views."""
        if position <= self.reserved:
            return
        self.reserved = Position(position.epoch, position.view + RESERVE_VIEWS)
        self._write()
        try:
            self._file.sync()
        except OSError as error:
            raise _failed(self._path, error) from None

    def advance(self, position: Position) -> None:
        """After journaling: note it. Not fsynced: the journal is, and after a power loss may be ahead of
        this note."""
        ensure(position <= self.reserved, "nothing is signed above the reserved view")
        if position > self.signed:
            self.signed = position
            self._write()

    def close(self) -> None:
        """Make the last note durable and release the file."""
        self._file.sync()
        self._file.close()

    def _write(self) -> None:
        self._writes += 1
        raw = _slot_bytes(self.signed, self.reserved, self._writes)
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
    watermark.advance(position)


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
    """Sign nothing at or below this: everything reserved when the journal's tail was torn, else no
    restriction.

    A torn tail cannot be told from damage to the last record, and that record may have been signed and sent.
    """
    return watermark.reserved if journal.dropped_bytes else START


def _spoken(position: Position) -> str:
    return f"epoch {position.epoch} view {position.view}"


def _slot_bytes(signed: Position, reserved: Position, writes: int) -> bytes:
    raw = _SLOT.pack(_MAGIC, writes, *signed, *reserved)
    return raw + crc32(raw).to_bytes(4, "big")


def _read_slot(raw: bytes, offset: int) -> tuple[int, Position, Position] | None:
    slot = raw[offset : offset + _SLOT_BYTES]
    if len(slot) < _SLOT_BYTES or crc32(slot[:-4]) != int.from_bytes(slot[-4:], "big"):
        return None
    magic, writes, epoch, view, reserved_epoch, reserved_view = _SLOT.unpack(slot[:-4])
    if magic != _MAGIC:
        return None
    return writes, Position(epoch, view), Position(reserved_epoch, reserved_view)


def _failed(path: Path, error: OSError) -> OperatorError:
    return OperatorError(
        f"the signer's watermark {path} cannot be written ({error.strerror}): the node stops"
    )
