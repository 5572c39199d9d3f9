"""Measures how far the chain's marks are from the market's noiseless values. Trio; reads a validator's store.

epsilon of an instrument: |value on the truth stream - chain mark|, in basis points of the underlying's index, at the
moment a block became final here: so the chain's own latency is part of it. The spread is the venues' own, of the same
instrument at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from ledger.instruments import Instrument, Kind
from ledger.listing import Listing
from ledger.state_keys import listing_key
from node.oracle.quotes import ChainSnapshot
from node.oracle.venue_book import VenueBook, series_of
from node.oracle.venue_client import VenueClient
from node.rpc.views import MarksView, ViewName
from node.storage.block_store import BlockStore
from primitives.codec import decode_own
from testnet.drift import DriftLog

SAMPLE_SECONDS = 1.0
BP = 10_000


class Truth:
    """Follows the truth stream and one honest venue; samples epsilon and spread once a second."""

    def __init__(
        self,
        truth_address: str,
        venue_address: str,
        instruments: Sequence[Instrument],
        speed: float,
        now_ns: Callable[[], int],
        store_path: Path,
    ) -> None:
        self.instruments = {item.id: item for item in instruments}
        """Everything listed so far."""
        self._truth = VenueClient(truth_address, VenueBook("truth", series_of(instruments), speed), now_ns)
        self._venue = VenueClient(venue_address, VenueBook("venue", series_of(instruments), speed), now_ns)
        self._store_path = store_path
        self.epsilon_bp: list[float] = []
        self.spread_bp: list[float] = []
        self.marks: MarksView | None = None
        self.drift = DriftLog(self.instruments)

    async def run(self) -> None:
        """Sample until cancelled. Start it after the first final block: the validator's store must exist."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._truth.run)
            nursery.start_soon(self._venue.run)
            store = BlockStore.open(self._store_path, read_only=True)
            try:
                while True:
                    await trio.sleep(SAMPLE_SECONDS)
                    raw = store.view(ViewName.MARKS.value)
                    if raw is not None:
                        self.marks = decode_own(MarksView, raw)
                        self._follow_listing(store, self.marks)
                        self._sample(self.marks)
                    self.drift.look(store)
            finally:
                store.close()

    def _follow_listing(self, store: BlockStore, marks: MarksView) -> None:
        """Know what was listed since, and follow it on the streams."""
        new = [row.instrument for row in marks.rows if row.instrument not in self.instruments]
        leaves = [leaf for item in new if (leaf := store.leaf(listing_key(item))) is not None]
        for leaf in leaves:
            instrument = decode_own(Listing, leaf).instrument
            self.instruments[instrument.id] = instrument
        if leaves:
            for client in (self._truth, self._venue):
                client.relist(list(self.instruments.values()))

    def index_usd(self, underlying: int) -> float | None:
        """The true index now, None before the first quote."""
        quote = self._truth.book.indexes.get(underlying)
        return None if quote is None else (quote.bid_uusd + quote.ask_uusd) / 2e6

    def _sample(self, marks: MarksView) -> None:
        true = _option_quotes(self._truth.book)
        quoted = _option_quotes(self._venue.book)
        for row in marks.rows:
            item = self.instruments.get(row.instrument)
            index = self.index_usd(item.underlying) if item is not None else None
            if item is None or index is None:
                continue
            if item.kind == Kind.PERPETUAL:
                self.epsilon_bp.append(abs(index - row.mark_uusd / 1e6) / index * BP)
                continue
            key = (item.underlying, item.expiry_ns, item.strike_uusd, item.kind)
            if item.expiry_ns <= marks.time_ns or key not in true:
                continue
            bid, ask = true[key]
            self.epsilon_bp.append(abs((bid + ask) / 2 - row.mark_uusd) / 1e6 / index * BP)
            bid, ask = quoted.get(key, (0, 0))
            if bid and ask:
                self.spread_bp.append((ask - bid) / 1e6 / index * BP)


def _option_quotes(book: VenueBook) -> dict[tuple[int, int, int, int], tuple[int, int]]:
    """(bid, ask) in micro-USD by (underlying, expiry, strike, kind)."""
    quotes: dict[tuple[int, int, int, int], tuple[int, int]] = {}
    chains: Sequence[ChainSnapshot] = list(book.chains.values())
    for chain in chains:
        columns = zip(chain.strikes_uusd, chain.kinds, chain.bids_uusd, chain.asks_uusd, strict=True)
        for strike, kind, bid, ask in columns:
            quotes[(chain.underlying, chain.expiry_ns, strike, kind)] = (bid, ask)
    return quotes
