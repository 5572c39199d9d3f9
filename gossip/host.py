"""Builds the libp2p host and hides its corners: who may connect, buffered sockets, streams as plain bytes.

I/O: TCP sockets through libp2p. Imports libp2p (a second, 80 MB); only a running `gossip.service` does so.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

import structlog
import trio
from libp2p.abc import INetStream, INotifee, IRawConnection, ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from gossip.counters import Counters
from gossip.link import StreamBroken
from gossip.muxer import LeanStream, LeanUpgrader
from gossip.network import NetworkConfig
from gossip.reasons import GossipReason
from primitives.errors import OperatorError

log = structlog.get_logger(__name__)
# libp2p logs strangers' mistakes as errors; ours are counted and logged here.
logging.getLogger("libp2p").setLevel(logging.CRITICAL)

HANDSHAKE_SECONDS_MAX = 5
"""Deadline of each step before the hello: dial, security and muxer upgrade, protocol negotiation."""
CONNECTIONS_MAX = 256
"""Open and half-open connections altogether. Beyond it libp2p closes what arrives."""
HALF_OPEN_PER_ADDRESS_MAX = 64
"""Unfinished handshakes from one IP address; a further one is closed. A whole testnet may share one."""
_READ_BYTES = 64 * 1024

Admit = Callable[[str], bool]
Arrived = Callable[[str], None]
StreamHandler = Callable[[str, "ByteStream"], Awaitable[None]]


class _BufferedTcp(TrioTCPStream):
    """Reads the socket in large pieces: noise asks for two bytes, then for a few hundred, in separate calls.

    No locks: yamux has one reader, and one writer at a time.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._ahead = b""
        self._offset = 0

    async def read(self, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        if self._offset == len(self._ahead):
            self._offset = 0
            self._ahead = await self._receive()
        end = len(self._ahead) if n is None else min(self._offset + n, len(self._ahead))
        piece = self._ahead[self._offset : end]
        self._offset = end
        return piece

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some(_READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("the socket is gone", transport="tcp") from error

    async def write(self, data: bytes) -> None:
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("the socket is gone", transport="tcp") from error


class _GatedNoise(NoiseTransport):
    """Noise that closes on the unadmitted at once, and remembers the socket under each connection."""

    def __init__(self, *args: Any, admit: Admit, sockets: WeakKeyDictionary[Any, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._admit = admit
        self._sockets = sockets

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        stream = _buffer(conn)
        return self._admitted(await super().secure_inbound(conn), stream)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        stream = _buffer(conn)
        return self._admitted(await super().secure_outbound(conn, peer_id), stream)

    def _admitted(self, secured: ISecureConn, stream: trio.SocketStream) -> ISecureConn:
        if not self._admit(secured.get_remote_peer().to_base58()):
            _shut_down(stream.socket)
            raise StreamBroken("this peer may not connect")
        self._sockets[secured] = stream.socket
        return secured


def _buffer(conn: IRawConnection) -> trio.SocketStream:
    raw = cast(Any, conn)
    stream: trio.SocketStream = raw.stream.stream
    raw.stream = _BufferedTcp(stream)
    return stream


def _shut_down(sock: Any) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.EBADF):
            raise


class ByteStream(LeanStream):
    """One negotiated libp2p stream as bytes in and out."""

    def __init__(self, stream: INetStream, edge: Edge) -> None:
        super().__init__(cast(Any, stream).muxed_stream)
        self._edge = edge

    def abort(self) -> None:
        """Cut the connection under this stream."""
        self._edge.abort_connection(self._connection)


class _NoAutoDial:
    """Stands where libp2p keeps its auto-dialler, which has no switch and dials every address it knows."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def run_background_task(self, nursery: trio.Nursery) -> None: ...
    async def maybe_connect(self) -> None: ...
    def record_disconnect(self, peer_id: ID) -> None: ...


class _BoundedSwarm(Swarm):
    """A swarm whose inbound tasks and caps end with their connection.

    libp2p 0.8.1 keeps one task and one slot of its inbound limit per connection until the whole host stops,
    so a host accepts about 250 connections in its life. It also has no cap on unfinished handshakes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.auto_connector = cast(Any, _NoAutoDial())
        self._inbound_open = 0
        self._half_open: dict[str, int] = {}
        self.on_refused: Callable[[str], None] = lambda _address: None

    async def _handle_inbound_connection(self, read_write_closer: Any, maddr: Multiaddr) -> None:
        address = (read_write_closer.get_remote_address() or ("",))[0]
        if (
            self._inbound_open >= CONNECTIONS_MAX
            or self._half_open.get(address, 0) >= HALF_OPEN_PER_ADDRESS_MAX
        ):
            self.on_refused(address)
            return
        self._inbound_open += 1
        try:
            muxed = await self._upgrade(RawConnection(read_write_closer, False), maddr, address)
            # The listener closes the socket when this handler returns.
            await muxed.event_closed.wait()
        except Exception as error:
            # Threshold: an escaping exception would end the listener.
            log.debug("inbound_failed", address=address, error=repr(error))
        finally:
            self._inbound_open -= 1

    async def _upgrade(self, raw: RawConnection, maddr: Multiaddr, address: str) -> Yamux:
        self._half_open[address] = self._half_open.get(address, 0) + 1
        try:
            return cast(Yamux, await self.upgrade_inbound_raw_conn(raw, maddr))
        finally:
            self._half_open[address] -= 1
            if not self._half_open[address]:
                del self._half_open[address]


class _Arrivals(INotifee):
    """Tells the service whose connection has come up."""

    def __init__(self, on_connected: Callable[[str], None]) -> None:
        self._on_connected = on_connected

    async def connected(self, network: Any, conn: Any) -> None:
        self._on_connected(conn.muxed_conn.peer_id.to_base58())

    async def disconnected(self, network: Any, conn: Any) -> None: ...
    async def opened_stream(self, network: Any, stream: Any) -> None: ...
    async def closed_stream(self, network: Any, stream: Any) -> None: ...
    async def listen(self, network: Any, multiaddr: Any) -> None: ...
    async def listen_close(self, network: Any, multiaddr: Any) -> None: ...


class Edge:
    """The running host, in the few words that the service needs."""

    def __init__(
        self,
        config: NetworkConfig,
        counters: Counters,
        admit: Admit,
        on_connected: Arrived,
        dialler_seed: bytes | None = None,
    ) -> None:
        """`dialler_seed`: another identity than the configuration's, which listens nowhere."""
        self._config = config
        self._counters = counters
        self._sockets: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self._listens = config.own_index is not None and dialler_seed is None
        key_pair = create_new_key_pair(dialler_seed or config.identity_seed)
        noise = _GatedNoise(
            key_pair, noise_privkey=create_noise_key_pair().private_key, admit=admit, sockets=self._sockets
        )
        # Threshold: noise and yamux only. A default host would accept a dialler who offers plaintext.
        upgrader = LeanUpgrader({NOISE: noise}, {TProtocol(YAMUX): Yamux})
        own_id = ID.from_pubkey(key_pair.public_key)
        peer_store = PeerStore()
        peer_store.add_key_pair(own_id, key_pair)
        self.swarm = _BoundedSwarm(
            own_id,
            peer_store,
            upgrader,
            transports=[TCP()],
            retry_config=RetryConfig(max_retries=0),
            connection_config=_connection_config(),
        )
        self.swarm.on_refused = lambda _: counters.add(GossipReason.TOO_MANY_CONNECTIONS)
        self.swarm.register_notifee(_Arrivals(on_connected))
        self.host = BasicHost(
            self.swarm, negotiate_timeout=HANDSHAKE_SECONDS_MAX, disable_identify_address_discovery=True
        )
        self._negotiate = self.swarm.common_stream_handler
        self.swarm.set_stream_handler(self._guarded)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Listen and serve inside the block. Raises OperatorError when the address cannot be listened on."""
        addresses = []
        if self._listens:
            _check_listen_address(self._config.listen_host, self._config.listen_port)
            addresses = [_multiaddr(self._config.listen_host, self._config.listen_port)]
        async with self.host.run(addresses):
            if addresses and not self.swarm.listeners:
                raise OperatorError(f"cannot listen on {self._config.listen_host}:{self._config.listen_port}")
            try:
                yield
            finally:
                # A closing libp2p writes to every peer first, and would wait for the stalled ones.
                for connection in self.swarm.get_connections():
                    self.abort_connection(cast(Any, connection).muxed_conn)

    async def _guarded(self, stream: INetStream) -> None:
        """The fault barrier: an exception out of any stream handler, ours or libp2p's, would end the host."""
        try:
            await self._negotiate(stream)
        except Exception as error:
            self._counters.add(GossipReason.HANDLER_FAILED)
            log.warning(
                "stream_handler_failed", peer=str(cast(Any, stream).muxed_conn.peer_id), error=repr(error)
            )
            self.abort_connection(cast(Any, stream).muxed_conn)

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Call `handler(peer id, stream)` for every inbound stream of `protocol`."""

        async def handle(stream: INetStream) -> None:
            await handler(cast(Any, stream).muxed_conn.peer_id.to_base58(), ByteStream(stream, self))

        self.host.set_stream_handler(TProtocol(protocol), handle)

    async def connect(self, peer_id: str, host: str, port: int) -> None:
        """Have a connection to a peer, by dialling this address unless there is one. Raises StreamBroken."""
        if self.is_connected(peer_id):
            return
        try:
            with trio.fail_after(HANDSHAKE_SECONDS_MAX):
                await self.swarm.dial_addr(_multiaddr(host, port), ID.from_string(peer_id))
        except Exception as error:
            raise StreamBroken(f"{type(error).__name__}: {error}") from error

    async def open(self, peer_id: str, protocol: str) -> ByteStream:
        """A new stream over an existing connection. Raises StreamBroken."""
        try:
            with trio.fail_after(HANDSHAKE_SECONDS_MAX):
                stream = await self.host.new_stream(ID.from_string(peer_id), [TProtocol(protocol)])
        except Exception as error:
            raise StreamBroken(f"{type(error).__name__}: {error}") from error
        return ByteStream(stream, self)

    def is_connected(self, peer_id: str) -> bool:
        """Whether a connection to the peer is up, as far as anybody noticed."""
        return bool(self.swarm.get_connections(ID.from_string(peer_id)))

    def connected_peers(self) -> list[str]:
        """Peer ids with at least one connection."""
        return [peer_id.to_base58() for peer_id in self.swarm.get_connections_map()]

    def abort_peer(self, peer_id: str) -> None:
        """Cut every connection of a peer."""
        for connection in self.swarm.get_connections(ID.from_string(peer_id)):
            self.abort_connection(cast(Any, connection).muxed_conn)

    def abort_connection(self, muxed: Any) -> None:
        """Shut down the socket under a connection, at once; libp2p then cleans up by itself.

        `host.disconnect` would write a farewell first and block for ever behind a stalled peer.
        """
        sock = self._sockets.get(muxed.secured_conn)
        if sock is not None:
            _shut_down(sock)


def _connection_config() -> ConnectionConfig:
    """Every limit explicit; no minimum, and no pruning below the maximum."""
    return ConnectionConfig(
        max_connections=CONNECTIONS_MAX,
        min_connections=0,
        low_watermark=0,
        high_watermark=CONNECTIONS_MAX,
        max_connections_per_peer=3,
        dial_timeout=HANDSHAKE_SECONDS_MAX,
        inbound_upgrade_timeout=HANDSHAKE_SECONDS_MAX,
        outbound_upgrade_timeout=HANDSHAKE_SECONDS_MAX,
        inbound_stream_protocol_negotiation_timeout=HANDSHAKE_SECONDS_MAX,
        outbound_stream_protocol_negotiation_timeout=HANDSHAKE_SECONDS_MAX,
        enable_health_monitoring=False,
    )


def _multiaddr(host: str, port: int) -> Multiaddr:
    try:
        family = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        family = "dns"
    return Multiaddr(f"/{family}/{host}/tcp/{port}")


def _check_listen_address(host: str, port: int) -> None:
    """Raises OperatorError. libp2p sets SO_REUSEPORT: a second node would share the port in silence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OperatorError(
                    f"port {port} on {host} is in use; stop what listens there or choose another port"
                ) from None
            raise OperatorError(f"cannot listen on {host}:{port}: {error.strerror}") from None
