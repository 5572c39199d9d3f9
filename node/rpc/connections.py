"""HTTP connections that cannot be held for nothing: bounds on heads, their time, and connections of one address.

asyncio. uvicorn bounds neither the size of a request's head nor the time it takes, and a connection without a
request would stay for ever.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from node.config import GatewayConfig

HEAD_BYTES_MAX = 32_768
"""Request line and headers; a longer head ends the connection."""
HEAD_SECONDS_MAX = 5.0
"""From the connection, or the first byte of a later request, to the end of the head."""
CONNECTIONS_PER_ADDRESS_MAX = 256
"""A further connection of that address is closed at once. Not behind a proxy, whose connections are everybody's."""


def protocol_of(config: GatewayConfig) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn."""

    class Bounded(BoundedHttp):
        gateway = config

    return Bounded


class BoundedHttp(HttpToolsProtocol):
    """One connection, until it becomes a WebSocket."""

    gateway: GatewayConfig

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one too many of an address; else wait for a head."""
        super().connection_made(transport)
        if self._is_one_too_many():
            transport.close()
        else:
            self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Parse, and give up on a head without end."""
        if not self._is_in_body and self._head_timer is None:
            self._expect_head()
        self._head_bytes += len(data)
        super().data_received(data)
        if not self._is_in_body and self._head_bytes > HEAD_BYTES_MAX:
            self.transport.close()

    def on_headers_complete(self) -> None:
        """The head is here, in time."""
        self._is_in_body = True
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next head begins."""
        self._is_in_body, self._head_bytes = False, 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left behind."""
        self._stop_timer()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS_MAX, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _is_one_too_many(self) -> bool:
        if self.client is None or len(self.connections) <= CONNECTIONS_PER_ADDRESS_MAX:
            return False
        host = self.client[0]
        if self.gateway.behind_tls_proxy or (not self.gateway.limit_loopback and is_this_machine(host)):
            return False
        clients = (getattr(item, "client", None) for item in self.connections)
        same = [client for client in clients if client is not None and client[0] == host]
        return len(same) > CONNECTIONS_PER_ADDRESS_MAX


def is_this_machine(address: str) -> bool:
    """Whether a peer's address is loopback; no address at all is a Unix socket."""
    try:
        return not address or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
