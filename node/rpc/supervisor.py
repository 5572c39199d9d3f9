"""Keeps the gateway process running beside the node. Binds its listening socket; starts and ends a process.
Trio.

The node binds the address, so that a port in use is found at once and survives a restart of the gateway. The
gateway gets its configuration as the first line of its standard input; when that input ends, its node is
gone and it exits.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from pathlib import Path

import msgspec
import structlog
import trio

from node.config import NodeConfig
from node.rpc.tokens import read_tokens
from primitives.errors import OperatorError

BACKOFF_SECONDS_MIN = 0.2
BACKOFF_SECONDS_MAX = 10.0
"""Pause before a restart: doubles from the first to the second, back to the first after a long life."""
LONG_LIFE_SECONDS = 30.0
STOP_SECONDS_MAX = 3.0
"""Time to finish its requests after a stop; then it is killed."""
BACKLOG = 1_024
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]

log = structlog.get_logger()


class GatewayProcess:
    """One gateway: made with the node, `run` as long as the node."""

    def __init__(self, config: NodeConfig) -> None:
        """Raises OperatorError if the address cannot be bound, or a file that the gateway needs is not good."""
        check_files(config)
        self._config = config
        self._socket = bind_gateway(config.gateway.host, config.gateway.port)
        self.port: int = self._socket.getsockname()[1]
        """The bound port: what the configuration says, or any free one if it says 0."""
        self.restarts = 0

    async def run(self) -> None:
        """Start it, and start it again whenever it ends, until cancelled."""
        pause_seconds = BACKOFF_SECONDS_MIN
        with self._socket:
            while True:
                began = trio.current_time()
                code = await self._run_once()
                self.restarts += 1
                lived_seconds = trio.current_time() - began
                pause_seconds = (
                    BACKOFF_SECONDS_MIN
                    if lived_seconds > LONG_LIFE_SECONDS
                    else min(BACKOFF_SECONDS_MAX, pause_seconds * 2)
                )
                log.warning("gateway_ended", exit_code=code, lived_seconds=round(lived_seconds, 1))
                await trio.sleep(pause_seconds)

    async def _run_once(self) -> int:
        """One life of the process; ends it when cancelled."""
        descriptor = self._socket.fileno()
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "node.rpc.gateway", "--descriptor", str(descriptor)],
            stdin=subprocess.PIPE,
            pass_fds=(descriptor,),
            cwd=_PACKAGE_ROOT,
        )
        stdin = process.stdin
        try:
            if stdin is not None:
                await stdin.send_all(msgspec.json.encode(self._config) + b"\n")
            return await process.wait()
        except trio.BrokenResourceError:
            return await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                await _stop(process, stdin)


def check_files(config: NodeConfig) -> None:
    """The token file, the certificate and its key, so that the operator hears of them at once. Raises OperatorError."""
    if config.token_path is not None:
        read_tokens(config.token_path)
    if config.tls_paths is not None:
        certificate, key = config.tls_paths
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        except OSError as error:
            raise OperatorError(f"the gateway cannot use {certificate} with {key}: {error}") from None


def bind_gateway(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises OperatorError if the address is in use or not ours."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise OperatorError(f"the gateway's address {host} is unknown: {error.strerror}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise OperatorError(
            f"the gateway cannot listen on {host} port {port} ({error.strerror}): choose another with "
            "--gateway-port or [gateway] port"
        ) from None
    return listening


async def _stop(process: trio.Process, stdin: trio.abc.SendStream | None) -> None:
    """End of input is the request to stop; SIGKILL follows if it is not heard."""
    if stdin is not None:
        await stdin.aclose()
    with trio.move_on_after(STOP_SECONDS_MAX):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
