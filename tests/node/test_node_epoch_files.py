"""Epochs on disk: kept and found again; what is missing or damaged is said to the operator."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.effects import EpochOpened, EpochSet, OpenedEpoch
from consensus.messages import EpochProof
from node.storage.epoch_files import EpochFiles
from primitives.errors import OperatorError
from tests.consensus.builders import a_block, a_finalization, name_of

BLOCK = a_block(1)
PROOF = EpochProof((BLOCK.header,), a_finalization(1, name_of(BLOCK)), ())
SET = EpochSet((b"k" * 32,), (1,), 1)


def an_opened_epoch(number: int) -> OpenedEpoch:
    """Ten blocks each."""
    return OpenedEpoch(number, b"g" * 32, b"s" * 32, number * 10, number * 10 + 10, SET, SET, 1, 1)


@pytest.fixture
def files(tmp_path: Path) -> EpochFiles:
    found = EpochFiles(tmp_path / "epochs")
    for number in (1, 2):
        found.keep(EpochOpened(an_opened_epoch(number), PROOF))
    return found


def test_epochs_and_the_proofs_of_those_before_are_found_again(files: EpochFiles) -> None:
    assert files.load(25, 10) == [an_opened_epoch(1), an_opened_epoch(2)]
    assert [files.proof_of(epoch) for epoch in (0, 1, 2)] == [PROOF, PROOF, None]


def test_a_chain_of_one_epoch_needs_no_files(tmp_path: Path) -> None:
    assert EpochFiles(tmp_path / "epochs").load(1_000_000, 0) == []


def test_the_boundary_itself_belongs_to_the_epoch_that_it_ends(files: EpochFiles) -> None:
    assert len(files.load(30, 10)) == 2
    with pytest.raises(OperatorError, match=r"0000000003\.msgpack does not read"):
        files.load(31, 10)


@pytest.mark.parametrize("raw", [None, b"", b"\xff"], ids=["missing", "empty", "garbage"])
def test_a_damaged_file_is_named(files: EpochFiles, raw: bytes | None) -> None:
    path = files.directory / "0000000001.msgpack"
    path.unlink() if raw is None else path.write_bytes(raw)
    with pytest.raises(OperatorError, match="copy it from another node"):
        files.load(25, 10)
