"""The safety journal: what a validator must remember before it speaks. Reads and writes one directory.

One `append` is one frame, one write and one fdatasync, whatever number of records it carries, so a crash
tears at most the last frame. A segment begins with its own random salt, which every checksum covers: bytes
of an older segment, zeros or a repeated frame never pass for a record. Call from a worker thread: fdatasync
waits for the disk.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import structlog

from node.storage.files import DISK, Files
from primitives.errors import OperatorError, ensure

RECORD_BYTES_MAX = 8 * 1024 * 1024
"""One record (a block of 4 MiB fits); a longer one is our own mistake."""
FRAME_BYTES_MAX = 64 * 1024 * 1024
"""One append; a longer length field in a file is damage."""
COMPACTED_FRAME_BYTES = 8 * 1024 * 1024
"""A compaction writes frames of about this size, whatever the number of live records."""

_SEGMENT_HEADER = struct.Struct(">8s8sQI")
_SEGMENT_MAGIC = b"QRTJRNL1"
_FRAME_HEADER = struct.Struct(">IIQI")
_FRAME_MAGIC = 0x51F7A3C9
_FRAME_MAGIC_BYTES = _FRAME_MAGIC.to_bytes(4, "big")
_RECORD_LENGTH = struct.Struct(">I")
_SEGMENT_NAME = re.compile(r"segment-(\d{8})\.journal")

log = structlog.get_logger()


class Place(NamedTuple):
    """How far a journal reaches: frames in its newest segment. Grows with every append and compaction."""

    segment: int
    frames: int


NO_PLACE = Place(0, 0)
"""Before the first frame."""


class Journal:
    """An open journal: the newest segment, positioned at its end. Any failed write or fsync leaves it closed
    for good."""

    def __init__(
        self, directory: Path, files: Files, number: int, salt: bytes, sequence: int, dropped_bytes: int
    ) -> None:
        """Use `Journal.open`."""
        self.directory = directory
        self.dropped_bytes = dropped_bytes
        """Bytes of a torn last frame that `open` cut off; 0 after a clean end."""
        self._files = files
        self._number = number
        self._salt = salt
        self._sequence = sequence
        self._file = files.open(_segment_path(directory, number), append=True)
        self._failed = False

    @classmethod
    def open(cls, directory: Path, files: Files = DISK) -> tuple[Journal, list[bytes]]:
        """The journal and every record it holds, oldest first; creates an empty one where there is none.

        Raises:
            OperatorError: damage before the last frame, or a directory that cannot be used.
        """
        try:
            return cls._open(directory, files)
        except OSError as error:
            raise OperatorError(f"the journal in {directory} cannot be opened: {error.strerror}") from None

    @classmethod
    def _open(cls, directory: Path, files: Files) -> tuple[Journal, list[bytes]]:
        names = files.names(directory)
        for leftover in sorted(name for name in names if name.endswith(".new")):
            files.remove(directory / leftover)
        numbers = _segment_numbers(names)
        if not numbers:
            salt = _write_segment(files, directory, 1, ())
            return cls(directory, files, 1, salt, 0, 0), []
        path = _segment_path(directory, numbers[-1])
        raw = files.read(path)
        salt = _read_segment_header(path, raw, numbers[-1])
        batches, end = _read_frames(path, raw, salt)
        if end < len(raw):
            log.warning("journal_torn_tail", file=str(path), at_byte=end, dropped_bytes=len(raw) - end)
            files.truncate(path, end)
        # A crash between the switch to a new segment and the removal of the old one leaves both: the new one
        # counts.
        for number in numbers[:-1]:
            files.remove(_segment_path(directory, number))
        journal = cls(directory, files, numbers[-1], salt, len(batches), len(raw) - end)
        # What a killed process wrote may still be in the page cache alone: votes in it will be sent again.
        journal._file.sync()
        return journal, [record for batch in batches for record in batch]

    def append(self, records: Sequence[bytes]) -> None:
        """Make these records durable: they are on disk when this returns.

        Raises:
            OperatorError: the disk failed. The caller must stop: a write that failed once is never tried
            again.
        """
        ensure(not self._failed, "a journal that failed once is never written again")
        if not records:
            return
        frame = _frame(self._salt, self._sequence + 1, records)
        self._failed = True
        try:
            self._file.append(frame)
            self._file.sync()
        except OSError as error:
            raise OperatorError(
                f"the journal in {self.directory} cannot be written ({error.strerror}): the node stops"
            ) from None
        self._failed = False
        self._sequence += 1

    def compact(self, live_records: Sequence[bytes]) -> None:
        """Replace everything by these records, atomically: a crash leaves either the old journal or the new.

        Raises:
            OperatorError: the disk failed; the caller must stop.
        """
        ensure(not self._failed, "a journal that failed once is never written again")
        self._failed = True
        try:
            batches = _batches(live_records)
            salt = _write_segment(self._files, self.directory, self._number + 1, batches)
            self._file.close()
            self._files.remove(_segment_path(self.directory, self._number))
            self._number += 1
            self._file = self._files.open(_segment_path(self.directory, self._number), append=True)
        except OSError as error:
            raise OperatorError(
                f"the journal in {self.directory} cannot be compacted ({error.strerror}): the node stops"
            ) from None
        self._failed = False
        self._salt = salt
        self._sequence = len(batches)

    @property
    def place(self) -> Place:
        """Where the last durable frame stands."""
        return Place(self._number, self._sequence)

    @property
    def size_bytes(self) -> int:
        """Length of the segment in use."""
        return self._file.size_bytes

    def close(self) -> None:
        """Release the file; everything appended is already durable."""
        self._file.close()
        self._failed = True


def _segment_path(directory: Path, number: int) -> Path:
    return directory / f"segment-{number:08d}.journal"


def _segment_numbers(names: Sequence[str]) -> list[int]:
    matches = (_SEGMENT_NAME.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def _write_segment(files: Files, directory: Path, number: int, batches: Sequence[Sequence[bytes]]) -> bytes:
    """Create a whole segment under its final name and return its salt."""
    salt = files.random_bytes(8)
    start = _SEGMENT_HEADER.pack(_SEGMENT_MAGIC, salt, number, 0)[:-4]
    raw = start + crc32(start).to_bytes(4, "big")
    frames = b"".join(_frame(salt, sequence, batch) for sequence, batch in enumerate(batches, 1))
    files.write_durably(_segment_path(directory, number), raw + frames)
    return salt


def _batches(records: Sequence[bytes]) -> list[list[bytes]]:
    """Records in order, cut into appends of about COMPACTED_FRAME_BYTES."""
    batches: list[list[bytes]] = []
    size = COMPACTED_FRAME_BYTES
    for record in records:
        if size >= COMPACTED_FRAME_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(record)
        size += len(record)
    return batches


def _frame(salt: bytes, sequence: int, records: Sequence[bytes]) -> bytes:
    ensure(all(len(record) <= RECORD_BYTES_MAX for record in records), "a journal record is at most 8 MiB")
    payload = b"".join(_RECORD_LENGTH.pack(len(record)) + record for record in records)
    ensure(len(payload) <= FRAME_BYTES_MAX, "one append to the journal is at most 64 MiB")
    checksum = _checksum(salt, len(payload), sequence, payload)
    return _FRAME_HEADER.pack(_FRAME_MAGIC, len(payload), sequence, checksum) + payload


def _checksum(salt: bytes, length: int, sequence: int, payload: bytes | memoryview) -> int:
    return crc32(payload, crc32(salt + struct.pack(">IQ", length, sequence)))


def _read_segment_header(path: Path, raw: bytes, number: int) -> bytes:
    # A segment gets its name only after its header is durable, so a damaged header is never a torn write.
    start = raw[: _SEGMENT_HEADER.size - 4]
    if len(raw) >= _SEGMENT_HEADER.size:
        magic, salt, claimed, checksum = _SEGMENT_HEADER.unpack_from(raw)
        if magic == _SEGMENT_MAGIC and claimed == number and checksum == crc32(start):
            return bytes(salt)
    raise _corrupt(path, 0)


def _read_frames(path: Path, raw: bytes, salt: bytes) -> tuple[list[list[bytes]], int]:
    """Every whole frame's records, and where the last whole frame ends."""
    batches: list[list[bytes]] = []
    position = _SEGMENT_HEADER.size
    while position < len(raw):
        payload = _payload_at(raw, position, salt, len(batches) + 1)
        if payload is None:
            if _any_frame_after(raw, position, salt):
                raise _corrupt(path, position)
            break
        batches.append(_records(path, payload, position))
        position += _FRAME_HEADER.size + len(payload)
    return batches, position


def _payload_at(raw: bytes, position: int, salt: bytes, sequence: int | None) -> memoryview | None:
    """Payload of the whole frame at `position`, or None; `sequence` None accepts any number."""
    if position + _FRAME_HEADER.size > len(raw):
        return None
    magic, length, found, checksum = _FRAME_HEADER.unpack_from(raw, position)
    begin = position + _FRAME_HEADER.size
    if magic != _FRAME_MAGIC or not 0 < length <= FRAME_BYTES_MAX or begin + length > len(raw):
        return None
    payload = memoryview(raw)[begin : begin + length]
    if _checksum(salt, length, found, payload) != checksum or sequence not in (None, found):
        return None
    return payload


def _any_frame_after(raw: bytes, position: int, salt: bytes) -> bool:
    """Whether a whole frame stands at or after `position`: then what fails there is no torn tail."""
    found = raw.find(_FRAME_MAGIC_BYTES, position)
    while found >= 0:
        if _payload_at(raw, found, salt, None) is not None:
            return True
        found = raw.find(_FRAME_MAGIC_BYTES, found + 1)
    return False


def _records(path: Path, payload: memoryview, position: int) -> list[bytes]:
    records = []
    offset = 0
    while offset < len(payload):
        (length,) = _RECORD_LENGTH.unpack_from(payload, offset)
        offset += _RECORD_LENGTH.size
        records.append(bytes(payload[offset : offset + length]))
        offset += length
    if offset != len(payload):
        raise _corrupt(path, position)
    return records


def _corrupt(path: Path, position: int) -> OperatorError:
    return OperatorError(
        f"journal corrupt at byte {position} of {path}: this validator must not vote from it; "
        "restore an undamaged copy of the home directory, or move the journal away to run as an observer"
    )
