"""The way back: wire values from the form in which clients see them. Pure.

An action says which it is by its snake-case name, as events do: {"action": "place_order", ...}. Every field must be
there, none besides, and numbers that clients see as strings come as strings.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as types

from node.rpc.client_form import is_string_field, snake
from node.rpc.reasons import GatewayReason
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason

T = TypeVar("T")
_DECIMAL = re.compile(r"-?[0-9]{1,20}", re.ASCII)


def from_client_form(kind: type[T], value: Any) -> T:
    """The value of that type. Raises ProtocolViolation, with where and why not: BAD_REQUEST, OUT_OF_RANGE."""
    built = _built(types.type_info(kind), value, "")
    try:
        return msgspec.convert(built, kind)
    except msgspec.ValidationError as error:
        raise ProtocolViolation(CodecReason.OUT_OF_RANGE, str(error)) from None


def _built(kind: types.Type, value: Any, name: str) -> Any:
    """Builtins that msgspec converts to the type and checks the bounds of."""
    match kind:
        case types.Metadata():
            return _built(kind.type, value, name)
        case types.IntType():
            return _number(value, name)
        case types.BytesType():
            return _bytes(value, name)
        case types.VarTupleType():
            if not isinstance(value, list):
                raise _bad(f"{name} must be a list")
            return [_built(kind.item_type, item, name) for item in value]
        case types.StructType():
            return _struct(kind, value, name)
        case types.UnionType():
            return _union(kind, value, name)
    return value


def _number(value: Any, name: str) -> int:
    if is_string_field(name) and isinstance(value, str) and _DECIMAL.fullmatch(value):
        return int(value)
    # JSON does not tell 1.0 from 1.
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if is_whole and not is_string_field(name):
        return int(value)
    raise _bad(f"{name} must be a {'decimal string' if is_string_field(name) else 'whole number'}")


def _bytes(value: Any, name: str) -> bytes:
    try:
        raw = bytes.fromhex(value)
    except (TypeError, ValueError):
        raw = None
    if raw is None or raw.hex() != value:
        raise _bad(f"{name} must be lower-case hexadecimal")
    return raw


def _struct(kind: types.StructType, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise _bad(f"{name or 'the body'} must be an object")
    own = {"action": snake(kind.cls.__name__)} if kind.array_like and kind.tag is not None else {}
    names = [field.encode_name for field in kind.fields]
    if set(value) != {*own, *names} or any(value[key] != word for key, word in own.items()):
        raise _bad(f"a {snake(kind.cls.__name__)} has exactly these fields: {', '.join([*own, *names])}")
    fields = [_built(field.type, value[field.encode_name], field.encode_name) for field in kind.fields]
    if kind.array_like:
        return [kind.tag, *fields] if own else fields
    return dict(zip(names, fields, strict=True))


def _union(kind: types.UnionType, value: Any, name: str) -> Any:
    if value is None and kind.includes_none:
        return None
    structs = {snake(item.cls.__name__): item for item in kind.types if isinstance(item, types.StructType)}
    if structs:
        wanted = value.get("action") if isinstance(value, dict) else None
        found = structs.get(wanted) if isinstance(wanted, str) else None
        if found is None:
            raise _bad(f"action must be one of {', '.join(structs)}")
        return _struct(found, value, name)
    (other,) = (item for item in kind.types if not isinstance(item, types.NoneType))
    return _built(other, value, name)


def _bad(sentence: str) -> ProtocolViolation:
    return ProtocolViolation(GatewayReason.BAD_REQUEST, sentence[:300])
