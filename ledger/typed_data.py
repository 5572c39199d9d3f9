"""What a wallet shows for a transaction, and the digest it signs: EIP-712, from the payload alone. Pure.

Every validator makes the same words from the payload and refuses a signature over other ones, so what was displayed is
what is executed. The keccak-256 of the payload is part of the message too: no two payloads share a signature.

The domain's salt is the chain id, all 32 bytes. There is no `chainId`: wallets refuse one that is not the network
they are on, and this chain is none that a wallet can be switched to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import msgspec

from ledger.instruments import date_of
from ledger.reasons import LedgerReason
from ledger.transactions import (
    WALLET_ITEMS_MAX,
    BlockTerms,
    BlockTrade,
    MarginModel,
    MassQuote,
    NamedInstrument,
    PlaceMarket,
    PlaceOrder,
    PlaceTrigger,
    PlaceUntil,
    RequestQuotes,
    SessionScope,
    Side,
    TimeInForce,
    Transaction,
)
from primitives.amounts import NS, USD
from primitives.eip712 import Fields, TypedData, keccak256
from primitives.errors import ProtocolViolation

_REST: Fields = (("subaccount", "uint8"), ("nonce", "uint64"), ("payload", "bytes32"))
_ORDER: Fields = tuple((name, "string") for name in ("instrument", "side", "size", "price", "terms"))
_TYPES: dict[str, tuple[tuple[str, Fields], ...]] = {
    "Order": (("Order", (*_ORDER, *_REST)),),
    "Actions": (("Actions", (("actions", "string[]"), *_REST)),),
}
_IN_FORCE = {
    TimeInForce.GTC: "good till cancelled",
    TimeInForce.IOC: "immediate or cancel",
    TimeInForce.FOK: "fill or kill",
}
Names = Mapping[int | None, NamedInstrument]
AnyOrder = PlaceOrder | PlaceUntil | PlaceMarket | PlaceTrigger


def typed_data(content: Transaction, payload: bytes, names: Sequence[NamedInstrument]) -> TypedData:
    """What a wallet shows and signs: one order field by field, anything else a sentence for each action.

    `payload`: the encoded `content`. `names`: as in WalletTransaction.

    Raises:
        ProtocolViolation: UNREADABLE.
    """
    check_readable(content, names)
    by_id: Names = {name.id: name for name in names}
    rest = {"subaccount": content.subaccount, "nonce": content.nonce, "payload": keccak256(payload)}
    domain = (("name", "Quorate"), ("version", "1"), ("salt", content.chain_id))
    first = content.actions[0]
    if len(content.actions) == 1 and isinstance(first, AnyOrder):
        return TypedData(_TYPES["Order"], "Order", domain, _order(first, by_id) | rest)
    sentences = [_sentence(action, by_id) for action in content.actions]
    return TypedData(_TYPES["Actions"], "Actions", domain, {"actions": sentences, **rest})


def check_readable(content: Transaction, names: Sequence[NamedInstrument]) -> None:
    """Raises ProtocolViolation(UNREADABLE): too much for a person, or `names` are not those of the actions."""
    items = [item for action in content.actions for item in _parts(action)]
    if len(items) > WALLET_ITEMS_MAX:
        raise ProtocolViolation(
            LedgerReason.UNREADABLE, f"a wallet shows at most {WALLET_ITEMS_MAX} actions, quotes and legs"
        )
    if tuple(name.id for name in names) != _mentioned(items):
        raise ProtocolViolation(
            LedgerReason.UNREADABLE, "the names are not those of the actions' instruments"
        )


def instruments_of(content: Transaction) -> tuple[int, ...]:
    """Every instrument that the actions name, ascending: those that a wallet's envelope must name."""
    return _mentioned([item for action in content.actions for item in _parts(action)])


def _mentioned(items: Sequence[msgspec.Struct]) -> tuple[int, ...]:
    numbers = {getattr(item, "instrument", None) for item in items} - {None}
    return tuple(sorted(number for number in numbers if number is not None))


def _parts(item: msgspec.Struct) -> Iterator[msgspec.Struct]:
    """An action and every object inside it."""
    yield item
    for name in _INNER.get(type(item), ()):
        value = getattr(item, name)
        for inner in value if isinstance(value, tuple) else (value,):
            yield from _parts(inner)


_INNER: dict[type, tuple[str, ...]] = {
    PlaceUntil: ("order",),
    MassQuote: ("quotes",),
    RequestQuotes: ("legs",),
    BlockTrade: ("terms",),
    BlockTerms: ("legs",),
}
"""Every field that holds objects of ours; a test looks that there is no other."""


# --- orders ---


def _order(action: AnyOrder, names: Names) -> dict[str, str]:
    order = action.order if isinstance(action, PlaceUntil) else action
    named = names[order.instrument]
    price_uusd = None if isinstance(order, PlaceMarket) else order.price_uusd
    return {
        "instrument": named.name,
        "side": _SIDES[order.side],
        "size": _size(order.size_lots, named),
        "price": "market" if price_uusd is None else _dollars(price_uusd),
        "terms": ", ".join(_terms(action)),
    }


def _terms(action: AnyOrder) -> Iterator[str]:
    order = action.order if isinstance(action, PlaceUntil) else action
    if isinstance(action, PlaceUntil):
        yield f"good till {_time(action.expires_ns)}"
    if not isinstance(action, PlaceUntil) or order.time_in_force != TimeInForce.GTC:
        yield _IN_FORCE[TimeInForce(order.time_in_force)]
    if isinstance(order, PlaceTrigger):
        what, way = "index" if order.by_index else "mark", "above" if order.is_above else "below"
        yield f"once the {what} is at or {way} {_dollars(order.trigger_uusd)}"
    if isinstance(order, PlaceOrder) and order.post_only:
        yield "post only"
    if order.reduce_only:
        yield "reduce only"
    if order.label:
        yield f"label {order.label}"


# --- any action ---


def _sentence(action: msgspec.Struct, names: Names) -> str:
    """All that an action says, in words."""
    if isinstance(action, AnyOrder):
        said = _order(action, names)
        return f"{said['side']} {said['size']} {said['instrument']} at {said['price']}, {said['terms']}"
    title = _title(type(action))
    return f"{title}: {_fields(action, names)}" if action.__struct_fields__ else title


@lru_cache(maxsize=128)
def _title(kind: type) -> str:
    """MassQuote is a mass quote."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).strip()


def _fields(item: msgspec.Struct, names: Names) -> str:
    named = names.get(getattr(item, "instrument", None))
    said = [
        f"{_label(name)} {_value(name, getattr(item, name), names, named)}" for name in item.__struct_fields__
    ]
    return ", ".join(said)


@lru_cache(maxsize=256)
def _label(field: str) -> str:
    if field.endswith("lots"):
        return f"{field.removesuffix('size_lots').removesuffix('lots').replace('_', ' ')}size"
    return field.removesuffix("_ns").replace("_uusd", "").replace("_", " ")


def _value(field: str, value: object, names: Names, named: NamedInstrument | None) -> str:
    match value:
        case None:
            return "all" if field == "instrument" else "none"
        case bool():
            return "yes" if value else "no"
        case bytes():
            return "0x" + value.hex()
        case tuple():
            return f"[{'; '.join(_value(field, item, names, named) for item in value)}]"
        case msgspec.Struct():
            return f"({_fields(value, names)})"
        case int():
            return _number(field, value, names, named)
    return str(value)


def _number(field: str, value: int, names: Names, named: NamedInstrument | None) -> str:
    if field.endswith(("_uusd", "_uusd_max")):
        return _dollars(value)
    if field == "instrument":
        return names[value].name
    if field == "side":
        return _SIDES[value]
    if field == "model":
        return MarginModel(value).name.lower()
    if field == "scope":
        return _scope(value)
    if field in ("expires_ns", "cancel_at_ns"):
        return _time(value) if value else "never"
    if field.endswith("_ns"):
        return f"{_decimal(value, NS)} s"
    if field.endswith("lots"):
        return f"{value} lots" if named is None else _size(value, named)
    return str(value)


@lru_cache(maxsize=16)
def _scope(value: int) -> str:
    return " and ".join(item.name.lower() for item in SessionScope if value & item)


_SIDES: Mapping[int, str] = {Side.BUY: "buy", Side.SELL: "sell"}


def _size(lots: int, named: NamedInstrument) -> str:
    """In contracts where the number of lots in one is a power of ten, else in lots."""
    per_contract = named.lots_per_contract
    if per_contract == 10 ** (len(str(per_contract)) - 1):
        return _decimal(lots, per_contract)
    return f"{lots} lots of 1/{per_contract}"


def _dollars(uusd: int) -> str:
    """Exact, at least cents: $90,000.50."""
    whole, micro = divmod(abs(uusd), USD)
    cents = f"{micro:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if uusd < 0 else ''}${whole:,}.{cents}"


def _decimal(value: int, one: int) -> str:
    """value / one without rounding; `one` is a power of ten."""
    whole, rest = divmod(abs(value), one)
    fraction = f".{rest:0{len(str(one)) - 1}d}".rstrip("0") if rest else ""
    return f"{'-' if value < 0 else ''}{whole}{fraction}"


def _time(time_ns: int) -> str:
    """UTC, to the nanosecond where there is a fraction."""
    year, month, day = date_of(time_ns)
    seconds, rest_ns = divmod(time_ns, NS)
    clock = seconds % 86_400
    fraction = f".{rest_ns:09d}".rstrip("0") if rest_ns else ""
    return f"{year}-{month:02d}-{day:02d} {clock // 3600:02d}:{clock // 60 % 60:02d}:{clock % 60:02d}{fraction} UTC"
