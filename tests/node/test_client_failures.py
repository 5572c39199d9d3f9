"""The trio client against a small WebSocket server that fails in every way a gateway can."""

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
from node.client import on_trio as module
from node.client.errors import TimedOut, TryLater
from node.client.market import Market
from node.client.on_trio import TrioClient, open_client
from node.client.signers import KeySigner
from node.client.submissions import Account, Stage
from primitives.codec import decode_own
from tests.ledger.exchange import CHAIN, a_key

Socket = trio_websocket.WebSocketConnection
SIGNER = KeySigner(a_key("trader"))
ORDER = CancelAll(None)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.02)
    monkeypatch.setattr(module, "ANSWER_SECONDS_MAX", 0.2)


class Gateway:
    """Remembers what it was sent; `answer` says what becomes of it."""

    def __init__(self, answer: Callable[[Socket, dict[str, Any]], Awaitable[None]]) -> None:
        self.answer = answer
        self.transactions: list[bytes] = []
        self.connections = 0
        self.url = ""

    async def serve(self, request: trio_websocket.WebSocketRequest) -> None:
        self.connections += 1
        socket = await request.accept()
        try:
            while True:
                message = msgspec.msgpack.decode(await socket.get_message())
                if message["op"] == "submit":
                    self.transactions.append(message["transaction"])
                    await self.answer(socket, message)
        except trio_websocket.ConnectionClosed:
            return


async def say(socket: Socket, message: dict[str, Any], kind: str, **more: Any) -> None:
    name = transaction_id(message["transaction"]).hex()
    await socket.send_message(
        msgspec.msgpack.encode({"type": kind, "id": message["id"], "transaction_id": name, **more})
    )


async def decides(socket: Socket, message: dict[str, Any]) -> None:
    await say(socket, message, "accepted")
    await say(socket, message, "final", height=1, events=[])


async def refuses(socket: Socket, message: dict[str, Any]) -> None:
    await say(socket, message, "refused", reason="busy", detail="")


async def hangs_up(socket: Socket, message: dict[str, Any]) -> None:
    await socket.aclose()


async def accepts_and_dies(socket: Socket, message: dict[str, Any]) -> None:
    await say(socket, message, "accepted")
    await socket.aclose()


async def talks_nonsense(socket: Socket, message: dict[str, Any]) -> None:
    await socket.send_message(b"\xc1")


async def says_nothing(socket: Socket, message: dict[str, Any]) -> None:
    await trio.lowlevel.checkpoint()


@asynccontextmanager
async def a_client(*gateways: Gateway | str) -> AsyncIterator[TrioClient]:
    """A client of these gateways, whose account is known; a string is an address where nobody listens."""
    async with trio.open_nursery() as nursery:
        for gateway in gateways:
            if isinstance(gateway, Gateway):
                server = await nursery.start(
                    trio_websocket.serve_websocket, gateway.serve, "127.0.0.1", 0, None
                )
                gateway.url = f"http://127.0.0.1:{server.port}"
        urls = [item.url if isinstance(item, Gateway) else item for item in gateways]
        async with open_client(urls, SIGNER) as client:
            client._account = Account(SIGNER, CHAIN, SIGNER.address, 0, 1)
            client._market = Market(())
            with trio.fail_after(30):
                yield client
        nursery.cancel_scope.cancel()


async def nobody() -> str:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    return f"http://127.0.0.1:{port}"


async def test_every_transaction_has_a_nonce_of_its_own_whatever_becomes_of_it() -> None:
    gateway = Gateway(refuses)
    async with a_client(gateway) as client:
        for _ in range(3):
            with pytest.raises(TryLater, match="busy"):
                await client.submit(ORDER)
    signed = [decode_own(SignedTransaction, raw) for raw in gateway.transactions]
    sent = [decode_own(Transaction, item.payload) for item in signed]
    assert sent == [Transaction(CHAIN, 0, nonce, (ORDER,)) for nonce in (1, 2, 3)]


@pytest.mark.parametrize("fault", [hangs_up, says_nothing, talks_nonsense, accepts_and_dies])
async def test_what_a_bad_gateway_does_not_decide_goes_to_the_next_byte_for_byte(fault: Any) -> None:
    bad, good = Gateway(fault), Gateway(decides)
    async with a_client(bad, good) as client:
        receipt = await client.submit(ORDER)
    assert (bad.transactions, bad.connections) == (good.transactions, 1)
    assert (receipt.stage, receipt.transaction_id) == (Stage.FINAL, transaction_id(bad.transactions[0]))


async def test_a_good_gateway_is_found_behind_several_dead_ones() -> None:
    good = Gateway(decides)
    async with a_client(await nobody(), await nobody(), await nobody(), good) as client:
        assert (await client.submit(ORDER)).stage is Stage.FINAL


async def test_orders_and_channels_that_lose_one_of_two_gateways_together_meet_at_the_other() -> None:
    good = Gateway(decides)
    async with a_client(await nobody(), good) as client, client.follow("blocks"):
        for _ in range(5):
            assert (await client.submit(ORDER)).stage is Stage.FINAL


async def test_what_nobody_decides_in_time_is_not_known() -> None:
    async with a_client(Gateway(says_nothing)) as client:
        submission = await client.send(ORDER)
        with pytest.raises(TimedOut) as late:
            await client.wait(submission, seconds=0.05)
        assert late.value.transaction_id == submission.receipt.transaction_id
