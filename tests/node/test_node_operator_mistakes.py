"""The operator's mistakes at `quorate start`: one sentence on standard error, exit code 2, nothing changed on disk."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from consensus.effects import OwnVote
from node.genesis import save_genesis
from node.home import create_homes
from node.storage.block_store import BlockStore
from node.storage.home_lock import HomeLock
from node.storage.journal import Journal
from primitives.codec import encode
from tests.node.network_of_nodes import a_genesis, keys_of

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def started(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node", "start", "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={"PATH": "", "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
    )


def contents(home: Path) -> dict[str, str]:
    """Digest of every file but the store's lock table and the lock file, which any opening touches."""
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file() and path.name not in ("lock.mdb", "lock")
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A validator alone on its chain, that has never run."""
    path = tmp_path / "n"
    settings: list[dict[str, Any]] = [{"gateway": {"port": free_port()}}]
    address = ("127.0.0.1", free_port())
    create_homes([path], [keys_of(0)], a_genesis(1), [address], password=None, settings=settings)
    return path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def break_toml(home: Path) -> None:
    edit(home / "node.toml", "name =", "name = =")


def unknown_setting(home: Path) -> None:
    edit(home / "node.toml", "name =", "nmae =")


def wrong_type(home: Path) -> None:
    edit(home / "node.toml", "index = 0", 'index = "first"')


def not_text(home: Path) -> None:
    (home / "node.toml").write_bytes(b"\xff\xfe\x00")


def config_is_a_directory(home: Path) -> None:
    (home / "node.toml").unlink()
    (home / "node.toml").mkdir()


def no_genesis(home: Path) -> None:
    (home / "genesis.json").unlink()


def broken_genesis(home: Path) -> None:
    (home / "genesis.json").write_text("{")


def no_keystore(home: Path) -> None:
    (home / "keystore.json").unlink()


def broken_keystore(home: Path) -> None:
    (home / "keystore.json").write_text("{}")


def altered_keystore(home: Path) -> None:
    path = home / "keystore.json"
    edit(path, keys_of(0).oracle.public_key.hex(), "00" * 32)


def open_keystore(home: Path) -> None:
    (home / "keystore.json").chmod(0o644)


def another_chains_genesis(home: Path) -> None:
    """The home ran one chain, and now has the genesis of another one."""
    store = BlockStore.open(home / "data" / "blocks", chain_id=b"\x01" * 32)
    store.close()


def another_validators_keys(home: Path) -> None:
    (home / "keystore.json").unlink()
    from node.keystore import save_keystore

    save_keystore(keys_of(5), home / "keystore.json", None)


def index_beyond_genesis(home: Path) -> None:
    edit(home / "node.toml", "index = 0", "index = 7")


def broken_journal(home: Path) -> None:
    journal, _ = Journal.open(home / "data" / "journal")
    for view in range(1, 4):
        journal.append([encode(OwnVote(1, 0, view, bytes(32)))])
    journal.close()
    (segment,) = (home / "data" / "journal").glob("segment-*")
    raw = bytearray(segment.read_bytes())
    raw[60] ^= 1
    segment.write_bytes(raw)


def a_peer_is_missing(home: Path) -> None:
    genesis = a_genesis(2)
    (home / "genesis.json").unlink()
    save_genesis(replace(genesis), home / "genesis.json")


def store_is_a_file(home: Path) -> None:
    (home / "data").mkdir(exist_ok=True)
    (home / "data" / "blocks").write_text("not a store")


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (break_toml, "node.toml is not valid TOML"),
        (unknown_setting, "nmae"),
        (wrong_type, "node.toml: index: Expected"),
        (not_text, "node.toml is not UTF-8 text"),
        (config_is_a_directory, "cannot read"),
        (no_genesis, "cannot read the genesis"),
        (broken_genesis, "is not valid JSON"),
        (no_keystore, "there is no keystore at"),
        (broken_keystore, "is corrupt: restore it from a copy"),
        (altered_keystore, "is corrupt: restore it from a copy"),
        (open_keystore, "is open to other users (mode 0644): chmod 600 it"),
        (another_chains_genesis, "belongs to another chain_id than this node runs"),
        (another_validators_keys, "not those of validator 0 (node0) in genesis"),
        (index_beyond_genesis, "says index 7, but no set that this node knows of"),
        (broken_journal, "journal corrupt at byte"),
        (a_peer_is_missing, "names no address of any validator"),
        (store_is_a_file, "cannot be opened"),
    ],
)
def test_a_damaged_home_is_one_sentence_and_stays_as_it_is(
    home: Path, mistake: Callable[[Path], None], sentence: str
) -> None:
    mistake(home)
    before = contents(home)
    done = started(home, "--log-level", "error")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert sentence in done.stderr
    assert done.stderr.startswith("quorate: ") and done.stderr.count("\n") == 1, done.stderr
    assert {name: digest for name, digest in contents(home).items() if name in before} == before


def test_a_home_in_use_names_the_process_that_uses_it(home: Path) -> None:
    lock = HomeLock(home)
    before = contents(home)
    done = started(home, "--log-level", "error")
    lock.release()
    assert (done.returncode, done.stderr) == (
        2,
        f"quorate: another node (process {os.getpid()}) is running with the home directory {home}\n",
    )
    assert contents(home) == before


@pytest.mark.parametrize("which", ["--listen-port", "--gateway-port"])
def test_a_port_in_use_is_one_sentence_that_names_it(home: Path, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = started(home, which, str(port), "--log-level", "error")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert str(port) in done.stderr and " in use" in done.stderr, done.stderr


def test_a_password_that_is_wrong_or_missing(home: Path, tmp_path: Path) -> None:
    from node.keystore import save_keystore

    (home / "keystore.json").unlink()
    save_keystore(keys_of(0), home / "keystore.json", "correct horse", log_n=14)
    before = contents(home)
    wrong = tmp_path / "password"
    wrong.write_text("wrong horse\n")
    for done, sentence in (
        (started(home), "no password: give --password-file or set QUORATE_PASSWORD"),
        (started(home, "--password-file", str(wrong)), "wrong password for the keystore"),
        (started(home, "--password-file", str(tmp_path / "none")), "cannot read the password file"),
    ):
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert sentence in done.stderr and "horse" not in done.stderr
    assert contents(home) == before
