"""Why a venue's frame or quote is refused. Pure."""

from __future__ import annotations

from enum import StrEnum


class QuoteReason(StrEnum):
    """Refusals of venue data; values are stable and used in metrics."""

    FRAME_TOO_LARGE = "frame_too_large"
    """A length prefix above the frame limit; the connection is closed, for what follows cannot be found."""
    NOT_POSITIVE = "not_positive"
    """An index or forward price of zero."""
    CROSSED = "crossed"
    """Bid above ask."""
    PRICE_TOO_LARGE = "price_too_large"
    """A price above ten million dollars."""
    TOO_WIDE = "too_wide"
    """An index or forward spread of more than a tenth of the bid: nobody's market."""
    OUT_OF_ORDER = "out_of_order"
    """Older than the quote we already hold for that key."""
    FROM_THE_FUTURE = "from_the_future"
    """Stamped later than our clock allows."""
    STALE = "stale"
    """Stamped so long ago that no rule would use it."""
    UNKNOWN_UNDERLYING = "unknown_underlying"
    """An underlying that Quorate does not list."""
    UNKNOWN_SERIES = "unknown_series"
    """An expiry that Quorate does not list; normal for a venue that lists more than we do."""
    EXPIRED = "expired"
    """A forward or chain of an expiry that is not in the future of its own stamp."""
    BAD_CHAIN = "bad_chain"
    """Columns of different lengths, or strikes that are not strictly ascending per kind."""
