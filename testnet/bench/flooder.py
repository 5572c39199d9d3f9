"""Who floods a gateway in `quorate bench flood`, a process of its own. asyncio, sockets.

Questions and orders that are none, pipelined over many connections from one address, for a given time; then a line
with what was answered. It gives way to everything else on the machine, where a flood's own work would not be.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections import Counter
from contextlib import suppress

import msgspec

FLOODER_ADDRESS = "127.0.0.2"
"""An address of its own on this machine, so that nobody shares its quota."""
CONNECTIONS = 40
PIPELINED = 25
"""Requests sent at once on one connection; the next follow their answers."""
RECONNECT_SECONDS = 0.05
NICENESS = 10
QUESTION = b"GET /v1/books/BTC-PERPETUAL HTTP/1.1\r\nHost: localhost\r\n\r\n"
ORDER = b"POST /v1/orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200\r\n\r\n" + bytes(200)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_STATUS_BYTES = len(b"HTTP/1.1 429 ")


class FloodPlan(msgspec.Struct, frozen=True):
    """Where, how long, and at most how fast."""

    port: int
    seconds: float
    requests_per_second: int


class FloodReport(msgspec.Struct, frozen=True):
    """What came of it."""

    seconds: float
    answers: dict[str, int]
    """By HTTP status."""
    connections: int
    """Opened, again after each that the gateway closed."""


class _Connection(asyncio.Protocol):
    """Sends requests in turn with their answers."""

    def __init__(self, request: bytes, pause_seconds: float, answers: Counter[str]) -> None:
        self._request, self._pause_seconds, self._answers = request, pause_seconds, answers
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._open = 0
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._open += PIPELINED
            self._transport.write(self._request * PIPELINED)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        found = _STATUS.findall(data)
        # What is kept is shorter than a status line, so that none is counted twice.
        self._rest = data[-(_STATUS_BYTES - 1) :]
        self._answers.update(status.decode() for status in found)
        self._open -= len(found)
        if found and self._open <= 0:
            asyncio.get_running_loop().call_later(self._pause_seconds, self._send)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    def close(self) -> None:
        """No more of it."""
        if self._transport is not None:
            self._transport.abort()


async def _keep_asking(plan: FloodPlan, number: int, until: float, answers: Counter[str]) -> int:
    """One connection, again and again; how many there were."""
    loop, count = asyncio.get_running_loop(), 0
    request = QUESTION if number % 2 else ORDER
    pause_seconds = PIPELINED * CONNECTIONS / plan.requests_per_second
    while (left := until - loop.time()) > 0:
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(request, pause_seconds, answers),
                *("127.0.0.1", plan.port),
                local_addr=(FLOODER_ADDRESS, 0),
            )
        except OSError:
            await asyncio.sleep(RECONNECT_SECONDS)
            continue
        count += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(connection.closed.wait(), left)
        connection.close()
        await asyncio.sleep(RECONNECT_SECONDS)
    return count


async def flood(plan: FloodPlan) -> FloodReport:
    """The whole of it."""
    answers: Counter[str] = Counter()
    began = time.monotonic()
    until = asyncio.get_running_loop().time() + plan.seconds
    tasks = [_keep_asking(plan, number, until, answers) for number in range(CONNECTIONS)]
    connections = sum(await asyncio.gather(*tasks))
    return FloodReport(time.monotonic() - began, dict(answers), connections)


def main() -> None:
    """The plan is the one argument; the report goes to standard output."""
    os.nice(NICENESS)
    plan = msgspec.json.decode(sys.argv[1], type=FloodPlan)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(flood(plan))) + b"\n")


if __name__ == "__main__":
    main()
