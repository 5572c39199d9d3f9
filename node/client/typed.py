"""Client form back into types: the inverse of node/rpc/client_form.py. Pure.

Fields that this version does not know are passed over, so that an older client reads a newer gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as types

from ledger.events import Event
from node.client.errors import BadAnswer
from node.rpc.client_form import EVENT_KINDS, snake

T = TypeVar("T")
Read = Callable[[Any], Any]


class OtherEvent(msgspec.Struct, frozen=True):
    """An event that this version does not know."""

    event: str
    fields: dict[str, Any]


def read_form(kind: type[T], form: Any) -> T:
    """The value of a type whose client form this is. Raises BadAnswer."""
    try:
        value: T = _reader(kind)(form)  # type: ignore[arg-type]  # types are hashable
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadAnswer(f"the gateway's {kind.__name__} cannot be read: {error!r}"[:200]) from None
    return value


def read_event(form: Any) -> Event | OtherEvent:
    """A ledger event by its kind. Raises BadAnswer."""
    kind = _EVENTS.get(form.get("event", ""))
    if kind is None:
        return OtherEvent(str(form.get("event")), form)
    event: Event = read_form(kind, form)
    return event


_EVENTS: dict[str, type] = {snake(kind.__name__): kind for kind in EVENT_KINDS}


@lru_cache(maxsize=256)
def _reader(kind: Any) -> Read:
    return _read(types.type_info(kind))


def _read(kind: types.Type) -> Read:
    match kind:
        case types.IntType():
            return int
        case types.BytesType():
            return bytes.fromhex
        case types.ListType() | types.VarTupleType():
            return _sequence(_read(kind.item_type))
        case types.TupleType():
            return _row([_read(item) for item in kind.item_types])
        case types.DictType():
            return _mapping(_read(kind.value_type))
        case types.StructType():
            return _struct(kind)
        case types.UnionType():
            return _union(kind)
        case _:
            return _same


def _same(form: Any) -> Any:
    return form


def _sequence(item: Read) -> Read:
    return lambda form: tuple(map(item, form))


def _row(items: list[Read]) -> Read:
    return lambda form: tuple(item(value) for item, value in zip(items, form, strict=True))


def _mapping(item: Read) -> Read:
    return lambda form: {name: item(value) for name, value in form.items()}


def _struct(kind: types.StructType) -> Read:
    fields = [(field.name, field.encode_name, _read(field.type), field.required) for field in kind.fields]
    make = kind.cls

    def read(form: Any) -> Any:
        found = {
            name: reader(form[told]) for name, told, reader, is_needed in fields if is_needed or told in form
        }
        return make(**found)

    return read


def _union(kind: types.UnionType) -> Read:
    if all(isinstance(item, types.StructType) and item.cls in EVENT_KINDS for item in kind.types):
        return read_event
    [inner] = [_read(item) for item in kind.types if not isinstance(item, types.NoneType)]
    return lambda form: None if form is None else inner(form)
