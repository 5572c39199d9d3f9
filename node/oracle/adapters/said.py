"""What an exchange's message comes down to, and the exact reading of its numbers, times and names. Pure.

A dialect (one file per exchange) turns each message into these; `assembler` gathers options into chains and
`connection` does the I/O. Prices arrive as decimal text and leave as integers: nothing passes through a float.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, InvalidOperation
from math import ceil
from typing import Protocol, TypeVar

import msgspec

from ledger.instruments import Instrument, Kind, Underlying, date_of
from node.oracle.quotes import PRICE_UUSD_MAX, ForwardQuote, IndexQuote
from node.oracle.reasons import QuoteReason
from node.oracle.venue_book import Series
from primitives.amounts import NS, USD
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason

PICO = 10**12
"""Premiums are held in 1e-12 of the coin or dollar they are quoted in: finer than any venue's tick."""
NUMBER_MAX = PRICE_UUSD_MAX // USD
"""No price or premium above this many dollars or coins."""
EXPIRY_SECONDS_OF_DAY = 8 * 3600
"""All these exchanges expire at 08:00 UTC; what we list at another hour is another contract than theirs."""
STAMP_DIGITS_MAX = 16
"""A time in milliseconds has 13 digits, in microseconds 16; more is no time."""

Item = TypeVar("Item")
Decoded_co = TypeVar("Decoded_co", covariant=True)

_DOWN = Context(prec=60, rounding=ROUND_FLOOR)
_UP = Context(prec=60, rounding=ROUND_CEILING)
_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Option(msgspec.Struct, frozen=True):
    """One option that Quorate lists."""

    series: Series
    strike_uusd: int
    kind: int


class OptionQuote(msgspec.Struct, frozen=True):
    """Best prices of one option, in 1e-12 of the coin or dollar the venue quotes in; 0 means there is none."""

    option: Option
    time_ns: int
    bid_pico: int
    ask_pico: int


class UnderlyingPrice(msgspec.Struct, frozen=True):
    """What the venue prices an expiry's options against: its future, or a synthetic one."""

    series: Series
    time_ns: int
    price_uusd: int


class Reply(msgspec.Struct, frozen=True):
    """A message that the venue now expects from us."""

    text: str


Said = IndexQuote | ForwardQuote | OptionQuote | UnderlyingPrice | Reply | ProtocolViolation
"""One thing a message says. A violation is a value here, for one bad item must not cost the others."""


class Dialect(Protocol):
    """One connection's translator. Knows no socket and no clock; a new connection gets a new one."""

    def requests(self) -> Sequence[str]:
        """What to send after connecting, in order."""

    def relist(self, listed: Sequence[Instrument]) -> Sequence[str]:
        """Believe and ask for these from now on; what to send for it, in order."""

    def ping(self) -> str | None:
        """What to send every few seconds, if this exchange wants to hear from us."""

    def translate(self, message: str | bytes) -> Sequence[Said]:
        """What one message says; empty for acknowledgements and heartbeats.

        Raises:
            ProtocolViolation: the message as a whole is malformed, or the venue is closing.
        """


class Decoder(Protocol[Decoded_co]):
    """What we use of msgspec.json.Decoder."""

    def decode(self, buf: str | bytes | msgspec.Raw, /) -> Decoded_co:
        """The typed value of a JSON text."""


class SpotDialect:
    """Base of those that quote no options."""

    def relist(self, listed: Sequence[Instrument]) -> Sequence[str]:
        """Nothing changes."""
        del listed
        return ()


@dataclass(frozen=True, slots=True)
class Feed:
    """A kind of connection: its address is the venue's plus `path`; premiums are in coin or in dollars.

    There is one of it, or as many as it takes for each to have at most `options_max` options, whole expiries together.
    """

    path: str
    dialect: Callable[[Sequence[Instrument]], Dialect]
    premiums_in_coin: bool = True
    options_max: int | None = None


# --- numbers and times ---


def decimal_of(text: str) -> Decimal:
    """The number a string says. Raises ProtocolViolation: MALFORMED."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ProtocolViolation(CodecReason.MALFORMED, "a price that is no number") from None


def check_number(value: Decimal) -> None:
    """Refuse NaN, infinities, negative numbers and numbers above NUMBER_MAX.

    Raises:
        ProtocolViolation: NOT_A_NUMBER, NOT_POSITIVE or PRICE_TOO_LARGE.
    """
    if not value.is_finite():  # First, for a signalling NaN raises in any comparison.
        raise ProtocolViolation(QuoteReason.NOT_A_NUMBER, "NaN or infinite")
    if value < 0:
        raise ProtocolViolation(QuoteReason.NOT_POSITIVE, "a negative price")
    if value > NUMBER_MAX:
        raise ProtocolViolation(QuoteReason.PRICE_TOO_LARGE, "above the limit")


def down(value: Decimal, unit: int = USD) -> int:
    """A dollar price in micro-USD (or in 1 / unit), rounded down. Raises as check_number does."""
    check_number(value)
    return int(_DOWN.multiply(value, unit))


def up(value: Decimal, unit: int = USD) -> int:
    """A dollar price in micro-USD (or in 1 / unit), rounded up. Raises as check_number does."""
    check_number(value)
    return ceil(_UP.multiply(value, unit))


def positive(value: Decimal) -> Decimal:
    """`value`, unless it is zero. Raises as check_number does."""
    check_number(value)
    if value == 0:
        raise ProtocolViolation(QuoteReason.NOT_POSITIVE, "a price of zero")
    return value


def index_quote(underlying: int, time_ns: int, bid: Decimal, ask: Decimal) -> IndexQuote:
    """An index or spot quote; the bid rounded down, the ask up."""
    return IndexQuote(underlying, time_ns, down(bid), up(ask))


def forward_quote(series: Series, time_ns: int, bid: Decimal, ask: Decimal) -> ForwardQuote:
    """A dated future's quote; the bid rounded down, the ask up."""
    return ForwardQuote(*series, time_ns, down(bid), up(ask))


def option_quote(option: Option, time_ns: int, bid: Decimal, ask: Decimal) -> OptionQuote:
    """An option's quote, zero for a missing side.

    Raises:
        ProtocolViolation: as check_number does, or CROSSED.
    """
    quote = OptionQuote(option, time_ns, down(bid, PICO), up(ask, PICO))
    if quote.bid_pico > quote.ask_pico > 0:
        raise ProtocolViolation(QuoteReason.CROSSED, "an option's bid above its ask")
    return quote


def underlying_price(series: Series, time_ns: int, price: Decimal) -> UnderlyingPrice:
    """What an expiry's premiums are worth, rounded down."""
    return UnderlyingPrice(series, time_ns, down(positive(price)))


def milliseconds(text: str) -> int:
    """Nanoseconds of a string of digits that counts milliseconds. Raises ProtocolViolation: MALFORMED."""
    if not text.isascii() or not text.isdecimal() or len(text) > STAMP_DIGITS_MAX:
        raise ProtocolViolation(CodecReason.MALFORMED, "a time that is no number of milliseconds")
    return int(text) * 1_000_000


def iso_time(text: str) -> int:
    """Nanoseconds of an RFC 3339 time in UTC, such as 2026-02-04T08:00:00.123456789Z.

    Raises:
        ProtocolViolation: MALFORMED.
    """
    match = _ISO.fullmatch(text)
    try:
        whole = datetime.fromisoformat(match[1]).replace(tzinfo=UTC) if match else None
    except ValueError:
        whole = None
    if match is None or whole is None:
        raise ProtocolViolation(CodecReason.MALFORMED, "a time that is not RFC 3339 in UTC")
    return (whole - _EPOCH) // timedelta(seconds=1) * NS + int((match[2] or "").ljust(9, "0"))


# --- messages ---


def decoded(decoder: Decoder[Item], message: str | bytes | msgspec.Raw) -> Item:
    """The typed message. Raises ProtocolViolation: MALFORMED, also for a missing or mistyped field."""
    try:
        return decoder.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(CodecReason.MALFORMED, str(error)) from None


def each(items: Iterable[Item], translate: Callable[[Item], Sequence[Said]]) -> list[Said]:
    """All that the items say; an unsound item becomes its violation and the others stand."""
    said: list[Said] = []
    for item in items:
        try:
            said += translate(item)
        except ProtocolViolation as violation:
            said.append(violation)
    return said


def text_of(message: object) -> str:
    """A request as JSON text."""
    return msgspec.json.encode(message).decode()


def changes(before: Collection[str], after: Collection[str]) -> tuple[list[str], list[str]]:
    """(what is gone, what is new), each in its own order."""
    old, new = set(before), set(after)
    return [item for item in before if item not in new], [item for item in after if item not in old]


def chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """`items` cut into pieces of at most `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]


# --- names ---


def listed_options(listed: Iterable[Instrument]) -> list[tuple[Instrument, Option]]:
    """The options that these exchanges could list too, ascending by expiry, strike and kind."""
    found = [
        (item, Option((item.underlying, item.expiry_ns), item.strike_uusd, item.kind))
        for item in listed
        if item.kind != Kind.PERPETUAL and item.expiry_ns // NS % 86_400 == EXPIRY_SECONDS_OF_DAY
    ]
    return sorted(found, key=lambda pair: (pair[1].series, pair[1].strike_uusd, pair[1].kind))


def deribit_name(item: Instrument) -> str:
    """BTC-6FEB26-88000-P: how Deribit (and Quorate) names an option."""
    return item.name


def bybit_name(item: Instrument) -> str:
    """BTC-6FEB26-88000-P-USDT: Deribit's name and the currency of settlement."""
    return f"{item.name}-USDT"


def okx_name(item: Instrument) -> str:
    """BTC-USD-260206-88000-P: year, month and day in digits."""
    underlying, _, strike, side = item.name.split("-")
    return f"{underlying}-USD-{_digits_of(item.expiry_ns)}-{strike}-{side}"


def deribit_future(item: Instrument) -> str:
    """BTC-6FEB26: the dated future with an option's expiry."""
    return item.name.rsplit("-", 2)[0]


def okx_future(item: Instrument) -> str:
    """BTC-USD-260206: the coin-margined future with an option's expiry."""
    return f"{Underlying(item.underlying).name}-USD-{_digits_of(item.expiry_ns)}"


def _digits_of(expiry_ns: int) -> str:
    year, month, day = date_of(expiry_ns)
    return f"{year % 100:02d}{month:02d}{day:02d}"
