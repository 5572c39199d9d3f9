"""`quorate keys` and `quorate signer init` as an operator uses them: on real homes, each mistake one sentence."""

from __future__ import annotations

import json
import os
import pty
import sys
from pathlib import Path
from typing import Any

import pytest

from gossip.peer_id import peer_id_of
from node.config import load_config
from node.genesis import chain_id_of
from node.home import create_homes
from node.keys_commands import (
    change_password,
    export_protection,
    import_protection,
    new_consensus,
    new_network,
    show,
)
from node.keystore import load_keystore, read_public_keys
from node.safety_journal import journaled_position, recover
from node.signer import commands as signer_commands
from node.signing_record import raise_position, signed_position
from node.storage.home_lock import HomeLock
from node.storage.watermark import Position
from primitives.errors import OperatorError
from tests.node.network_of_nodes import a_genesis, keys_of
from tests.signer.signer_process import ROOT

PASSWORD, NEXT = "correct horse", "battery staple"
GENESIS = a_genesis()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A validator's home without encryption, as a testnet has it."""
    homes = [tmp_path / f"node{index}" for index in range(2)]
    addresses = [("127.0.0.1", 1_000 + index) for index in range(2)]
    create_homes(homes, [keys_of(0), keys_of(1)], GENESIS, addresses, password=None)
    return homes[0]


def position_of(home: Path) -> Position:
    config = load_config(home)
    return signed_position(config.journal_path, config.watermark_path)


def sign_up_to(home: Path, position: Position) -> None:
    config = load_config(home)
    raise_position(config.journal_path, config.watermark_path, position)


def test_show_names_every_public_key(home: Path, capsys: Any) -> None:
    show(home=home)
    shown = capsys.readouterr().out
    assert all(key.hex() in shown for key in read_public_keys(home / "keystore.json").values())
    assert "NOT encrypted" in shown


def test_a_password_from_a_file_replaces_none_and_one_from_the_environment_replaces_it(
    home: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    change_password(home=home, new_password_file=file)
    assert load_keystore(home / "keystore.json", PASSWORD).seeds() == keys_of(0).seeds()
    monkeypatch.setenv("QUORATE_PASSWORD", PASSWORD)
    monkeypatch.setenv("QUORATE_NEW_PASSWORD", NEXT)
    change_password(home=home)
    assert load_keystore(home / "keystore.json", NEXT).seeds() == keys_of(0).seeds()
    with pytest.raises(OperatorError, match="wrong password"):
        load_keystore(home / "keystore.json", PASSWORD)


def test_a_password_is_asked_on_the_terminal_and_not_shown(home: Path) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(
            sys.executable, [sys.executable, "-m", "node", "keys", "change-password", "--home", str(home)]
        )
    seen = b""
    while b"New password for" not in seen:
        seen += os.read(terminal, 1_024)
    os.write(terminal, PASSWORD.encode() + b"\n")
    try:
        while chunk := os.read(terminal, 1_024):
            seen += chunk
    except OSError:
        pass  # Linux's way to say that the other end has closed.
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert (os.waitstatus_to_exitcode(status), PASSWORD.encode() in seen) == (0, False)
    assert load_keystore(home / "keystore.json", PASSWORD).seeds() == keys_of(0).seeds()


def test_no_password_anywhere_is_said(home: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(OperatorError, match="give --password-file or set QUORATE_NEW_PASSWORD"):
        change_password(home=home)


def test_a_new_network_key_takes_the_place_of_the_old_one_and_leaves_the_others(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_public_keys(home / "keystore.json")
    new_network(home=home)
    after = read_public_keys(home / "keystore.json")
    assert {name for name in before if before[name] != after[name]} == {"network"}
    assert capsys.readouterr().out.startswith(f"network  {peer_id_of(after['network'])}\n")


def test_a_new_consensus_key_stands_behind_the_old_one(home: Path) -> None:
    new_consensus(home=home)
    keys = load_keystore(home / "keystore.json", None, allow_insecure=True)
    assert [keys.consensus.public_key, len(keys.consensus_keys)] == [keys_of(0).consensus.public_key, 2]
    assert list(read_public_keys(home / "keystore.json")) == ["consensus", "oracle", "network", "consensus-2"]


@pytest.mark.parametrize("command", ["export", "import", "password", "new key", "signer"])
def test_a_home_in_use_is_left_alone_and_its_user_named(home: Path, tmp_path: Path, command: str) -> None:
    record = tmp_path / "record.json"
    export_protection(home=home, out=record)
    lock = HomeLock(home)
    try:
        with pytest.raises(
            OperatorError, match=rf"process {os.getpid()}\) is running with the home directory"
        ):
            match command:
                case "export":
                    export_protection(home=home, out=tmp_path / "other.json")
                case "import":
                    import_protection(record, home=home)
                case "password":
                    change_password(home=home)
                case "new key":
                    new_consensus(home=home)
                case _:
                    signer_commands.init(home=tmp_path / "s", node=home)
    finally:
        lock.release()


def test_the_record_goes_from_home_to_home_and_only_rises(home: Path, tmp_path: Path, capsys: Any) -> None:
    sign_up_to(home, Position(3, 120))
    record = tmp_path / "record.json"
    export_protection(home=home, out=record)
    assert json.loads(record.read_text()) == {
        "format": "quorate-protection",
        "version": 1,
        "chain_id": chain_id_of(GENESIS).hex(),
        "consensus_keys": [keys_of(0).consensus.public_key.hex()],
        "signed_up_to": {"epoch": 3, "view": 120},
    }
    moved = tmp_path / "moved"
    create_homes([moved], [keys_of(0)], GENESIS, [("127.0.0.1", 1)], password=None)
    import_protection(record, home=moved)
    assert position_of(moved) == Position(3, 120)
    sign_up_to(moved, Position(4, 1))
    import_protection(record, home=moved)
    assert position_of(moved) == Position(4, 1)
    assert "already beyond it, at epoch 4 view 1" in capsys.readouterr().out
    memory = recover(moved / "data" / "journal", moved / "keystore.watermark")
    assert (memory.observer_reason, journaled_position(memory.records)) == (None, Position(4, 1))


def test_a_home_without_any_record_gets_the_imported_one(home: Path, tmp_path: Path) -> None:
    sign_up_to(home, Position(3, 120))
    record = tmp_path / "record.json"
    export_protection(home=home, out=record)
    moved = tmp_path / "moved"
    create_homes([moved], [keys_of(0)], GENESIS, [("127.0.0.1", 1)], password=None)
    (moved / "keystore.watermark").unlink()
    import_protection(record, home=moved)
    assert position_of(moved) == Position(3, 120)


def test_a_home_that_lost_only_its_watermark_is_not_talked_into_signing(home: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    export_protection(home=home, out=record)
    sign_up_to(home, Position(3, 120))
    (home / "keystore.watermark").unlink()
    with pytest.raises(OperatorError, match="nobody knows how far this key has signed"):
        import_protection(record, home=home)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"chain_id": "00" * 32}, "is about chain 0000000000000000"),
        ({"consensus_keys": ["00" * 32]}, "is about other consensus keys"),
        ({"version": 2}, "is no protection file"),
        ({"signed_up_to": {"epoch": -1, "view": 0}}, "is no protection file"),
        ({"more": 1}, "is no protection file"),
    ],
)
def test_a_record_of_something_else_is_refused(
    home: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    record = tmp_path / "record.json"
    export_protection(home=home, out=record)
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    with pytest.raises(OperatorError, match=sentence):
        import_protection(record, home=home)


def test_a_signer_takes_the_consensus_keys_and_their_record_out_of_the_node(
    home: Path, tmp_path: Path
) -> None:
    sign_up_to(home, Position(2, 9))
    new_consensus(home=home)
    before = read_public_keys(home / "keystore.json")
    signer = tmp_path / "signer"
    signer_commands.init(home=signer, node=home)
    assert list(read_public_keys(home / "keystore.json")) == ["oracle", "network"]
    moved = {name: key for name, key in before.items() if name.startswith("consensus")}
    assert read_public_keys(signer / "keystore.json") == moved
    record = tmp_path / "record.json"
    export_protection(home=signer, out=record)
    assert json.loads(record.read_text())["signed_up_to"] == {"epoch": 2, "view": 9}
    keys = load_keystore(home / "keystore.json", None, allow_insecure=True)
    with pytest.raises(OperatorError, match=r"set \[signer\] address"):
        _ = keys.consensus
    with pytest.raises(OperatorError, match="holds no consensus key"):
        new_consensus(home=home)
