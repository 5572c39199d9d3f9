"""Names of the state's leaves: one letter for the kind, then what tells one from another. Pure."""

from __future__ import annotations

from ledger.matching.orders import AccountKey

KEY_CLOCK = b"c"
KEY_SUPPLY = b"s"
KEY_TOTALS = b"t"
KEY_PARAMETERS = b"p"
KEY_MARKS = b"m"


def account_key(key: AccountKey) -> bytes:
    """b"a", owner, sub-account."""
    return b"a" + key[0] + bytes((key[1],))


def book_key(instrument: int) -> bytes:
    """b"b", instrument id."""
    return b"b" + instrument.to_bytes(4, "big")


def listing_key(instrument: int) -> bytes:
    """b"i", instrument id."""
    return b"i" + instrument.to_bytes(4, "big")


def oracle_key(underlying: int) -> bytes:
    """b"o", underlying."""
    return b"o" + bytes((underlying,))


def reporter_key(reporter: int) -> bytes:
    """b"r", reporter number."""
    return b"r" + reporter.to_bytes(2, "big")


def underlying_key(underlying: int) -> bytes:
    """b"u", underlying: its parameters."""
    return b"u" + bytes((underlying,))


def window_key(underlying: int, expiry_ns: int) -> bytes:
    """b"w", underlying, expiry."""
    return b"w" + bytes((underlying,)) + expiry_ns.to_bytes(8, "big")
