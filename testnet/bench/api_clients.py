"""The clients of `quorate bench api`, a process of their own. asyncio, sockets.

Says a line when all are subscribed; when its input ends, or is no more heard of, asks and orders for a moment and
says a line with what it measured.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import time
from typing import Any

import msgspec
import uvloop
from websockets.asyncio.client import ClientConnection, connect

from primitives.errors import ensure

CHANNELS = ("blocks", "depth:BTC-PERPETUAL", "marks:BTC-PERPETUAL", "trades:BTC-PERPETUAL")
SLOW_CHANNEL = "trades"
UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
TEXT, PING, PONG = 1, 9, 10
"""Opcodes of frames."""
ORDERS_IN_FLIGHT = 200
QUESTIONS_IN_FLIGHT = 8


_LENGTH = re.compile(rb"content-length: (\d+)")


class ClientsPlan(msgspec.Struct, frozen=True):
    """Where, and how many who read and who do not."""

    port: int
    subscribers: int
    slow: int
    burst_seconds: float
    """Of orders, then of questions."""


class ClientsReport(msgspec.Struct, frozen=True):
    """Delays from the node's notice to the client, over all messages of all subscribers."""

    messages: int
    delay_ms_p50: float
    delay_ms_p99: float
    delay_ms_max: float
    lost: int
    """Subscribers that were disconnected."""
    holes: int
    """Sequence numbers that were left out."""
    orders_per_second: float
    questions_per_second: float


class _Message(msgspec.Struct):
    """What is looked at of a message."""

    type: str
    channel: str = ""
    seq: int = 0
    height: int = 0
    market_time_ns: str = "0"


class _Subscriber(asyncio.Protocol):
    """One WebSocket client without a library: what it costs should be the gateway's, not its own."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._buffer = bytearray()
        self._seen: dict[str, int] = {}
        self._is_open = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask for the upgrade."""
        self._transport = transport
        transport.write(UPGRADE)

    def data_received(self, data: bytes) -> None:
        """Cut into frames; a server's frames are not masked."""
        now_ns = time.monotonic_ns()
        buffer = self._buffer
        buffer += data
        if not self._is_open:
            head, found, _ = buffer.partition(b"\r\n\r\n")
            if not found:
                return
            del buffer[: len(head) + 4]
            self._is_open = True
            self._send(1, msgspec.json.encode({"op": "subscribe", "channels": CHANNELS}))
        start = 0
        while (frame := _frame_at(buffer, start)) is not None:
            code, payload, start = frame
            if code == PING:
                self._send(PONG, payload)
            elif code == TEXT:
                self._crowd.take(self._seen, payload, now_ns)
        del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is to be lost while blocks are made."""
        del exc
        self._crowd.lose()

    def _send(self, code: int, payload: bytes) -> None:
        if self._transport is not None:
            ensure(len(payload) < 126, "what a subscriber says is short")
            # Masked, as a client's frames must be, with zeros.
            self._transport.write(bytes((0x80 | code, 0x80 | len(payload))) + bytes(4) + payload)


def _frame_at(buffer: bytearray, start: int) -> tuple[int, bytes, int] | None:
    """(opcode, payload, end) of the frame that begins there, None while it is not complete."""
    have = len(buffer) - start
    if have < 2:
        return None
    length, size = buffer[start + 1], 2
    if length > 125:
        size = 4 if length == 126 else 10
        length = int.from_bytes(buffer[start + 2 : start + size], "big")
    if have < size + length:
        return None
    begin = start + size
    return buffer[start] & 15, bytes(buffer[begin : begin + length]), begin + length


class Crowd:
    """All subscribers of this process."""

    def __init__(self, plan: ClientsPlan) -> None:
        self._plan = plan
        self._decoder = msgspec.json.Decoder(_Message)
        self._sent_ns: dict[int, int] = {}
        self._delays_ns: list[int] = []
        self._subscribed = 0
        self._all_subscribed = asyncio.Event()
        self._holes = 0
        self._lost = 0
        self._is_ending = False

    async def run(self) -> None:
        """Subscribe, listen until the input ends, burst, report."""
        loop = asyncio.get_running_loop()
        for _ in range(self._plan.subscribers):
            await loop.create_connection(lambda: _Subscriber(self), "127.0.0.1", self._plan.port)
        slow = [await asyncio.to_thread(self._deaf) for _ in range(self._plan.slow)]
        await self._all_subscribed.wait()
        _say(b"subscribed")
        await asyncio.to_thread(sys.stdin.buffer.read)
        self._is_ending = True
        url = f"ws://127.0.0.1:{self._plan.port}/v1/ws"
        async with connect(url, compression=None, max_queue=None) as connection:
            orders = await self._order(connection)
        questions = await self._ask()
        _say(msgspec.json.encode(self._report(orders, questions)))
        for client in slow:
            client.close()

    def take(self, seen: dict[str, int], payload: bytes, now_ns: int) -> None:
        """One message of a subscriber that has seen up to these numbers."""
        message = self._decoder.decode(payload)
        if message.type == "subscribed":
            self._subscribed += 1
            if self._subscribed == self._plan.subscribers:
                self._all_subscribed.set()
        if not message.channel or not message.seq:
            return
        self._holes += message.seq - seen.get(message.channel, message.seq - 1) - 1
        seen[message.channel] = message.seq
        if message.type == "block":
            self._sent_ns[message.height] = int(message.market_time_ns)
        self._delays_ns.append(now_ns - self._sent_ns.get(message.height, now_ns))

    def lose(self) -> None:
        """A subscriber's connection is gone."""
        self._lost += not self._is_ending

    def _deaf(self) -> socket.socket:
        """A subscriber with the smallest receive buffer, who never reads."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", self._plan.port))
        client.sendall(UPGRADE)
        ensure(client.recv(12) == b"HTTP/1.1 101", "the gateway takes the connection")
        request = msgspec.json.encode({"op": "subscribe", "channels": [SLOW_CHANNEL]})
        client.sendall(b"\x81" + bytes([0x80 | len(request)]) + bytes(4) + request)
        return client

    async def _order(self, connection: ClientConnection) -> float:
        """Acknowledgements per second of one maker that keeps so many orders in flight, in msgpack."""
        encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()
        sent = acknowledged = 0
        end_s = time.monotonic() + self._plan.burst_seconds
        while time.monotonic() < end_s:
            while sent - acknowledged < ORDERS_IN_FLIGHT:
                raw = sent.to_bytes(200, "big")
                await connection.send(encoder.encode({"op": "submit", "id": sent, "transaction": raw}))
                sent += 1
            data = await connection.recv(decode=False)
            message: Any = decoder.decode(data) if data[:1] != b"{" else {}
            acknowledged += message.get("type") in ("accepted", "refused")
        return acknowledged / self._plan.burst_seconds

    async def _ask(self) -> float:
        """Books per second over a few connections that are kept."""
        answered = 0
        end_s = time.monotonic() + self._plan.burst_seconds

        async def ask() -> None:
            nonlocal answered
            reader, writer = await asyncio.open_connection("127.0.0.1", self._plan.port)
            while time.monotonic() < end_s:
                writer.write(b"GET /v1/books/BTC-PERPETUAL HTTP/1.1\r\nHost: localhost\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                ensure(head.startswith(b"HTTP/1.1 200"), "the book is there")
                await reader.readexactly(int(_LENGTH.findall(head)[0]))
                answered += 1
            writer.close()

        await asyncio.gather(*(ask() for _ in range(QUESTIONS_IN_FLIGHT)))
        return answered / self._plan.burst_seconds

    def _report(self, orders: float, questions: float) -> ClientsReport:
        delays = sorted(self._delays_ns) or [0]
        return ClientsReport(
            messages=len(self._delays_ns),
            delay_ms_p50=delays[len(delays) // 2] / 1e6,
            delay_ms_p99=delays[len(delays) * 99 // 100] / 1e6,
            delay_ms_max=delays[-1] / 1e6,
            lost=self._lost,
            holes=self._holes,
            orders_per_second=orders,
            questions_per_second=questions,
        )


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Crowd(msgspec.json.decode(sys.argv[1], type=ClientsPlan)).run())
