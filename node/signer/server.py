"""The signer's process: one node at a time asks for signatures. Trio sockets; the desk's file I/O in the same thread.

Whoever connects is known by the Unix socket's file (0600, and the same user) or, over TCP, by its certificate.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from node.rpc.protocol import FrameBuffer
from node.signer.address import SignerAddress
from node.signer.desk import SigningDesk
from node.signer.protocol import (
    CALL_BYTES_MAX,
    PROTOCOL_VERSION,
    TOLD_VIEWS_MAX,
    Hello,
    Ping,
    Pong,
    Refusal,
    Signature,
    SignerAnswer,
    SignerCall,
    SignVote,
    Welcome,
    decode_signer_call,
    frame,
)
from node.signer.reasons import SignerReason
from node.signer.tls import check_peer
from primitives.errors import OperatorError, ProtocolViolation

LEASE_SECONDS = 10.0
"""A node that says nothing for so long loses the signer; it pings every two seconds."""
HELLO_SECONDS_MAX = 5.0
"""For the TLS handshake and Hello together."""
CONNECTIONS_MAX = 16
"""Open at once, refused ones included; further ones wait to be accepted."""
if TYPE_CHECKING:
    from trio_typing import TaskStatus

_CREDENTIALS = struct.Struct("3i")
_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)

log = structlog.get_logger()


class SignerServer:
    """Serves one desk."""

    def __init__(
        self,
        desk: SigningDesk,
        address: SignerAddress,
        tls: ssl.SSLContext | None = None,
        trusted: Path | None = None,
    ) -> None:
        """`tls` and `trusted` (the node's certificate) are needed for TCP and not used for a Unix socket."""
        self._desk = desk
        self._address = address
        self._tls, self._trusted = tls, trusted
        self._holder = ""
        self.port = 0
        """The TCP port in use."""
        self.registry = CollectorRegistry()
        self._signed = Histogram(
            "quorate_signer_sign_seconds",
            "From a question to its signature, record on disk included",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._refused = Counter(
            "quorate_signer_refused", "Questions and nodes refused", ["reason"], registry=self.registry
        )
        self._held = Gauge("quorate_signer_held", "1 while a node has the signer", registry=self.registry)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Raises OperatorError if the address is not to be had, or the disk fails."""
        listener = _listen(self._address)
        self.port = 0 if self._address.path else listener.socket.getsockname()[1]
        slots = trio.Semaphore(CONNECTIONS_MAX)
        log.info("signer_listening", address=str(self._address), keys=len(self._desk.public_keys))
        async with trio.open_nursery() as nursery:
            task_status.started()
            try:
                while True:
                    await slots.acquire()
                    nursery.start_soon(self._serve, await listener.accept(), slots.release)
            finally:
                listener.socket.close()
                if self._address.path is not None:
                    self._address.path.unlink(missing_ok=True)

    async def _serve(self, raw: trio.SocketStream, done: Callable[[], None]) -> None:
        stream: trio.abc.Stream = raw
        name = ""
        try:
            with trio.fail_after(HELLO_SECONDS_MAX):
                stream = await self._authenticated(raw)
                calls = _Calls(stream)
                name = await self._greet(stream, await calls.next())
            while True:
                with trio.fail_after(LEASE_SECONDS):
                    call = await calls.next()
                    await stream.send_all(frame(self._answer(call)))
        except ProtocolViolation as violation:
            self._refuse(violation)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                with trio.move_on_after(1):
                    await stream.send_all(frame(Refusal(violation.reason.value, violation.detail[:1_000])))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, ssl.SSLError) as error:
            log.info("node_gone" if name else "node_not_admitted", name=name, error=str(error))
        finally:
            if name:
                self._holder = ""
                self._held.set(0)
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
            done()

    async def _authenticated(self, raw: trio.SocketStream) -> trio.abc.Stream:
        """Raises ssl.SSLError or trio.BrokenResourceError for a stranger."""
        if self._address.path is not None:
            credentials = raw.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            _, user, _ = _CREDENTIALS.unpack(credentials)
            if user != os.geteuid():
                raise ssl.SSLError(f"user {user} may not ask this signer")
            return raw
        if self._tls is None or self._trusted is None:
            raise OperatorError("a signer on TCP needs certificates")
        stream = trio.SSLStream(raw, self._tls, server_side=True, https_compatible=True)
        await stream.do_handshake()
        check_peer(stream.getpeercert(binary_form=True), self._trusted)
        return stream

    async def _greet(self, stream: trio.abc.Stream, call: SignerCall) -> str:
        """The node's name once the signer is its own. Raises ProtocolViolation."""
        if not isinstance(call, Hello):
            raise ProtocolViolation(SignerReason.OUT_OF_ORDER, "Hello comes first")
        if call.version != PROTOCOL_VERSION:
            raise ProtocolViolation(
                SignerReason.WRONG_VERSION, f"this signer speaks version {PROTOCOL_VERSION}"
            )
        if call.chain_id != self._desk.chain_id:
            raise ProtocolViolation(
                SignerReason.WRONG_CHAIN, f"this signer signs for {self._desk.chain_id.hex()}"
            )
        if self._holder:
            raise ProtocolViolation(SignerReason.BUSY, f"the node {self._holder} has this signer")
        name = self._holder = call.name or "unnamed"
        self._held.set(1)
        try:
            votes = tuple(self._desk.protection.votes(TOLD_VIEWS_MAX))
            await stream.send_all(frame(Welcome(self._desk.public_keys, votes)))
        except BaseException:
            self._holder = ""
            self._held.set(0)
            raise
        log.info("node_admitted", name=name)
        return name

    def _answer(self, call: SignerCall) -> SignerAnswer:
        """Signs while nothing else runs: one vote after another, each durable before its signature leaves."""
        match call:
            case SignVote(public_key=key, message=message):
                began_ns = time.perf_counter_ns()
                try:
                    signature = self._desk.sign(key, message)
                except ProtocolViolation as violation:
                    self._refuse(violation)
                    return Refusal(violation.reason.value, violation.detail[:1_000])
                self._signed.observe((time.perf_counter_ns() - began_ns) / 1e9)
                return Signature(signature)
            case Ping():
                return Pong()
            case Hello():
                raise ProtocolViolation(SignerReason.OUT_OF_ORDER, "Hello comes once")

    def _refuse(self, violation: ProtocolViolation) -> None:
        log.error("refused", reason=violation.reason.value, detail=violation.detail, holder=self._holder)
        self._refused.labels(violation.reason.value).inc()


class _Calls:
    """The messages of one node."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffer = FrameBuffer(CALL_BYTES_MAX)
        self._bodies: list[bytes] = []

    async def next(self) -> SignerCall:
        """Raises ProtocolViolation, or trio.BrokenResourceError when the node is gone."""
        while not self._bodies:
            data = await self._stream.receive_some(CALL_BYTES_MAX)
            if not data:
                raise trio.BrokenResourceError("the node closed the connection")
            self._bodies += self._buffer.feed(data)
        return decode_signer_call(self._bodies.pop(0))


async def run_signer(server: SignerServer) -> None:
    """Serve until SIGTERM or SIGINT."""
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("signer_stopping", signal=signal.Signals(number).name)
                break
        nursery.cancel_scope.cancel()


def _listen(address: SignerAddress) -> trio.SocketListener:
    """A bound listener; a Unix socket is 0600 from its first moment. Raises OperatorError."""
    path = address.path
    try:
        if path is None:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            bound = socket.socket(family, socket.SOCK_STREAM)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((address.host, address.port))
        else:
            path.unlink(missing_ok=True)
            bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            before = os.umask(0o177)
            try:
                bound.bind(str(path))
            finally:
                os.umask(before)
        bound.listen(CONNECTIONS_MAX)
    except OSError as error:
        raise OperatorError(f"the signer cannot listen on {address} ({error.strerror or error})") from None
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))
