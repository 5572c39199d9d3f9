"""The node's side of a remote signer: asks for signatures, and goes on without them while it is away. Sockets, trio.

The core wants a signature in the middle of a step, so a question blocks the loop: a fraction of a millisecond and the
signer's fsync, at most SIGN_SECONDS_MAX once, for whoever does not answer is away from then on. Connecting, greeting
and TLS happen in a thread.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from node.rpc.protocol import FrameBuffer
from node.signer.address import SignerAddress
from node.signer.protocol import (
    ANSWER_BYTES_MAX,
    PROTOCOL_VERSION,
    Hello,
    Ping,
    Pong,
    Refusal,
    Signature,
    SignerAnswer,
    SignerCall,
    SignVote,
    Welcome,
    decode_signer_answer,
    frame,
)
from node.signer.reasons import SignerReason
from node.signer.tls import check_peer
from primitives.errors import OperatorError, ProtocolViolation
from primitives.signing import is_valid

SIGN_SECONDS_MAX = 0.5
"""How long a vote is waited for."""
CONNECT_SECONDS_MAX = 5.0
PING_SECONDS = 2.0
RETRY_SECONDS = 0.25
"""Between two attempts to reach a signer that is away."""
START_SECONDS_MAX = 10.0
"""A node whose signer does not answer for so long at the start ends."""
_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SignerAccess:
    """Where the signer is, and how we show who we are."""

    address: SignerAddress
    chain_id: bytes
    name: str
    tls: ssl.SSLContext | None = None
    trusted: Path | None = None
    """The signer's certificate, for TCP."""


class _Connection:
    """One open conversation. Blocking; every failure is an OSError (TLS's and timeouts are) or a ProtocolViolation."""

    def __init__(self, access: SignerAccess) -> None:
        self._socket = _connect(access)
        self._buffer = FrameBuffer(ANSWER_BYTES_MAX)
        try:
            self.welcome = self._greet(access)
        except BaseException:
            self._socket.close()
            raise
        self._socket.settimeout(SIGN_SECONDS_MAX)

    def _greet(self, access: SignerAccess) -> Welcome:
        answer = self.ask(Hello(PROTOCOL_VERSION, access.chain_id, access.name))
        if isinstance(answer, Refusal):
            raise ProtocolViolation(_reason(answer), answer.detail)
        if not isinstance(answer, Welcome):
            raise ProtocolViolation(
                SignerReason.OUT_OF_ORDER, "the signer answered something else than asked"
            )
        return answer

    def ask(self, call: SignerCall) -> SignerAnswer:
        self._socket.sendall(frame(call))
        while True:
            data = self._socket.recv(ANSWER_BYTES_MAX)
            if not data:
                raise ConnectionResetError("the signer closed the connection")
            bodies = self._buffer.feed(data)
            if len(bodies) > 1:
                raise ProtocolViolation(SignerReason.OUT_OF_ORDER, "two answers to one question")
            if bodies:
                return decode_signer_answer(bodies[0])

    def close(self) -> None:
        self._socket.close()


class NoSigner:
    """Of a node that holds no consensus key: a follower."""

    def sign(self, message: bytes) -> bytes | None:
        """None."""
        del message
        return None


NO_SIGNER = NoSigner()


class KeySigner:
    """One key of a remote signer: a `consensus.state.Signer`."""

    def __init__(self, remote: RemoteSigner, public_key: bytes) -> None:
        self._remote = remote
        self.public_key = public_key

    def sign(self, message: bytes) -> bytes | None:
        """The signature; None while the signer is away, or when it refuses."""
        return self._remote.sign(self.public_key, message)


class RemoteSigner:
    """A signer that is reached, lost and reached again. Made by `reach`; `run` keeps it."""

    def __init__(self, access: SignerAccess, connection: _Connection) -> None:
        """Use `reach`."""
        self._access = access
        self._connection: _Connection | None = connection
        self.welcome = connection.welcome
        self.on_return: Callable[[], Awaitable[None]] | None = None
        """Called when a signer that was away answers again: votes may be due."""
        self._away = trio.Event()

    def observe_with(self, registry: CollectorRegistry) -> None:
        """Count and time in this registry from now on; once, before the first vote."""
        self._seconds = Histogram(
            "quorate_signer_seconds",
            "From asking the signer to its signature",
            buckets=_BUCKETS,
            registry=registry,
        )
        self._refused = Counter(
            "quorate_signer_refused", "Votes that the signer refused", ["reason"], registry=registry
        )
        self._missed = Counter(
            "quorate_signer_missed", "Votes not cast: the signer was away", registry=registry
        )
        self._connected = Gauge("quorate_signer_connected", "1 while the signer answers", registry=registry)
        self._connected.set(1)

    @property
    def is_away(self) -> bool:
        """Whether no signature is to be had now."""
        return self._connection is None

    @property
    def signers(self) -> dict[bytes, KeySigner]:
        """Public key -> its signer, oldest key first."""
        return {key: KeySigner(self, key) for key in self.welcome.public_keys}

    def sign(self, public_key: bytes, message: bytes) -> bytes | None:
        """See KeySigner."""
        if self._connection is None:
            self._missed.inc()
            return None
        began_ns = time.perf_counter_ns()
        answer = self._ask(SignVote(public_key, message))
        if isinstance(answer, Refusal):
            log.error("signer_refused", reason=answer.reason, detail=answer.detail)
            self._refused.labels(answer.reason).inc()
            return None
        if not isinstance(answer, Signature):
            self._missed.inc()
            return None
        if not is_valid(public_key, message, answer.signature):
            self._lose("its signature does not verify")
            return None
        self._seconds.observe((time.perf_counter_ns() - began_ns) / 1e9)
        return answer.signature

    async def run(self) -> None:
        """Ping the signer, and reach it again whenever it is away, until cancelled."""
        try:
            while True:
                with trio.move_on_after(PING_SECONDS):
                    await self._away.wait()
                if self._connection is not None:
                    answer = self._ask(Ping())
                    if answer is not None and not isinstance(answer, Pong):
                        self._lose("it answered a ping with something else")
                if self._connection is None:
                    await self._return()
        finally:
            self.close()

    def close(self) -> None:
        """Give the signer up, so that another node can have it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _return(self) -> None:
        while self._connection is None:
            await trio.sleep(RETRY_SECONDS)
            try:
                connection = await trio.to_thread.run_sync(_Connection, self._access)
            except (OSError, ProtocolViolation) as error:
                log.debug("signer_not_reached", error=str(error))
                continue
            if connection.welcome.public_keys != self.welcome.public_keys:
                connection.close()
                log.error("signer_keys_changed", advice="restart this node to use the signer's new keys")
                await trio.sleep(PING_SECONDS)
                continue
            self._connection, self._away = connection, trio.Event()
            self._connected.set(1)
            log.info("signer_back", address=str(self._access.address))
        if self.on_return is not None:
            await self.on_return()

    def _ask(self, call: SignerCall) -> SignerAnswer | None:
        assert self._connection is not None
        try:
            return self._connection.ask(call)
        except (OSError, ProtocolViolation) as error:
            self._lose(str(error) or type(error).__name__)
            return None

    def _lose(self, why: str) -> None:
        log.error("signer_away", address=str(self._access.address), why=why)
        self.close()
        self._connected.set(0)
        self._away.set()


async def reach(access: SignerAccess, seconds: float = START_SECONDS_MAX) -> RemoteSigner:
    """The signer, once it answers.

    Raises:
        OperatorError: it does not, or refuses us.
    """
    why = "no answer"
    with trio.move_on_after(seconds):
        while True:
            try:
                connection = await trio.to_thread.run_sync(_Connection, access)
                return RemoteSigner(access, connection)
            except ProtocolViolation as violation:
                if violation.reason is not SignerReason.BUSY:
                    raise OperatorError(
                        f"the signer at {access.address} refuses this node: {violation.detail}"
                    ) from None
                why = violation.detail
            except OSError as error:
                why = error.strerror or str(error)
            await trio.sleep(RETRY_SECONDS)
    raise OperatorError(f"the signer at {access.address} is not to be had ({why}): start it, then this node")


def _connect(access: SignerAccess) -> socket.socket:
    address = access.address
    if address.path is not None:
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plain.settimeout(CONNECT_SECONDS_MAX)
        try:
            plain.connect(str(address.path))
        except OSError:
            plain.close()
            raise
        return plain
    if access.tls is None or access.trusted is None:
        raise OperatorError("a signer on TCP needs certificates")
    plain = socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS_MAX)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    secured = access.tls.wrap_socket(plain)
    try:
        check_peer(secured.getpeercert(binary_form=True), access.trusted)
    except OSError:
        secured.close()
        raise
    return secured


def _reason(refusal: Refusal) -> SignerReason:
    try:
        return SignerReason(refusal.reason)
    except ValueError:
        return SignerReason.OUT_OF_ORDER
