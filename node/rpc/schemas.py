"""JSON schemas of values in client form, made from their types. Pure.

The rules are those of client_form.py: whatever changes there changes here.
"""

from __future__ import annotations

import inspect
from typing import Any

from msgspec import inspect as types

from node.rpc.client_form import EVENT_KINDS, is_string_field, snake

DECIMAL = {"type": "string", "pattern": "^-?[0-9]{1,20}$"}
Schema = dict[str, Any]


class Schemas:
    """Collects every struct once, under its name, for `#/components/schemas`."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def of(self, kind: Any, name: str = "") -> Schema:
        """The schema of a type; `name` is the field it stands in."""
        return self._of(types.type_info(kind), name)

    def _of(self, kind: types.Type, name: str) -> Schema:  # noqa: PLR0911  # one line per kind of type
        match kind:
            case types.IntType():
                return DECIMAL if is_string_field(name) else _bounded(kind)
            case types.BytesType():
                return _hexadecimal(kind)
            case types.StrType():
                return _text(kind)
            case types.BoolType():
                return {"type": "boolean"}
            case types.NoneType():
                return {"type": "null"}
            case types.LiteralType():
                return {"enum": list(kind.values)}
            case types.DictType():
                return {"type": "object", "additionalProperties": self._of(kind.value_type, "")}
            case types.ListType() | types.VarTupleType():
                schema: Schema = {"type": "array", "items": self._of(kind.item_type, name)}
                bounds = (("minItems", kind.min_length), ("maxItems", kind.max_length))
                return schema | {word: bound for word, bound in bounds if bound is not None}
            case types.Metadata():
                return self._of(kind.type, name) | (kind.extra_json_schema or {})
            case types.TupleType():
                items = [self._of(item, name) for item in kind.item_types]
                return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
            case types.UnionType():
                return self._union(kind, name)
            case types.StructType():
                return self._struct(kind)
            case _:
                raise TypeError(f"{kind} has no client form")

    def _union(self, kind: types.UnionType, name: str) -> Schema:
        if all(isinstance(item, types.StructType) and item.array_like for item in kind.types):
            word = (
                "event" if any(getattr(item, "cls", None) in EVENT_KINDS for item in kind.types) else "action"
            )
            if word.title() not in self.components:
                self.components[word.title()] = {}
                refs = [self._of(item, name) for item in kind.types]
                mapping = {snake(ref["$ref"].rsplit("/")[-1]): ref["$ref"] for ref in refs}
                self.components[word.title()] = {
                    "oneOf": refs,
                    "discriminator": {"propertyName": word, "mapping": mapping},
                }
            return {"$ref": f"#/components/schemas/{word.title()}"}
        return {"anyOf": [self._of(item, name) for item in kind.types]}

    def _struct(self, kind: types.StructType) -> Schema:
        title = kind.cls.__name__
        if title not in self.components:
            self.components[title] = {}
            properties = {field.encode_name: self._of(field.type, field.encode_name) for field in kind.fields}
            required = [field.encode_name for field in kind.fields if field.required or kind.tag is None]
            tag = _tag_of(kind)
            if tag is not None:
                properties = {tag[0]: {"const": tag[1]}, **properties}
                required = [tag[0], *required]
            self.components[title] = {
                "type": "object",
                "description": described(kind.cls),
                "properties": properties,
                "required": required,
                "additionalProperties": getattr(kind.cls, "is_open", False),
            }
        return {"$ref": f"#/components/schemas/{title}"}


def _tag_of(kind: types.StructType) -> tuple[str, str] | None:
    """The property that tells a struct from others, and its value."""
    if kind.cls in EVENT_KINDS:
        return "event", snake(kind.cls.__name__)
    if kind.tag is None:
        return None
    return (
        (kind.tag_field, str(kind.tag))
        if not kind.array_like and kind.tag_field
        else (
            "action",
            snake(kind.cls.__name__),
        )
    )


def described(kind: type) -> str:
    """A type's docstring on one line per paragraph."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _bounded(kind: types.IntType) -> Schema:
    schema: Schema = {"type": "integer"}
    for word, bound in (("minimum", kind.ge), ("maximum", kind.le)):
        if bound is not None:
            schema[word] = bound
    return schema


def _hexadecimal(kind: types.BytesType) -> Schema:
    length = kind.max_length
    is_fixed = length is not None and length == kind.min_length
    return {
        "type": "string",
        "pattern": f"^[0-9a-f]{{{2 * length}}}$" if is_fixed and length else "^[0-9a-f]*$",
    }


def _text(kind: types.StrType) -> Schema:
    schema: Schema = {"type": "string"}
    for word, value in (
        ("minLength", kind.min_length),
        ("maxLength", kind.max_length),
        ("pattern", kind.pattern),
    ):
        if value is not None:
            schema[word] = value
    return schema
