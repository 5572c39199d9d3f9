"""A trader's session against a small real WebSocket server that fails in every way a gateway can."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.lowlevel
import trio_websocket

from ledger.transactions import CancelAll, SignedTransaction, Transaction, transaction_id
from primitives.codec import decode_own
from primitives.signing import SigningKey
from testnet.traders import session as module
from testnet.traders.config import TradersOutcome
from testnet.traders.session import Session
from tests.ledger.exchange import BTC_PERP, CHAIN, buy

Socket = trio_websocket.WebSocketConnection
KEY = SigningKey(b"trader".ljust(32, b"."))
ORDER = buy(BTC_PERP, 99_000, 1)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.02)
    monkeypatch.setattr(module, "REFUSALS_PAUSE_SECONDS", 0.0)


class Gateway:
    """Remembers what it was sent; `answer` says what becomes of it."""

    def __init__(self, answer: Callable[[Gateway, Socket, dict[str, Any]], Awaitable[None]]) -> None:
        self.answer = answer
        self.transactions: list[bytes] = []
        self.subscriptions: list[list[str]] = []
        self.connections = 0
        self.address = ""

    async def serve(self, request: trio_websocket.WebSocketRequest) -> None:
        self.connections += 1
        socket = await request.accept()
        try:
            while True:
                message = msgspec.msgpack.decode(await socket.get_message())
                if message["op"] == "subscribe":
                    self.subscriptions.append(message["channels"])
                else:
                    self.transactions.append(message["transaction"])
                    await self.answer(self, socket, message)
        except trio_websocket.ConnectionClosed:
            return


async def say(socket: Socket, **message: Any) -> None:
    await socket.send_message(msgspec.msgpack.encode(message))


def id_of(message: dict[str, Any]) -> str:
    return transaction_id(message["transaction"]).hex()


async def accepts(gateway: Gateway, socket: Socket, message: dict[str, Any]) -> None:
    await say(socket, type="accepted", id=message["id"], transaction_id=id_of(message))
    await say(socket, type="final", id=message["id"], transaction_id=id_of(message), events=[])


async def refuses(gateway: Gateway, socket: Socket, message: dict[str, Any]) -> None:
    await say(socket, type="refused", id=message["id"], reason="busy", detail="")


async def hangs_up(gateway: Gateway, socket: Socket, message: dict[str, Any]) -> None:
    await socket.aclose()


async def says_nothing(gateway: Gateway, socket: Socket, message: dict[str, Any]) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def a_session(*gateways: Gateway | str) -> AsyncIterator[tuple[Session, TradersOutcome]]:
    """A running session that knows these gateways; a string is an address where nobody listens."""
    outcome = TradersOutcome()
    async with trio.open_nursery() as nursery:
        for gateway in gateways:
            if isinstance(gateway, Gateway):
                server = await nursery.start(
                    trio_websocket.serve_websocket, gateway.serve, "127.0.0.1", 0, None
                )
                gateway.address = f"127.0.0.1:{server.port}"
        addresses = [item.address if isinstance(item, Gateway) else item for item in gateways]
        session = Session(KEY, CHAIN, addresses, 0, outcome)
        nursery.start_soon(session.run)
        with trio.fail_after(5):
            yield session, outcome
        nursery.cancel_scope.cancel()


async def nobody() -> str:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    return f"127.0.0.1:{port}"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the other side is a socket.
        await trio.sleep(0.005)


async def test_an_order_is_signed_submitted_accepted_and_final() -> None:
    gateway = Gateway(accepts)
    async with a_session(gateway) as (session, outcome):
        assert await session.submit([ORDER, CancelAll(None)])
        await until(lambda: len(outcome.final) == 1)
    signed = decode_own(SignedTransaction, gateway.transactions[0])
    assert decode_own(Transaction, signed.payload) == Transaction(CHAIN, 0, 1, (ORDER, CancelAll(None)))
    assert gateway.subscriptions == [[f"account:{session.address.hex()}/0"]]
    assert outcome.accepted == outcome.final == [transaction_id(gateway.transactions[0]).hex()]
    assert (outcome.submitted_transactions, outcome.submitted_orders, outcome.refused) == (1, 1, {})
    assert len(outcome.order_to_final_ms) == 1


async def test_nonces_never_repeat_whatever_happens() -> None:
    gateway = Gateway(refuses)
    async with a_session(gateway) as (session, outcome):
        assert [await session.submit([ORDER]) for _ in range(3)] == [False] * 3
    nonces = [
        decode_own(Transaction, decode_own(SignedTransaction, raw).payload).nonce
        for raw in gateway.transactions
    ]
    assert (nonces, outcome.refused, outcome.accepted) == ([1, 2, 3], {"busy": 3}, [])


async def test_a_gateway_that_hangs_up_is_left_for_the_next() -> None:
    bad, good = Gateway(hangs_up), Gateway(accepts)
    async with a_session(bad, good) as (session, outcome):
        assert not await session.submit([ORDER])
        assert await session.submit([ORDER])
    assert (bad.connections, good.connections, outcome.refused) == (1, 1, {"no_answer": 1})


async def test_a_gateway_that_never_answers_is_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS_MAX", 0.1)
    bad, good = Gateway(says_nothing), Gateway(accepts)
    async with a_session(bad, good) as (session, outcome):
        assert not await session.submit([ORDER])
        assert await session.submit([ORDER])
    assert (len(bad.transactions), outcome.refused) == (1, {"no_answer": 1})


async def test_a_trader_that_waits_is_not_forgotten_over_several_dead_gateways() -> None:
    """It began to wait before the first of several attempts that fail."""
    good = Gateway(accepts)
    async with a_session(await nobody(), await nobody(), await nobody(), good) as (session, outcome):
        assert await session.submit([ORDER])
    assert len(outcome.accepted) == 1


async def test_what_was_accepted_and_not_seen_as_final_stays_on_record() -> None:
    async def accepts_and_dies(gateway: Gateway, socket: Socket, message: dict[str, Any]) -> None:
        await say(socket, type="accepted", id=message["id"], transaction_id=id_of(message))
        await socket.aclose()

    bad, good = Gateway(accepts_and_dies), Gateway(accepts)
    async with a_session(bad, good) as (session, outcome):
        assert await session.submit([ORDER])
        await until(lambda: good.connections == 1)
        assert await session.submit([ORDER])
        await until(lambda: len(outcome.final) == 1)
    assert len(outcome.accepted) == 2
    assert outcome.final == outcome.accepted[1:]


async def test_positions_follow_the_accounts_own_trades() -> None:
    gateway = Gateway(accepts)
    async with a_session(gateway) as (session, _):
        own, other = session.address.hex(), "00" * 20
        for buyer, seller, buyer_sub, lots in (
            (own, other, 0, 5),
            (other, own, 0, 2),
            (own, other, 1, 100),
            (own, own, 0, 7),
        ):
            session._take(
                {
                    "type": "account",
                    "event": "trade",
                    "instrument": 3,
                    "size_lots": lots,
                    "buyer": buyer,
                    "buyer_subaccount": buyer_sub,
                    "seller": seller,
                    "seller_subaccount": 0,
                }
            )
        session._take({"type": "account", "event": "order_accepted"})
        assert session.positions == {3: 3}
