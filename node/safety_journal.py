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
from primitives.errors import OperatorError

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
    if (
        floor != START and reason is None
    ):  # An observer's journal stays as it is, or a second start would end it.
        # A record that was synced is gone, and may be a vote that was sent: sign in none of the views it could be of.
        record = RaisedFloor(floor.epoch, floor.view)
        journal.append([encode(record)])
        records.append(record)
        log.warning("journal_frames_lost", signs_nothing_up_to_view=floor.view)
    return SafetyMemory(journal, watermark, records, reason)


def adopt_signed(memory: SafetyMemory, votes: Sequence[OwnVote]) -> None:
    """Journal what a remote signer signed and we do not know of: we ended between its record and ours.

    Raises:
        OperatorError: it signed something else than our journal holds, or the disk failed.
    """
    own = {(one.epoch, one.view, one.kind): one for one in memory.records if isinstance(one, OwnVote)}
    reached = journaled_position(memory.records)
    fresh = [one for one in votes if (one.epoch, one.view) > _floor(memory.records, one.epoch)]
    for vote in fresh:
        if own.get((vote.epoch, vote.view, vote.kind), vote) != vote:
            raise OperatorError(
                f"the signer has signed something else in epoch {vote.epoch} view {vote.view} than this node's journal "
                "holds: the key was used elsewhere; do not start this node"
            )
    fresh = [
        one for one in fresh if (one.epoch, one.view, one.kind) not in own and one.epoch >= reached.epoch
    ]
    if not fresh or memory.watermark is None or memory.observer_reason is not None:
        return
    append_signed(memory.journal, memory.watermark, [encode(one) for one in fresh], journaled_position(fresh))
    memory.records.extend(fresh)
    log.warning("votes_of_signer_adopted", votes=len(fresh))


def _floor(records: Iterable[JournalRecord], epoch: int) -> Position:
    """The highest floor of an epoch."""
    floors = [
        Position(one.epoch, one.view)
        for one in records
        if isinstance(one, RaisedFloor) and one.epoch == epoch
    ]
    return max(floors, default=Position(epoch, 0))


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
        self.live_records = live_records
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

    @property
    def has_grown(self) -> bool:
        """Whether it is time to compact."""
        return self._journal.size_bytes >= self._compact_at

    def compact(self, live: Sequence[JournalRecord]) -> None:
        """Rewrite with what a restart needs: all of `live`, of which nothing waits to be appended."""
        self._journal.compact([encode(record) for record in live])
        self._compact_at = self._journal.size_bytes + self._compact_bytes

    def compact_if_grown(self) -> bool:
        """Compact, if need be, with what is live now; whether it was. Only between steps of the core."""
        if not self.has_grown:
            return False
        self.compact(self.live_records())
        return True
