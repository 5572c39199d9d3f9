"""A real socket on loopback, and venues that misbehave on it: each fault counted, the sound quotes kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from node.oracle import venue_client
from node.oracle.quotes import FRAME_BYTES_MAX, LENGTH_BYTES, ForwardQuote, IndexQuote, encode_frame
from node.oracle.venue_book import VenueBook
from node.oracle.venue_client import VenueClient, parse_address
from primitives.amounts import NS, USD
from primitives.errors import OperatorError

NOW = 1_800_000_000 * NS
Serve = Callable[[trio.SocketStream], Awaitable[None]]


def an_index(price: int = 90_000, *, time_ns: int = NOW) -> IndexQuote:
    return IndexQuote(0, time_ns, price * USD, price * USD)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


@asynccontextmanager
async def a_client_of(serve: Serve) -> AsyncIterator[VenueClient]:
    """A running client of a TCP venue on loopback that treats every connection with `serve`."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        address = f"tcp:127.0.0.1:{listener.socket.getsockname()[1]}"
        client = VenueClient(address, VenueBook("north", []), lambda: NOW)
        nursery.start_soon(client.run)
        yield client
        nursery.cancel_scope.cancel()


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - the other side is a socket, which sets no event.
            await trio.sleep(0.002)


def sends(*frames: bytes) -> Serve:
    """A venue that sends these bytes once and then keeps the connection open."""

    async def serve(stream: trio.SocketStream) -> None:
        for frame in frames:
            await stream.send_all(frame)
        await trio.sleep_forever()

    return serve


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (encode_frame([an_index(80_000, time_ns=NOW - 1)]), "out_of_order"),
        (encode_frame([an_index(80_000, time_ns=NOW - 7_200 * NS)]), "stale"),
        (encode_frame([an_index(80_000, time_ns=NOW + 60 * NS)]), "from_the_future"),
        (encode_frame([IndexQuote(0, NOW, 2 * USD, USD)]), "crossed"),
        (encode_frame([IndexQuote(0, NOW, 2**62, 2**62)]), "price_too_large"),
        (encode_frame([IndexQuote(9, NOW, USD, USD)]), "unknown_underlying"),
        (encode_frame([ForwardQuote(0, NOW + NS, NOW, USD, USD)]), "unknown_series"),
        (framed(msgspec.msgpack.encode([[1, 0, NOW, -1, 10]])), "malformed"),
        (framed(msgspec.msgpack.encode([[1, 0, NOW, 1e30, 1e30]])), "malformed"),
        (framed(b"\xff" * 40), "malformed"),
        (framed(b"\xdc\x00\x01" + msgspec.msgpack.encode([1, 0, NOW, USD, USD])), "not_canonical"),
    ],
    ids=[
        *("out of order", "stale", "future", "crossed", "too large", "wrong underlying", "wrong instrument"),
        *("negative", "1e30", "garbage", "not canonical"),
    ],
)
async def test_a_bad_frame_is_counted_and_the_next_good_one_kept(bad: bytes, reason: str) -> None:
    good = encode_frame([an_index(90_001)])
    async with a_client_of(sends(encode_frame([an_index()]), bad, good)) as client:
        await wait_until(lambda: client.counters["frames"] == 3)
        assert client.counters == {"connects": 1, "frames": 3, "quotes": 2, reason: 1}
        assert client.book.indexes == {0: an_index(90_001)}


async def test_an_oversized_length_closes_the_connection_without_reading_on() -> None:
    claim = (FRAME_BYTES_MAX + 1).to_bytes(LENGTH_BYTES, "big")
    async with a_client_of(sends(encode_frame([an_index()]), claim)) as client:
        await wait_until(lambda: client.counters["disconnects"] >= 1)
        assert (client.counters["frame_too_large"], client.book.indexes) == (1, {0: an_index()})


async def test_frames_arrive_whole_however_the_bytes_are_cut() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        for byte in encode_frame([an_index()]) + encode_frame([an_index(90_001)]):
            await stream.send_all(bytes([byte]))
        await trio.sleep_forever()

    async with a_client_of(serve) as client:
        await wait_until(lambda: client.counters["quotes"] == 2)
        assert client.book.indexes == {0: an_index(90_001)}


async def test_a_dropped_connection_is_dialled_again_and_keeps_what_is_known() -> None:
    prices = iter((90_000, 90_001, 90_002))

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(encode_frame([an_index(next(prices))]) + b"\x00\x00")
        await stream.aclose()

    async with a_client_of(serve) as client:
        await wait_until(lambda: client.counters["connects"] == 2 and client.counters["quotes"] == 2)
        assert client.book.indexes == {0: an_index(90_001)}


async def test_a_silent_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venue_client, "IDLE_SECONDS_MAX", 0.02)
    async with a_client_of(sends()) as client:
        await wait_until(lambda: client.counters["connects"] == 2)
        assert client.counters["disconnects"] >= 1


async def test_a_venue_that_is_not_there_is_tried_again() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"tcp:127.0.0.1:{listener.socket.getsockname()[1]}"
    await listener.aclose()
    client = VenueClient(address, VenueBook("north", []), lambda: NOW)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await wait_until(lambda: client.counters["connect_failed"] == 2)
        nursery.cancel_scope.cancel()
    assert client.counters == {"connect_failed": 2}


@pytest.mark.parametrize("address", ["", "unix:", "tcp:host", "tcp:host:99999", "http://x", "tcp::80"])
def test_what_is_no_address_is_the_operators_mistake(address: str) -> None:
    with pytest.raises(OperatorError, match="not a venue address"):
        parse_address(address)
