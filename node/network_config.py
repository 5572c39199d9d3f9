"""Who a node is on the network, and where the validators are: from its configuration, genesis and keys. Pure.

A validator is its own face to the others, or has sentries that are; a follower has no lanes, a sentry its validator's.
"""

from __future__ import annotations

from gossip.network import NetworkConfig, PeerConfig, Topic
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


def other_validators(config: NodeConfig, genesis: GenesisDocument) -> list[ValidatorIndex]:
    """Everybody but the validator that we are or stand before."""
    known = {*range(len(genesis.validators)), *(peer.index for peer in config.peers)}
    return [ValidatorIndex(index) for index in sorted(known - {face_of(config)})]


def face_of(config: NodeConfig) -> int | None:
    """The validator under whose identity this node is on the network; None for a plain follower."""
    return config.index if config.index is not None else config.sentry.validator


def _check_sentry(config: NodeConfig, genesis: GenesisDocument, keys: ValidatorKeys) -> None:
    """That a sentry has the network key of its validator, as far as genesis tells. Raises OperatorError."""
    index, count = config.sentry.validator or 0, len(genesis.validators)
    if index < count and keys.peer_id != genesis.validators[index].peer_id:
        raise OperatorError(
            f"the network key in {config.keystore_path} is not that of validator {index} "
            f"({genesis.validators[index].name}): quorate init-sentry writes a sentry's home"
        )


def _joined_later(config: NodeConfig, genesis: GenesisDocument, keys: ValidatorKeys) -> list[PeerConfig]:
    """Validators that are not in genesis, ourselves perhaps among them, by place. Raises OperatorError."""
    count, found = len(genesis.validators), {}
    for peer in config.peers:
        if peer.index < count:
            continue
        if not peer.peer_id:
            raise OperatorError(
                f"node.toml: peers: validator {peer.index} joined later, so it needs its peer_id"
            )
        found[peer.index] = PeerConfig(ValidatorIndex(peer.index), peer.peer_id, peer.host, peer.port)
    own = face_of(config)
    if own is not None and own >= count:
        listens = (config.listen.host, config.listen.port)
        found[own] = PeerConfig(ValidatorIndex(own), keys.peer_id, *listens)
    return [found[index] for index in sorted(found)]


def network_config(config: NodeConfig, genesis: GenesisDocument, keys: ValidatorKeys) -> NetworkConfig:
    """What `gossip.service.Libp2pNetwork` is built from.

    Raises:
        OperatorError: a validator's node.toml must name every other validator, a follower's at least one.
    """
    if config.sentry.validator is not None:
        _check_sentry(config, genesis, keys)
    addresses = {peer.index: (peer.host, peer.port) for peer in config.peers}
    own = face_of(config)
    own_index = None if own is None else ValidatorIndex(own)
    peers: list[PeerConfig] = []
    for index, entry in enumerate(genesis.validators):
        listens = (config.listen.host, config.listen.port) if index == own_index else None
        address = listens or addresses.get(index)
        if address is None and own_index is not None and not config.sentries:
            raise OperatorError(f"node.toml names no address for validator {index} ({entry.name})")
        peers.append(PeerConfig(ValidatorIndex(index), entry.peer_id, *(address or ("", 0))))
    peers += _joined_later(config, genesis, keys)
    if not config.sentries and not any(peer.host for peer in peers):
        raise OperatorError("node.toml names no address of any validator: there is nobody to follow")
    return NetworkConfig(
        chain_id=chain_id_of(genesis),
        own_index=own_index,
        identity_seed=keys.network_seed,
        listen_host=config.listen.host,
        listen_port=config.listen.port,
        validators=tuple(peers),
        sentry_of=private_peer_id(keys.network_seed) if config.sentry.validator is not None else "",
        topics=() if config.index is not None else (Topic.FINAL_BLOCKS,),
    )
