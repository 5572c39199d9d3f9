"""A signer that cannot know what it signed before only observes."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.storage.journal import Journal, Place
from node.storage.watermark import (
    RESERVE_VIEWS,
    START,
    Position,
    Watermark,
    append_signed,
    floor_after,
    observer_reason,
)
from primitives.errors import InvariantViolation


def opened(path: Path) -> Watermark:
    watermark = Watermark.open(path)
    assert watermark is not None
    return watermark


def signed_up_to(home: Path, view: int) -> None:
    """A home whose key has signed in every view up to this one, then was killed."""
    Watermark.create(home / "watermark")
    watermark, (journal, _) = opened(home / "watermark"), Journal.open(home / "journal")
    for number in range(1, view + 1):
        append_signed(journal, watermark, [b"vote %d" % number], Position(0, number))


def test_a_new_key_may_sign(tmp_path: Path) -> None:
    Watermark.create(tmp_path / "watermark")
    assert observer_reason(opened(tmp_path / "watermark"), START) is None


def test_a_killed_signer_goes_on_where_it_was(tmp_path: Path) -> None:
    signed_up_to(tmp_path, 200)
    watermark = opened(tmp_path / "watermark")
    assert (watermark.signed, watermark.reserved) == (Position(0, 200), Position(0, 196 + RESERVE_VIEWS))
    assert observer_reason(watermark, Position(0, 200)) is None


def test_a_missing_or_rolled_back_journal_is_found_out(tmp_path: Path) -> None:
    signed_up_to(tmp_path, 5)
    watermark = opened(tmp_path / "watermark")
    for journaled in (START, Position(0, 4)):
        reason = observer_reason(watermark, journaled)
        assert reason == (
            f"the journal ends at epoch 0 view {journaled.view} but this key signed up to epoch 0 view 5: "
            "this validator observes and signs nothing"
        )


def test_a_rolled_back_watermark_is_found_out(tmp_path: Path) -> None:
    signed_up_to(tmp_path, 5)
    reason = observer_reason(opened(tmp_path / "watermark"), Position(0, 6 + RESERVE_VIEWS))
    assert reason is not None and "watermark (epoch 0 view 65) is older than the journal" in reason


@pytest.mark.parametrize("damage", ["missing", "empty", "zeros"])
def test_a_lost_watermark_means_to_observe(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "watermark"
    if damage != "missing":
        path.write_bytes(bytes(8192) if damage == "zeros" else b"")
    assert Watermark.open(path) is None
    assert "missing or unreadable" in (observer_reason(None, START) or "")


def test_a_torn_write_loses_at_most_the_last_step(tmp_path: Path) -> None:
    signed_up_to(tmp_path, 9)
    path = tmp_path / "watermark"
    whole = path.read_bytes()
    last = max((0, 4096), key=lambda offset: whole[offset + 8 : offset + 16])
    path.write_bytes(whole[: last + 24] + bytes(16) + whole[last + 40 :])
    assert opened(path).signed == Position(0, 8)


def test_a_torn_tail_was_never_sent_and_restricts_nothing(tmp_path: Path) -> None:
    signed_up_to(tmp_path, 3)
    segment = tmp_path / "journal" / "segment-00000001.journal"
    segment.write_bytes(segment.read_bytes() + bytes(7))
    journal, _ = Journal.open(tmp_path / "journal")
    assert floor_after(journal, opened(tmp_path / "watermark")) == START


def test_after_losing_a_synced_frame_nothing_reserved_is_signed_again(tmp_path: Path) -> None:
    signed_up_to(tmp_path, 3)
    segment = tmp_path / "journal" / "segment-00000001.journal"
    segment.write_bytes(segment.read_bytes()[:-1])
    for _ in range(2):
        journal, _ = Journal.open(tmp_path / "journal")
        assert floor_after(journal, opened(tmp_path / "watermark")) == Position(0, 1 + RESERVE_VIEWS)


def test_a_journal_lost_before_the_second_reservation_is_missed_after_a_power_loss(tmp_path: Path) -> None:
    """The very first note is synced; later ones may be lost with the power."""
    Watermark.create(tmp_path / "watermark")
    watermark, (journal, _) = opened(tmp_path / "watermark"), Journal.open(tmp_path / "journal")
    append_signed(journal, watermark, [b"vote 1"], Position(0, 1))
    noted = (tmp_path / "watermark").read_bytes()
    append_signed(journal, watermark, [b"vote 2"], Position(0, 2))
    (tmp_path / "watermark").write_bytes(noted)
    (tmp_path / "journal" / "segment-00000001.journal").unlink()
    fresh, _ = Journal.open(tmp_path / "journal")
    assert floor_after(fresh, opened(tmp_path / "watermark")) == Position(0, 1 + RESERVE_VIEWS)


def test_nothing_is_noted_above_what_was_reserved(tmp_path: Path) -> None:
    Watermark.create(tmp_path / "watermark")
    with pytest.raises(InvariantViolation):
        opened(tmp_path / "watermark").advance(Position(0, 1), Place(1, 1))
