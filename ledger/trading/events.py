"""What happened to triggers, quotes, protection, sessions and packages. Pure."""

from __future__ import annotations

from primitives.codec import I64, U8, U32, U63, Bytes20, Bytes32, Wire


class OrderReduced(Wire, tag=30):
    """An open order has fewer lots left, at the same price and age."""

    order_id: U63
    owner: Bytes20
    subaccount: U8
    instrument: U32
    left_lots: U32


class TriggerPlaced(Wire, tag=31):
    """A trigger order waits from the next block on."""

    transaction_id: Bytes32
    index: U32
    trigger_id: U63
    owner: Bytes20
    subaccount: U8
    instrument: U32
    label: U63


class TriggerFired(Wire, tag=32):
    """A trigger's price was reached: its order follows, accepted or refused."""

    trigger_id: U63
    owner: Bytes20
    subaccount: U8
    instrument: U32
    observed_uusd: U63


class TriggerCancelled(Wire, tag=33):
    """A waiting trigger is gone; `reason` is a CancelReason."""

    trigger_id: U63
    owner: Bytes20
    subaccount: U8
    instrument: U32
    reason: str


class ProtectionTripped(Wire, tag=34):
    """Quotes traded a limit; none are taken before `frozen_until_ns`."""

    owner: Bytes20
    subaccount: U8
    underlying: U8
    lots: U63
    delta_ppm: I64
    vega_uusd: I64
    frozen_until_ns: U63


class SettingChanged(Wire, tag=35):
    """One of the account's settings took effect; `setting` names its action."""

    owner: Bytes20
    subaccount: U8
    setting: str


class QuotesRequested(Wire, tag=36):
    """A request for quote is open."""

    transaction_id: Bytes32
    index: U32
    request_id: U63
    owner: Bytes20
    subaccount: U8
    legs: tuple[tuple[U32, I64], ...]
    expires_ns: U63


class PackageQuoted(Wire, tag=37):
    """A maker's prices for a request."""

    request_id: U63
    maker: Bytes20
    maker_subaccount: U8
    bid_uusd: I64 | None
    ask_uusd: I64 | None
    expires_ns: U63


class RequestClosed(Wire, tag=38):
    """A request for quote is over: traded, withdrawn or expired."""

    request_id: U63
    owner: Bytes20
    subaccount: U8
    cause: str


class PackageTraded(Wire, tag=39):
    """All legs changed hands at once; a PackageLeg event follows for each."""

    request_id: U63
    buyer: Bytes20
    buyer_subaccount: U8
    seller: Bytes20
    seller_subaccount: U8
    price_uusd: I64
    buyer_fee_uusd: I64
    seller_fee_uusd: I64


class PackageLeg(Wire, tag=40):
    """One leg of the package: signed lots the buyer got, valued at the mark; the net price settles in cash."""

    request_id: U63
    instrument: U32
    lots: I64
    mark_uusd: U63


TradingEvent = (
    OrderReduced
    | TriggerPlaced
    | TriggerFired
    | TriggerCancelled
    | ProtectionTripped
    | SettingChanged
    | QuotesRequested
    | PackageQuoted
    | RequestClosed
    | PackageTraded
    | PackageLeg
)
