"""What the network edge says before any socket is open."""

from __future__ import annotations

from gossip.network import Lane, NetworkConfig, PeerConfig
from gossip.peer_id import peer_id_of_seed
from gossip.service import Libp2pNetwork
from primitives.identifiers import ChainId, ValidatorIndex

SEEDS = (b"\1" * 32, b"\2" * 32)
VALIDATORS = tuple(
    PeerConfig(ValidatorIndex(index), peer_id_of_seed(seed), "127.0.0.1", 1)
    for index, seed in enumerate(SEEDS)
)


def test_a_message_to_ourselves_is_refused_and_ends_nothing() -> None:
    """A validator that only observes runs a core without an index, which asks every validator for blocks."""
    own = NetworkConfig(ChainId(b"\7" * 32), ValidatorIndex(0), SEEDS[0], "127.0.0.1", 1, VALIDATORS)
    network = Libp2pNetwork(own)
    queued = [network.send(ValidatorIndex(index), Lane.VOTE, b"?") for index in (0, 1)]
    assert queued == [False, True]
