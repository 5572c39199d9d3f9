"""The gateway as its own process, before a real socket and a real store: queries, orders, streams, bad clients."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
import trio
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ledger.events import TransactionRejected
from ledger.transactions import transaction_id
from node.rpc.protocol import FinalBlockNotice, TransactionStatus
from node.rpc.supervisor import bind_gateway
from primitives.amounts import USD
from primitives.codec import encode
from primitives.errors import OperatorError
from tests.node.running_gateway import (
    EVENTS,
    LATER,
    LATER_EVENTS,
    OWNER,
    PERPETUAL,
    RAW,
    TIME_NS,
    Running,
    running,
)


async def body_of(running: Running, path: str) -> Any:
    answer = await running.http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_queries_answer_from_the_final_state(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        status = await body_of(it, "/v1/status")
        assert (status["final_height"], status["is_stale"], status["counters"]) == (1, False, {"journal": 2})
        block = await body_of(it, "/v1/blocks/latest")
        assert (block["height"], block["transaction_ids"]) == (1, [transaction_id(RAW).hex()])
        assert [event["event"] for event in block["events"]] == [
            "transaction_applied",
            "order_accepted",
            "trade",
        ]
        assert block == await body_of(it, "/v1/blocks/1")
        account = await body_of(it, f"/v1/accounts/{OWNER.hex()}/0")
        assert (account["cash_uusd"], account["health"], account["margin"]) == (
            *(str(2**60), "healthy"),
            {"equity_uusd": str(2**60), "im_excess_uusd": "5", "mm_excess_uusd": "6"},
        )
        listed = (await body_of(it, "/v1/instruments"))["instruments"]
        assert listed[0]["name"] == PERPETUAL and listed[0]["mark"]["mark_uusd"] == str(100_000 * USD)
        assert (listed[1]["is_settled"], listed[1]["settlement_price_uusd"]) == (True, str(7 * USD))
        book = await body_of(it, f"/v1/books/{PERPETUAL}")
        assert book["bids"] == [
            {"price_uusd": str(99_000 * USD), "size_lots": 12},
            {"price_uusd": str(98_000 * USD), "size_lots": 1},
        ]
        assert book == await body_of(it, "/v1/books/0")
        found = await body_of(it, f"/v1/transactions/{transaction_id(RAW).hex()}")
        assert (found["status"], found["height"], len(found["events"])) == ("final", 1, 2)
        assert (await it.http.get("/metrics")).text.startswith("quorate_view 9\n")


async def test_validators_and_stake_are_told_from_the_final_state(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        answer = await body_of(it, "/v1/validators")
        [validator] = answer["validators"]
        assert (answer["epoch"], answer["set"]["epoch"], answer["next_set"]["epoch"]) == (0, 0, 1)
        assert (validator["place"], validator["weight"], validator["stake_uusd"]) == (0, 1, str(10**12))
        assert (validator["is_ready"], validator["missed_blocks"], validator["shares"]) == (
            True,
            0,
            str(10**12),
        )
        stake = await body_of(it, f"/v1/accounts/{validator['operator']}/0/stake")
        assert stake == {
            "bonded": [{"validator": 0, "shares": str(10**12), "value_uusd": str(10**12)}],
            "unbonding": [],
        }
        assert await body_of(it, f"/v1/accounts/{OWNER.hex()}/0/stake") == {"bonded": [], "unbonding": []}


async def test_each_refusal_has_a_status_and_a_stable_reason(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        for path, code, reason in (
            ("/v1/blocks/2", 404, "not_found"),
            ("/v1/blocks/-1", 400, "bad_request"),
            ("/v1/blocks/" + "9" * 400, 400, "bad_request"),
            (f"/v1/accounts/{OWNER.hex()}/256", 400, "bad_request"),
            (f"/v1/accounts/{OWNER.hex().upper()[:-1]}G/0", 400, "bad_request"),
            ("/v1/accounts/00/0", 400, "bad_request"),
            ("/v1/books/DOGE-PERPETUAL", 404, "not_found"),
            ("/v1/surface/DOGE", 404, "not_found"),
            ("/v1/surface/BTC", 404, "not_found"),
            ("/v1/transactions/" + "ab" * 32, 404, "not_found"),
            ("/v1/orders", 405, "bad_request"),
            ("/admin", 404, "not_found"),
        ):
            answer = await it.http.get(path)
            assert (path, answer.status_code, answer.json()["reason"]) == (path, code, reason)


async def test_orders_are_taken_as_bytes_or_as_json(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        accepted = await it.http.post("/v1/orders", content=RAW)
        in_json = await it.http.post("/v1/orders", json={"transaction": base64.b64encode(RAW).decode()})
        assert (accepted.status_code, accepted.json(), in_json.json()) == (
            202,
            *[{"transaction_id": transaction_id(RAW).hex(), "accepted": True, "reason": "", "detail": ""}]
            * 2,
        )
        refused = await it.http.post("/v1/orders", content=b"bad")
        assert (refused.status_code, refused.json()["reason"]) == (422, "bad_nonce")
        for content, kind, code, reason in (
            (bytes(65_537), "application/octet-stream", 413, "body_too_large"),
            (bytes(300_000), "application/octet-stream", 413, "body_too_large"),
            (b'{"transaction": "zz', "application/json", 400, "bad_request"),
            (b'{"transaction": 5}', "application/json", 400, "bad_request"),
            (b"[" * 100_000, "application/json", 400, "bad_request"),
        ):
            answer = await it.http.post("/v1/orders", content=content, headers={"content-type": kind})
            assert (answer.status_code, answer.json()["reason"]) == (code, reason)


def listen(url: str, work: Callable[[ClientConnection], Any]) -> Any:
    with connect(url, open_timeout=5) as connection:
        return work(connection)


def asked(connection: ClientConnection, **request: Any) -> Any:
    connection.send(json.dumps(request))
    return json.loads(connection.recv(5))


async def test_a_streamed_order_is_accepted_then_notarized_then_final(tmp_path: Path) -> None:
    encoded = base64.b64encode(LATER).decode()

    def work(connection: ClientConnection) -> list[Any]:
        channels = ["blocks", "trades", f"book:{PERPETUAL}", f"account:{OWNER.hex()}/0"]
        answers = [
            asked(connection, op="subscribe", channels=channels),
            asked(connection, op="submit", id=5, transaction=encoded),
        ]
        trio.from_thread.run_sync(publish)
        return [*answers, *(json.loads(connection.recv(5)) for _ in range(7))]

    async with running(tmp_path / "h") as it:

        def publish() -> None:
            it.node.publish(TransactionStatus("notarized", 2, (transaction_id(LATER),)))
            events = encode(LATER_EVENTS)
            it.node.publish(FinalBlockNotice(2, b"\1" * 32, b"\2" * 32, TIME_NS, TIME_NS, events))

        answers = await trio.to_thread.run_sync(listen, it.ws_url, work)
    assert [answer["type"] for answer in answers[:4]] == ["subscribed", "accepted", "notarized", "final"]
    assert {answer["id"] for answer in answers[1:4]} == {5}
    assert [event["event"] for event in answers[3]["events"]] == ["transaction_applied", "order_accepted"]
    assert answers[3]["events"][1]["label"] == str(2**60), "numbers beyond 2^53 are strings"
    assert sorted(answer["type"] for answer in answers[4:]) == [
        "account",
        "account",
        "block",
        "book",
        "trade",
    ]


async def test_an_order_that_became_final_while_the_line_was_cut_is_acknowledged(tmp_path: Path) -> None:
    def work(connection: ClientConnection) -> list[str]:
        accepted = asked(connection, op="submit", id=5, transaction=base64.b64encode(RAW).decode())
        trio.from_thread.run_sync(cut)
        return [accepted["type"], json.loads(connection.recv(5))["type"]]

    async with running(tmp_path / "h") as it:

        def cut() -> None:
            for client in list(it.node._clients.values()):
                client.cancel_scope.cancel()

        assert await trio.to_thread.run_sync(listen, it.ws_url, work) == ["accepted", "final"]


async def test_a_binary_client_gets_msgpack_and_hears_of_a_rejection(tmp_path: Path) -> None:
    def work(connection: ClientConnection) -> list[Any]:
        connection.send(msgspec.msgpack.encode({"op": "submit", "id": 1, "transaction": LATER}))
        accepted = msgspec.msgpack.decode(connection.recv(5))
        trio.from_thread.run_sync(publish)
        return [accepted, msgspec.msgpack.decode(connection.recv(5))]

    async with running(tmp_path / "h") as it:

        def publish() -> None:
            events = (TransactionRejected(transaction_id(LATER), "bad_nonce", "used before"),)
            it.node.publish(FinalBlockNotice(2, b"\1" * 32, b"\2" * 32, TIME_NS, TIME_NS, encode(events)))

        accepted, rejected = await trio.to_thread.run_sync(listen, it.ws_url, work)
    assert (accepted["type"], rejected["type"], rejected["id"]) == ("accepted", "rejected", 1)
    assert rejected["events"][0]["reason"] == "bad_nonce"


async def test_a_stream_client_that_does_not_read_is_dropped_and_nobody_else_notices(tmp_path: Path) -> None:
    many = FinalBlockNotice(1, b"\1" * 32, b"\2" * 32, TIME_NS, TIME_NS, encode(EVENTS[2:] * 2_000))

    def work(connection: ClientConnection) -> int:
        asked(connection, op="subscribe", channels=["trades"])
        rounds = 0
        while trio.from_thread.run(stream_clients) == 2:
            trio.from_thread.run_sync(it.node.publish, many)
            assert all(b"trade" in connection.recv(5, decode=False) for _ in range(2_000))
            rounds += 1
        return rounds

    async with running(tmp_path / "h") as it:

        async def stream_clients() -> int:
            last_line = (await it.http.get("/metrics")).text.splitlines()[-1]
            return int(last_line.removeprefix("quorate_gateway_stream_clients "))

        with deaf_follower_of_trades(it.gateway.port), trio.fail_after(20):
            while await stream_clients() == 0:  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert await trio.to_thread.run_sync(listen, it.ws_url, work) > 0
        assert it.gateway.restarts == 0


def deaf_follower_of_trades(port: int) -> socket.socket:
    """A WebSocket client, by hand, with the smallest receive buffer: it subscribes and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.connect(("127.0.0.1", port))
    client.sendall(
        b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert client.recv(12) == b"HTTP/1.1 101"
    request = b'{"op":"subscribe","channels":["trades"]}'
    client.sendall(b"\x81" + bytes([0x80 | len(request)]) + bytes(4) + request)
    return client


async def test_bad_clients_are_refused_and_the_gateway_lives(tmp_path: Path) -> None:
    def work(connection: ClientConnection) -> list[str]:
        answers = [
            asked(connection, op="dance"),
            asked(connection, op="subscribe", channels=["everything"]),
            asked(connection, op="subscribe", channels=["book:DOGE"]),
            asked(connection, op="subscribe", channels=["account:zz/0"]),
            asked(connection, op="submit", id=1, transaction=base64.b64encode(b"bad").decode()),
        ]
        with pytest.raises(ConnectionClosed):
            connection.send(bytes(2_000_000))
            connection.recv(5)
        return [answer["reason"] for answer in answers]

    async with running(tmp_path / "h") as it:
        reasons = await trio.to_thread.run_sync(listen, it.ws_url, work)
        assert reasons == ["bad_request", "bad_request", "not_found", "bad_request", "bad_nonce"]
        for raw in (
            b"\0" * 100,
            b"GET / HTTP/9\r\n\r\n",
            b"GET /v1/ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\nx",
        ):
            stream = await trio.open_tcp_stream("127.0.0.1", it.gateway.port)
            await stream.send_all(raw)
            with trio.move_on_after(0.2):
                await stream.receive_some()
            await stream.aclose()
        assert (await body_of(it, "/health")) == {"status": "ok"}
        assert it.gateway.restarts == 0


async def test_a_killed_gateway_comes_back_and_a_node_away_leaves_stale_answers(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        (child,) = gateways()
        child.kill()
        with trio.fail_after(10):
            while it.gateway.restarts == 0 or (await health(it)) != 200:  # noqa: ASYNC110
                await trio.sleep(0.02)
        it.config.socket_path.unlink()
        for client in list(it.node._clients.values()):
            client.cancel_scope.cancel()
        with trio.fail_after(30):
            while (await health(it)) == 200:  # noqa: ASYNC110
                await trio.sleep(0.02)
        status = await body_of(it, "/v1/status")
        assert (status["height"], status["is_stale"]) == (1, True)
        refused = await it.http.post("/v1/orders", content=RAW)
        assert (refused.status_code, refused.json()["reason"]) == (503, "node_unavailable")
    assert gateways() == []


async def health(it: Running) -> int:
    try:
        return (await it.http.get("/health")).status_code
    except httpx.TransportError:
        return 0


def gateways() -> list[psutil.Process]:
    """Gateway processes that this process has started."""
    return [child for child in psutil.Process().children() if "node.rpc.gateway" in child.cmdline()]


async def test_a_token_is_asked_for_everywhere_but_health(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    async with running(tmp_path / "h", token_file=str(token)) as it:
        bare = await it.http.get("/v1/status")
        assert (bare.status_code, bare.json()["reason"]) == (401, "unauthorized")
        headers = {"authorization": "Bearer 0123456789abcdef"}
        assert (await it.http.get("/v1/status", headers=headers)).status_code == 200


def test_a_port_in_use_is_one_clear_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            OperatorError, match=f"cannot listen on 127.0.0.1 port {port} .Address already in use"
        ):
            bind_gateway("127.0.0.1", port)
