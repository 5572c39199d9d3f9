"""Whatever happens to journal and watermark, no position that may have been signed is signed again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consensus.effects import OwnVote, RaisedFloor
from node.safety_journal import SafetyJournal, recover
from node.storage.files import DISK
from node.storage.watermark import RESERVE_VIEWS, Watermark
from primitives.errors import OperatorError

VIEWS = range(1, 9)
Damage = Callable[[bytes], bytes]


class Signer:
    """A home's journal and watermark, and every vote whose sync came back."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.sent: set[OwnVote] = set()
        Watermark.create(home / "keystore.watermark", DISK)
        self.generations: list[Path] = []
        for view in VIEWS:
            self._life(view)
            self.generations.append(Path(shutil.copytree(home / "journal", home / f"journal {view}")))

    def _life(self, view: int) -> None:
        """One life: two votes in a view, one of them together with a vote of another kind."""
        memory = recover(self.home / "journal", self.home / "keystore.watermark")
        assert memory.observer_reason is None
        journal = SafetyJournal(memory.journal, memory.watermark, lambda: memory.records)
        for kinds in ((1,), (2, 3)):
            votes = [OwnVote(kind, 0, view, bytes([kind]) * 32) for kind in kinds]
            journal.append(votes)
            self.sent.update(votes)
        memory.journal.close()
        assert memory.watermark is not None
        memory.watermark.close()

    @property
    def segment(self) -> Path:
        (path,) = (self.home / "journal").iterdir()
        return path

    def contradictable(self) -> set[OwnVote]:
        """Votes that were sent, and that a node started from these files would not remember or keep away from."""
        try:
            memory = recover(self.home / "journal", self.home / "keystore.watermark")
        except OperatorError as error:
            assert "must not vote from it" in str(error)
            return set()
        memory.journal.close()
        if memory.watermark is not None:
            memory.watermark.close()
        if memory.observer_reason is not None:
            return set()
        known = {record for record in memory.records if isinstance(record, OwnVote)}
        floor = max((record.view for record in memory.records if isinstance(record, RaisedFloor)), default=0)
        return {vote for vote in self.sent - known if vote.view > floor}


@pytest.fixture
def signer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signer:
    # Thousands of restarts, and no power cut among them: what is written need not reach the disk.
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return Signer(tmp_path)


def each(signer: Signer, path: Path, damaged: Iterator[bytes]) -> None:
    """Try each damaged form of a file, from the same start every time."""
    saved = {one: one.read_bytes() for one in (signer.segment, signer.home / "keystore.watermark")}
    for raw in damaged:
        path.write_bytes(raw)
        assert signer.contradictable() == set()
        for one, whole in saved.items():
            one.write_bytes(whole)


def test_an_undamaged_home_remembers_every_vote(signer: Signer) -> None:
    memory = recover(signer.home / "journal", signer.home / "keystore.watermark")
    assert memory.observer_reason is None
    assert {record for record in memory.records if isinstance(record, OwnVote)} == signer.sent
    assert VIEWS.stop < RESERVE_VIEWS, "the journal is tested below, not the reservation"


def test_a_journal_cut_at_any_byte(signer: Signer) -> None:
    whole = signer.segment.read_bytes()
    each(signer, signer.segment, (whole[:cut] for cut in range(len(whole))))


def test_a_journal_with_any_byte_flipped(signer: Signer) -> None:
    whole = signer.segment.read_bytes()
    flipped = (
        whole[:at] + bytes((whole[at] ^ mask,)) + whole[at + 1 :]
        for at in range(len(whole))
        for mask in (1, 128)
    )
    each(signer, signer.segment, flipped)


def test_a_journal_with_a_tail_of_zeros_or_of_its_own_bytes(signer: Signer) -> None:
    whole = signer.segment.read_bytes()
    tails = (whole[start:] for start in range(0, len(whole), 7))
    each(signer, signer.segment, (whole + tail for tail in (bytes(1), bytes(4096), *tails)))


def test_a_journal_that_is_cut_and_filled_with_zeros(signer: Signer) -> None:
    whole = signer.segment.read_bytes()
    each(signer, signer.segment, (whole[:cut] + bytes(len(whole) - cut) for cut in range(len(whole))))


def test_a_journal_of_any_older_generation(signer: Signer) -> None:
    journal = signer.home / "journal"
    for older in signer.generations[:-1]:
        shutil.rmtree(journal)
        shutil.copytree(older, journal)
        assert signer.contradictable() == set()


def test_a_watermark_cut_at_any_byte_or_with_any_byte_flipped(signer: Signer) -> None:
    path = signer.home / "keystore.watermark"
    whole = path.read_bytes()
    places = [*range(80), *range(4096, len(whole))]
    damaged = [whole[:cut] for cut in places]
    damaged += [whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :] for at in places]
    each(signer, path, iter(damaged))
