"""Yamux as libp2p speaks it, without what makes small messages dear. I/O: the connection it is given.

Measured with libp2p 0.8.1, four processes, 200-byte votes: every `trio.Lock` on the way is a pass of the
scheduler although nobody waits, and every read answers with a window update, which doubles the packets. Here
locks cost nothing unless contended, and credit is given back in halves of a fixed window. The bytes on the
wire are plain yamux.
"""

from __future__ import annotations

import struct
from types import TracebackType
from typing import Any, cast

import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    HEADER_SIZE,
    MAX_MESSAGE_SIZE,
    TYPE_DATA,
    YAMUX_HEADER_FORMAT,
)
from libp2p.transport.upgrader import TransportUpgrader

from gossip.link import StreamBroken

BULK_WINDOW_BYTES = 4 * 2**20
"""What a peer may have under way on a bulk stream, so the most we buffer: 40 MB/s at 100 ms round trip."""
_READ_BYTES = 64 * 1024
_HEADER = struct.Struct(YAMUX_HEADER_FORMAT)


class QuickLock:
    """A fair lock that does not yield to the scheduler when it is free."""

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        if self._held:
            # Ownership is handed over by whoever unparks us.
            await self._waiting.park()
        self._held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waiting:
            self._waiting.unpark()
        else:
            self._held = False


class LeanUpgrader(TransportUpgrader):
    """Makes each muxer lean before it starts; libp2p names its Yamux class itself, so no subclass fits."""

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        muxed = await super().upgrade_connection(conn, peer_id)
        yamux = cast(Any, muxed)
        yamux.streams_lock = QuickLock()
        yamux._write_lock = QuickLock()
        return muxed


class LeanStream:
    """Reads and writes of one muxed stream that nobody else reads or writes."""

    def __init__(self, muxed: Any) -> None:
        self._muxed = muxed
        self._connection: Any = muxed.conn
        self._window_bytes = DEFAULT_WINDOW_SIZE
        self._credit_bytes = 0
        muxed.window_lock = QuickLock()

    async def widen(self) -> None:
        """Make this a bulk stream: more under way than yamux's first 256 KiB. Raises StreamBroken."""
        self._credit_bytes += BULK_WINDOW_BYTES - self._window_bytes
        self._window_bytes = BULK_WINDOW_BYTES
        await self._give_credit()

    async def read(self) -> bytes:
        """Some bytes, at least one. Raises StreamBroken when the stream has ended or failed."""
        try:
            data: bytes = await self._connection.read_stream(self._muxed.stream_id, _READ_BYTES)
        except Exception as error:
            raise StreamBroken(type(error).__name__) from error
        self._credit_bytes += len(data)
        if self._credit_bytes * 2 >= self._window_bytes:
            await self._give_credit()
        return data

    async def _give_credit(self) -> None:
        credit, self._credit_bytes = self._credit_bytes, 0
        self._muxed.recv_window += credit
        try:
            await self._muxed.send_window_update(credit)
        except Exception as error:
            raise StreamBroken(type(error).__name__) from error

    async def write(self, data: bytes) -> None:
        """Write all. Not to be cancelled half-way without cutting the connection. Raises StreamBroken."""
        muxed = self._muxed
        try:
            if len(data) <= min(muxed.send_window, MAX_MESSAGE_SIZE - HEADER_SIZE) and not muxed.send_closed:
                muxed.send_window -= len(data)
                header = _HEADER.pack(0, TYPE_DATA, 0, muxed.stream_id, len(data))
                async with self._connection._write_lock:
                    await self._connection.secured_conn.write(header + data)
            else:
                await muxed.write(data)
        except Exception as error:
            raise StreamBroken(type(error).__name__) from error

    async def reset(self) -> None:
        """End both sides at once; the connection lives on. Raises StreamBroken."""
        try:
            await self._muxed.reset()
        except Exception as error:
            raise StreamBroken(type(error).__name__) from error

    async def close(self) -> None:
        """End our side politely. Raises StreamBroken."""
        try:
            await self._muxed.close()
        except Exception as error:
            raise StreamBroken(type(error).__name__) from error
