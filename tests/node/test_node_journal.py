"""The safety journal survives what a crash can do, and refuses what only a damaged disk can do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.storage.home_lock import HomeLock
from node.storage.journal import Journal
from primitives.errors import InvariantViolation, OperatorError

BATCHES = [[b"vote 1"], [b"block" * 10, b"vote 2"], [b""], [b"vote 3", b"vote 4"]]
RECORDS = [record for batch in BATCHES for record in batch]


def written(directory: Path) -> Path:
    """A journal with BATCHES; returns its segment."""
    journal, records = Journal.open(directory)
    assert records == []
    for batch in BATCHES:
        journal.append(batch)
    journal.close()
    return directory / "segment-00000001.journal"


def frame_ends(directory: Path) -> list[int]:
    """Where the header and each frame of such a journal end."""
    journal, _ = Journal.open(directory / "measured")
    ends = [journal.size_bytes]
    for batch in BATCHES:
        journal.append(batch)
        ends.append(journal.size_bytes)
    journal.close()
    return ends


def replayed(directory: Path) -> tuple[list[bytes], int]:
    journal, records = Journal.open(directory)
    journal.close()
    return records, journal.dropped_bytes


def test_what_was_appended_is_replayed_in_order(tmp_path: Path) -> None:
    written(tmp_path)
    assert replayed(tmp_path) == (RECORDS, 0)


def test_appending_goes_on_after_a_restart(tmp_path: Path) -> None:
    written(tmp_path)
    journal, _ = Journal.open(tmp_path)
    journal.append([b"later"])
    journal.close()
    assert replayed(tmp_path) == ([*RECORDS, b"later"], 0)


def test_a_cut_at_every_byte_loses_at_most_the_torn_batch(tmp_path: Path) -> None:
    segment = written(tmp_path)
    whole, ends = segment.read_bytes(), frame_ends(tmp_path)
    for cut in range(ends[0], len(whole)):
        segment.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends[1:])
        expected = [record for batch in BATCHES[:kept] for record in batch]
        assert replayed(tmp_path) == (expected, cut - ends[kept])
        assert segment.stat().st_size == ends[kept], "the torn tail is gone from the file too"


def test_a_flipped_byte_before_the_last_batch_is_refused_and_in_it_is_a_torn_tail(tmp_path: Path) -> None:
    segment = written(tmp_path)
    whole, ends = segment.read_bytes(), frame_ends(tmp_path)
    for place in range(len(whole)):
        segment.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        if place >= ends[-2]:
            assert replayed(tmp_path) == (RECORDS[:-2], ends[-1] - ends[-2])
        else:
            with pytest.raises(OperatorError, match=r"journal corrupt at byte .* must not vote from it"):
                Journal.open(tmp_path)


def test_a_tail_of_zeros_holds_no_records(tmp_path: Path) -> None:
    segment = written(tmp_path)
    with segment.open("ab") as file:
        file.write(bytes(4096))
    assert replayed(tmp_path) == (RECORDS, 4096)


def test_a_repeated_last_batch_is_damage(tmp_path: Path) -> None:
    segment = written(tmp_path)
    whole, ends = segment.read_bytes(), frame_ends(tmp_path)
    segment.write_bytes(whole + whole[ends[-2] :])
    with pytest.raises(OperatorError, match=f"corrupt at byte {len(whole)} of {segment}"):
        Journal.open(tmp_path)


def test_records_of_another_segment_never_pass(tmp_path: Path) -> None:
    segment, other = written(tmp_path / "one"), written(tmp_path / "two")
    ends = frame_ends(tmp_path)
    segment.write_bytes(segment.read_bytes()[: ends[2]] + other.read_bytes()[ends[2] :])
    assert replayed(tmp_path / "one") == (RECORDS[:3], ends[-1] - ends[2])


def test_compaction_leaves_the_live_records_only(tmp_path: Path) -> None:
    written(tmp_path)
    journal, _ = Journal.open(tmp_path)
    journal.compact([b"live"])
    journal.append([b"after"])
    journal.close()
    assert replayed(tmp_path) == ([b"live", b"after"], 0)
    assert [path.name for path in tmp_path.iterdir()] == ["segment-00000002.journal"]


def test_a_compaction_of_much_is_many_frames(tmp_path: Path) -> None:
    much = [bytes([number]) * 4_000_000 for number in range(20)]
    journal, _ = Journal.open(tmp_path)
    journal.compact(much)
    journal.append([b"after"])
    journal.close()
    assert replayed(tmp_path) == ([*much, b"after"], 0)


def test_a_crash_between_the_steps_of_compaction_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    old = written(tmp_path)
    before = old.read_bytes()
    (tmp_path / "segment-00000002.journal.new").write_bytes(b"half of a new segment")
    assert replayed(tmp_path) == (RECORDS, 0)
    journal, _ = Journal.open(tmp_path)
    journal.compact([b"live"])
    journal.close()
    old.write_bytes(before)
    assert replayed(tmp_path) == ([b"live"], 0)
    assert not old.exists()


def test_a_failed_write_is_never_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = Journal.open(tmp_path)

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(OperatorError, match=r"cannot be written \(Input/output error\): the node stops"):
        journal.append([b"vote"])
    monkeypatch.undo()
    with pytest.raises(InvariantViolation):
        journal.append([b"vote"])


def test_a_home_is_used_by_one_node_at_a_time(tmp_path: Path) -> None:
    first = HomeLock(tmp_path)
    with pytest.raises(OperatorError, match=f"another node .process {os.getpid()}. is running with"):
        HomeLock(tmp_path)
    first.release()
    HomeLock(tmp_path).release()
