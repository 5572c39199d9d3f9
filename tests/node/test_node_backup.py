"""A backup of a home, taken while its node runs, and what a node restored from it may do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import trio

from consensus.messages import Vote, Votes
from node.__main__ import app
from node.backup import backup, restore
from node.config import load_config
from node.storage.block_store import BlockStore
from node.storage.files import DISK
from node.storage.watermark import Watermark
from primitives.codec import decode_own
from primitives.errors import OperatorError
from tests.light.test_light_commands import a_genesis_with_epochs
from tests.node import network_of_nodes
from tests.node.memory_network import MemoryNetwork
from tests.node.network_of_nodes import running_nodes

ROOT = Path(__file__).resolve().parents[2]


async def backed_up(home: Path, out: Path) -> None:
    """By a process of its own, as an operator does it."""
    command = [sys.executable, "-m", "node", "backup", "--home", str(home), "--out", str(out)]
    await trio.run_process(command, cwd=ROOT, capture_stdout=True)


def votes_in(network: MemoryNetwork) -> list[Vote]:
    """Every vote that a node has sent since it started."""
    sent = [raw for _, raw in network.sent]
    mine = [decode_own(Votes, raw).votes for raw in sent if raw[1] == Votes.__struct_config__.tag]
    return [vote for votes in mine for vote in votes]


async def test_a_restored_validator_watches_first_and_contradicts_none_of_its_earlier_votes(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(network_of_nodes, "a_genesis", a_genesis_with_epochs)
    async with running_nodes(tmp_path, monkeypatch) as (nodes, nursery):
        await nodes.wait_height(8)
        await backed_up(nodes.homes[3], tmp_path / "n3.backup")
        height = nodes[3].ledger.final_height
        await nodes.wait_height(height + 4)
        before = nodes.network(3)
        await nodes.stop(3)
        earlier = votes_in(before)
        assert earlier
        shutil.rmtree(nodes.homes[3])
        restored = restore(tmp_path / "n3.backup", nodes.homes[3])
        assert 8 <= restored.height <= height + 1
        await nodes.start(nursery, 3)
        assert nodes[3].observer.startswith("the signer's watermark is missing")
        with trio.fail_after(30):
            while not (nodes[3].observer == "" and votes_in(nodes.network(3))):  # noqa: ASYNC110
                await trio.sleep(0.01)
        later = votes_in(nodes.network(3))
        assert min(vote.epoch for vote in later) > max(vote.epoch for vote in earlier)
        signed: dict[tuple[int, int, int], set[bytes]] = {}
        for vote in (*earlier, *later):
            if vote.signer == 3:
                signed.setdefault((vote.epoch, vote.view, vote.kind), set()).add(vote.subject)
        assert all(len(subjects) == 1 for subjects in signed.values())
        assert not any(node.consensus.halted for node, _, _ in nodes.running.values())


@pytest.fixture
async def stopped(tmp_path: Path, monkeypatch: Any) -> Path:
    """The home of a node that ran, and was stopped."""
    async with running_nodes(tmp_path / "net", monkeypatch) as (nodes, _):
        await nodes.wait_height(3)
        for index in range(4):
            await nodes.stop(index)
    return nodes.homes[0]


async def test_a_backup_holds_chain_and_keys_and_nothing_that_a_vote_depends_on(
    stopped: Path, tmp_path: Path
) -> None:
    file = tmp_path / "n0.backup"
    made = backup(stopped, file, with_keys=True)
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as tar:
        assert tar.getnames() == ["manifest.json", "node.toml", "genesis", "keystore", "data/blocks/data.mdb"]
    assert restore(file, tmp_path / "again") == made
    config, original = load_config(tmp_path / "again"), load_config(stopped)
    assert config.keystore_path.read_bytes() == original.keystore_path.read_bytes()
    assert Watermark.open(config.watermark_path, DISK) is None
    assert not config.journal_path.exists()
    stores = [BlockStore.open(one.store_path, read_only=True) for one in (config, original)]
    assert stores[0].leaves() == stores[1].leaves()
    assert stores[0].tip() == stores[1].tip()


async def test_a_backup_without_keys_has_none(stopped: Path, tmp_path: Path) -> None:
    app(
        ["backup", "--home", str(stopped), "--out", str(tmp_path / "b"), "--without-keys"],
        result_action="return_value",
    )
    restore(tmp_path / "b", tmp_path / "again")
    assert not load_config(tmp_path / "again").keystore_path.exists()


async def test_nothing_is_overwritten_and_nothing_half_restored(stopped: Path, tmp_path: Path) -> None:
    file = tmp_path / "b"
    backup(stopped, file, with_keys=True)
    with pytest.raises(OperatorError, match="exists: a backup replaces no file"):
        backup(stopped, file, with_keys=True)
    with pytest.raises(OperatorError, match="is not empty"):
        restore(file, stopped)
    raw = file.read_bytes()
    place = raw.rindex(b"Account"[:1], len(raw) // 2)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(raw[:place] + bytes((raw[place] ^ 1,)) + raw[place + 1 :])
    short = tmp_path / "short"
    short.write_bytes(raw[: len(raw) // 2])
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(5_000))
    for bad in (damaged, short, noise):
        with pytest.raises(OperatorError):
            restore(bad, tmp_path / "again")
        assert not [name for name in os.listdir(tmp_path) if name.startswith("again")]


async def test_a_backup_cannot_write_outside_the_home(stopped: Path, tmp_path: Path) -> None:
    config = (stopped / "node.toml").read_text().replace('name = "', 'genesis = "../outside"\nname = "', 1)
    (stopped / "node.toml").write_text(config)
    (stopped.parent / "outside").write_bytes((stopped / "genesis.json").read_bytes())
    backup(stopped, tmp_path / "b", with_keys=True)
    with pytest.raises(OperatorError, match="does not belong inside a home"):
        restore(tmp_path / "b", tmp_path / "again")


def test_the_commands_say_what_they_did_and_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "node", "backup", "--home", str(tmp_path), "--out", str(tmp_path / "b")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no configuration at" in done.stderr
