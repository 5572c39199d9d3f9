"""HTTP responses: JSON of answers, and refusals with their statuses. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from node.rpc.answers import Refusal
from node.rpc.client_form import client_form
from node.rpc.reasons import GatewayReason
from primitives.errors import ProtocolViolation

HTTP_STATUS = {
    GatewayReason.NOT_FOUND: 404,
    GatewayReason.BAD_REQUEST: 400,
    GatewayReason.BODY_TOO_LARGE: 413,
    GatewayReason.TIMEOUT: 504,
    GatewayReason.BUSY: 503,
    GatewayReason.UNAUTHORIZED: 401,
    GatewayReason.FORBIDDEN: 403,
    GatewayReason.QUOTA_EXCEEDED: 429,
    GatewayReason.NODE_UNAVAILABLE: 503,
    GatewayReason.INTERNAL: 500,
}


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer in client form."""
    return Response(msgspec.json.encode(client_form(content)), status, headers, media_type="application/json")


def refusal(
    violation: ProtocolViolation, status: int | None = None, headers: dict[str, str] | None = None
) -> Response:
    """The reply to a request that is refused."""
    reason = GatewayReason(violation.reason)
    if reason == GatewayReason.UNAUTHORIZED:
        headers = {"www-authenticate": "Bearer"}
    content = Refusal(reason=reason.value, detail=violation.detail)
    return json_response(content, HTTP_STATUS[reason] if status is None else status, headers)
