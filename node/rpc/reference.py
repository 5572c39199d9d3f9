"""/openapi.json and /docs: the API's own description, and a page on which to read and try it. Reads one file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from node.rpc.api_route import ApiRoute
from node.rpc.openapi import openapi_document

PAGE = Path(__file__).with_name("reference.html")
CONTENT_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
)
"""The page may talk to this gateway and to nobody else."""


def reference_routes(table: Iterable[ApiRoute]) -> list[Route]:
    """Both are made once."""
    document = msgspec.json.encode(openapi_document(table))
    page = PAGE.read_text(encoding="utf-8")

    async def openapi(request: Request) -> Response:
        del request
        return Response(document, media_type="application/json")

    async def docs(request: Request) -> Response:
        del request
        headers = {"content-security-policy": CONTENT_POLICY}
        return Response(page, headers=headers, media_type="text/html")

    return [Route("/openapi.json", openapi, methods=["GET"]), Route("/docs", docs, methods=["GET"])]
