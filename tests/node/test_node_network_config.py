"""Who a node is on the network: validator, follower, sentry, a validator behind sentries, one that joined later."""

from __future__ import annotations

import msgspec
import pytest

from gossip.network import Topic
from gossip.relay import SentryNetwork, private_peer_id
from gossip.service import Libp2pNetwork
from node.config import ListenConfig, NodeConfig, PeerAddress, SentryAddress, SentryConfig
from node.network_config import network_config, open_network, others_in
from primitives.errors import OperatorError
from tests.node.network_of_nodes import a_genesis, keys_of

GENESIS = a_genesis(3)
ADDRESSES = tuple(PeerAddress(index=index, host="10.0.0.1", port=100 + index) for index in range(3))


def a_config(**changes: object) -> NodeConfig:
    return msgspec.structs.replace(NodeConfig(home="/nowhere", name="x", peers=ADDRESSES), **changes)


def test_a_follower_may_know_only_some_validators() -> None:
    config = a_config(peers=ADDRESSES[1:2])
    found = network_config(config, GENESIS, keys_of(9))
    assert [peer.host for peer in found.validators] == ["", "10.0.0.1", ""]
    assert (found.own_index, found.sentry_of, found.topics) == (None, "", (Topic.FINAL_BLOCKS,))
    assert others_in(open_network(config, GENESIS, keys_of(9))) == [0, 1, 2]


def test_a_follower_of_nobody_is_refused() -> None:
    with pytest.raises(OperatorError, match="there is nobody to start from"):
        network_config(a_config(peers=()), GENESIS, keys_of(9))


def test_a_sentry_has_its_validators_face() -> None:
    config = a_config(sentry=SentryConfig(validator=2), peers=ADDRESSES[:2])
    found = network_config(config, GENESIS, keys_of(2))
    assert (found.own_index, found.topics) == (2, (Topic.FINAL_BLOCKS,))
    assert found.sentry_of == private_peer_id(keys_of(2).network_seed)
    network = open_network(config, GENESIS, keys_of(2))
    assert others_in(network) == [0, 1]
    assert isinstance(network, Libp2pNetwork)


def test_a_validator_behind_sentries_needs_no_other_address() -> None:
    config = a_config(index=1, peers=(), sentries=(SentryAddress(host="10.0.0.9", port=1),))
    assert isinstance(open_network(config, GENESIS, keys_of(1)), SentryNetwork)


def test_a_validator_needs_one_address_to_start_from() -> None:
    found = network_config(a_config(index=1, peers=ADDRESSES[:1]), GENESIS, keys_of(1))
    assert [peer.host for peer in found.validators] == ["10.0.0.1", "127.0.0.1", ""]
    with pytest.raises(OperatorError, match="there is nobody to start from"):
        network_config(a_config(index=1, peers=()), GENESIS, keys_of(1))


@pytest.mark.parametrize(
    ("host", "dial_private", "dials_private"),
    [
        ("127.0.0.1", False, True),
        ("10.0.0.7", False, True),
        ("203.0.114.7", False, False),
        ("0.0.0.0", False, False),
        ("0.0.0.0", True, True),
        ("validator.example", False, False),
    ],
)
def test_announced_private_addresses_are_dialled_where_the_network_is_a_local_one(
    host: str, dial_private: bool, dials_private: bool
) -> None:
    config = a_config(index=1, listen=ListenConfig(host=host, dial_private=dial_private))
    assert network_config(config, GENESIS, keys_of(1)).dials_private is dials_private


def test_one_who_joined_later_may_stand_behind_a_sentry_too() -> None:
    config = a_config(index=7, sentries=(SentryAddress(host="10.0.0.9", port=1),))
    network = open_network(config, GENESIS, keys_of(7))
    assert isinstance(network, SentryNetwork)
    assert [peer.index for peer in network.peers()] == [0, 1, 2]
    face = a_config(sentry=SentryConfig(validator=7))
    assert network_config(face, GENESIS, keys_of(7)).validators[-1].peer_id == keys_of(7).peer_id
