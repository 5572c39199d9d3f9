"""The journal and the signer's watermark behind one `append`: the barrier before every vote. Blocking file I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from consensus.effects import JournalRecord, OwnVote, RaisedFloor
from node.storage.files import DISK, Files
from node.storage.journal import Journal
from node.storage.watermark import (
    START,
    Position,
    Watermark,
    append_signed,
    floor_after,
    observer_reason,
)
from primitives.codec import decode_own, encode

log = structlog.get_logger()

COMPACT_BYTES = 16 * 1024 * 1024
"""The journal is rewritten with its live records once it has grown by this much."""


def journaled_position(records: Iterable[JournalRecord]) -> Position:
    """The highest place at which these records say that something was signed or will never be."""
    positions = [
        Position(record.epoch, record.view) for record in records if isinstance(record, OwnVote | RaisedFloor)
    ]
    return max(positions, default=START)


@dataclass(frozen=True, slots=True)
class SafetyMemory:
    """What a validator remembers of its earlier lives, and whether that is enough to sign again."""

    journal: Journal
    watermark: Watermark | None
    records: list[JournalRecord]
    observer_reason: str | None
    """Why it must only observe, as one sentence; None when it may sign."""


def recover(journal_directory: Path, watermark_path: Path, files: Files = DISK) -> SafetyMemory:
    """Open both, judge whether we may sign, and raise the floor over what lost frames may have held.

    Raises:
        OperatorError: the journal is damaged before its last frame, or the disk fails.
    """
    journal, raws = Journal.open(journal_directory, files)
    records: list[JournalRecord] = [decode_own(JournalRecord, raw) for raw in raws]  # type: ignore[arg-type]
    watermark = Watermark.open(watermark_path, files)
    reason = observer_reason(watermark, journaled_position(records))
    floor = floor_after(journal, watermark) if watermark is not None else START
    if floor != START:
        # A record that was synced is gone, and may be a vote that was sent: sign in none of the views it could be of.
        record = RaisedFloor(floor.epoch, floor.view)
        journal.append([encode(record)])
        records.append(record)
        log.warning("journal_frames_lost", signs_nothing_up_to_view=floor.view)
    return SafetyMemory(journal, watermark, records, reason)


class SafetyJournal:
    """Appends the records of one emitted batch; compacts when it has grown. Call from one thread at a time."""

    def __init__(
        self,
        journal: Journal,
        watermark: Watermark | None,
        live_records: Callable[[], Sequence[JournalRecord]],
        compact_bytes: int = COMPACT_BYTES,
    ) -> None:
        self._journal = journal
        self._watermark = watermark
        self._live_records = live_records
        self._compact_bytes = compact_bytes
        self._compact_at = journal.size_bytes + compact_bytes

    def append(self, records: Sequence[JournalRecord]) -> None:
        """Durable when it returns. Raises OperatorError when the disk fails; the caller stops without sending."""
        raws = [encode(record) for record in records]
        position = journaled_position(records)
        if self._watermark is not None and position != START:
            append_signed(self._journal, self._watermark, raws, position)
        else:
            self._journal.append(raws)

    def use(self, watermark: Watermark) -> None:
        """Begin to note positions in a new watermark. Only between two appends."""
        self._watermark = watermark

    def compact_if_grown(self) -> bool:
        """Rewrite with what a restart needs, if need be; whether it was. Only between steps of the core."""
        if self._journal.size_bytes < self._compact_at:
            return False
        self._journal.compact([encode(record) for record in self._live_records()])
        self._compact_at = self._journal.size_bytes + self._compact_bytes
        return True
