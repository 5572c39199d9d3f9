"""Who asks, what they may do, and how much of it. ASGI; reads the clock.

Every HTTP request and WebSocket handshake passes the Guard: it finds the caller by its bearer token or address,
charges one unit, and leaves the Caller in the scope, whom routes charge for the rest.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from node.config import GatewayConfig
from node.rpc.connections import is_this_machine
from node.rpc.quotas import NO_LIMIT, Allowance, Quotas
from node.rpc.reasons import GatewayReason
from node.rpc.replies import refusal
from node.rpc.tokens import Right, TokenEntry
from primitives.errors import ProtocolViolation

REQUESTS_MAX = 512
"""HTTP requests being served; a further one is answered BUSY."""
OPEN_PATHS = ("/health", "/ready")
"""For load balancers: without token and quota."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Caller:
    """Whoever made a request: its right, None for none at all, and its bucket."""

    def __init__(self, access: Access, identity: str, right: Right | None, units_per_second: int) -> None:
        self.identity = identity
        self.right = right
        self.allowance = NO_LIMIT
        """After the last charge."""
        self._access = access
        self._units_per_second = units_per_second

    def charge(self, units: int) -> None:
        """Raises ProtocolViolation(QUOTA_EXCEEDED)."""
        self.allowance = self._access.quotas.take(
            self.identity, units, self._units_per_second, time.monotonic()
        )
        if self.allowance.wait_seconds:
            raise exceeded(self.allowance)

    def check(self, right: Right) -> None:
        """Raises ProtocolViolation: UNAUTHORIZED without a token, FORBIDDEN with one that is not enough."""
        order = list(Right)
        if self.right is None or order.index(right) > order.index(self.right):
            if self.identity.startswith("token "):
                raise ProtocolViolation(GatewayReason.FORBIDDEN, f"this token may not {right}")
            raise ProtocolViolation(GatewayReason.UNAUTHORIZED, f"a bearer token is needed that may {right}")


def exceeded(allowance: Allowance) -> ProtocolViolation:
    """Too much was asked for."""
    return ProtocolViolation(
        GatewayReason.QUOTA_EXCEEDED, f"the quota is used up: try again in {allowance.wait_seconds} s"
    )


class Access:
    """The rules of one gateway."""

    def __init__(self, config: GatewayConfig, tokens: dict[str, TokenEntry] | None) -> None:
        self._config = config
        # Looked up by digest, so that the time of a look-up tells nothing about a token.
        self._names = {_digest(entry.token): (name, entry) for name, entry in (tokens or {}).items()}
        self._public = Right.READ if config.public_read else None if tokens is not None else Right.ADMIN
        self.quotas = Quotas()
        self.statuses: Counter[int] = Counter()
        """HTTP answers by status."""
        self._keys = Quotas()

    def caller(self, scope: Scope) -> Caller:
        """Who makes this request. Raises ProtocolViolation(UNAUTHORIZED) for a token that is none of ours."""
        headers = dict(scope["headers"])
        given = headers.get(b"authorization")
        if given is not None and self._names:
            found = self._names.get(_digest(given.decode("latin-1").removeprefix("Bearer ")))
            if found is None:
                raise ProtocolViolation(GatewayReason.UNAUTHORIZED, "this bearer token is not known here")
            name, entry = found
            rate = entry.units_per_second
            return Caller(
                self,
                f"token {name}",
                entry.right,
                self._config.token_units_per_second if rate is None else rate,
            )
        address = self._address(scope, headers)
        return Caller(self, f"address {address}", self._public, self._rate_of(address))

    def check_key(self, caller: Caller, signer: bytes) -> None:
        """Whether an account key may have one more transaction accepted. Raises ProtocolViolation(QUOTA_EXCEEDED)."""
        allowance = self._take_key(signer, 0)
        if not allowance.remaining and allowance.limit:
            caller.allowance = allowance._replace(wait_seconds=1)
            raise exceeded(caller.allowance)

    def charge_key(self, signer: bytes) -> None:
        """One transaction was accepted, so the signature is good: nobody uses up another's quota."""
        self._take_key(signer, 1)

    def _take_key(self, signer: bytes, units: int) -> Allowance:
        rate = self._config.key_transactions_per_second
        return self._keys.take(signer.hex(), units, rate, time.monotonic())

    def _address(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        peer = scope.get("client")
        forwarded = headers.get(b"x-forwarded-for", b"") if self._config.behind_tls_proxy else b""
        # The last one is what our own proxy saw; those before it are the client's own words.
        return forwarded.decode("latin-1").rpartition(",")[2].strip() or (peer[0] if peer else "")

    def _rate_of(self, address: str) -> int:
        is_exempt = is_this_machine(address) and not self._config.limit_loopback
        return 0 if is_exempt else self._config.address_units_per_second


class Guard:
    """Pure ASGI around the routes: the caller, its quota, and the number of requests served at once."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], access: Access) -> None:
        self._app = app
        self._access = access
        self._serving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, connection or lifespan."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        is_http = scope["type"] == "http"
        caller: Caller | None = None
        try:
            if scope["path"] not in OPEN_PATHS:
                caller = self._access.caller(scope)
                caller.charge(1)
            if is_http and self._serving >= REQUESTS_MAX:
                raise ProtocolViolation(GatewayReason.BUSY, "too many requests at once")
        except ProtocolViolation as violation:
            await self._refuse(scope, receive, send, violation, caller)
            return
        scope.setdefault("state", {})["caller"] = caller
        self._serving += is_http
        try:
            await self._app(scope, receive, self._counting(send, caller) if is_http else send)
        finally:
            self._serving -= is_http

    def _counting(self, send: Send, caller: Caller | None) -> Send:
        """Counts the answer, and adds what is left of the quota to its headers."""

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self._access.statuses[message["status"]] += 1
                if caller is not None and caller.allowance.limit:
                    message["headers"] = [*message["headers"], *_quota_headers(caller.allowance)]
            await send(message)

        return counted

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, violation: ProtocolViolation, caller: Caller | None
    ) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": violation.reason.value})
        else:
            await refusal(violation)(scope, receive, self._counting(send, caller))


def _quota_headers(allowance: Allowance) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"ratelimit-limit", str(allowance.limit).encode()),
        (b"ratelimit-remaining", str(allowance.remaining).encode()),
    ]
    if allowance.wait_seconds:
        headers.append((b"retry-after", str(allowance.wait_seconds).encode()))
    return headers


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
