"""HTTP endpoints made from the table of routes: parameters, rights, quotas, bodies, threads, answers. asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from node.rpc.api_route import ApiRoute, Asked, Reply
from node.rpc.parameters import read_parameters
from node.rpc.protocol import RAW_BYTES_MAX
from node.rpc.reasons import GatewayReason
from node.rpc.replies import json_response, refusal
from primitives.errors import ProtocolViolation

BODY_BYTES_MAX = 2 * RAW_BYTES_MAX + 1_024
"""A request's body: one transaction in base64 and its JSON."""
BODY_SECONDS_MAX = 5.0
"""A body that takes longer is refused."""

log = structlog.get_logger()


def http_routes(table: Iterable[ApiRoute]) -> list[Route]:
    """What Starlette routes by."""
    return [Route(route.path, _endpoint(route), methods=[route.method]) for route in table]


def exception_handlers() -> dict[Any, Callable[[Request, Exception], Response]]:
    """Every failure becomes a refusal with a stable reason."""
    return {ProtocolViolation: _on_violation, 404: _on_no_path, 405: _on_other_method, 500: _on_failure}


def _endpoint(route: ApiRoute) -> Callable[[Request], Awaitable[Response]]:
    slots = asyncio.Semaphore(route.in_thread) if route.in_thread else contextlib.nullcontext()

    async def endpoint(request: Request) -> Response:
        caller = request.state.caller
        if caller is not None:
            if route.right is not None:
                caller.check(route.right)
            caller.charge(route.units - 1)
        query = {name: request.query_params.getlist(name) for name in request.query_params}
        parameters = read_parameters(route.parameters, request.path_params, query)
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        asked = Asked(parameters, await _read_body(request, route), content_type, caller)
        async with slots:
            if route.in_thread:
                answer = await asyncio.to_thread(lambda: _response(route, route.handle(asked)))
            else:
                found = route.handle(asked)
                answer = _response(route, await found if inspect.isawaitable(found) else found)
        return answer

    return endpoint


def _response(route: ApiRoute, answer: Any) -> Response:
    if isinstance(answer, Reply):
        return json_response(answer.answer, answer.status)
    kind = route.answers[200]
    return Response(answer, media_type=kind) if isinstance(kind, str) else json_response(answer)


async def _read_body(request: Request, route: ApiRoute) -> bytes:
    if route.body is None:
        return b""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise ProtocolViolation(
                        GatewayReason.BODY_TOO_LARGE, f"a body has at most {BODY_BYTES_MAX} bytes"
                    )
    except TimeoutError:
        raise ProtocolViolation(GatewayReason.TIMEOUT, "the body did not come in time") from None
    except ClientDisconnect:
        raise ProtocolViolation(GatewayReason.BAD_REQUEST, "the body was cut short") from None
    if not body:
        raise ProtocolViolation(GatewayReason.BAD_REQUEST, "there is no body")
    return bytes(body)


def _on_violation(request: Request, error: Exception) -> Response:
    if isinstance(error, ProtocolViolation) and isinstance(error.reason, GatewayReason):
        return refusal(error)
    return _on_failure(request, error)


def _on_no_path(request: Request, error: Exception) -> Response:
    del request, error
    return refusal(ProtocolViolation(GatewayReason.NOT_FOUND, "there is no such path"))


def _on_other_method(request: Request, error: Exception) -> Response:
    del request
    violation = ProtocolViolation(GatewayReason.BAD_REQUEST, "this path has another method")
    return refusal(violation, 405, dict(getattr(error, "headers", None) or {}))


def _on_failure(request: Request, error: Exception) -> Response:
    log.error("gateway_request_failed", path=request.url.path, exc_info=error)
    return refusal(
        ProtocolViolation(GatewayReason.INTERNAL, "the gateway failed to answer; it has logged why")
    )
