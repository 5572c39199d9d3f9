"""The journal and the signer's watermark behind one `append`: the barrier before every vote. Blocking file I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from consensus.effects import JournalRecord, OwnVote, RaisedFloor
from node.storage.journal import Journal
from node.storage.watermark import START, Position, Watermark, append_signed
from primitives.codec import encode

COMPACT_BYTES = 16 * 1024 * 1024
"""The journal is rewritten with its live records once it has grown by this much."""


def journaled_position(records: Iterable[JournalRecord]) -> Position:
    """The highest place at which these records say that something was signed or will never be."""
    positions = [
        Position(record.epoch, record.view) for record in records if isinstance(record, OwnVote | RaisedFloor)
    ]
    return max(positions, default=START)


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

    def compact_if_grown(self) -> None:
        """Rewrite with what a restart needs. Only between steps of the core, for it reads the core's records."""
        if self._journal.size_bytes >= self._compact_at:
            self._journal.compact([encode(record) for record in self._live_records()])
            self._compact_at = self._journal.size_bytes + self._compact_bytes
