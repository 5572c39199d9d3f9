"""A client for scripts and notebooks: every call waits for its answer. HTTP and WebSocket, one thread.

with Client("http://127.0.0.1:26700", KeySigner(key)) as client:
    receipt = client.submit(client.market.limit("BTC-PERPETUAL", "buy", "0.05", "90000"))
    for message in client.follow("trades"):
        print(message)
"""

from __future__ import annotations

import contextlib
import math
import ssl
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from ledger.transactions import Action
from node.client import questions
from node.client.addresses import DEFAULT_URL, Gateways, stream_url
from node.client.errors import (
    FORBIDDEN,
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
    LISTED_SECONDS,
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
from node.rpc.answers import InstrumentForm

T = TypeVar("T")


class Client:
    """One user of one network, through any of its gateways. Not for several threads at once.

    Every method raises ClientError: Unreachable, Refused with a reason, BadAnswer, BadOrder or TimedOut.
    """

    def __init__(
        self,
        urls: str | Sequence[str] = DEFAULT_URL,
        signer: Signer | None = None,
        *,
        owner: bytes | None = None,
        subaccount: int = 0,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`owner`: of the account, when `signer` is a session key. `tls`: for a certificate of one's own."""
        self._gateways = Gateways(urls, token)
        self._signer = signer
        self._owner = owner
        self._subaccount = subaccount
        self._tls = tls
        self._http = httpx.Client(
            headers=self._gateways.headers, timeout=REQUEST_SECONDS_MAX, verify=True if tls is None else tls
        )
        self._socket: ClientConnection | None = None
        self._closing = contextlib.ExitStack()
        self._socket_url = ""
        self._conversation = Conversation()
        self._account: Account | None = None
        self._market: Market | None = None
        self._listed_at = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()
        self._hang_up()

    # --- questions ---

    def ask(self, question: Question[T]) -> T:
        """The answer of the first gateway that gives one."""
        for _ in range(len(self._gateways)):
            url = self._gateways.url
            try:
                answer = self._http.request(
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

    @property
    def market(self) -> Market:
        """What is listed; asked for at first, and whenever something is looked for that was not there."""
        if self._market is None:
            self._market = Market(self._listed_anew(), self._listed_anew)
        return self._market

    def refresh_market(self) -> Market:
        """What is listed now."""
        self.market.take(self.ask(questions.instruments()).instruments)
        return self.market

    def _listed_anew(self) -> Sequence[InstrumentForm]:
        """Nothing when it was asked for a moment ago."""
        if time.monotonic() - self._listed_at < LISTED_SECONDS:
            return ()
        listed = self.ask(questions.instruments()).instruments
        self._listed_at = time.monotonic()
        return listed

    @property
    def account(self) -> Account:
        """The account that this client signs for. Raises NotFound before its first deposit."""
        if self._account is None:
            signer = self._need_signer()
            address = signer.address if self._owner is None else self._owner
            known = self.ask(questions.account(address, self._subaccount))
            chain_id = self.ask(questions.status()).chain_id
            self._account = Account(signer, chain_id, address, self._subaccount, known.next_nonce)
        return self._account

    def _need_signer(self) -> Signer:
        if self._signer is None:
            raise ClientError("this client has no key to sign with")
        return self._signer

    # --- orders ---

    def submit(self, *actions: Action, stage: Stage = Stage.FINAL, seconds: float = WAIT_SECONDS) -> Receipt:
        """Sign one batch, hand it in and wait until it has come so far. See Receipt.check for refused actions.

        When the nonce turns out to be taken, by another program with this account, a free one is tried once.
        """
        try:
            return self.wait(self.send(*actions), stage, seconds)
        except TransactionRefused as refused:
            if refused.reason != "bad_nonce":
                raise
        return self.wait(self.send(*actions), stage, seconds)

    def send(self, *actions: Action) -> Submission:
        """Sign one batch and hand it in, without waiting for an answer; see `wait`."""
        submission = self._conversation.add(self._sign(actions))
        if self._socket is None:
            self._connect()
        else:
            with contextlib.suppress(ConnectionClosed):
                self._socket.send(self._conversation.frame(submission))
        return submission

    def wait(
        self, submission: Submission, stage: Stage = Stage.FINAL, seconds: float = WAIT_SECONDS
    ) -> Receipt:
        """Until it has come so far. Raises TransactionRefused, TransactionRejected, TryLater, TimedOut."""
        deadline = time.monotonic() + seconds
        answer_by = time.monotonic() + ANSWER_SECONDS_MAX
        while not submission.has_reached(stage):
            now = time.monotonic()
            if now >= deadline:
                self._conversation.give_up(submission)
                raise TimedOut(submission.receipt.transaction_id, seconds)
            if submission.is_unsure:
                self._ask_after(submission)
            elif submission.is_silent and now >= answer_by:
                self._leave()
                answer_by = now + ANSWER_SECONDS_MAX
            else:
                self._listen(min(deadline, answer_by) - now if submission.is_silent else deadline - now)
        if isinstance(submission.error, Refused) and submission.error.reason == "bad_nonce":
            self._account = None
        return submission.result()

    def with_consequences(self, receipt: Receipt) -> Receipt:
        """A final receipt with the trades and cancellations of this account in its block."""
        account = self.account
        page = self.ask(questions.account_history(account.address, account.subaccount, limit=500))
        return add_consequences(receipt, page.items)

    def _sign(self, actions: Sequence[Action]) -> bytes:
        account, market = self.account, self.market
        try:
            return account.sign(actions, market)
        except BadOrder:
            return account.sign(actions, self.refresh_market())

    def _listen(self, seconds: float) -> None:
        """Take one frame, or connect again."""
        if self._socket is None:
            self._connect()
            return
        try:
            self._conversation.take(self._socket.recv(timeout=seconds))
        except TimeoutError:
            return
        except ConnectionClosed:
            self._leave()
            time.sleep(min(seconds, RECONNECT_SECONDS))

    def _leave(self) -> None:
        """The gateway in use for orders has failed."""
        self._hang_up()
        self._gateways.leave(self._socket_url)

    def _connect(self) -> None:
        self._socket_url, self._socket, self._closing = self._opened()
        with contextlib.suppress(ConnectionClosed):
            for frame in self._conversation.frames():
                self._socket.send(frame)

    def _hang_up(self) -> None:
        self._closing.close()
        self._socket = None

    def _ask_after(self, submission: Submission) -> None:
        with contextlib.suppress(NotFound, Unreachable):
            self._conversation.settle(
                submission, self.ask(questions.transaction(submission.receipt.transaction_id))
            )
        if not submission.is_decided:
            time.sleep(POLL_SECONDS)

    def _opened(self) -> tuple[str, ClientConnection, contextlib.ExitStack]:
        """A gateway that takes a connection, its WebSocket, and what closes it. Raises Unreachable."""
        options: dict[str, Any] = {} if self._tls is None else {"ssl": self._tls}
        for _ in range(len(self._gateways)):
            url, closing = self._gateways.url, contextlib.ExitStack()
            try:
                opened = connect(
                    stream_url(url),
                    additional_headers=self._gateways.headers,
                    open_timeout=REQUEST_SECONDS_MAX,
                    max_size=MESSAGE_BYTES_MAX,
                    **options,
                )
                return url, closing.enter_context(opened), closing
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
                if isinstance(error, InvalidStatus) and error.response.status_code in FORBIDDEN:
                    raise no_entry() from None
                problem = f"no gateway takes a connection at {url}: {error}"
                self._gateways.leave(url)
        raise Unreachable(problem)

    # --- channels ---

    def follow(self, *channels: str, seconds: float | None = None) -> Iterator[Message]:
        """What the channels say, on a connection of its own, for so long; for ever if not said.

        A lost connection is made again and goes on where it was; a `Gap` says what could not be had.
        """
        feed, deadline = Feed(channels), None if seconds is None else time.monotonic() + seconds
        while True:
            url, socket, closing = self._opened()
            with closing:
                try:
                    socket.send(feed.opening())
                    while deadline is None or time.monotonic() < deadline:
                        left = None if deadline is None else max(0.0, deadline - time.monotonic())
                        message = feed.take(socket.recv(timeout=left))
                        if message is not None:
                            yield message
                    return
                except TimeoutError:
                    return
                except ConnectionClosed:
                    self._gateways.leave(url)
            time.sleep(RECONNECT_SECONDS)
