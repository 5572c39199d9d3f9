"""A node's home directory: keys, genesis, node.toml. Creates directories and files, overwrites none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from node.config import CONFIG_FILE, PeerAddress, load_config
from node.genesis import GenesisDocument, ValidatorEntry, save_genesis
from node.keystore import ValidatorKeys, save_keystore
from node.storage.watermark import Watermark
from primitives.errors import OperatorError


def entry_of(name: str, keys: ValidatorKeys, weight: int = 1) -> ValidatorEntry:
    """What genesis says about a validator with these keys."""
    return ValidatorEntry(
        name=name,
        consensus_key=keys.consensus.public_key,
        oracle_key=keys.oracle.public_key,
        peer_id=keys.peer_id,
        weight=weight,
    )


def create_homes(
    homes: Sequence[Path],
    keys: Sequence[ValidatorKeys],
    genesis: GenesisDocument,
    addresses: Sequence[tuple[str, int]],
    *,
    password: str | None,
    settings: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write every validator's home.

    Args:
        homes: one directory for each validator, in genesis' order; each must be new or empty.
        addresses: where each listens for the others, (host, port).
        password: of every keystore; None writes insecure ones.
        settings: further settings of each node.toml, by table, such as {"gateway": {"port": 26700}}.

    Raises:
        OperatorError: a home is in use, or cannot be written. Checked for all before the first is written.
    """
    for home in homes:
        check_empty(home)
    for index, (home, own) in enumerate(zip(homes, keys, strict=True)):
        peers = [
            PeerAddress(index=other, host=host, port=port)
            for other, (host, port) in enumerate(addresses)
            if other != index
        ]
        host, port = addresses[index]
        node: dict[str, Any] = {
            "name": genesis.validators[index].name,
            "index": index,
            "insecure_keys": password is None,
            "listen": {"host": host, "port": port},
            **(settings[index] if settings is not None else {}),
        }
        _create_home(home, own, genesis, node, peers, password=password)


def create_follower_home(
    home: Path,
    keys: ValidatorKeys,
    genesis: GenesisDocument,
    addresses: Mapping[int, tuple[str, int]],
    settings: Mapping[str, Any],
    password: str | None = None,
) -> None:
    """Write the home of a node that does not vote.

    Args:
        addresses: of the validators to follow, by index; at least one.
        settings: of its node.toml, such as {"name": "mirror", "gateway": {"port": 26700}}.
        password: of its keystore; None writes an insecure one.

    Raises:
        OperatorError: the home is in use, or cannot be written.
    """
    check_empty(home)
    peers = [PeerAddress(index=index, host=host, port=port) for index, (host, port) in addresses.items()]
    _create_home(home, keys, genesis, {"insecure_keys": True, **settings}, peers, password=password)


def _create_home(
    home: Path,
    keys: ValidatorKeys,
    genesis: GenesisDocument,
    node: Mapping[str, Any],
    peers: Sequence[PeerAddress],
    *,
    password: str | None,
) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        (home / CONFIG_FILE).write_text(config_toml(node, peers), encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"cannot write {home}: {error.strerror}") from None
    config = load_config(home)
    save_genesis(genesis, config.genesis_path)
    save_keystore(keys, config.keystore_path, password)
    Watermark.create(config.watermark_path)


def config_toml(node: Mapping[str, Any], peers: Sequence[PeerAddress] = ()) -> str:
    """TOML of a node's settings: scalars first, then tables one level deep, then the peers."""
    lines = ["# Settings of one Quorate node. Every setting with its meaning: configs/node.example.toml", ""]
    lines += [f"{name} = {_toml(value)}" for name, value in node.items() if not isinstance(value, Mapping)]
    for name, table in node.items():
        if isinstance(table, Mapping):
            lines += [
                "",
                f"[{name}]",
                *(f"{_toml_key(key)} = {_toml(value)}" for key, value in table.items()),
            ]
    for peer in peers:
        lines += [
            "",
            "[[peers]]",
            f"index = {peer.index}",
            f"host = {_toml(peer.host)}",
            f"port = {peer.port}",
            *([f"peer_id = {_toml(peer.peer_id)}"] if peer.peer_id else []),
        ]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    # JSON's strings, numbers and booleans are TOML's as well.
    return json.dumps(value)


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def check_empty(home: Path) -> None:
    """Raises OperatorError unless the home is new or an empty directory."""
    try:
        if home.exists() and (not home.is_dir() or any(home.iterdir())):
            raise OperatorError(f"{home} is not empty: nothing was written")
    except OSError as error:
        raise OperatorError(f"cannot use {home}: {error.strerror}") from None
