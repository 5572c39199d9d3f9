"""Snapshots: the whole state in chunks, each checked alone against the root that validators signed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ledger.reasons import SnapshotReason
from ledger.snapshot import (
    CHUNK_BYTES_MAX,
    Manifest,
    check_manifest,
    cut,
    manifest_root,
    restore,
    verify_chunk,
    write,
)
from ledger.state_tree import StateTree
from primitives.codec import decode, encode
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason
from tests.ledger.exchange import BTC_PERP, CHAIN, Exchange, buy, sell

LEAVES = [(f"key {number}".encode(), bytes([number % 251]) * (number * 7 % 3_000)) for number in range(1_000)]


def refusal(manifest: Manifest, index: int, raw: bytes) -> str:
    with pytest.raises(ProtocolViolation) as caught:
        verify_chunk(manifest, index, raw)
    return caught.value.reason


def test_a_restored_state_is_the_state_and_goes_on_like_it() -> None:
    exchange = Exchange(alice=100_000, bob=100_000)
    exchange.does("alice", buy(BTC_PERP, 100_000, 5))
    exchange.does("bob", sell(BTC_PERP, 100_000, 7))
    exchange.block()
    manifest, chunks = write(exchange.state)
    check_manifest(manifest, exchange.state.clock.height, exchange.state.root())
    restored = restore(manifest, chunks, CHAIN, exchange.genesis)
    assert restored.all_leaves() == exchange.state.all_leaves()
    exchange.state = restored
    exchange.does("alice", buy(BTC_PERP, 100_000, 2))
    assert exchange.block().root == restored.root()


def test_chunks_hold_every_leaf_once_and_lead_to_the_root_of_the_tree() -> None:
    manifest, chunks = cut(7, LEAVES)
    assert len(chunks) > 6
    assert all(len(raw) <= CHUNK_BYTES_MAX for raw in chunks)
    assert manifest_root(manifest) == StateTree().update(LEAVES).root
    found = [pair for index, raw in enumerate(chunks) for pair in verify_chunk(manifest, index, raw)]
    assert sorted(found) == sorted(LEAVES)


def test_the_order_in_which_leaves_come_does_not_matter() -> None:
    assert cut(7, LEAVES) == cut(7, reversed(LEAVES))


@pytest.mark.parametrize("count", range(12))
def test_any_number_of_leaves_leads_to_the_root(count: int) -> None:
    leaves = [(bytes([number]), bytes(CHUNK_BYTES_MAX // 3)) for number in range(count)]
    manifest, _ = cut(1, leaves)
    assert manifest_root(manifest) == StateTree().update(leaves).root


def test_a_leaf_longer_than_a_chunk_stands_alone() -> None:
    leaves = [*LEAVES[:50], (b"a long book", bytes(2 * CHUNK_BYTES_MAX))]
    manifest, chunks = cut(1, leaves)
    lengths = sorted(map(len, chunks))
    assert lengths[-1] < 2 * CHUNK_BYTES_MAX + 100
    assert lengths[-2] <= CHUNK_BYTES_MAX
    assert sum(len(verify_chunk(manifest, i, raw)) for i, raw in enumerate(chunks)) == 51


def test_every_altered_leaf_is_found_in_its_own_chunk() -> None:
    manifest, chunks = cut(7, LEAVES[:20])
    leaves = decode(list[tuple[bytes, bytes]], chunks[0], bytes_max=CHUNK_BYTES_MAX)
    for place, (key, value) in enumerate(leaves):
        for other in ((key, value + b"!"), (key + b"!", value)):
            lie = encode([*leaves[:place], other, *leaves[place + 1 :]])
            assert refusal(manifest, 0, lie) == SnapshotReason.WRONG_CHUNK


def test_a_chunk_that_lacks_repeats_adds_or_reorders_leaves_is_refused() -> None:
    manifest, chunks = cut(7, LEAVES[:20])
    leaves = decode(list[tuple[bytes, bytes]], chunks[0], bytes_max=CHUNK_BYTES_MAX)
    for lie in (leaves[1:], [leaves[0], *leaves], [*leaves, (b"new", b"")], leaves[::-1], []):
        assert refusal(manifest, 0, encode(lie)) == SnapshotReason.WRONG_CHUNK


def test_a_chunk_in_anothers_place_is_refused() -> None:
    manifest, chunks = cut(7, LEAVES)
    assert refusal(manifest, 1, chunks[0]) == SnapshotReason.WRONG_CHUNK
    assert refusal(manifest, len(chunks), chunks[0]) == SnapshotReason.WRONG_CHUNK
    assert refusal(manifest, 0, chunks[0][:-1]) == CodecReason.MALFORMED


def test_a_manifest_with_any_number_changed_is_refused_before_a_chunk_is_asked_for() -> None:
    manifest, _ = cut(7, LEAVES)
    root = manifest_root(manifest)
    first, *rest = manifest.parts
    lies = (
        replace(manifest, leaves=manifest.leaves + 1),
        replace(manifest, parts=(bytes(32), *rest)),
        replace(manifest, parts=(*rest, first)),
        replace(manifest, parts=tuple(rest), bits=manifest.bits[1:]),
        replace(manifest, bits=manifest.bits[1:]),
        replace(manifest, bits=(manifest.bits[0] + 1, *manifest.bits[1:])),
        replace(manifest, bits=(0,) * len(manifest.bits)),
    )
    for lie in lies:
        with pytest.raises(ProtocolViolation) as caught:
            check_manifest(lie, 7, root)
        assert caught.value.reason == SnapshotReason.WRONG_ROOT
    with pytest.raises(ProtocolViolation) as caught:
        check_manifest(manifest, 8, root)
    assert caught.value.reason == SnapshotReason.WRONG_HEIGHT


def test_a_snapshot_that_lacks_chunks_is_not_restored() -> None:
    exchange = Exchange(alice=100_000)
    manifest, chunks = write(exchange.state)
    with pytest.raises(ProtocolViolation):
        restore(manifest, chunks[:-1], CHAIN, exchange.genesis)
