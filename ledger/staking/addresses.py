"""Network addresses as validators announce them: `/ip4/203.0.113.9/tcp/26600`, `/ip6/...`, `/dns/...`. Pure.

The part of libp2p's multiaddresses that this network speaks. Written out here, for what is an address must never
depend on a library's version. Source: https://github.com/multiformats/multiaddr
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ledger.staking.reasons import StakingReason
from primitives.errors import ProtocolViolation

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DNS = re.compile(rf"(?=[0-9.-]*[a-z])({_LABEL}\.)*{_LABEL}")
_IP4_PART = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IP4 = re.compile(rf"({_IP4_PART}\.){{3}}{_IP4_PART}")
_IP6_PART = re.compile("[0-9a-f]{1,4}")
_IP6_PARTS = 8
_PORT = re.compile("[1-9][0-9]{0,4}")
_PORT_MAX = 65_535


def address_text(host: str, port: int) -> str:
    """The text of an IP address or DNS name with a port; `parse_address` says whether it is one."""
    host = host.lower()
    kind = "ip6" if ":" in host else "ip4" if _IP4.fullmatch(host) else "dns"
    return f"/{kind}/{host}/tcp/{port}"


def parse_address(text: str) -> tuple[str, int]:
    """(host, port). Raises ProtocolViolation(BAD_PEER_ADDRESS) for anything else, capital letters too."""
    parts = text.split("/")
    if len(parts) == 5 and not parts[0] and parts[3] == "tcp" and _PORT.fullmatch(parts[4]):
        kind, host, port = parts[1], parts[2], int(parts[4])
        is_host = _HOSTS.get(kind)
        if is_host is not None and is_host(host) and port <= _PORT_MAX:
            return host, port
    raise ProtocolViolation(
        StakingReason.BAD_PEER_ADDRESS, f"{text[:64]!r} is not /ip4/ADDRESS/tcp/PORT, /ip6/... or /dns/..."
    )


def _is_ip6(host: str) -> bool:
    """Eight groups of hexadecimal digits, or fewer around one `::`; no embedded IPv4 address, no zone."""
    halves = host.split("::")
    groups = [group for half in halves if half for group in half.split(":")]
    is_short = len(halves) == 2 and len(groups) < _IP6_PARTS
    is_whole = len(halves) == 1 and len(groups) == _IP6_PARTS
    return (is_short or is_whole) and all(_IP6_PART.fullmatch(group) for group in groups)


_HOSTS: dict[str, Callable[[str], object]] = {"ip4": _IP4.fullmatch, "ip6": _is_ip6, "dns": _DNS.fullmatch}
