"""What a venue may say: bounds, order in time, listed series, canonical frames."""

from __future__ import annotations

import msgspec
import pytest

from ledger.instruments import Kind, Underlying
from node.oracle.quotes import (
    CHAIN_QUOTES_MAX,
    LENGTH_BYTES,
    PRICE_UUSD_MAX,
    ChainSnapshot,
    ForwardQuote,
    IndexQuote,
    Quote,
    decode_frame,
    encode_frame,
)
from node.oracle.reasons import QuoteReason
from node.oracle.venue_book import AGE_SECONDS_MAX, AHEAD_SECONDS_MAX, VenueBook
from primitives.amounts import NS, USD
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason

NOW = 1_800_000_000 * NS
EXPIRY = NOW + 86_400 * NS


def an_index(
    *, bid: int = 90_000 * USD, ask: int = 90_010 * USD, time_ns: int = NOW, underlying: int = 0
) -> IndexQuote:
    return IndexQuote(underlying, time_ns, bid, ask)


def a_forward(*, expiry_ns: int = EXPIRY, time_ns: int = NOW) -> ForwardQuote:
    return ForwardQuote(Underlying.BTC, expiry_ns, time_ns, 90_000 * USD, 90_010 * USD)


def a_chain(
    *,
    strikes: tuple[int, ...] = (90_000 * USD, 90_000 * USD),
    kinds: tuple[int, ...] = (Kind.CALL, Kind.PUT),
    bids: tuple[int, ...] = (900 * USD, 890 * USD),
    asks: tuple[int, ...] = (910 * USD, 900 * USD),
) -> ChainSnapshot:
    return ChainSnapshot(Underlying.BTC, EXPIRY, NOW, strikes, kinds, bids, asks)


def a_book() -> VenueBook:
    return VenueBook("north", [(Underlying.BTC, EXPIRY)])


def reason_of(quote: Quote, book: VenueBook | None = None) -> str:
    with pytest.raises(ProtocolViolation) as caught:
        (book or a_book()).add(quote, NOW)
    return caught.value.reason.value


def test_a_frame_comes_back_as_the_messages_it_was_made_of() -> None:
    messages = (an_index(), a_forward(), a_chain())
    assert decode_frame(encode_frame(messages)[LENGTH_BYTES:]) == messages


def test_sound_quotes_are_kept_under_their_keys() -> None:
    book = a_book()
    for quote in (an_index(), a_forward(), a_chain()):
        book.add(quote, NOW)
    key = (Underlying.BTC, EXPIRY)
    assert (book.indexes, book.forwards, book.chains) == (
        {0: an_index()},
        {key: a_forward()},
        {key: a_chain()},
    )


@pytest.mark.parametrize(
    ("quote", "reason"),
    [
        (an_index(bid=0), QuoteReason.NOT_POSITIVE),
        (an_index(bid=90_011 * USD), QuoteReason.CROSSED),
        (an_index(bid=PRICE_UUSD_MAX, ask=PRICE_UUSD_MAX + 1), QuoteReason.PRICE_TOO_LARGE),
        (an_index(bid=80_000 * USD), QuoteReason.TOO_WIDE),
        (an_index(underlying=7), QuoteReason.UNKNOWN_UNDERLYING),
        (an_index(time_ns=NOW + (AHEAD_SECONDS_MAX + 1) * NS), QuoteReason.FROM_THE_FUTURE),
        (an_index(time_ns=NOW - (AGE_SECONDS_MAX + 1) * NS), QuoteReason.STALE),
        (a_forward(expiry_ns=EXPIRY + NS), QuoteReason.UNKNOWN_SERIES),
        (a_forward(expiry_ns=NOW), QuoteReason.EXPIRED),
        (a_chain(kinds=(Kind.CALL,)), QuoteReason.BAD_CHAIN),
        (a_chain(kinds=(Kind.PUT, Kind.CALL)), QuoteReason.BAD_CHAIN),
        (a_chain(kinds=(Kind.CALL, Kind.CALL)), QuoteReason.BAD_CHAIN),
        (a_chain(kinds=(Kind.PERPETUAL, Kind.PUT)), QuoteReason.BAD_CHAIN),
        (a_chain(strikes=(0, 90_000 * USD)), QuoteReason.BAD_CHAIN),
        (a_chain(bids=(911 * USD, 890 * USD)), QuoteReason.CROSSED),
        (a_chain(asks=(PRICE_UUSD_MAX + 1, 900 * USD)), QuoteReason.PRICE_TOO_LARGE),
    ],
)
def test_an_unsound_quote_is_refused_with_its_reason(quote: Quote, reason: QuoteReason) -> None:
    assert reason_of(quote) == reason


def test_an_older_quote_does_not_replace_a_newer_one() -> None:
    book = a_book()
    book.add(an_index(), NOW)
    assert reason_of(an_index(time_ns=NOW - 1), book) == QuoteReason.OUT_OF_ORDER
    assert book.indexes == {0: an_index()}


def test_a_missing_side_of_an_option_is_no_fault() -> None:
    book = a_book()
    one_sided = a_chain(bids=(0, 890 * USD), asks=(910 * USD, 0))
    book.add(one_sided, NOW)
    assert book.chains == {(Underlying.BTC, EXPIRY): one_sided}


def test_limits_of_time_scale_with_speed() -> None:
    book = VenueBook("north", [], speed=60.0)
    early = an_index(time_ns=NOW + 60 * AHEAD_SECONDS_MAX * NS)
    book.add(early, NOW)
    assert book.indexes == {0: early}


def test_quotes_of_a_delisted_series_are_forgotten() -> None:
    book = a_book()
    book.add(a_chain(), NOW)
    book.list_series([])
    assert (book.chains, reason_of(a_chain(), book)) == ({}, QuoteReason.UNKNOWN_SERIES)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([[1, 0, NOW, 1e30, 1e30]]),
        msgspec.msgpack.encode([[1, 0, NOW, -5, 10]]),
        msgspec.msgpack.encode([[1, 0, NOW, 2**63, 2**63]]),
        msgspec.msgpack.encode([[9, 0, NOW, 1, 2]]),
        msgspec.msgpack.encode([[1, 0, NOW, 1, 2, 3]]),
        msgspec.msgpack.encode([[3, 0, EXPIRY, NOW, *[[1] * (CHAIN_QUOTES_MAX + 1)] * 4]]),
    ],
    ids=[
        "empty",
        "garbage",
        "1e30",
        "negative",
        "beyond 63 bits",
        "unknown tag",
        "extra field",
        "too many quotes",
    ],
)
def test_a_body_that_is_no_frame_is_malformed(body: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        decode_frame(body)
    assert caught.value.reason == CodecReason.MALFORMED
