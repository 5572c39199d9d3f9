"""The OpenAPI 3.1 document of the gateway, made from its table of routes and the types of its answers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from node.rpc.answers import Refusal
from node.rpc.api_route import ApiRoute
from node.rpc.protocol import RAW_BYTES_MAX
from node.rpc.reasons import GatewayReason
from node.rpc.replies import HTTP_STATUS
from node.rpc.schemas import Schema, Schemas, described
from node.rpc.stream_forms import MESSAGES, REQUESTS

ALWAYS = (
    *(GatewayReason.BAD_REQUEST, GatewayReason.UNAUTHORIZED, GatewayReason.FORBIDDEN),
    *(GatewayReason.QUOTA_EXCEEDED, GatewayReason.BUSY, GatewayReason.INTERNAL),
)
"""Refusals that every route may give."""


def openapi_document(routes: Iterable[ApiRoute]) -> Schema:
    """The document; `x-websocket` tells the messages of /v1/ws in the same words."""
    schemas = Schemas()
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    stream = {
        "path": "/v1/ws",
        "requests": [schemas.of(kind) for kind in REQUESTS],
        "messages": [schemas.of(kind) for kind in MESSAGES],
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Quorate gateway", "version": _version(), "description": _DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "x-websocket": stream,
    }


_DESCRIPTION = (
    "Bytes are lower-case hex. Money (_uusd), times (_ns), variances (_e12), order ids, nonces and labels are decimal "
    "strings; every other number is a number. Answers come from the newest final block."
)


def _operation(route: ApiRoute, schemas: Schemas) -> Schema:
    operation: Schema = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.path.split("/")[2] if route.path.startswith("/v1/") else "operations"],
        "parameters": _parameters(route, schemas),
        "responses": _responses(route, schemas),
        "security": [] if route.right is None else [{}, {"token": [route.right.value]}],
        "x-units": route.units,
    }
    if route.body is not None:
        content = {kind: {"schema": _body(body, schemas)} for kind, body in route.body.items()}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _operation_id(route: ApiRoute) -> str:
    words = re.findall(r"\w+", route.path.removeprefix("/v1"))
    return "_".join([route.method.lower(), *words])


def _parameters(route: ApiRoute, schemas: Schemas) -> list[Schema]:
    in_path = set(re.findall(r"{(\w+)}", route.path))
    found = []
    for field in msgspec.structs.fields(route.parameters):
        name = field.encode_name
        # What stands in a path or query is text of a number, so numbers stay plain here.
        schema = schemas.of(field.type)
        if field.default is not msgspec.NODEFAULT:
            schema = {**schema, "default": field.default}
        place = "path" if name in in_path else "query"
        found.append({"name": name, "in": place, "required": place == "path", "schema": schema})
    return found


def _body(kind: Any, schemas: Schemas) -> Schema:
    if kind is bytes:
        return {"type": "string", "format": "binary", "minLength": 1, "maxLength": RAW_BYTES_MAX}
    return schemas.of(kind)


def _responses(route: ApiRoute, schemas: Schemas) -> Schema:
    responses: dict[int, Schema] = {}
    reasons: dict[int, list[str]] = {}
    for reason in (*ALWAYS, *route.refusals):
        reasons.setdefault(HTTP_STATUS[reason], []).append(reason.value)
    for status, names in reasons.items():
        refused = {"application/json": {"schema": schemas.of(Refusal)}}
        responses[status] = {"description": " or ".join(dict.fromkeys(names)), "content": refused}
    for status, kind in route.answers.items():
        responses[status] = _answer(status, kind, schemas, responses.get(status))
    return {str(status): responses[status] for status in sorted(responses)}


def _answer(status: int, kind: Any, schemas: Schemas, refused: Schema | None) -> Schema:
    if isinstance(kind, str):
        return {"description": HTTPStatus(status).phrase, "content": {kind: {"schema": {"type": "string"}}}}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    options = [schemas.of(item) for item in kinds]
    if refused is not None:
        options.append(refused["content"]["application/json"]["schema"])
    schema = options[0] if len(options) == 1 else {"anyOf": options}
    text = " or ".join(described(item) for item in kinds)
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _version() -> str:
    try:
        return version("quorate")
    except PackageNotFoundError:
        return "0"
