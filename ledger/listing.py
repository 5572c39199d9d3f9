"""An instrument as the state keeps it: what it is, and what it settled at. Pure."""

from __future__ import annotations

from ledger.instruments import Instrument
from primitives.codec import U63, Wire


class Listing(Wire):
    """An instrument and, once it has expired and is paid, its settlement price."""

    instrument: Instrument
    is_settled: bool
    settlement_price_uusd: U63
