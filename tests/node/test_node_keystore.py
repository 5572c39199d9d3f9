"""Keys on disk: what opens them, and what one clear sentence each refusal is."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from node.keystore import ValidatorKeys, load_keystore, load_seeds, read_password, save_keystore, save_seeds
from primitives.errors import OperatorError

KEYS = ValidatorKeys(b"\1" * 32, b"\2" * 32, b"\3" * 32)
PASSWORD = "correct horse"
QUICK = 14
"""log2 of scrypt's cost in tests: the lowest that is accepted."""


@pytest.fixture
def keystore(tmp_path: Path) -> Path:
    path = tmp_path / "keystore.json"
    save_keystore(KEYS, path, PASSWORD, log_n=QUICK)
    return path


def test_the_password_opens_the_same_keys(keystore: Path) -> None:
    assert load_keystore(keystore, PASSWORD).seeds() == KEYS.seeds()
    assert keystore.stat().st_mode & 0o777 == 0o600


def test_no_secret_stands_in_an_encrypted_file(keystore: Path) -> None:
    assert not any(seed.hex() in keystore.read_text() for seed in KEYS.seeds())


def test_a_password_is_the_same_however_its_letters_are_composed(tmp_path: Path) -> None:
    path = tmp_path / "keystore.json"
    save_keystore(KEYS, path, "Käsekuchen", log_n=QUICK)
    assert load_keystore(path, "Ka\u0308sekuchen").seeds() == KEYS.seeds()


def test_a_wrong_password_is_refused(keystore: Path) -> None:
    with pytest.raises(OperatorError, match=f"wrong password for the keystore {keystore}"):
        load_keystore(keystore, "wrong horse")


def test_no_password_is_refused(keystore: Path) -> None:
    with pytest.raises(OperatorError, match="is encrypted: a password is needed"):
        load_keystore(keystore, None)


def test_a_keystore_that_others_can_read_is_refused(keystore: Path) -> None:
    keystore.chmod(0o640)
    with pytest.raises(OperatorError, match=r"open to other users \(mode 0640\): chmod 600 it"):
        load_keystore(keystore, PASSWORD)


def test_a_missing_keystore_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"there is no keystore at .*: `quorate init` writes one"):
        load_keystore(tmp_path / "none.json", PASSWORD)


def test_a_keystore_is_never_overwritten(keystore: Path) -> None:
    with pytest.raises(OperatorError, match="exists already and is never overwritten"):
        save_keystore(KEYS, keystore, PASSWORD, log_n=QUICK)


def test_a_short_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="at least 8 characters"):
        save_keystore(KEYS, tmp_path / "keystore.json", "short")
    assert list(tmp_path.iterdir()) == []


def damaged(document: dict[str, object], how: str) -> object:
    encryption = document["encryption"]
    assert isinstance(encryption, dict)
    match how:
        case "other public key":
            return {**document, "public": {"consensus": "00" * 32}}
        case "memory bomb":
            return {**document, "encryption": {**encryption, "log_n": 40}}
        case "trivial derivation":
            return {**document, "encryption": {**encryption, "log_n": 1}}
        case "not hexadecimal":
            return {**document, "secret": "zz"}
        case "short nonce":
            return {**document, "encryption": {**encryption, "nonce": "00"}}
        case "newer version":
            return {**document, "version": 2}
        case "both forms":
            return {**document, "insecure": True}
        case _:
            return [how]


@pytest.mark.parametrize(
    "how",
    [
        *("other public key", "memory bomb", "trivial derivation", "not hexadecimal", "short nonce"),
        *("newer version", "both forms", "no object"),
    ],
)
def test_a_damaged_keystore_is_one_clear_sentence(keystore: Path, how: str) -> None:
    keystore.write_text(json.dumps(damaged(json.loads(keystore.read_text()), how)))
    with pytest.raises(OperatorError, match=rf"the keystore {keystore} is corrupt: restore it from a copy"):
        load_keystore(keystore, PASSWORD)


def test_an_altered_public_key_is_noticed(keystore: Path) -> None:
    document = json.loads(keystore.read_text())
    document["public"]["oracle"] = "00" * 32
    keystore.write_text(json.dumps(document))
    with pytest.raises(OperatorError, match="or the file was altered"):
        load_keystore(keystore, PASSWORD)


def test_an_insecure_keystore_opens_only_with_leave(tmp_path: Path) -> None:
    path = tmp_path / "keystore.json"
    save_keystore(KEYS, path, None)
    assert load_keystore(path, None, allow_insecure=True).seeds() == KEYS.seeds()
    with pytest.raises(OperatorError, match="not encrypted: start with --insecure-keys if this is a testnet"):
        load_keystore(path, None)


def test_other_keys_are_not_a_validators(tmp_path: Path) -> None:
    path = tmp_path / "custodian.json"
    save_seeds({"custodian": b"\4" * 32}, path, None)
    assert load_seeds(path, None, allow_insecure=True) == {"custodian": b"\4" * 32}
    with pytest.raises(OperatorError, match="holds custodian: not the keys of a validator"):
        load_keystore(path, None, allow_insecure=True)


def test_keys_never_leave_by_accident() -> None:
    assert not any(seed.hex() in repr(KEYS) for seed in KEYS.seeds())
    with pytest.raises(TypeError):
        pickle.dumps(KEYS)


def test_the_password_comes_from_the_file_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from the file\nsecond line\n")
    environment = {"QUORATE_PASSWORD": "from the environment"}
    assert read_password(file, environment, "") == "from the file"
    assert read_password(None, environment, "") == "from the environment"


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "cannot read"), ("", "is empty"), ("\n", "is empty")]
)
def test_a_useless_password_file_is_refused(tmp_path: Path, content: str | None, sentence: str) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_text(content)
    with pytest.raises(OperatorError, match=sentence):
        read_password(file, {}, "")
