"""The gateway process: HTTP and WebSocket for clients, outside the consensus process. asyncio, LMDB.

Started by node/rpc/supervisor.py with a bound listening socket and the configuration on standard input; it
exits when that input ends. Queries are answered from the node's block store, orders go to the node over its
Unix socket.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from node.config import NodeConfig
from node.genesis import load_genesis
from node.light.prover import Prover
from node.logs import configure_logs
from node.rpc.client_form import client_form
from node.rpc.node_link import NodeLink
from node.rpc.proof_queries import ProofQueries
from node.rpc.protocol import RAW_BYTES_MAX
from node.rpc.queries import Queries
from node.rpc.reasons import GatewayReason
from node.rpc.streams import FRAME_BYTES_MAX, StreamClient, Streams
from node.storage.block_store import BlockStore
from node.storage.epoch_files import EpochFiles
from primitives.errors import OperatorError, ProtocolViolation

REQUESTS_MAX = 512
"""HTTP requests being served; a further one is answered BUSY."""
CONNECTIONS_MAX = 1_024
"""Open connections; uvicorn answers a further one with 503."""
STREAM_CLIENTS_MAX = 256
"""WebSocket clients; a further one is closed as BUSY."""
PROOFS_MAX = 2
"""Proofs of one kind being made at once; further requests wait, and count as being served."""
BODY_BYTES_MAX = 2 * RAW_BYTES_MAX + 1_024
"""A request's body: one transaction in base64 and its JSON."""
BODY_SECONDS_MAX = 5.0
"""A body that takes longer is refused."""
CLOSE_SECONDS_MAX = 1.0
"""A slow consumer gets this long to hear why it is disconnected."""
STORE_SECONDS_MAX = 10.0
"""The node creates its store before it starts us; wait this long, then give up (and be started again)."""

HTTP_STATUS = {
    GatewayReason.NOT_FOUND: 404,
    GatewayReason.BAD_REQUEST: 400,
    GatewayReason.BODY_TOO_LARGE: 413,
    GatewayReason.TIMEOUT: 504,
    GatewayReason.BUSY: 503,
    GatewayReason.UNAUTHORIZED: 401,
    GatewayReason.NODE_UNAVAILABLE: 503,
    GatewayReason.INTERNAL: 500,
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.get_logger()


class _OrderBody(msgspec.Struct, forbid_unknown_fields=True):
    """JSON of POST /v1/orders: an encoded SignedTransaction in base64."""

    transaction: bytes


class Gateway:
    """The HTTP routes and what they need."""

    def __init__(self, queries: Queries, proofs: ProofQueries, link: NodeLink, streams: Streams) -> None:
        self._queries = queries
        self._proofs = proofs
        self._link = link
        self._streams = streams

    def routes(self) -> list[Route | WebSocketRoute]:
        """Every path there is."""
        answers: dict[str, Callable[[Request], Any]] = {
            "/v1/blocks/{height}": lambda request: self._queries.block(request.path_params["height"]),
            "/v1/accounts/{address}/{subaccount}": lambda request: self._queries.account(
                request.path_params["address"], request.path_params["subaccount"]
            ),
            "/v1/accounts/{address}/{subaccount}/stake": lambda request: self._queries.stake(
                request.path_params["address"], request.path_params["subaccount"]
            ),
            "/v1/validators": lambda _: self._queries.validators(),
            "/v1/instruments": lambda _: {"instruments": self._queries.instruments()},
            "/v1/books/{instrument}": lambda request: self._queries.book(request.path_params["instrument"]),
            "/v1/surface/{underlying}": lambda request: self._queries.surface(
                request.path_params["underlying"]
            ),
            "/v1/transactions/{id}": lambda request: self._queries.transaction(request.path_params["id"]),
        }
        return [
            *(Route(path, _answering(answer), methods=["GET"]) for path, answer in answers.items()),
            *(Route(path, _proving(proof), methods=["GET"]) for path, proof in self._proof_answers().items()),
            Route("/v1/status", self._status, methods=["GET"]),
            Route("/v1/orders", self._orders, methods=["POST"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
            WebSocketRoute("/v1/ws", self._stream),
        ]

    def _proof_answers(self) -> dict[str, Callable[[Request], Any]]:
        """Paths whose answers take long enough for a thread of their own."""

        def account(request: Request) -> Any:
            path = request.path_params
            return self._proofs.account(path["kind"], path["address"], path["subaccount"], _from(request))

        def instrument(request: Request) -> Any:
            path = request.path_params
            return self._proofs.instrument(path["kind"], path["name"], _from(request))

        def order(request: Request) -> Any:
            path = request.path_params
            return self._proofs.order(path["name"], path["id"], _from(request))

        return {
            "/v1/proofs/order/{name}/{id}": order,
            "/v1/proofs/{kind}/{address}/{subaccount}": account,
            "/v1/proofs/{kind}/{name}": instrument,
            "/v1/epochs": lambda request: self._proofs.epochs(_from(request)),
        }

    async def _status(self, request: Request) -> Response:
        """The node's own status; when it is away, what is stored, marked stale."""
        del request
        try:
            status = client_form(await self._link.status())
        except ProtocolViolation:
            return _json({**self._queries.tip(), "is_stale": True})
        status["counters"] = dict(status["counters"])
        return _json({**status, "is_stale": False})

    async def _orders(self, request: Request) -> Response:
        """Hand one signed transaction to the node; 202 when it waits for a block."""
        body = await _read_body(request)
        is_json = request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"
        reply = await self._link.submit(_decode_order(body) if is_json else body)
        return _json(client_form(reply), status=202 if reply.accepted else 422)

    async def _metrics(self, request: Request) -> Response:
        del request
        own = f"quorate_gateway_stream_clients {len(self._streams.clients)}\n".encode()
        return Response(await self._link.metrics() + own, media_type="text/plain; version=0.0.4")

    async def _health(self, request: Request) -> Response:
        del request
        connected = self._link.is_connected
        return _json({"status": "ok" if connected else "node_unavailable"}, status=200 if connected else 503)

    async def _stream(self, websocket: WebSocket) -> None:
        """One WebSocket client, until it leaves or falls behind."""
        await websocket.accept()
        if len(self._streams.clients) >= STREAM_CLIENTS_MAX:
            await websocket.close(1013, GatewayReason.BUSY.value)
            return
        client = StreamClient(websocket)
        self._streams.clients.add(client)
        works = (client.write(), self._read_stream(websocket, client), client.fell_behind.wait())
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                _note_failure(task)
        finally:
            self._streams.clients.discard(client)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if client.fell_behind.is_set():
            with contextlib.suppress(TimeoutError, RuntimeError):
                async with asyncio.timeout(CLOSE_SECONDS_MAX):
                    await websocket.close(1013, GatewayReason.SLOW_CONSUMER.value)

    async def _read_stream(self, websocket: WebSocket, client: StreamClient) -> None:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            await self._streams.take(client, message.get("bytes", b"") if text is None else text)


class Guard:
    """Pure ASGI around the routes: the token, and the number of requests served at once."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], token: str | None) -> None:
        self._app = app
        self._token = token.encode() if token is not None else None
        self._serving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, connection or lifespan."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        is_http = scope["type"] == "http"
        if scope["path"] != "/health" and not self._is_authorized(scope):
            await _refuse(scope, receive, send, GatewayReason.UNAUTHORIZED, "a bearer token is needed")
        elif is_http and self._serving >= REQUESTS_MAX:
            await _refuse(scope, receive, send, GatewayReason.BUSY, "too many requests at once")
        else:
            self._serving += is_http
            try:
                await self._app(scope, receive, send)
            finally:
                self._serving -= is_http

    def _is_authorized(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, b"Bearer " + self._token)


def make_app(
    queries: Queries, proofs: ProofQueries, link: NodeLink, streams: Streams, token: str | None
) -> Guard:
    """The ASGI application; the link runs as long as it does."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(link.run())
        yield
        task.cancel()

    app = Starlette(
        routes=Gateway(queries, proofs, link, streams).routes(),
        lifespan=lifespan,
        exception_handlers={
            ProtocolViolation: _on_violation,
            404: lambda *_: _refusal(GatewayReason.NOT_FOUND, "there is no such path"),
            405: lambda *_: _refusal(GatewayReason.BAD_REQUEST, "this path has another method", status=405),
            500: _on_failure,
        },
    )
    return Guard(app, token)


def _answering(answer: Callable[[Request], Any]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return _json(answer(request))

    return endpoint


def _proving(answer: Callable[[Request], Any]) -> Callable[[Request], Awaitable[Response]]:
    proving = asyncio.Semaphore(PROOFS_MAX)

    async def endpoint(request: Request) -> Response:
        async with proving:
            return _json(await asyncio.to_thread(answer, request))

    return endpoint


def _from(request: Request) -> str:
    """The epoch that an answer begins at."""
    return str(request.query_params.get("from", "0"))


async def _read_body(request: Request) -> bytes:
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
    return bytes(body)


def _decode_order(body: bytes) -> bytes:
    try:
        return msgspec.json.decode(body, type=_OrderBody).transaction
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise ProtocolViolation(GatewayReason.BAD_REQUEST, 'expected {"transaction": "<base64>"}') from None


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _refusal(reason: GatewayReason, detail: str, status: int | None = None) -> Response:
    return _json({"reason": reason, "detail": detail}, HTTP_STATUS[reason] if status is None else status)


async def _refuse(scope: Scope, receive: Receive, send: Send, reason: GatewayReason, detail: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": reason.value})
    else:
        await _refusal(reason, detail)(scope, receive, send)


def _on_violation(request: Request, error: Exception) -> Response:
    del request
    reason = getattr(error, "reason", GatewayReason.INTERNAL)
    return _refusal(GatewayReason(reason), getattr(error, "detail", ""))


def _on_failure(request: Request, error: Exception) -> Response:
    log.error("gateway_request_failed", path=request.url.path, exc_info=error)
    return _refusal(GatewayReason.INTERNAL, "the gateway failed to answer; it has logged why")


def _note_failure(task: asyncio.Future[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, WebSocketDisconnect | RuntimeError):
        log.error("gateway_stream_failed", exc_info=error)


def _read_token(config: NodeConfig) -> str | None:
    if config.token_path is None:
        return None
    try:
        token = config.token_path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise OperatorError(f"cannot read the gateway's token file {config.token_path}") from None
    if len(token) < 16:
        raise OperatorError(f"the token in {config.token_path} must have at least 16 characters")
    return token


def _open_store(config: NodeConfig) -> BlockStore:
    deadline = time.monotonic() + STORE_SECONDS_MAX
    while True:
        try:
            return BlockStore.open(config.store_path, read_only=True)
        except OperatorError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class _ExitAtEnd(asyncio.Protocol):
    """Standard input ends when the node does."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._server.should_exit = True


async def _serve(config: NodeConfig, descriptor: int) -> None:
    store, genesis = _open_store(config), load_genesis(config.genesis_path)
    queries = Queries(store, genesis)
    prover = Prover(store, EpochFiles(config.data_path / "epochs"), genesis)
    proofs = ProofQueries(prover, queries)
    streams = Streams(queries)
    link = NodeLink(config.socket_path, streams.on_notice, streams.on_connected)
    streams.connect(link)
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(queries, proofs, link, streams, _read_token(config)),
            http="httptools",
            access_log=False,
            log_level="error",
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=1,
            ws_max_size=FRAME_BYTES_MAX,
        )
    )
    await asyncio.get_running_loop().connect_read_pipe(lambda: _ExitAtEnd(server), sys.stdin)
    await server.serve([socket.socket(fileno=descriptor)])


def main() -> int:
    """Entry of the process; see the module's first lines."""
    parser = argparse.ArgumentParser(
        description="HTTP and WebSocket of one node; started by the node itself."
    )
    parser.add_argument("--descriptor", type=int, required=True, help="a listening socket, inherited")
    descriptor: int = parser.parse_args().descriptor
    try:
        # Unbuffered, so that nothing after the first line is swallowed before the loop watches for the end.
        line = sys.stdin.buffer.raw.readline() if hasattr(sys.stdin.buffer, "raw") else b""
        config = msgspec.json.decode(line, type=NodeConfig)
        configure_logs(config.log_level, config.log_path, node=config.name, process="gateway")
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, descriptor))
    except OperatorError as error:
        print(f"quorate gateway: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
