"""Every exchange's adapter against a local server that speaks its messages and misbehaves in every known way.

Each fault is counted by its reason, nothing wrong enters the book, and the next sound price does.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from node.oracle.adapters import connection
from node.oracle.quotes import IndexQuote
from primitives.amounts import NS, USD
from tests.node.exchange_server import (
    NOW,
    SPEECHES,
    Socket,
    Speech,
    an_exchange,
    hurry,
    says,
    wait_until,
)

__all__ = ["hurry"]

every_exchange = pytest.mark.parametrize("speech", SPEECHES, ids=lambda speech: speech.name)


def held(price_uusd: int, *, time_ns: int = NOW) -> dict[int, IndexQuote]:
    return {0: IndexQuote(0, time_ns, price_uusd, price_uusd)}


async def check_refused(speech: Speech, bad: Callable[[], str], reason: str) -> None:
    """A sound price, the bad message, another sound price: two are kept and one is counted."""
    script = says(speech.index("70000.5"), bad(), speech.index("70001.5"))
    async with an_exchange(speech.name, script, listed=()) as (adapter, _):
        await wait_until(lambda: adapter.counters["frames"] >= 3 and adapter.counters["quotes"] == 2)
        assert adapter.book.indexes == held(70_001_500_000)
        refusals = {
            name: count
            for name, count in adapter.counters.items()
            if name not in ("frames", "quotes", "connects") and count
        }
        assert refusals == {reason: 1}


@every_exchange
@pytest.mark.parametrize(
    ("price", "reason"),
    [
        ("1e30", "price_too_large"),
        ("1e999999999", "price_too_large"),
        ("10000000.000001", "price_too_large"),
        ("-70000.5", "not_positive"),
        ("0", "not_positive"),
        ("-0.0", "not_positive"),
        ("1e-30", "not_positive"),
    ],
)
async def test_an_impossible_price_is_refused(speech: type[Speech], price: str, reason: str) -> None:
    said = speech()
    await check_refused(said, lambda: said.index(price), reason)


@every_exchange
@pytest.mark.parametrize("price", ["NaN", "sNaN", "Infinity", "-Infinity"])
async def test_what_is_no_number_is_refused(speech: type[Speech], price: str) -> None:
    said = speech()
    text = f'"{price}"' if said.numbers else price
    await check_refused(said, lambda: said.index(text), "not_a_number")


@every_exchange
@pytest.mark.parametrize("price", ["seventy", "", "7e", "0x10"])
async def test_text_that_is_no_number_is_malformed(speech: type[Speech], price: str) -> None:
    said = speech()
    text = f'"{price}"' if said.numbers else price
    await check_refused(said, lambda: said.index(text), "malformed")


@every_exchange
@pytest.mark.parametrize(
    ("offset_ns", "reason"),
    [(-7_200 * NS, "stale"), (60 * NS, "from_the_future"), (-NS, "out_of_order")],
)
async def test_a_wrong_time_is_refused(speech: type[Speech], offset_ns: int, reason: str) -> None:
    said = speech()
    await check_refused(said, lambda: said.index("60000", time_ns=NOW + offset_ns), reason)


@every_exchange
@pytest.mark.parametrize(
    "cut",
    [
        lambda text: text[:-3],
        lambda text: "{" + text,
        lambda text: text.replace('"', "'"),
        lambda text: "[" + text + "]",
        lambda text: "7",
        lambda text: "",
        lambda text: "[" * 100_000,
    ],
    ids=["cut off", "extra brace", "wrong quotes", "a list", "a number", "empty", "deep"],
)
async def test_malformed_json_is_refused(speech: type[Speech], cut: Callable[[str], str]) -> None:
    said = speech()
    # Of an own speaker: what cannot be read has no number that Coinbase's would have to follow.
    await check_refused(said, lambda: cut(speech().index("60000")), "malformed")


@every_exchange
async def test_a_missing_price_is_malformed(speech: type[Speech]) -> None:
    said = speech()
    fields = {
        "deribit": '"price":60000,',
        "binance": '"b":"60000",',
        "okx": '"idxPx":"60000",',
        "bybit": ',"usdIndexPrice":"60000"',
        "coinbase": '"best_bid":"60000",',
        "kraken": '"bid":60000,',
    }
    assert fields[said.name] in speech().index("60000")
    await check_refused(said, lambda: said.index("60000").replace(fields[said.name], ""), "malformed")


@every_exchange
async def test_a_market_we_did_not_ask_for_is_refused(speech: type[Speech]) -> None:
    said = speech()
    await check_refused(said, lambda: said.index("60000", symbol=said.unknown), "unknown_underlying")


@pytest.mark.parametrize(
    "speech", [speech for speech in SPEECHES if speech.two_sided], ids=lambda speech: speech.name
)
@pytest.mark.parametrize(
    ("ask", "reason"), [("59999", "crossed"), ("70000", "too_wide"), ("0", "not_positive")]
)
async def test_two_sides_must_make_a_market(speech: type[Speech], ask: str, reason: str) -> None:
    said = speech()
    await check_refused(said, lambda: said.index("60000", ask=ask), reason)


@every_exchange
async def test_prices_are_read_exactly_and_rounded_outwards(speech: type[Speech]) -> None:
    said = speech()
    script = says(said.index("70000.1234567890123456789"))
    async with an_exchange(said.name, script, listed=()) as (adapter, _):
        await wait_until(lambda: adapter.counters["quotes"] == 1)
        assert adapter.book.indexes == {0: IndexQuote(0, NOW, 70_000_123_456, 70_000_123_457)}


@every_exchange
async def test_times_keep_what_the_exchange_tells(speech: type[Speech]) -> None:
    said = speech()
    time_ns = NOW + 123_456_789
    known_ns = time_ns if said.name in ("coinbase", "kraken") else NOW + 123_000_000
    async with an_exchange(said.name, says(said.index("70000", time_ns=time_ns)), listed=()) as (adapter, _):
        await wait_until(lambda: adapter.counters["quotes"] == 1)
        assert adapter.book.indexes == held(70_000 * USD, time_ns=known_ns)


@every_exchange
async def test_a_dropped_connection_is_dialled_again_and_subscribes_again(speech: type[Speech]) -> None:
    expected = 2 if speech.name in ("deribit", "coinbase") else 1

    async def script(socket: Socket, turn: int) -> None:
        await socket.send_message(speech().index(str(70_000 + turn)))
        await wait_until(lambda: len(server.requests) == expected * (turn + 1))
        if turn < 2:
            await socket._stream.aclose()  # No closing handshake: the line is cut.
        await trio.sleep_forever()

    async with an_exchange(speech.name, script, listed=()) as (adapter, server):
        await wait_until(lambda: adapter.counters["quotes"] == 3 and len(server.requests) == 3 * expected)
        assert adapter.book.indexes == held(70_002 * USD)
        assert (adapter.counters["connects"], adapter.counters["disconnects"]) == (3, 2)


@every_exchange
async def test_a_proper_goodbye_is_dialled_again(speech: type[Speech]) -> None:
    async def script(socket: Socket, turn: int) -> None:
        await socket.send_message(speech().index(str(70_000 + turn)))
        if turn == 0:
            await socket.aclose(1001)
        await trio.sleep_forever()

    async with an_exchange(speech.name, script, listed=()) as (adapter, _):
        await wait_until(lambda: adapter.counters["quotes"] == 2)
        assert adapter.book.indexes == held(70_001 * USD)


@every_exchange
async def test_silence_is_given_up_whatever_heartbeats_say(
    speech: type[Speech], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS_MAX", 0.03)
    heartbeats = {
        "deribit": '{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"heartbeat"}}',
        "binance": '{"result":null,"id":1}',
        "okx": "pong",
        "bybit": '{"success":true,"ret_msg":"pong","conn_id":"1","op":"ping"}',
        "coinbase": '{"channel":"heartbeats","timestamp":"2026-02-04T08:00:00Z","events":[]}',
        "kraken": '{"channel":"heartbeat"}',
    }

    async def script(socket: Socket, turn: int) -> None:
        if turn == 1:
            await socket.send_message(speech().index("70000"))
        while True:
            await socket.send_message(heartbeats[speech.name])
            await trio.sleep(0.005)

    async with an_exchange(speech.name, script, listed=()) as (adapter, _):
        await wait_until(lambda: adapter.counters["connects"] >= 3)
        assert adapter.counters["silent"] >= 2
        assert adapter.book.indexes == held(70_000 * USD)


@every_exchange
async def test_a_huge_message_ends_the_connection(
    speech: type[Speech], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MESSAGE_BYTES_MAX", 10_000)

    async def script(socket: Socket, turn: int) -> None:
        if turn == 0:
            await socket.send_message(speech().index("60000") + " " * 10_000)
        await socket.send_message(speech().index("70000"))
        await trio.sleep_forever()

    async with an_exchange(speech.name, script, listed=()) as (adapter, _):
        await wait_until(lambda: adapter.counters["quotes"] == 1)
        assert adapter.book.indexes == held(70_000 * USD)
        assert (adapter.counters["frame_too_large"], adapter.counters["connects"]) == (1, 2)


@every_exchange
async def test_bytes_in_place_of_text_are_read_the_same(speech: type[Speech]) -> None:
    async def script(socket: Socket, turn: int) -> None:
        await socket.send_message(b"\xff\xfe")
        await socket.send_message(speech().index("70000").encode())
        await trio.sleep_forever()

    async with an_exchange(speech.name, script, listed=()) as (adapter, _):
        await wait_until(lambda: adapter.counters["quotes"] == 1)
        assert adapter.book.indexes == held(70_000 * USD)
        assert adapter.counters["malformed"] == 1
