"""Where one validator is dialled, and where never. I/O: DNS, for announced names.

What the operator wrote is dialled as it is. What a validator announced for itself is only a claim: an address in a
private range would have every node knock at the doors of its own network, so only local networks dial those.
"""

from __future__ import annotations

import ipaddress
import socket

import trio

from gossip.link import StreamBroken
from gossip.network import PeerConfig

Endpoint = tuple[str, int]
RESOLVE_SECONDS_MAX = 5
"""How long the DNS may take."""


def endpoints_of(peer: PeerConfig) -> list[Endpoint]:
    """Where to dial a validator: the operator's own address of it first, then those that it announced."""
    own = [(peer.host, peer.port)] if peer.host else []
    return own + [endpoint for endpoint in peer.announced if endpoint not in own]


async def locate(peer: PeerConfig, turn: int, dials_private: bool) -> Endpoint:
    """The validator's address number `turn`, counted around; of an announced name, what it stands for.

    Raises:
        StreamBroken: it has none, or this one may not be dialled or is not found.
    """
    endpoints = endpoints_of(peer)
    if not endpoints:
        raise StreamBroken("no address is known")
    host, port = endpoints[turn % len(endpoints)]
    if dials_private or (host, port) == (peer.host, peer.port):
        return host, port
    for found in await _resolve(host, port):
        if is_public(found):
            return found, port
    raise StreamBroken(f"{host} is announced, but no public address")


def is_public(host: str) -> bool:
    """Whether an IP address (no name) is one that the whole internet reaches."""
    found = ipaddress.ip_address(host)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_global and not found.is_multicast


async def _resolve(host: str, port: int) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        with trio.fail_after(RESOLVE_SECONDS_MAX):
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, trio.TooSlowError) as error:
        raise StreamBroken(f"{host} is not found: {error}") from None
    return [str(entry[4][0]) for entry in found]
