"""A node of the network tests as its own process, told what to do on standard input.

Started as `python network_node.py INDEX PORT...`.

Prints one JSON line per event: {"up": [indices]}, {"got": [peer, lane, text]}. Commands: "say TEXT"
broadcasts a vote, "body TEXT" broadcasts on the bulk lane.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import structlog
import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from gossip.network import Inbound, Lane, NetworkConfig, PeerConfig
from gossip.peer_id import peer_id_of_seed
from gossip.service import Libp2pNetwork
from primitives.identifiers import ChainId, ValidatorIndex


def seed_of(index: int) -> bytes:
    """The libp2p identity of a test validator."""
    return bytes([index + 1]) * 32


def a_config(index: int, ports: list[int]) -> NetworkConfig:
    """Validator `index` among those that listen on `ports` of loopback."""
    validators = tuple(
        PeerConfig(ValidatorIndex(i), peer_id_of_seed(seed_of(i)), "127.0.0.1", port)
        for i, port in enumerate(ports)
    )
    return NetworkConfig(
        ChainId(b"\7" * 32), ValidatorIndex(index), seed_of(index), "127.0.0.1", ports[index], validators
    )


def tell(**event: object) -> None:
    """One event to whoever started us."""
    print(json.dumps(event), flush=True)


async def report_inbound(channel: trio.MemoryReceiveChannel[Inbound]) -> None:
    async for inbound in channel:
        for message in inbound.messages:
            tell(got=[inbound.peer, inbound.lane.name, message.decode()])


async def report_links(network: Libp2pNetwork) -> None:
    last: list[int] | None = None
    while True:
        up = [int(peer.index) for peer in network.peers() if peer.connected]
        if up != last:
            tell(up=up)
            last = up
        await trio.sleep(0.02)


async def obey(network: Libp2pNetwork) -> None:
    async for line in trio.lowlevel.FdStream(0):
        for command in line.decode().splitlines():
            verb, _, text = command.partition(" ")
            network.broadcast({"say": Lane.VOTE, "body": Lane.BULK}[verb], text.encode())


async def main(index: int, ports: list[int]) -> None:
    network = Libp2pNetwork(a_config(index, ports))
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        nursery.start_soon(report_inbound, network.votes)
        nursery.start_soon(report_inbound, network.bulk)
        nursery.start_soon(report_links, network)
        await obey(network)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(partial(main, int(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
