"""How a wire value looks to a client: JSON (or msgpack) objects with stable types. Pure.

Bytes are lower-case hex. A field whose numbers may pass 2^53 is always a decimal string, whatever its value:
money (`_uusd`), times (`_ns`), variances (`_e12`), order ids, nonces, labels and shares. Everything else is a plain
number.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec

from primitives.codec import Wire

_STRING_SUFFIXES = ("_uusd", "_ns", "_e12", "order_id", "nonce", "nonce_floor", "label", "shares")


def client_form(value: Any, name: str = "") -> Any:
    """Plain dicts, lists, strings and numbers. `name` is the field the value stands in."""
    if isinstance(value, msgspec.Struct):
        return {field: client_form(getattr(value, field), field) for field in value.__struct_fields__}
    if isinstance(value, tuple | list):
        return [client_form(item, name) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int) and not isinstance(value, bool) and is_string_field(name):
        return str(value)
    return value


def event_form(event: Wire) -> dict[str, Any]:
    """A ledger event with its kind: {"event": "order_accepted", ...}."""
    return {"event": _snake(type(event).__name__), **client_form(event)}


@lru_cache(maxsize=1_024)
def is_string_field(name: str) -> bool:
    """Whether a field of this name is always a decimal string."""
    return name.endswith(_STRING_SUFFIXES)


@lru_cache(maxsize=256)
def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
