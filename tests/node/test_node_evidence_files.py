"""Proofs of offences on disk: one per epoch, offender and kind; damaged ones do not stop a start."""

from __future__ import annotations

from pathlib import Path

from consensus.effects import ReportEvidence
from consensus.evidence import pair
from consensus.messages import Evidence, VoteKind
from node.storage.evidence_files import EvidenceFiles
from primitives.identifiers import ValidatorIndex
from tests.consensus.builders import a_vote


def a_report_of(view: int) -> ReportEvidence:
    return ReportEvidence("E1", ValidatorIndex(2), a_double_vote(view))


def a_double_vote(view: int) -> Evidence:
    return pair(*(a_vote(VoteKind.NOTARIZE, view, subject * 32, 2) for subject in (b"A", b"B")))


def test_the_first_proof_of_each_kind_in_an_epoch_is_kept(tmp_path: Path) -> None:
    files = EvidenceFiles(tmp_path / "evidence")
    assert [files.keep(a_report_of(view)) for view in (5, 6)] == [True, False]
    assert EvidenceFiles(tmp_path / "evidence").load() == [a_double_vote(5)]


def test_a_damaged_file_is_left_aside(tmp_path: Path) -> None:
    files = EvidenceFiles(tmp_path / "evidence")
    files.keep(a_report_of(5))
    (tmp_path / "evidence" / "00000000-001-E1.msgpack").write_bytes(b"\xff")
    assert files.load() == [a_double_vote(5)]
