"""Who a node is on the network, and where the validators are: from its configuration, genesis and keys. Pure.

A validator is its own face to the others, or has sentries that are; a follower has no lanes, a sentry its validator's.
"""

from __future__ import annotations

import ipaddress

from gossip.network import Network, NetworkConfig, PeerConfig, Topic
from gossip.relay import SentryNetwork, private_peer_id
from gossip.request_response import OnRequest
from gossip.service import Libp2pNetwork
from node.config import NodeConfig
from node.genesis import GenesisDocument, chain_id_of
from node.keystore import ValidatorKeys
from primitives.errors import OperatorError
from primitives.identifiers import ValidatorIndex


def open_network(
    config: NodeConfig, genesis: GenesisDocument, keys: ValidatorKeys, on_request: OnRequest | None = None
) -> SentryNetwork | Libp2pNetwork:
    """Through our own sentries if there are any, else directly. Raises OperatorError as `network_config`."""
    found = network_config(config, genesis, keys)
    if config.sentries:
        return SentryNetwork(found, [(sentry.host, sentry.port) for sentry in config.sentries])
    return Libp2pNetwork(found, on_request)


def others_in(network: Network) -> list[ValidatorIndex]:
    """Every validator that a network knows, but the one that we are or stand before."""
    return [peer.index for peer in network.peers()]


def face_of(config: NodeConfig) -> int | None:
    """The validator under whose identity this node is on the network; None for a plain follower."""
    return config.index if config.index is not None else config.sentry.validator


def known_validators(
    config: NodeConfig, genesis: GenesisDocument, keys: ValidatorKeys
) -> tuple[PeerConfig, ...]:
    """What is known before the state is asked: genesis' validators and those whose peer id node.toml tells, by index.

    Ourselves are among them, under our own network key.
    """
    written = {peer.index: peer for peer in config.peers}
    peer_ids = {index: peer.peer_id for index, peer in written.items() if peer.peer_id}
    peer_ids |= {index: entry.peer_id for index, entry in enumerate(genesis.validators)}
    found = {
        index: PeerConfig(ValidatorIndex(index), peer_id, written[index].host, written[index].port)
        if index in written
        else PeerConfig(ValidatorIndex(index), peer_id, "", 0)
        for index, peer_id in peer_ids.items()
    }
    own = face_of(config)
    if own is not None:
        found[own] = PeerConfig(ValidatorIndex(own), keys.peer_id, config.listen.host, config.listen.port)
    return tuple(found[index] for index in sorted(found))


def network_config(config: NodeConfig, genesis: GenesisDocument, keys: ValidatorKeys) -> NetworkConfig:
    """What `gossip.service.Libp2pNetwork` is built from.

    Raises:
        OperatorError: node.toml names nobody at all.
    """
    own = face_of(config)
    peers = known_validators(config, genesis, keys)
    others = [peer for peer in peers if peer.index != own]
    if others and not config.sentries and not any(peer.host for peer in others):
        raise OperatorError("node.toml names no address of any validator: there is nobody to start from")
    return NetworkConfig(
        chain_id=chain_id_of(genesis),
        own_index=None if own is None else ValidatorIndex(own),
        identity_seed=keys.network_seed,
        listen_host=config.listen.host,
        listen_port=config.listen.port,
        validators=peers,
        sentry_of=private_peer_id(keys.network_seed) if config.sentry.validator is not None else "",
        dials_private=config.listen.dial_private or listens_privately(config),
        topics=() if config.index is not None else (Topic.FINAL_BLOCKS,),
    )


def listens_privately(config: NodeConfig) -> bool:
    """Whether our own address is one of a private range (not "all of them"): then the network is a local one."""
    try:
        found = ipaddress.ip_address(config.listen.host)
    except ValueError:
        return False
    return not found.is_unspecified and not found.is_global
