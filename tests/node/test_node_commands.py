"""The command line: what it writes, and one line with exit code 2 for each of the operator's mistakes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from node.config import load_config
from node.genesis import chain_id_of, load_genesis
from node.genesis_defaults import DEFAULT_INDEX_USD, default_listing, scheduled_instruments
from node.keystore import load_keystore
from node.storage.watermark import START, Watermark, observer_reason
from primitives.amounts import USD


def quorate(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", *(str(argument) for argument in arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).resolve().parents[2]), **environment},
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of four with insecure keys."""
    home = tmp_path_factory.mktemp("network")
    done = quorate("init", "--home", home, "--validators", 4, "--insecure-keys")
    assert (done.returncode, done.stderr) == (0, "")
    return home


def test_init_writes_a_home_for_each_validator_of_one_chain(network: Path) -> None:
    homes = [network / f"node{index}" for index in range(4)]
    configs = [load_config(home) for home in homes]
    genesis = [load_genesis(config.genesis_path) for config in configs]
    assert len({chain_id_of(document) for document in genesis}) == 1
    for index, config in enumerate(configs):
        keys = load_keystore(config.keystore_path, None, allow_insecure=True)
        entry = genesis[0].validators[index]
        assert (config.index, entry.peer_id) == (index, keys.peer_id)
        assert entry.consensus_key == keys.consensus.public_key
        assert {peer.index for peer in config.peers} == {0, 1, 2, 3} - {index}
        assert observer_reason(Watermark.open(config.watermark_path), START) is None
    assert len({config.gateway.port for config in configs}) == 4


def test_a_new_network_lists_by_itself_from_the_first_day_on(network: Path) -> None:
    ledger = load_genesis(network / "node0" / "genesis.json").ledger
    assert ledger.protection.listing == default_listing()
    index_uusd = {underlying: usd * USD for underlying, usd in DEFAULT_INDEX_USD.items()}
    assert list(ledger.instruments) == scheduled_instruments(ledger.time_ns, index_uusd, default_listing())


def test_init_overwrites_nothing(network: Path) -> None:
    before = (network / "node0" / "keystore.json").read_bytes()
    again = quorate("init", "--home", network, "--insecure-keys")
    assert again.returncode == 2
    assert again.stderr == f"quorate: {network / 'node0'} is not empty: nothing was written\n"
    assert (network / "node0" / "keystore.json").read_bytes() == before


def test_init_encrypts_under_the_password_of_the_environment(tmp_path: Path) -> None:
    done = quorate("init", "--home", tmp_path, "--validators", 1, QUORATE_PASSWORD="correct horse")
    assert done.returncode == 0, done.stderr
    keystore = tmp_path / "node0" / "keystore.json"
    assert load_keystore(keystore, "correct horse").peer_id in done.stdout
    started = quorate("start", "--home", tmp_path / "node0", QUORATE_PASSWORD="wrong horse")
    assert started.returncode == 2
    assert started.stderr == f"quorate: wrong password for the keystore {keystore}, or the file was altered\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("init", "--home", "{home}", "--validators", "1"),
            "no password: give --password-file or set QUORATE_PASSWORD",
        ),
        (
            ("init", "--home", "{home}", "--hosts", "a", "--insecure-keys"),
            "--hosts names 1 addresses for 4 validators",
        ),
        (("init", "--home", "{home}", "--port", "65535", "--insecure-keys"), "must leave room for one port"),
        (("start", "--home", "{home}"), "there is no configuration at {home}/node.toml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    home = tmp_path / "new"
    done = quorate(*(argument.format(home=home) for argument in arguments))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert sentence.format(home=home) in done.stderr
    assert not home.exists()


def test_help_is_quick_and_shows_examples() -> None:
    began = time.monotonic()
    done = quorate("--help")
    assert time.monotonic() - began < 2, "half a second on a quiet machine"
    assert "quorate testnet up" in done.stdout
    assert "quorate init --home network" in quorate("init", "--help").stdout


def test_what_is_heavy_is_not_imported_for_help() -> None:
    script = (
        "import sys, node.__main__; print(sorted({'trio', 'numpy', 'libp2p', 'lmdb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
