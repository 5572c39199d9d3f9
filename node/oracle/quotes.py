"""What a venue tells us: index, dated futures and option chains, as bounded wire messages. Pure.

A frame is a 4-byte big-endian length and a msgpack array of messages. Prices are integer micro-USD, times
are market time in nanoseconds. A real exchange's adapter translates into these; simulated venues send them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import msgspec

from ledger.instruments import Kind, Underlying
from node.oracle.reasons import QuoteReason
from primitives.amounts import USD
from primitives.codec import U8, U63, Wire, decode, encode
from primitives.errors import ProtocolViolation

FRAME_BYTES_MAX = 256 * 1024
"""One frame; a longer one closes the connection. 16 chains of 256 quotes take about 150 KiB."""
LENGTH_BYTES = 4
"""Size of the big-endian length before each frame."""
MESSAGES_MAX = 64
"""Messages in one frame; more is malformed."""
CHAIN_QUOTES_MAX = 256
"""Quotes in one chain; more is malformed. Deribit's largest expiries have about 120."""
PRICE_UUSD_MAX = 10_000_000 * USD
"""No index, strike or premium above ten million dollars."""
SPREAD_DIVISOR_MIN = 10
"""An index or forward spread above bid / 10 is refused."""

Column = Annotated[tuple[U63, ...], msgspec.Meta(max_length=CHAIN_QUOTES_MAX)]


class IndexQuote(Wire, tag=1):
    """Spot of one underlying at one venue."""

    underlying: U8
    time_ns: U63
    bid_uusd: U63
    ask_uusd: U63


class ForwardQuote(Wire, tag=2):
    """A dated future (or a synthetic one that the venue quotes)."""

    underlying: U8
    expiry_ns: U63
    time_ns: U63
    bid_uusd: U63
    ask_uusd: U63


class ChainSnapshot(Wire, tag=3):
    """All option quotes of one expiry at one venue, in columns, ascending by (strike, kind).

    `kinds` holds ledger.instruments.Kind numbers (CALL or PUT). A bid or an ask of 0 means there is none.
    """

    underlying: U8
    expiry_ns: U63
    time_ns: U63
    strikes_uusd: Column
    kinds: Annotated[tuple[U8, ...], msgspec.Meta(max_length=CHAIN_QUOTES_MAX)]
    bids_uusd: Column
    asks_uusd: Column


Quote = IndexQuote | ForwardQuote | ChainSnapshot
Frame = Annotated[tuple[Quote, ...], msgspec.Meta(max_length=MESSAGES_MAX)]


def encode_frame(messages: Sequence[Quote]) -> bytes:
    """The length-prefixed frame of these messages."""
    body = encode(tuple(messages))
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_frame(body: bytes) -> tuple[Quote, ...]:
    """Messages of one frame's body, typed and bounded but not yet checked.

    Raises:
        ProtocolViolation: a CodecReason.
    """
    messages: tuple[Quote, ...] = decode(Frame, body, bytes_max=FRAME_BYTES_MAX)
    return messages


def check_quote(quote: Quote) -> None:
    """Bounds that need no knowledge of other quotes or of the time.

    Raises:
        ProtocolViolation: a QuoteReason.
    """
    if quote.underlying not in Underlying.__members__.values():
        raise ProtocolViolation(QuoteReason.UNKNOWN_UNDERLYING, f"underlying {quote.underlying}")
    if not isinstance(quote, IndexQuote) and quote.expiry_ns <= quote.time_ns:
        raise ProtocolViolation(QuoteReason.EXPIRED, f"expired at {quote.expiry_ns}, stamped {quote.time_ns}")
    if isinstance(quote, ChainSnapshot):
        _check_chain(quote)
    else:
        _check_two_sided(quote.bid_uusd, quote.ask_uusd)


def _check_two_sided(bid_uusd: int, ask_uusd: int) -> None:
    if bid_uusd == 0 or ask_uusd == 0:
        raise ProtocolViolation(QuoteReason.NOT_POSITIVE, "an index or forward needs both sides")
    if bid_uusd > ask_uusd:
        raise ProtocolViolation(QuoteReason.CROSSED, f"bid {bid_uusd} above ask {ask_uusd}")
    if ask_uusd > PRICE_UUSD_MAX:
        raise ProtocolViolation(QuoteReason.PRICE_TOO_LARGE, f"ask {ask_uusd}")
    if (ask_uusd - bid_uusd) * SPREAD_DIVISOR_MIN > bid_uusd:
        raise ProtocolViolation(QuoteReason.TOO_WIDE, f"bid {bid_uusd}, ask {ask_uusd}")


def _check_chain(chain: ChainSnapshot) -> None:
    count = len(chain.strikes_uusd)
    if not len(chain.kinds) == len(chain.bids_uusd) == len(chain.asks_uusd) == count:
        raise ProtocolViolation(QuoteReason.BAD_CHAIN, "columns of different lengths")
    keys = list(zip(chain.strikes_uusd, chain.kinds, strict=True))
    if any(left >= right for left, right in pairwise(keys)):
        raise ProtocolViolation(QuoteReason.BAD_CHAIN, "strikes not strictly ascending per kind")
    if not set(chain.kinds) <= {Kind.CALL, Kind.PUT} or (keys and keys[0][0] == 0):
        raise ProtocolViolation(QuoteReason.BAD_CHAIN, "neither a call nor a put, or a strike of zero")
    if max((*chain.strikes_uusd, *chain.asks_uusd, *chain.bids_uusd), default=0) > PRICE_UUSD_MAX:
        raise ProtocolViolation(QuoteReason.PRICE_TOO_LARGE, "a strike or premium above the limit")
    for bid, ask in zip(chain.bids_uusd, chain.asks_uusd, strict=True):
        if bid > ask > 0:
            raise ProtocolViolation(QuoteReason.CROSSED, f"bid {bid} above ask {ask}")
