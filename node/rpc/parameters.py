"""What the paths and queries of the routes take, as types, and how text becomes them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from node.rpc.answers import Cursor
from node.rpc.reasons import GatewayReason
from primitives.codec import U8, U32, Bytes20, Bytes32
from primitives.errors import ProtocolViolation

PAGE_ITEMS_MAX = 500
"""Items in one page."""

P = TypeVar("P", bound="Parameters")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
InstrumentName = Annotated[str, msgspec.Meta(min_length=1, max_length=64, examples=["BTC-PERPETUAL"])]
Limit = Annotated[int, msgspec.Meta(ge=1, le=PAGE_ITEMS_MAX)]


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base: fields named in the route's path come from it, all others from the query, where unknown names are
    refused."""


class HeightPath(Parameters, frozen=True, kw_only=True):
    """A final height, or `latest`."""

    height: Annotated[str, msgspec.Meta(pattern="^(latest|[0-9]{1,15})$")]


class AccountPath(Parameters, frozen=True, kw_only=True):
    """One sub-account: address in hex and number."""

    address: Bytes20
    subaccount: U8


class NamePath(Parameters, frozen=True, kw_only=True):
    """An instrument by name, such as BTC-PERPETUAL, or by id."""

    instrument: InstrumentName


class UnderlyingPath(Parameters, frozen=True, kw_only=True):
    """BTC or ETH."""

    underlying: Annotated[str, msgspec.Meta(min_length=1, max_length=64, examples=["BTC"])]


class TransactionPath(Parameters, frozen=True, kw_only=True):
    """A transaction's id in hex."""

    id: Bytes32


class PageQuery(Parameters, frozen=True, kw_only=True):
    """Where a page begins (empty: at the newest, or with `newer` at the oldest), its direction and size."""

    cursor: Cursor = ""
    direction: Literal["older", "newer"] = "older"
    limit: Limit = 100


class TradesQuery(PageQuery, frozen=True, kw_only=True):
    """Trades of one instrument, or of all."""

    instrument: Annotated[str, msgspec.Meta(max_length=64)] = ""


class EventsQuery(PageQuery, frozen=True, kw_only=True):
    """Events of one kind, such as health_changed, or of all."""

    event: Annotated[str, msgspec.Meta(max_length=64)] = ""


class AccountHistory(PageQuery, frozen=True, kw_only=True):
    """What concerned one sub-account."""

    address: Bytes20
    subaccount: U8


class EpochQuery(Parameters, frozen=True, kw_only=True):
    """The epoch at whose validators the answer begins."""

    from_: U32 = msgspec.field(default=0, name="from")


class EpochPath(Parameters, frozen=True, kw_only=True):
    """An epoch by number."""

    epoch: U32


class RawBlocksQuery(Parameters, frozen=True, kw_only=True):
    """The height that the page begins at, and how many blocks it has at most."""

    from_: Annotated[int, msgspec.Meta(ge=1, le=10**15 - 1)] = msgspec.field(default=1, name="from")
    limit: Annotated[int, msgspec.Meta(ge=1, le=64)] = 64


class ProofOfAccount(EpochQuery, frozen=True, kw_only=True):
    """`account` or `margin` of a sub-account."""

    kind: Name
    address: Bytes20
    subaccount: U8


class ProofOfInstrument(EpochQuery, frozen=True, kw_only=True):
    """`mark` or `settlement` of an instrument."""

    kind: Name
    name: Name


class ProofOfOrder(EpochQuery, frozen=True, kw_only=True):
    """An order on an instrument's book."""

    name: Name
    id: Annotated[int, msgspec.Meta(ge=0, le=10**15 - 1)]


def read_parameters(kind: type[P], path: Mapping[str, str], query: Mapping[str, list[str]]) -> P:
    """Raises ProtocolViolation(BAD_REQUEST) with the name and what is wrong with it."""
    values: dict[str, Any] = {}
    texts = dict(path)
    for name, found in query.items():
        if len(found) != 1 or name in path:
            raise _bad(f"{name} is given more than once")
        texts[name] = found[0]
    for name, text in texts.items():
        field = _fields(kind).get(name)
        if field is None:
            raise _bad(f"there is no parameter {name[:64]!r}")
        values[name] = _native(name, text, field)
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise _bad(str(error)) from None


@lru_cache(maxsize=64)
def _fields(kind: type[Parameters]) -> dict[str, msgspec.inspect.Type]:
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    return {field.encode_name: field.type for field in info.fields}


def _native(name: str, text: str, kind: msgspec.inspect.Type) -> Any:
    """A number, bytes or the text itself, as the field's type asks; its bounds are msgspec's to check."""
    if isinstance(kind, msgspec.inspect.Metadata):
        return _native(name, text, kind.type)
    if isinstance(kind, msgspec.inspect.IntType):
        return read_number(text, name)
    if isinstance(kind, msgspec.inspect.BytesType):
        return read_hexadecimal(text, kind.max_length or 0, name)
    if text.endswith("\n"):
        # `$` of a pattern also matches before a last line feed.
        raise _bad(f"{name} ends with a line feed")
    return text


def read_number(text: str, what: str) -> int:
    """A decimal number of a path or query. Raises BAD_REQUEST."""
    if not text.isascii() or not text.isdecimal() or len(text) > 19:
        raise _bad(f"the {what} must be a decimal number")
    return int(text)


def read_hexadecimal(text: str, length: int, what: str) -> bytes:
    """So many bytes in lower-case hexadecimal. Raises BAD_REQUEST."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != length or raw.hex() != text:
        raise _bad(f"the {what} must be {2 * length} lower-case hexadecimal digits")
    return raw


def _bad(sentence: str) -> ProtocolViolation:
    return ProtocolViolation(GatewayReason.BAD_REQUEST, sentence)
