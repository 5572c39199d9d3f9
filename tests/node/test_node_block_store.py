"""Final blocks are stored as a whole or not at all, and what was acknowledged is never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from node.storage import block_store
from node.storage.block_store import BlockStore, FinalBlock, Place, Tip
from node.storage.retention import Retention
from primitives.errors import InvariantViolation, OperatorError

WRITER = """
import sys
from pathlib import Path
from node.storage.block_store import BlockStore, FinalBlock

store = BlockStore.open(Path(sys.argv[1]))
tip = store.tip()
height = tip.height if tip else 0
while True:
    height += 1
    number = height.to_bytes(32, "big")
    leaves = [(b"a%03d" % (height * step % 997), number) for step in range(1, 40)] + [(b"tip", number)]
    views = {"status": number}
    store.commit(FinalBlock(height, number, b"block", b"proof", b"events", (number,), leaves, views))
    print(height, flush=True)
"""


def named(height: int) -> bytes:
    return height.to_bytes(32, "big")


def a_block(height: int, **changes: object) -> FinalBlock:
    fields: dict[str, object] = {
        "height": height,
        "block_hash": named(height),
        "block": b"block %d" % height,
        "proof": b"proof %d" % height,
        "events": b"events %d" % height,
        "transaction_ids": (named(height + 1_000), named(height + 2_000)),
    }
    return FinalBlock(**(fields | changes))  # type: ignore[arg-type]


def test_everything_about_a_final_block_is_found_again(tmp_path: Path) -> None:
    store = BlockStore.open(tmp_path)
    assert store.tip() is None
    leaves = [(b"a1", b"one"), (b"a2", b"two"), (b"b1", b"three")]
    store.commit(a_block(7, leaves=leaves, views={"marks": b"m"}))
    store.commit(a_block(8, proof=b"", leaves=[(b"a1", None), (b"a2", b"2")], views={"marks": b"n"}))
    store.close()
    store = BlockStore.open(tmp_path)
    assert store.tip() == Tip(8, named(8))
    assert [store.block_at(7), store.proof_at(7), store.events_at(7)] == [b"block 7", b"proof 7", b"events 7"]
    assert [store.height_of(named(7)), store.height_of_transaction(named(1_008))] == [7, 8]
    assert [store.hash_at(8), store.proof_at(8), store.block_at(9), store.height_of(named(9))] == [
        *(named(8), None, None, None)
    ]
    assert store.leaves() == [(b"a2", b"2"), (b"b1", b"three")]
    assert store.leaves(b"b") == [(b"b1", b"three")]
    assert [store.leaf(b"a1"), store.leaf(b"a2"), store.leaf(b""), store.view("marks")] == [
        *(None, b"2", None, b"n")
    ]


def test_several_blocks_are_one_transaction(tmp_path: Path) -> None:
    store = BlockStore.open(tmp_path)
    with pytest.raises(InvariantViolation, match="height order"):
        store.commit_many([a_block(1), a_block(2), a_block(4)])
    assert store.tip() is None
    store.commit_many([a_block(1), a_block(2)])
    assert store.tip() == Tip(2, named(2))


def test_a_full_map_grows_and_a_reading_process_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_store, "MAP_BYTES_START", 1024 * 1024)
    store = BlockStore.open(tmp_path)
    store.commit(a_block(1))
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdin is not None and reader.stdout is not None
    assert reader.stdout.readline() == "1\n"
    for height in range(2, 12):
        store.commit(a_block(height, block=bytes(500_000)))
    print(file=reader.stdin, flush=True)
    assert reader.stdout.readline() == "11 500000\n"
    assert reader.wait(5) == 0


READER = """
import sys
from pathlib import Path
from node.storage.block_store import BlockStore

store = BlockStore.open(Path(sys.argv[1]), read_only=True)
print(store.tip().height, flush=True)
sys.stdin.readline()
print(store.tip().height, len(store.block_at(11)), flush=True)
"""


def test_a_map_at_its_limit_stops_the_node_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_store, "MAP_BYTES_START", 1024 * 1024)
    monkeypatch.setattr(block_store, "MAP_BYTES_MAX", 1024 * 1024)
    store = BlockStore.open(tmp_path)
    with pytest.raises(OperatorError, match="set retention_blocks"):
        store.commit(a_block(1, block=bytes(2_000_000)))
    assert store.tip() is None


def test_retention_forgets_old_blocks_with_all_their_indices(tmp_path: Path) -> None:
    store = BlockStore.open(tmp_path, retention=Retention(blocks=3))
    for height in range(1, 10):
        store.commit(a_block(height, leaves=[(b"k%d" % height, b"v")]))
    assert (store.first_height(), store.tip()) == (6, Tip(9, named(9)))
    assert [store.block_at(5), store.proof_at(5), store.events_at(5), store.hash_at(5)] == [None] * 4
    assert [store.height_of(named(5)), store.height_of_transaction(named(1_005))] == [None, None]
    assert store.height_of_transaction(named(2_006)) == 6
    assert len(store.leaves()) == 9, "retention is about blocks, never about state"


def test_a_store_of_another_chain_is_refused(tmp_path: Path) -> None:
    BlockStore.open(tmp_path, chain_id=bytes(32)).close()
    with pytest.raises(OperatorError, match="belongs to another chain_id than this node runs"):
        BlockStore.open(tmp_path, chain_id=b"\1" * 32)


def test_an_unreadable_store_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(OperatorError, match=f"the block store {tmp_path} cannot be opened"):
        BlockStore.open(tmp_path)


def test_sigkill_in_the_middle_of_commits_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged = 0
    for round_number in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(20 + 7 * round_number):
            acknowledged = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in process.stdout if line.endswith("\n"))])
        process.wait()
        store = BlockStore.open(tmp_path)
        tip = store.tip()
        assert tip is not None and tip.height >= acknowledged
        assert (store.leaf(b"tip"), store.view("status")) == (named(tip.height), named(tip.height))
        assert all(
            store.height_of_transaction(named(height)) == height for height in range(1, tip.height + 1)
        )
        store.close()


def test_the_state_before_the_newest_block_is_at_hand(tmp_path: Path) -> None:
    store = BlockStore.open(tmp_path / "store")
    assert store.before_tip() is None
    store.commit(a_block(0, leaves=((b"kept", b"1"), (b"gone", b"2"), (b"other", b"3"))))
    assert store.before_tip() is None
    changes = ((b"kept", b"9"), (b"gone", None), (b"new", b"8"), (b"never", None))
    store.commit(a_block(1, leaves=changes))
    before = store.before_tip()
    assert before is not None
    assert (before.height, before.block, before.proof) == (1, store.block_at(1), store.proof_at(1))
    assert before.leaves == [(b"gone", b"2"), (b"kept", b"1"), (b"other", b"3")]
    store.commit_many((a_block(2, leaves=((b"kept", b"7"),)), a_block(3, leaves=())))
    after = store.before_tip()
    assert after is not None
    assert after.leaves == [(b"kept", b"7"), (b"new", b"8"), (b"other", b"3")]


def test_the_state_of_earlier_blocks_is_at_hand_as_far_as_undo_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_store, "UNDO_BLOCKS", 3)
    store = BlockStore.open(tmp_path / "store")
    states = []
    for height in range(7):
        change = (b"old", b"%d" % height) if height % 2 else (b"old", None)
        store.commit(a_block(height, leaves=(change, (b"new %d" % height, b"1"))))
        states.append(store.leaves())
    assert [store.leaves_at(height) for height in range(8)] == [None, None, None, *states[3:], None]


def test_a_block_is_found_by_its_view_and_by_the_accounts_that_it_changed(tmp_path: Path) -> None:
    alice, bob = (bytes([number]) * 21 for number in (1, 2))
    store = BlockStore.open(tmp_path, retention=Retention(blocks=3))
    for height in range(1, 8):
        accounts = (alice, bob) if height % 2 else (bob,)
        store.commit(a_block(height, epoch=1, view=height + 10, time_ns=height, accounts=accounts))
    assert [store.height_of_view(1, view) for view in (13, 15, 16, 18)] == [None, 5, 6, None]
    assert store.height_of_view(2, 15) is None
    assert store.place_at(5) == Place(1, 15, 5)
    assert store.heights_of_account(alice) == [7, 5]
    assert store.heights_of_account(bob, count=2) == [7, 6]
    assert store.heights_of_account(bob, below=6) == [5, 4]
    assert store.heights_of_account(bytes(21)) == []
    assert store.heights_of_account(b"\xff" * 21) == []


def test_a_block_goes_only_when_nothing_asks_for_it(tmp_path: Path) -> None:
    def first_height(name: str, retention: Retention, keep_from: int | None = None) -> int | None:
        store = BlockStore.open(tmp_path / name, retention=retention)
        store.keep_from = keep_from
        for height in range(1, 21):
            store.commit(a_block(height, time_ns=height * 10**9))
        found = store.first_height()
        store.close()
        return found

    assert first_height("all", Retention(needed_blocks=3)) == 1
    assert first_height("height", Retention(blocks=5)) == 15
    assert first_height("time", Retention(seconds=4)) == 16
    assert first_height("both", Retention(blocks=5, seconds=8)) == 12
    assert first_height("evidence", Retention(blocks=5, needed_blocks=9)) == 11
    assert first_height("snapshot", Retention(blocks=5), keep_from=7) == 7
