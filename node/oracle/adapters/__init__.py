"""Exchanges' public feeds as venues: one file per exchange, one runner for all, one factory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ledger.instruments import Instrument
from node.oracle.adapters import binance, bybit, coinbase, deribit, kraken, okx
from node.oracle.adapters.connection import WebSocketAdapter
from node.oracle.adapters.said import Feed
from node.oracle.addresses import parse_exchange
from node.oracle.venue_book import VenueBook, series_of
from node.oracle.venue_client import VenueAdapter, VenueClient

FEEDS: Mapping[str, Sequence[Feed]] = {
    "binance": binance.FEEDS,
    "bybit": bybit.FEEDS,
    "coinbase": coinbase.FEEDS,
    "deribit": deribit.FEEDS,
    "kraken": kraken.FEEDS,
    "okx": okx.FEEDS,
}


def open_adapter(
    name: str, address: str, listed: Sequence[Instrument], speed: float, now_ns: Callable[[], int]
) -> VenueAdapter:
    """The adapter for a venue's address, not yet running.

    Args:
        listed: instruments that Quorate lists now; nothing else is asked for, and nothing else is believed.
        speed: market time per real time, for the limits that exist because of networks.
        now_ns: the market clock, which for an exchange must be the wall clock.

    Raises:
        OperatorError: no address of a venue.
    """
    book = VenueBook(name, series_of(listed), speed)
    exchange = parse_exchange(address)
    if exchange is None:
        return VenueClient(address, book, now_ns)
    kind, url = exchange
    return WebSocketAdapter(url, FEEDS[kind], listed, book, now_ns)
