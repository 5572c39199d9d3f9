"""Validators that are not in genesis: who they are on the network, and whose place it is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gossip.network import PeerConfig
from node.config import NodeConfig, PeerAddress, load_config
from node.genesis import save_genesis
from node.home import config_toml
from node.init_command import initialise_validator
from node.keystore import load_keystore
from node.network_config import network_config
from node.wiring import check_identity
from primitives.errors import OperatorError
from primitives.identifiers import ValidatorIndex
from tests.node.network_of_nodes import a_genesis, keys_of

GENESIS = a_genesis(2)
KNOWN = tuple(PeerAddress(index=index, host="127.0.0.1", port=1_000 + index) for index in range(2))
NEWCOMER = PeerAddress(index=2, host="10.0.0.9", port=1_002, peer_id=keys_of(2).peer_id)


def a_config(index: int, *peers: PeerAddress) -> NodeConfig:
    return NodeConfig(name="one", index=index, peers=peers)


def test_a_later_place_is_dialled_at_the_address_and_peer_id_of_node_toml() -> None:
    found = network_config(a_config(0, KNOWN[1], NEWCOMER), GENESIS, keys_of(0))
    assert found.validators[2] == PeerConfig(ValidatorIndex(2), keys_of(2).peer_id, "10.0.0.9", 1_002)


def test_a_later_place_without_peer_id_waits_for_the_chain_to_tell_it() -> None:
    nameless = msgspec.structs.replace(NEWCOMER, peer_id="")
    found = network_config(a_config(0, KNOWN[1], nameless), GENESIS, keys_of(0))
    assert [peer.index for peer in found.validators] == [0, 1]


def test_a_newcomer_is_itself_on_the_network() -> None:
    config = a_config(2, *KNOWN)
    check_identity(config, GENESIS, keys_of(2))
    found = network_config(config, GENESIS, keys_of(2))
    assert found.own_index == 2
    assert found.validators[2].peer_id == keys_of(2).peer_id


def test_node_toml_keeps_the_peer_id(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text(config_toml({"name": "one", "index": 0}, [KNOWN[1], NEWCOMER]))
    assert load_config(tmp_path).peers == (KNOWN[1], NEWCOMER)


def test_a_newcomers_home_follows_and_has_all_keys(tmp_path: Path) -> None:
    save_genesis(GENESIS, tmp_path / "genesis.json")
    home = tmp_path / "mine"
    peers = ["127.0.0.1:1000", "127.0.0.1:1001"]
    told = initialise_validator(
        home, tmp_path / "genesis.json", peers, listen=("127.0.0.1", 1_002), gateway_port=2_000, password=None
    )
    config = load_config(home)
    keys = load_keystore(config.keystore_path, None, allow_insecure=True)
    assert (config.index, config.listen.port, config.peers) == (None, 1_002, KNOWN)
    assert told[1:3] == [f"{home}  {keys.peer_id}", f"consensus key {keys.consensus.public_key.hex()}"]
    assert config.watermark_path.exists()


def test_a_newcomer_needs_one_address_to_start_from(tmp_path: Path) -> None:
    save_genesis(GENESIS, tmp_path / "genesis.json")

    def initialise(*peers: str) -> None:
        initialise_validator(
            tmp_path / "mine",
            tmp_path / "genesis.json",
            peers,
            listen=("127.0.0.1", 1_002),
            gateway_port=2_000,
            password=None,
        )

    with pytest.raises(OperatorError, match="--peers names no validator"):
        initialise("-", "-")
    initialise("-", "127.0.0.1:1001")
    assert load_config(tmp_path / "mine").peers == KNOWN[1:]
