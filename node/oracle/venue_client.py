"""One venue's quote stream: connects, decodes, checks, reconnects. Trio sockets.

An adapter fills a VenueBook and never raises for what a venue does. The simulated venues speak our own frames; a real
exchange gets its own adapter behind the same Protocol, translating its WebSocket messages into quotes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from node.oracle.venue_book import VenueBook


class VenueAdapter(Protocol):
    """Anything that keeps a venue's newest quotes in a book."""

    book: VenueBook
    counters: Counter[str]
    """Refusals by reason, and `frames`, `quotes`, `connects`, `disconnects`, `connect_failed`."""

    async def run(self) -> None:
        """Stream until cancelled."""


class VenueClient:
    """Adapter for a venue that sends length-prefixed frames of our quotes.

    `address` is `unix:/path/to.sock` or `tcp:host:port`; `now_ns` is the market clock.
    """

    def __init__(self, address: str, book: VenueBook, now_ns: Callable[[], int]) -> None:
        self.address = address
        self.book = book
        self.counters: Counter[str] = Counter()
        self._now_ns = now_ns

    async def run(self) -> None:
        """Stream until cancelled, reconnecting with backoff."""
        raise NotImplementedError
