"""A client for trio programs: orders and channels beside each other. HTTP and WebSocket on trio.

async with open_client("http://127.0.0.1:26700", KeySigner(key)) as client:
    receipt = await client.submit((await client.market()).limit("BTC-PERPETUAL", "buy", "0.05", "90000"))
    async with client.follow("trades") as messages:
        async for message in messages:
            print(message)
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx
import trio
import trio_websocket
from trio_websocket import WebSocketConnection

from ledger.transactions import Action
from node.client import questions
from node.client.addresses import DEFAULT_URL, Gateways, stream_url
from node.client.errors import (
    FORBIDDEN,
    BadAnswer,
    BadOrder,
    ClientError,
    NotFound,
    Refused,
    TimedOut,
    TransactionRefused,
    Unreachable,
    no_entry,
)
from node.client.feed import Feed, Message
from node.client.limits import (
    MESSAGE_BYTES_MAX,
    POLL_SECONDS,
    RECONNECT_SECONDS,
    REQUEST_SECONDS_MAX,
    WAIT_SECONDS,
)
from node.client.market import Market
from node.client.questions import Question
from node.client.signers import Signer
from node.client.submissions import (
    ANSWER_SECONDS_MAX,
    Account,
    Conversation,
    Receipt,
    Stage,
    Submission,
    add_consequences,
)

MESSAGES_MAX = 1_024
"""Messages of a channel not read yet; when full, reading waits, the gateway ends the connection as too slow, and
the next one goes on where it was or says what is missing."""
LOST = (OSError, trio_websocket.HandshakeError, trio_websocket.ConnectionClosed, trio.TooSlowError)

T = TypeVar("T")


class TrioClient:
    """One user of one network, through any of its gateways. Use `open_client`.

    Every method raises ClientError: Unreachable, Refused with a reason, BadAnswer, BadOrder or TimedOut.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        gateways: Gateways,
        signer: Signer | None,
        owner: bytes | None,
        subaccount: int,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._http = http
        self._gateways = gateways
        self._signer = signer
        self._owner = owner
        self._subaccount = subaccount
        self._tls = tls
        self._conversation = Conversation()
        self._account: Account | None = None
        self._market: Market | None = None
        self._socket: WebSocketConnection | None = None
        self._connection = trio.CancelScope()
        self._wanted = trio.Event()
        self._news = trio.Event()
        """Replaced whenever something was heard."""
        self._preparing = trio.Lock()

    # --- questions ---

    async def ask(self, question: Question[T]) -> T:
        """The answer of the first gateway that gives one."""
        for _ in range(len(self._gateways)):
            url = self._gateways.url
            try:
                answer = await self._http.request(
                    question.method,
                    url + question.path,
                    params=dict(question.query),
                    content=question.body,
                    headers=question.headers,
                )
            except httpx.HTTPError as error:
                problem = f"no gateway answers at {url}: {error}"
                self._gateways.leave(url)
                continue
            return question.read(answer.status_code, answer.content, answer.headers)
        raise Unreachable(problem)

    async def market(self, *names: str | int, refresh: bool = False) -> Market:
        """What is listed; asked for once, and anew when one of `names` is not in it."""
        if self._market is None:
            self._market = Market((await self.ask(questions.instruments())).instruments)
        elif refresh or not all(map(self._market.has, names)):
            self._market.take((await self.ask(questions.instruments())).instruments)
        return self._market

    async def account(self) -> Account:
        """The account that this client signs for. Raises NotFound before its first deposit."""
        async with self._preparing:
            if self._account is None:
                if self._signer is None:
                    raise ClientError("this client has no key to sign with")
                address = self._signer.address if self._owner is None else self._owner
                known = await self.ask(questions.account(address, self._subaccount))
                chain_id = (await self.ask(questions.status())).chain_id
                self._account = Account(self._signer, chain_id, address, self._subaccount, known.next_nonce)
            return self._account

    # --- orders ---

    async def submit(
        self, *actions: Action, stage: Stage = Stage.FINAL, seconds: float = WAIT_SECONDS
    ) -> Receipt:
        """Sign one batch, hand it in and wait until it has come so far. See Receipt.check for refused actions.

        When the nonce turns out to be taken, by another program with this account, a free one is tried once.
        """
        try:
            return await self.wait(await self.send(*actions), stage, seconds)
        except TransactionRefused as refused:
            if refused.reason != "bad_nonce":
                raise
        return await self.wait(await self.send(*actions), stage, seconds)

    async def send(self, *actions: Action) -> Submission:
        """Sign one batch and hand it in, without waiting for an answer; see `wait`."""
        submission = self._conversation.add(await self._sign(actions))
        self._wanted.set()
        if self._socket is not None:
            with contextlib.suppress(trio_websocket.ConnectionClosed):
                await self._socket.send_message(self._conversation.frame(submission))
        return submission

    async def wait(
        self, submission: Submission, stage: Stage = Stage.FINAL, seconds: float = WAIT_SECONDS
    ) -> Receipt:
        """Until it has come so far. Raises TransactionRefused, TransactionRejected, TryLater, TimedOut."""
        with trio.move_on_after(seconds):
            while not submission.has_reached(stage):
                if submission.is_unsure:
                    await self._ask_after(submission)
                elif submission.is_silent:
                    await self._hear_of(submission)
                else:
                    await self._news.wait()
        if not submission.has_reached(stage):
            self._conversation.give_up(submission)
            raise TimedOut(submission.receipt.transaction_id, seconds)
        if isinstance(submission.error, Refused) and submission.error.reason == "bad_nonce":
            self._account = None
        return submission.result()

    async def with_consequences(self, receipt: Receipt) -> Receipt:
        """A final receipt with the trades and cancellations of this account in its block."""
        account = await self.account()
        page = await self.ask(questions.account_history(account.address, account.subaccount, limit=500))
        return add_consequences(receipt, page.items)

    async def _sign(self, actions: Sequence[Action]) -> bytes:
        account, market = await self.account(), await self.market()
        try:
            return account.sign(actions, market)
        except BadOrder:
            return account.sign(actions, await self.market(refresh=True))

    async def _hear_of(self, submission: Submission) -> None:
        """Wait for the first answer; a gateway that gives none is left for the next."""
        with trio.move_on_after(ANSWER_SECONDS_MAX) as patience:
            while submission.is_silent:
                await self._news.wait()
        if patience.cancelled_caught:
            self._connection.cancel()

    async def _ask_after(self, submission: Submission) -> None:
        with contextlib.suppress(NotFound, Unreachable):
            self._conversation.settle(
                submission, await self.ask(questions.transaction(submission.receipt.transaction_id))
            )
        if not submission.is_decided:
            await trio.sleep(POLL_SECONDS)

    async def converse(self) -> None:
        """Keep the connection for orders, once there is one to send, until cancelled."""
        await self._wanted.wait()
        while True:
            url = self._gateways.url
            with trio.CancelScope() as self._connection:
                try:
                    async with self._opened(url) as socket:
                        await self._exchange(socket)
                except* trio_websocket.ConnectionRejected as group:
                    if _is_forbidden(group):
                        self._conversation.fail(no_entry())
                except* (*LOST, BadAnswer):
                    pass
            self._socket = None
            self._tell()
            self._gateways.leave(url)
            await trio.sleep(RECONNECT_SECONDS)

    async def _exchange(self, socket: WebSocketConnection) -> None:
        self._socket = socket
        for frame in self._conversation.frames():
            await socket.send_message(frame)
        while True:
            self._conversation.take(await socket.get_message())
            self._tell()

    def _tell(self) -> None:
        """Whoever waits for news looks again."""
        self._news.set()
        self._news = trio.Event()

    def _opened(self, url: str) -> contextlib.AbstractAsyncContextManager[WebSocketConnection]:
        opened: contextlib.AbstractAsyncContextManager[WebSocketConnection] = (
            trio_websocket.open_websocket_url(
                stream_url(url),
                ssl_context=self._tls,
                extra_headers=[
                    (name.encode(), value.encode()) for name, value in self._gateways.headers.items()
                ],
                max_message_size=MESSAGE_BYTES_MAX,
                connect_timeout=REQUEST_SECONDS_MAX,
                disconnect_timeout=RECONNECT_SECONDS,
            )
        )
        return opened

    # --- channels ---

    @asynccontextmanager
    async def follow(self, *channels: str) -> AsyncIterator[Following]:
        """What the channels say, on a connection of its own.

        A lost connection is made again and goes on where it was; a `Gap` says what could not be had.
        """
        send, receive = trio.open_memory_channel[Message | ClientError](MESSAGES_MAX)
        async with _nursery() as nursery:
            nursery.start_soon(self._feed, Feed(channels), send)
            yield Following(receive)

    async def _feed(self, feed: Feed, send: trio.MemorySendChannel[Message | ClientError]) -> None:
        ended: ClientError | None = None
        while ended is None:
            url = self._gateways.url
            try:
                async with self._opened(url) as socket:
                    await socket.send_message(feed.opening())
                    while True:
                        message = feed.take(await socket.get_message())
                        if message is not None:
                            await send.send(message)
            except* trio_websocket.ConnectionRejected as group:
                ended = no_entry() if _is_forbidden(group) else None
                self._gateways.leave(url)
                await trio.sleep(RECONNECT_SECONDS)
            except* LOST:
                self._gateways.leave(url)
                await trio.sleep(RECONNECT_SECONDS)
            except* ClientError as group:
                ended = _first_of(group)
        await send.send(ended)


class Following:
    """The messages of some channels, in order; iterate with `async for`. Raises what ended the channels."""

    def __init__(self, receive: trio.MemoryReceiveChannel[Message | ClientError]) -> None:
        self._receive = receive

    def __aiter__(self) -> Following:
        return self

    async def __anext__(self) -> Message:
        item = await self._receive.receive()
        if isinstance(item, ClientError):
            raise item
        return item


@asynccontextmanager
async def open_client(
    urls: str | Sequence[str] = DEFAULT_URL,
    signer: Signer | None = None,
    *,
    owner: bytes | None = None,
    subaccount: int = 0,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    first: int = 0,
) -> AsyncIterator[TrioClient]:
    """A client. `owner`: of the account, when `signer` is a session key. `first`: which of the gateways."""
    gateways = Gateways(urls, token, first=first)
    verify = True if tls is None else tls
    async with (
        httpx.AsyncClient(headers=gateways.headers, timeout=REQUEST_SECONDS_MAX, verify=verify) as http,
        _nursery() as nursery,
    ):
        client = TrioClient(http, gateways, signer, owner, subaccount, tls)
        nursery.start_soon(client.converse)
        yield client


@asynccontextmanager
async def _nursery() -> AsyncIterator[trio.Nursery]:
    """Ends with its body; what the body raises comes out as it is, not in a group."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None


def _first_of(group: BaseExceptionGroup[ClientError]) -> ClientError:
    error = _only(group)
    assert isinstance(error, ClientError)
    return error


def _is_forbidden(group: BaseExceptionGroup[trio_websocket.ConnectionRejected]) -> bool:
    return getattr(_only(group), "status_code", 0) in FORBIDDEN


def _only(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
