"""Snapshot files: written whole or not at all, fetched in any order, checked chunk by chunk."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from consensus.messages import Block
from consensus.reasons import ConsensusReason
from ledger.reasons import SnapshotReason
from ledger.snapshot import cut
from node.storage.snapshots import (
    SnapshotFiles,
    SnapshotHead,
    SnapshotImport,
    check_head,
    decode_head,
)
from primitives.codec import decode_own, encode
from primitives.errors import OperatorError, ProtocolViolation
from tests.light.light_chain import LightChain


def a_snapshot(path: Path) -> tuple[LightChain, SnapshotHead, list[bytes]]:
    """The state after block 2 of a chain of three blocks."""
    chain = LightChain(path)
    chain.block()
    chain.block()
    leaves, raw = chain.state.all_leaves(), chain.store.block_at(2)
    above = chain.block()
    manifest, chunks = cut(2, leaves)
    head = SnapshotHead(
        chain.chain_id, manifest, decode_own(Block, raw or b""), (above,), chain.certificate(above)
    )
    return chain, head, chunks


def test_a_snapshot_that_was_put_is_listed_and_reads_back(tmp_path: Path) -> None:
    chain, head, chunks = a_snapshot(tmp_path)
    files = SnapshotFiles(tmp_path / "snapshots")
    assert files.heights() == []
    files.put(head, chunks)
    stored = files.open(2)
    assert (files.heights(), files.newest(), files.newest(1)) == ([2], 2, None)
    assert (stored.head, stored.count) == (head, len(chunks))
    assert [stored.read_chunk(index) for index in range(stored.count)] == chunks
    check_head(stored.head, chain.chain_id)
    assert decode_head(encode(head)) == head


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    _, head, chunks = a_snapshot(tmp_path)
    files = SnapshotFiles(tmp_path / "snapshots")
    for height in (2, 5, 9):
        files.put(replace(head, manifest=replace(head.manifest, height=height)), chunks)
    assert files.keep_newest(2) == [2]
    assert files.heights() == [5, 9]


def test_an_import_goes_on_after_a_restart_where_it_stopped(tmp_path: Path) -> None:
    _, head, _ = a_snapshot(tmp_path)
    leaves = [(bytes([number]) * 8, bytes(60_000)) for number in range(20)]
    manifest, chunks = cut(2, leaves)
    head = replace(head, manifest=manifest)
    first = SnapshotImport(tmp_path / "snapshots", head)
    first.put(3, chunks[3])
    first.put(1, chunks[1])
    second = SnapshotImport(tmp_path / "snapshots", head)
    assert second.missing() == [index for index in range(len(chunks)) if index not in (1, 3)]
    with pytest.raises(OperatorError):
        second.finish()
    for index in second.missing():
        second.put(index, chunks[index])
    assert SnapshotFiles(tmp_path / "snapshots").heights() == []
    stored = second.finish()
    assert sorted(stored.leaves()) == sorted(leaves)
    assert SnapshotFiles(tmp_path / "snapshots").heights() == [2]


def test_a_chunk_that_is_not_the_manifests_is_refused_and_a_damaged_file_fetched_again(
    tmp_path: Path,
) -> None:
    _, head, chunks = a_snapshot(tmp_path)
    incoming = SnapshotImport(tmp_path / "snapshots", head)
    with pytest.raises(ProtocolViolation) as caught:
        incoming.put(0, encode([(b"key", b"lie")]))
    assert caught.value.reason == SnapshotReason.WRONG_CHUNK
    incoming.put(0, chunks[0])
    (path,) = (tmp_path / "snapshots").rglob("000000.chunk")
    path.write_bytes(path.read_bytes()[:-1])
    assert 0 in SnapshotImport(tmp_path / "snapshots", head).missing()


def test_a_damaged_chunk_of_a_stored_snapshot_is_named(tmp_path: Path) -> None:
    _, head, chunks = a_snapshot(tmp_path)
    stored = SnapshotFiles(tmp_path / "snapshots").put(head, chunks)
    path = stored.directory / "000000.chunk"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OperatorError, match=r"000000\.chunk is damaged"):
        list(stored.leaves())


def test_a_head_whose_parts_do_not_belong_together_is_refused(tmp_path: Path) -> None:
    chain, head, _ = a_snapshot(tmp_path)
    (above,) = head.headers
    other = replace(above, view=above.view + 1)
    lies = {
        SnapshotReason.WRONG_HEIGHT: replace(head, manifest=replace(head.manifest, height=1)),
        SnapshotReason.WRONG_ROOT: replace(head, headers=(replace(above, parent_state_root=bytes(32)),)),
        SnapshotReason.WRONG_ANCHOR: replace(head, headers=(other,)),
        ConsensusReason.WRONG_ROOT: replace(head, block=replace(head.block, transactions=(b"more",))),
    }
    found = {}
    for reason, lie in lies.items():
        with pytest.raises(ProtocolViolation) as caught:
            check_head(lie, chain.chain_id)
        found[reason] = caught.value.reason
    assert found == {reason: reason for reason in lies}
    with pytest.raises(ProtocolViolation):
        check_head(head, bytes(32))
