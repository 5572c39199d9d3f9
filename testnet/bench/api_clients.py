"""The clients of `quorate bench api`, a process of their own. asyncio, sockets.

Says a line when all are subscribed; when its input ends, or is no more heard of, asks and orders for a moment and
says a line with what it measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
import time
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from primitives.errors import ensure

CHANNELS = ("blocks", "depth:BTC-PERPETUAL", "marks:BTC-PERPETUAL", "trades:BTC-PERPETUAL")
SLOW_CHANNEL = "trades"
CONNECTING_AT_ONCE = 50
BURST_SECONDS = 3.0
"""Of orders, then of questions."""
ORDERS_IN_FLIGHT = 200
QUESTIONS_IN_FLIGHT = 8


_LENGTH = re.compile(rb"content-length: (\d+)")


class ClientsPlan(msgspec.Struct, frozen=True):
    """Where, and how many who read and who do not."""

    port: int
    subscribers: int
    slow: int


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


class Crowd:
    """All subscribers of this process."""

    def __init__(self, plan: ClientsPlan) -> None:
        self._url = f"ws://127.0.0.1:{plan.port}/v1/ws"
        self._plan = plan
        self._decoder = msgspec.json.Decoder(_Message)
        self._sent_ns: dict[int, int] = {}
        self._delays_ns: list[int] = []
        self._holes = 0
        self._lost = 0
        self._is_ending = False

    async def run(self) -> None:
        """Subscribe, listen until the input ends, burst, report."""
        slots = asyncio.Semaphore(CONNECTING_AT_ONCE)
        async with contextlib.AsyncExitStack() as stack:
            opened = [self._subscribed(stack, slots) for _ in range(self._plan.subscribers)]
            connections = await asyncio.gather(*opened)
            for _ in range(self._plan.slow):
                stack.callback((await asyncio.to_thread(self._deaf)).close)
            tasks = [asyncio.create_task(self._listen(connection)) for connection in connections]
            _say(b"subscribed")
            await asyncio.to_thread(sys.stdin.buffer.read)
            self._is_ending = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            orders = await self._order(connections[0])
            questions = await self._ask()
            _say(msgspec.json.encode(self._report(orders, questions)))
            stack.pop_all()  # The process ends, and with it every connection at once.

    async def _subscribed(
        self, stack: contextlib.AsyncExitStack, slots: asyncio.Semaphore
    ) -> ClientConnection:
        async with slots:
            opening = connect(
                self._url, compression=None, ping_interval=None, max_queue=None, open_timeout=60
            )
            connection = await stack.enter_async_context(opening)
            await connection.send(msgspec.json.encode({"op": "subscribe", "channels": CHANNELS}).decode())
            return connection

    def _deaf(self) -> socket.socket:
        """A subscriber with the smallest receive buffer, who never reads."""
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", self._plan.port))
        client.sendall(
            b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        ensure(client.recv(12) == b"HTTP/1.1 101", "the gateway takes the connection")
        request = msgspec.json.encode({"op": "subscribe", "channels": [SLOW_CHANNEL]})
        client.sendall(b"\x81" + bytes([0x80 | len(request)]) + bytes(4) + request)
        return client

    async def _listen(self, connection: ClientConnection) -> None:
        seen: dict[str, int] = {}
        try:
            async for data in connection:
                now_ns = time.monotonic_ns()
                message = self._decoder.decode(data)
                if not message.channel or not message.seq:
                    continue
                self._holes += message.seq - seen.get(message.channel, message.seq - 1) - 1
                seen[message.channel] = message.seq
                if message.type == "block":
                    self._sent_ns[message.height] = int(message.market_time_ns)
                self._delays_ns.append(now_ns - self._sent_ns.get(message.height, now_ns))
        except ConnectionClosed:
            self._lost += not self._is_ending
        else:
            self._lost += not self._is_ending

    async def _order(self, connection: ClientConnection) -> float:
        """Acknowledgements per second of one maker that keeps so many orders in flight, in msgpack."""
        encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder()
        sent = acknowledged = 0
        end_s = time.monotonic() + BURST_SECONDS
        while time.monotonic() < end_s:
            while sent - acknowledged < ORDERS_IN_FLIGHT:
                raw = sent.to_bytes(200, "big")
                await connection.send(encoder.encode({"op": "submit", "id": sent, "transaction": raw}))
                sent += 1
            data = await connection.recv(decode=False)
            message: Any = decoder.decode(data) if data[:1] != b"{" else {}
            acknowledged += message.get("type") in ("accepted", "refused")
        return acknowledged / BURST_SECONDS

    async def _ask(self) -> float:
        """Books per second over a few connections that are kept."""
        answered = 0
        end_s = time.monotonic() + BURST_SECONDS

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
        return answered / BURST_SECONDS

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
    asyncio.run(Crowd(msgspec.json.decode(sys.argv[1], type=ClientsPlan)).run())
