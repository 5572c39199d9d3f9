"""Where a venue is: one of our own sockets, or an exchange's WebSocket. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

from primitives.errors import OperatorError

EXCHANGES = ("binance", "bybit", "coinbase", "deribit", "kraken", "okx")
"""Those with an adapter; an address such as `kraken:wss://host/path` names one."""
FORMS = "unix:/path, tcp:host:port or <exchange>:wss://host/path"


def parse_exchange(address: str) -> tuple[str, str] | None:
    """(exchange, WebSocket URL) of an exchange's address; None for any other address.

    Raises:
        OperatorError: an exchange without a ws: or wss: URL.
    """
    exchange, _, url = address.partition(":")
    if exchange not in EXCHANGES:
        return None
    if not url.startswith(("ws://", "wss://")) or not host_of(url):
        raise OperatorError(f"{address!r} is no address of an exchange: write {exchange}:wss://host/path.")
    return exchange, url.rstrip("/")


def host_of(url: str) -> str:
    """The host a URL names; empty if it names none or its port is no port."""
    try:
        parts = urlsplit(url)
        return (parts.hostname or "") if parts.port != 0 else ""
    except ValueError:
        return ""
