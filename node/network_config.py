"""Who a node is on the network, and where the validators are: from its configuration, genesis and keys. Pure."""

from __future__ import annotations

from gossip.network import NetworkConfig, PeerConfig, Topic
from node.config import NodeConfig
from node.genesis import GenesisDocument, chain_id_of
from node.keystore import ValidatorKeys
from primitives.errors import OperatorError
from primitives.identifiers import ValidatorIndex


def network_config(config: NodeConfig, genesis: GenesisDocument, keys: ValidatorKeys) -> NetworkConfig:
    """What `gossip.service.Libp2pNetwork` is built from.

    Raises:
        OperatorError: a validator's node.toml must name every other validator, a follower's at least one.
    """
    addresses = {peer.index: (peer.host, peer.port) for peer in config.peers}
    peers: list[PeerConfig] = []
    for index, entry in enumerate(genesis.validators):
        own = (config.listen.host, config.listen.port) if index == config.index else None
        address = own or addresses.get(index)
        if address is None and config.index is not None:
            raise OperatorError(f"node.toml names no address for validator {index} ({entry.name})")
        peers.append(PeerConfig(ValidatorIndex(index), entry.peer_id, *(address or ("", 0))))
    if not any(peer.host for peer in peers):
        raise OperatorError("node.toml names no address of any validator: there is nobody to follow")
    own_index = None if config.index is None else ValidatorIndex(config.index)
    return NetworkConfig(
        chain_id=chain_id_of(genesis),
        own_index=own_index,
        identity_seed=keys.network_seed,
        listen_host=config.listen.host,
        listen_port=config.listen.port,
        validators=tuple(peers),
        topics=() if own_index is not None else (Topic.FINAL_BLOCKS,),
    )
