"""The gateway process: HTTP and WebSocket for clients, outside the consensus process. asyncio, LMDB.

Started by node/rpc/supervisor.py with a bound listening socket and the configuration on standard input; it
exits when that input ends. Queries are answered from the node's block store, orders go to the node over its
Unix socket.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from node.config import NodeConfig
from node.genesis import load_genesis
from node.light.prover import Prover
from node.logs import configure_logs
from node.rpc.access import Access, Guard
from node.rpc.api_route import ApiRoute
from node.rpc.chain_queries import ChainQueries
from node.rpc.connections import protocol_of
from node.rpc.endpoints import exception_handlers, http_routes
from node.rpc.history import History
from node.rpc.live import Live
from node.rpc.node_link import NodeLink
from node.rpc.order_entry import OrderEntry
from node.rpc.proof_queries import ProofQueries
from node.rpc.queries import Queries
from node.rpc.reference import reference_routes
from node.rpc.routes import Sources, routes_of
from node.rpc.simulations import Simulations
from node.rpc.streams import FRAME_BYTES_MAX, Streams
from node.rpc.tokens import read_tokens
from node.shown_chains import HomeChain
from node.storage.block_store import BlockStore
from node.storage.epoch_files import EpochFiles
from primitives.codec import prepare_decoders
from primitives.errors import OperatorError

CONNECTIONS_MAX = 4_096
"""Open connections; uvicorn answers a further one with 503."""
OPEN_FILES_WANTED = 2 * CONNECTIONS_MAX
NICENESS = 5
"""Beside the node on a machine with few cores, a flood of clients waits for votes, not votes for it."""
STORE_SECONDS_MAX = 10.0
"""The node creates its store before it starts us; wait this long, then give up (and be started again)."""


class Gateway:
    """The parts of one gateway, built in the order in which they depend on each other."""

    def __init__(self, config: NodeConfig) -> None:
        store, genesis = _open_store(config), load_genesis(config.genesis_path)
        tokens = None if config.token_path is None else read_tokens(config.token_path)
        self.access = Access(config.gateway, tokens)
        self.link = NodeLink(config.socket_path)
        queries = Queries(store, genesis)
        orders = OrderEntry(self.link, self.access)
        self.streams = Streams(queries, orders)
        self.link.follow(self.streams.on_notice, self.streams.on_connected)
        self.simulations = Simulations(config)
        epochs = EpochFiles(config.data_path / "epochs")
        prover = Prover(store, epochs, genesis)
        sources = Sources(
            queries=queries,
            proofs=ProofQueries(prover, queries),
            chain=ChainQueries(HomeChain(store, epochs)),
            history=History(store, queries),
            live=Live(
                access=self.access,
                link=self.link,
                queries=queries,
                orders=orders,
                streams=self.streams,
                market_speed=config.market_clock.speed,
            ),
            orders=orders,
            simulations=self.simulations,
        )
        self.routes: list[ApiRoute] = routes_of(sources)

    def app(self) -> Guard:
        """The ASGI application; the link runs as long as it does."""

        @contextlib.asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            task = asyncio.create_task(self.link.run())
            yield
            task.cancel()
            self.simulations.close()

        routes = [
            *http_routes(self.routes),
            *reference_routes(self.routes),
            WebSocketRoute("/v1/ws", self.streams.serve),
        ]
        app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=exception_handlers())
        return Guard(app, self.access)


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
    tls = config.tls_paths
    certificate, key = (None, None) if tls is None else tls
    settings = uvicorn.Config(
        Gateway(config).app(),
        http=protocol_of(config.gateway),
        ws="websockets-sansio",
        access_log=False,
        log_level="error",
        server_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1,
        ws_max_size=FRAME_BYTES_MAX,
        ws_per_message_deflate=False,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    server = uvicorn.Server(settings)
    await asyncio.get_running_loop().connect_read_pipe(lambda: _ExitAtEnd(server), sys.stdin)
    await server.serve([socket.socket(fileno=descriptor)])


def _settle_in() -> None:
    """Room for every connection, and a place behind the node in the queue for the processor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(OPEN_FILES_WANTED, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    os.nice(NICENESS)


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
        _settle_in()
        prepare_decoders()
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, descriptor))
    except OperatorError as error:
        print(f"quorate gateway: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
