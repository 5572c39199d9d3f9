"""Wire values as readable JSON and back: objects with field names, bytes as hex, numbers as integers. Pure.

The wire form is what is hashed; this form is what people read and write. Reading is strict: every field by
name, no unknown one, no duplicate, ranges of the types; a refusal names the place, such as
`ledger.underlyings[1].index_uusd`.
"""

from __future__ import annotations

import json
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from primitives.codec import Wire
from primitives.errors import OperatorError, ProtocolViolation

T = TypeVar("T")
LINE_CHARACTERS_MAX = 110
"""An object or list that fits on one line is written on one line."""


def to_named(value: Any) -> Any:
    """Plain dicts, lists, strings and numbers with every field under its name."""
    if isinstance(value, msgspec.Struct):
        return {name: to_named(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [to_named(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value


def from_named(kind: type[T], named: Any) -> T:
    """The typed value. Raises OperatorError that names the place and what is wrong there."""
    value: T = _typed(kind, named, "")
    return value


def format_named(named: Any) -> str:
    """JSON text in which small objects stay on one line."""
    return _format(named, 0, 0) + "\n"


def parse_named(text: str) -> Any:
    """JSON without duplicate names. Raises ValueError with a short reason."""
    return json.loads(text, object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        repeated = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
        raise ValueError(f"the name {repeated!r} appears twice in one object")
    return names


def _format(named: Any, depth: int, used: int) -> str:
    """`used`: characters that stand before the value on its line, its indentation not counted."""
    line = json.dumps(named, ensure_ascii=False)
    if not isinstance(named, dict | list) or not named or len(line) + 2 * depth + used < LINE_CHARACTERS_MAX:
        return line
    if isinstance(named, dict):
        names = {name: f"{json.dumps(name)}: " for name in named}
        parts = [names[name] + _format(item, depth + 1, len(names[name])) for name, item in named.items()]
    else:
        parts = [_format(item, depth + 1, 0) for item in named]
    inner = ",\n".join("  " * (depth + 1) + part for part in parts)
    opening, closing = "{}" if isinstance(named, dict) else "[]"
    return f"{opening}\n{inner}\n{'  ' * depth}{closing}"


def _typed(kind: Any, named: Any, place: str) -> Any:
    base, constraints = (get_args(kind)[0], True) if get_origin(kind) is Annotated else (kind, False)
    if get_origin(base) in (Union, UnionType):
        if named is None and NoneType in get_args(base):
            return None
        return _typed(next(item for item in get_args(base) if item is not NoneType), named, place)
    if isinstance(base, type) and issubclass(base, Wire):
        return _typed_struct(base, named, place)
    if get_origin(base) is tuple:
        value: Any = _typed_tuple(get_args(base), named, place)
        return _checked(Annotated[(tuple, *get_args(kind)[1:])], value, place) if constraints else value
    return _checked(kind, _bytes_of(named, place) if base is bytes else named, place)


def _typed_struct(kind: type[Wire], named: Any, place: str) -> Wire:
    if not isinstance(named, dict):
        raise OperatorError(f"{place or 'the document'}: expected an object with named fields")
    hints = _hints(kind)
    for name in sorted(named.keys() - hints.keys()):
        raise OperatorError(f"{_join(place, name)}: there is no such field")
    for name in hints:
        if name not in named:
            raise OperatorError(f"{_join(place, name)}: is missing")
    fields = {name: _typed(hint, named[name], _join(place, name)) for name, hint in hints.items()}
    try:
        return kind(**fields)
    except ProtocolViolation as violation:
        raise OperatorError(f"{place}: {violation.detail}") from None


def _typed_tuple(items: tuple[Any, ...], named: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(named, list):
        raise OperatorError(f"{place}: expected a list")
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_typed(items[0], item, f"{place}[{number}]") for number, item in enumerate(named))
    if len(named) != len(items):
        raise OperatorError(f"{place}: expected {len(items)} values, got {len(named)}")
    return tuple(
        _typed(kind, item, f"{place}[{n}]") for n, (kind, item) in enumerate(zip(items, named, strict=True))
    )


def _bytes_of(named: Any, place: str) -> bytes:
    try:
        if isinstance(named, str) and named == named.lower():
            return bytes.fromhex(named)
    except ValueError:
        pass
    raise OperatorError(f"{place}: expected lower-case hexadecimal digits")


def _checked(kind: Any, value: Any, place: str) -> Any:
    try:
        return msgspec.convert(value, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise OperatorError(f"{place}: {str(error).partition(' - at ')[0]}") from None


@lru_cache(maxsize=64)
def _hints(kind: type[Wire]) -> dict[str, Any]:
    return {
        name: hint
        for name, hint in get_type_hints(kind, include_extras=True).items()
        if name in _fields(kind)
    }


def _fields(kind: type[Wire]) -> tuple[str, ...]:
    return kind.__struct_fields__


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
