"""Journal and watermark behind one append: what is compacted away is never missed by a restart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from consensus.core import Core
from consensus.effects import HeldBlock, JournalRecord, OwnVote, Persist, RaisedFloor
from consensus.inputs import Started, TimerFired, TimerKind
from consensus.state import CoreConfig, Parameters
from node.safety_journal import SafetyJournal, journaled_position, recover
from node.storage.files import DiskFile
from node.storage.journal import Journal
from node.storage.watermark import START, Position, Watermark
from primitives.errors import InvariantViolation, OperatorError
from tests.consensus.builders import a_block
from tests.consensus.cluster import CHAIN_ID, ModelSigner, a_validator_set

BLOCK = b"\x01" * 32


def a_memory(tmp_path: Path) -> tuple[Path, Path]:
    watermark = tmp_path / "watermark"
    if not watermark.exists():
        Watermark.create(watermark)
    return tmp_path / "journal", watermark


def vote(view: int, kind: int = 1) -> OwnVote:
    return OwnVote(kind, 0, view, BLOCK)


def close(journal: SafetyJournal) -> None:
    journal._journal.close()
    assert journal._watermark is not None
    journal._watermark.close()


def opened(tmp_path: Path, live: list[JournalRecord], compact_bytes: int = 2**20) -> SafetyJournal:
    memory = recover(*a_memory(tmp_path))
    assert memory.observer_reason is None
    return SafetyJournal(memory.journal, memory.watermark, lambda: live, compact_bytes)


def test_the_position_is_the_highest_that_was_signed_or_given_up() -> None:
    assert journaled_position([]) == START
    assert journaled_position([HeldBlock(a_block(9))]) == START
    assert journaled_position([vote(3), RaisedFloor(0, 7), vote(5)]) == Position(0, 7)
    assert journaled_position([RaisedFloor(0, 7), OwnVote(1, 1, 2, BLOCK)]) == Position(1, 2)


def test_what_was_appended_is_there_after_a_restart_and_the_watermark_knows_of_it(tmp_path: Path) -> None:
    journal = opened(tmp_path, [])
    records: list[JournalRecord] = [HeldBlock(a_block(1)), vote(1), vote(1, kind=3)]
    journal.append(records[:2])
    journal.append(records[2:])
    close(journal)
    memory = recover(*a_memory(tmp_path))
    assert (memory.records, memory.observer_reason) == (records, None)
    assert memory.watermark is not None and memory.watermark.signed == Position(0, 1)


def test_records_that_sign_nothing_do_not_move_the_watermark(tmp_path: Path) -> None:
    journal = opened(tmp_path, [])
    journal.append([HeldBlock(a_block(5))])
    close(journal)
    memory = recover(*a_memory(tmp_path))
    assert memory.watermark is not None and memory.watermark.signed == START


def test_a_journal_that_has_grown_is_rewritten_with_the_live_records_once(tmp_path: Path) -> None:
    live: list[JournalRecord] = [RaisedFloor(0, 19), vote(20)]
    journal = opened(tmp_path, live, compact_bytes=500)
    for view in range(1, 21):
        journal.append([vote(view)])
        size = journal._journal.size_bytes
        journal.compact_if_grown()
        assert journal._journal.size_bytes <= size
    assert journal._journal.size_bytes < 900
    close(journal)
    memory = recover(*a_memory(tmp_path))
    assert memory.records[-1] == vote(20) and memory.records[:2] == live
    assert memory.observer_reason is None, "the compacted journal still reaches what the watermark says"


def a_core(records: list[JournalRecord]) -> Core:
    config = CoreConfig(CHAIN_ID, a_validator_set(4), 0, Parameters(delta_ms=100))
    return Core(config, ModelSigner(0), None, records)


def test_a_core_restarted_from_a_compacted_journal_has_signed_what_it_had_signed(tmp_path: Path) -> None:
    core = a_core([])
    journal = SafetyJournal(*_parts(tmp_path), core.journal_records, compact_bytes=1)
    signed: list[OwnVote] = []
    for event in [Started(), *(TimerFired(kind, 1) for kind in TimerKind)]:
        for effect in core.step(event):
            if isinstance(effect, Persist):
                journal.append(effect.records)
                signed += [record for record in effect.records if isinstance(record, OwnVote)]
                journal.compact_if_grown()
    assert signed, "a view without a proposal is nullified"
    close(journal)
    memory = recover(*a_memory(tmp_path))
    back = a_core(memory.records)
    assert [record for record in back.journal_records() if isinstance(record, OwnVote)] == signed
    assert back.view == core.view
    again = [
        record for effect in back.step(Started()) if isinstance(effect, Persist) for record in effect.records
    ]
    assert not [record for record in again if isinstance(record, OwnVote)], "nothing is signed a second time"


def _parts(tmp_path: Path) -> tuple[Journal, Watermark | None]:
    memory = recover(*a_memory(tmp_path))
    return memory.journal, memory.watermark


def test_a_deleted_journal_leaves_an_observer_at_every_start(tmp_path: Path) -> None:
    journal = opened(tmp_path, [])
    journal.append([vote(3)])
    close(journal)
    for segment in (tmp_path / "journal").iterdir():
        segment.unlink()
    for _ in range(2):
        memory = recover(*a_memory(tmp_path))
        assert memory.observer_reason is not None
        assert "this key signed up to epoch 0 view 3" in memory.observer_reason
        memory.journal.close()


def test_a_disk_that_fails_stops_the_node_before_it_sends(tmp_path: Path) -> None:
    journal = opened(tmp_path, [])
    journal._journal._file.close()
    journal._journal._file = DiskFile(os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(OperatorError, match=r"No space left on device.*the node stops"):
        journal.append([vote(1)])
    with pytest.raises(InvariantViolation, match="never written again"):
        journal.append([vote(2)])
