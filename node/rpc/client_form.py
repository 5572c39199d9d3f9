"""How a value looks to a client: JSON (or msgpack) objects with stable types. Pure.

Bytes are lower-case hex. A field whose numbers may pass 2^53 is always a decimal string, whatever its value:
money (`_uusd`), times (`_ns`), variances (`_e12`), order ids, nonces, labels and shares. Everything else is a plain
number. A ledger event carries its kind: {"event": "order_accepted", ...}.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, get_args

import msgspec

from ledger.events import Event

STRING_SUFFIXES = (
    *("_uusd", "_ns", "_e12", "order_id", "nonce", "nonce_floor", "nonce_max", "label", "shares"),
)
EVENT_KINDS: frozenset[type] = frozenset(get_args(Event))


def client_form(value: Any, name: str = "") -> Any:
    """Plain dicts, lists, strings and numbers. `name` is the field the value stands in."""
    if isinstance(value, msgspec.Struct):
        form = fields_form(value)
        return {"event": snake(type(value).__name__), **form} if type(value) in EVENT_KINDS else form
    if isinstance(value, tuple | list):
        return [client_form(item, name) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int) and not isinstance(value, bool) and is_string_field(name):
        return str(value)
    return value


def fields_form(value: msgspec.Struct) -> dict[str, Any]:
    """The fields of a value, without the kind of an event."""
    return {field: client_form(getattr(value, field), field) for field in value.__struct_fields__}


@lru_cache(maxsize=1_024)
def is_string_field(name: str) -> bool:
    """Whether a field of this name is always a decimal string."""
    return name.endswith(STRING_SUFFIXES)


@lru_cache(maxsize=256)
def snake(name: str) -> str:
    """The client's word for a type: OrderAccepted is order_accepted."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
