"""The set of what was seen forgets the oldest, and only that."""

from __future__ import annotations

from gossip.seen import SeenSet


def test_a_key_is_new_once() -> None:
    seen = SeenSet(2)
    assert [seen.add(b"a"), seen.add(b"a")] == [True, False]


def test_the_oldest_key_makes_room_for_the_newest() -> None:
    seen = SeenSet(2)
    for key in (b"a", b"b", b"c"):
        seen.add(key)
    assert [b"a" in seen, b"b" in seen, b"c" in seen, len(seen)] == [False, True, True, 2]


def test_being_seen_again_does_not_make_a_key_younger() -> None:
    seen = SeenSet(2)
    for key in (b"a", b"b", b"a", b"c"):
        seen.add(key)
    assert b"a" not in seen
