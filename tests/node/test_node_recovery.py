"""What a node starts from: the stored state if it is what validators signed, else a snapshot and the blocks above."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
import trio

from consensus.messages import Block, QuorumCertificate, hash_of
from ledger.state_keys import KEY_SUPPLY
from node.recovery import install, is_intact, restore
from node.storage.block_store import BlockStore
from node.storage.retention import Retention
from node.storage.snapshot_writer import main, make_snapshot
from node.storage.snapshots import SnapshotFiles
from primitives.codec import decode_own, encode
from primitives.errors import OperatorError
from tests.node.network_of_nodes import Ledger, running_nodes


def a_proof(block: Block) -> QuorumCertificate:
    """What consensus would store with a block; nobody signed it."""
    return QuorumCertificate(3, 0, block.header.view, hash_of(block.header), (), ())


async def with_blocks(ledger: Ledger, count: int) -> Ledger:
    for _ in range(count):
        block = await ledger.build()
        await ledger.service.finalize((block,), a_proof(block))
    return ledger


def damage(store: BlockStore, key: bytes = KEY_SUPPLY) -> None:
    """A flipped bit in the file, as the disk may do it."""
    raw = store.leaf(key) or b""
    with store._environment.begin(write=True) as transaction:
        transaction.put(key, raw[:-1] + bytes((raw[-1] ^ 1,)), db=store._databases["leaf"])


async def test_a_damaged_state_is_noticed_and_made_again_from_genesis(tmp_path: Path) -> None:
    ledger = await with_blocks(Ledger(tmp_path / "blocks"), 5)
    root, leaves = ledger.state.root(), ledger.state.all_leaves()
    assert is_intact(ledger.store)
    damage(ledger.store)
    assert not is_intact(ledger.store)
    with structlog.testing.capture_logs() as logs:
        restored = restore(ledger.store, ledger.genesis, SnapshotFiles(tmp_path / "none"), [])
    assert [line["event"] for line in logs] == ["stored_state_damaged"]
    assert (restored.state.root(), restored.tip_height, ledger.store.leaves()) == (root, 5, leaves)
    assert is_intact(ledger.store)


async def test_where_old_blocks_are_gone_the_newest_snapshot_that_reads_is_the_start(tmp_path: Path) -> None:
    ledger = await with_blocks(Ledger(tmp_path / "blocks"), 9)
    root = ledger.state.root()
    files = SnapshotFiles(tmp_path / "snapshots")
    for height in (5, 7):
        files.put(*make_snapshot(ledger.store, height))
    ledger.store._retention = Retention(blocks=4)
    ledger.store.keep_from = 6
    await with_blocks(ledger, 1)
    assert ledger.store.first_height() == 6
    root = ledger.state.root()
    damage(ledger.store)
    (files.open(7).directory / "000000.chunk").write_bytes(b"")
    with structlog.testing.capture_logs() as logs:
        restored = restore(ledger.store, ledger.genesis, files, [])
    assert [line["event"] for line in logs] == ["stored_state_damaged", "snapshot_damaged"]
    assert restored.state.root() == root


async def test_a_state_that_cannot_be_made_again_is_the_operators(tmp_path: Path) -> None:
    ledger = await with_blocks(Ledger(tmp_path / "blocks"), 3)
    ledger.store._retention = Retention(blocks=1)
    await with_blocks(ledger, 3)
    damage(ledger.store)
    with pytest.raises(
        OperatorError, match="blocks from height 1 on that it could be made from are not kept"
    ):
        restore(ledger.store, ledger.genesis, SnapshotFiles(tmp_path / "none"), [])


async def test_a_new_node_goes_on_from_a_snapshot(tmp_path: Path) -> None:
    old = await with_blocks(Ledger(tmp_path / "old"), 4)
    snapshot = SnapshotFiles(tmp_path / "snapshots").put(*make_snapshot(old.store, 2))
    store = BlockStore.open(tmp_path / "new", chain_id=old.chain_id)
    install(store, snapshot)
    assert (store.first_height(), is_intact(store)) == (2, True)
    store.close()
    new = Ledger(tmp_path / "new")
    for height in (3, 4):
        block = decode_own(Block, old.store.block_at(height) or b"")
        await new.service.finalize((block,), a_proof(block))
    assert new.state.root() == old.state.root()
    assert new.store.leaves() == old.store.leaves()


async def test_the_writer_makes_the_snapshot_of_a_height_that_is_past_and_keeps_the_newest(
    tmp_path: Path,
) -> None:
    ledger = await with_blocks(Ledger(tmp_path / "blocks"), 3)
    roots = {3: ledger.state.root()}
    await with_blocks(ledger, 2)
    ledger.store.close()
    files = SnapshotFiles(tmp_path / "snapshots")
    for height in (2, 3, 4):
        assert main([str(tmp_path / "blocks"), str(files.directory), str(height), "2"]) == 0
    assert files.heights() == [3, 4]
    assert files.open(3).head.headers[0].parent_state_root == roots[3]
    assert main([str(tmp_path / "blocks"), str(files.directory), "5", "2"]) == 1, "nothing stands upon it yet"


async def test_running_nodes_write_the_same_snapshots_beside_their_voting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    async with running_nodes(tmp_path, monkeypatch, settings={"snapshot_blocks": 5}) as (nodes, _):
        files = [SnapshotFiles(nodes.config(index).snapshots_path) for index in (0, 1)]
        with trio.fail_after(20):
            while not all(nodes[index].store.keep_from for index in (0, 1)):  # noqa: ASYNC110
                await trio.sleep(0.02)
        height = max(set(files[0].heights()) & set(files[1].heights()))
        one, other = (file.open(height) for file in files)
        assert one.head.manifest == other.head.manifest
        assert [one.read_chunk(0)] == [other.read_chunk(0)]
        assert nodes[0].answers.status().counters[0][0] == "disk_blocks_bytes"
        assert encode(one.head.block) == nodes[1].store.block_at(height)
