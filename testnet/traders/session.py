"""One trader's account at the gateways: submits through the client, follows each transaction until it is final. Trio.

The client goes on with the next gateway when its own goes away; what was accepted and not yet seen as final stays on
record as such.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import trio

from ledger.events import ActionRejected, Trade
from ledger.transactions import Action, PlaceOrder
from node.client.errors import ClientError, Refused, TimedOut, TransactionRejected
from node.client.feed import AccountEvent, Message, account_channel
from node.client.on_trio import TrioClient, open_client
from node.client.signers import KeySigner
from node.client.submissions import Stage, Submission
from node.rpc.stream_forms import AccountSnapshot
from primitives.identifiers import Address
from primitives.signing import SigningKey
from testnet.traders.config import TradersOutcome

ACCEPTED_SECONDS_MAX = 30.0
"""A transaction that no gateway has answered by then counts as not answered."""
FINAL_SECONDS_MAX = 3_600.0
"""Longer than any run: what is accepted is followed to the end."""
PAUSE_SECONDS = 0.2
"""After a refusal, or when no gateway answers."""


class Session:
    """Submits for one account. `positions` holds signed lots by instrument, from the account's own events."""

    def __init__(self, key: SigningKey, gateways: Sequence[str], first: int, outcome: TradersOutcome) -> None:
        self._signer = KeySigner(key)
        self.address: Address = self._signer.address
        self.positions: dict[int, int] = {}
        self.rejections = 0
        """Orders that the ledger refused, so far."""
        self._gateways = tuple(gateways)
        self._first = first
        self._outcome = outcome
        self._client: TrioClient | None = None
        self._nursery: trio.Nursery | None = None
        self._ready = trio.Event()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        async with (
            open_client(self._gateways, self._signer, first=self._first) as self._client,
            trio.open_nursery() as self._nursery,
            self._client.follow(account_channel(self.address)) as messages,
        ):
            await self._know_account(self._client)
            self._ready.set()
            async for message in messages:
                self.note(message)

    async def _know_account(self, client: TrioClient) -> None:
        """Until some gateway has told of the account."""
        while True:
            with contextlib.suppress(ClientError):
                await client.account()
                return
            await trio.sleep(PAUSE_SECONDS)

    async def submit(self, actions: Sequence[Action]) -> bool:
        """Sign and send one transaction; whether a node accepted it. Waits while there is no connection."""
        await self._ready.wait()
        assert self._client is not None and self._nursery is not None
        self._outcome.submitted_transactions += 1
        self._outcome.submitted_orders += sum(isinstance(action, PlaceOrder) for action in actions)
        sent_at = time.monotonic()
        try:
            submission = await self._client.send(*actions)
            with contextlib.suppress(TransactionRejected):
                await self._client.wait(submission, Stage.ACCEPTED, ACCEPTED_SECONDS_MAX)
        except ClientError as error:
            reason = error.reason if isinstance(error, Refused) else "no_answer"
            self._outcome.refused[reason] = self._outcome.refused.get(reason, 0) + 1
            await trio.sleep(PAUSE_SECONDS)
            return False
        self._outcome.accepted.append(submission.receipt.transaction_id.hex())
        self._nursery.start_soon(self._follow, self._client, submission, sent_at)
        return True

    async def _follow(self, client: TrioClient, submission: Submission, sent_at: float) -> None:
        try:
            await client.wait(submission, seconds=FINAL_SECONDS_MAX)
        except TimedOut:
            return
        except TransactionRejected:
            self.rejections += 1
        receipt = submission.receipt
        self._outcome.final.append(receipt.transaction_id.hex())
        self._outcome.order_to_final_ms.append((time.monotonic() - sent_at) * 1e3)
        self.rejections += sum(isinstance(event, ActionRejected) for event in receipt.events)

    def note(self, message: Message) -> None:
        """Keep count of what the account holds."""
        if isinstance(message, AccountSnapshot):
            self.positions = {item.instrument: item.lots for item in message.account.positions}
        elif isinstance(message, AccountEvent) and isinstance(trade := message.event, Trade):
            held = self.positions.get(trade.instrument, 0)
            if (trade.buyer, trade.buyer_subaccount) == (self.address, 0):
                held += trade.size_lots
            if (trade.seller, trade.seller_subaccount) == (self.address, 0):
                held -= trade.size_lots
            self.positions[trade.instrument] = held
