"""One route of the API as data: its path, what it takes, what it answers, what it costs, and who may ask. Pure.

The table of routes.py is the only place where a route is described: the HTTP endpoints (endpoints.py) and the OpenAPI
document (openapi.py) are both made from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from node.rpc.access import Caller
from node.rpc.parameters import Parameters
from node.rpc.reasons import GatewayReason
from node.rpc.tokens import Right


class Asked(NamedTuple):
    """One request as its handler sees it."""

    parameters: Any
    """Of the route's own type."""
    body: bytes
    content_type: str
    caller: Caller | None


class Reply(NamedTuple):
    """An answer with another status than 200."""

    status: int
    answer: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRoute:
    """`handle` gets an Asked and gives the answer, a Reply, or an awaitable of either."""

    path: str
    summary: str
    answers: dict[int, Any]
    """Type of the answer by status; several types as a tuple; a text's content type as a string."""
    handle: Callable[[Asked], Any]
    parameters: type[Parameters] = Parameters
    method: str = "GET"
    body: dict[str, Any] | None = None
    """Type of the body by content type; None: there is none. Bytes are `bytes`."""
    refusals: tuple[GatewayReason, ...] = ()
    """Beside those that every route may give."""
    units: int = 1
    """What a request costs of its caller's quota."""
    right: Right | None = Right.READ
    """None: for everybody."""
    in_thread: int = 0
    """So many at once are answered from worker threads, because it takes long; 0: at once, in the event loop."""
