"""A client's transactions from signing to finality, over one WebSocket after another. Pure.

What a conversation is given it decodes; what is to be sent it gives as frames. After a lost connection everything that
is not decided is sent again, the same bytes: they execute once. A gateway that has it already says so, and then only
the chain can tell what became of it (`is_unsure`: ask GET /v1/transactions).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any

import msgspec

from ledger.events import ActionRejected, Event
from ledger.transactions import Action, Transaction, transaction_id
from node.client.errors import (
    ActionsRejected,
    BadAnswer,
    ClientError,
    TransactionRefused,
    TransactionRejected,
    refusal,
)
from node.client.market import Market
from node.client.signers import Signer
from node.client.typed import OtherEvent, read_event
from node.rpc.answers import EventRow, TransactionAnswer

ANSWER_SECONDS_MAX = 5.0
"""A gateway that has not answered a transaction by then is taken for dead; the next one gets it."""
WAITING_MAX = 4_096
"""Transactions of one conversation that are not decided; more raises, as the gateway would."""
ALREADY_THERE = {"duplicate", "bad_nonce"}
"""Answers to bytes sent again that do not mean that they were refused."""


class Stage(IntEnum):
    """How far a transaction has come; each includes those before it."""

    SENT = 0
    ACCEPTED = 1
    """It waits for a block."""
    NOTARIZED = 2
    """Its block is final unless more than the stated faults occur."""
    FINAL = 3
    """Decided, executed and stored."""


class Receipt(msgspec.Struct, frozen=True):
    """What became of a transaction so far. `height` is None before it is in a block, `events` empty before FINAL."""

    transaction_id: bytes
    stage: Stage
    height: int | None = None
    events: tuple[Event | OtherEvent, ...] = ()

    @property
    def rejections(self) -> tuple[ActionRejected, ...]:
        """Actions that were refused; the others took effect."""
        return tuple(event for event in self.events if isinstance(event, ActionRejected))

    def check(self) -> Receipt:
        """Itself. Raises ActionsRejected if any action was refused."""
        if self.rejections:
            raise ActionsRejected(self.rejections)
        return self


def add_consequences(receipt: Receipt, rows: Iterable[EventRow]) -> Receipt:
    """With what else happened to the account in that block: trades, cancellations, cash.

    `rows`: of the account's history, newest first, back to the block.
    """
    own = [row.event for row in rows if row.height == receipt.height]
    more = [event for event in reversed(own) if not hasattr(event, "transaction_id")]
    return msgspec.structs.replace(receipt, events=(*receipt.events, *more))


class Submission:
    """One transaction on its way."""

    def __init__(self, number: int, raw: bytes) -> None:
        self.number = number
        self.raw = raw
        self.receipt = Receipt(transaction_id(raw), Stage.SENT)
        self.error: ClientError | None = None
        self.is_unsure = False
        self.times_sent = 0

    @property
    def is_decided(self) -> bool:
        """Nothing more will be heard of it."""
        return self.error is not None or self.receipt.stage is Stage.FINAL

    @property
    def is_silent(self) -> bool:
        """No gateway has said anything about it yet."""
        return self.error is None and self.receipt.stage is Stage.SENT

    def has_reached(self, stage: Stage) -> bool:
        """Whether a wait for this stage is over, well or badly."""
        return self.error is not None or self.receipt.stage >= stage

    def result(self) -> Receipt:
        """As far as it has come. Raises what went wrong."""
        if self.error is not None:
            raise self.error
        return self.receipt


class Account:
    """Makes an account's transactions: counts nonces and signs. `address` is the owner's, also for a session key."""

    def __init__(self, signer: Signer, chain_id: bytes, address: bytes, subaccount: int, nonce: int) -> None:
        self.address = address
        self.subaccount = subaccount
        self.next_nonce = nonce
        self._signer = signer
        self._chain_id = chain_id

    def sign(self, actions: Sequence[Action], market: Market) -> bytes:
        """The next transaction's bytes. Raises BadOrder for an instrument that is not listed."""
        content = Transaction(self._chain_id, self.subaccount, self.next_nonce, tuple(actions))
        raw = self._signer.sign(content, market.names_for(content))
        self.next_nonce += 1
        return raw


class Conversation:
    """Everything handed in over WebSocket and not forgotten yet."""

    def __init__(self) -> None:
        self._next = 1
        self._open: dict[int, Submission] = {}

    def add(self, raw: bytes) -> Submission:
        """A new submission; `frame` gives what to send."""
        if len(self._open) >= WAITING_MAX:
            raise refusal("too_many_waiting", f"{WAITING_MAX} transactions are not decided yet")
        submission = Submission(self._next, raw)
        self._open[self._next] = submission
        self._next += 1
        return submission

    def frame(self, submission: Submission) -> bytes:
        """One binary frame that hands it in."""
        submission.times_sent += 1
        return msgspec.msgpack.encode(
            {"op": "submit", "id": submission.number, "transaction": submission.raw}
        )

    def frames(self) -> list[bytes]:
        """What to send on a new connection: all that is not decided."""
        return [self.frame(item) for item in self._open.values() if not item.is_unsure]

    def give_up(self, submission: Submission) -> None:
        """Forget it; it may still be decided."""
        self._open.pop(submission.number, None)

    def fail(self, error: ClientError) -> None:
        """No gateway will take them."""
        for submission in list(self._open.values()):
            submission.error = error
            self.give_up(submission)

    def take(self, data: bytes | str) -> None:
        """One frame of the gateway. Raises BadAnswer."""
        form = read_frame(data)
        submission = self._open.get(form.get("id") or 0)
        if submission is None:
            return
        match form.get("type"):
            case "accepted":
                self._note(submission, Stage.ACCEPTED, None)
            case "refused":
                self._refuse(submission, str(form.get("reason")), str(form.get("detail", "")))
            case "notarized":
                self._note(submission, Stage.NOTARIZED, form.get("height"))
            case "final" | "rejected":
                events = tuple(read_event(event) for event in form.get("events", ()))
                self._decide(submission, form.get("height"), events)

    def settle(self, submission: Submission, answer: TransactionAnswer) -> None:
        """What the chain says of an unsure one."""
        if answer.status == "final":
            self._decide(submission, answer.height, answer.events)
        else:
            self._note(submission, Stage[answer.status.upper()], answer.height)

    def _note(self, submission: Submission, stage: Stage, height: int | None) -> None:
        if stage > submission.receipt.stage:
            submission.receipt = Receipt(submission.receipt.transaction_id, stage, height)

    def _refuse(self, submission: Submission, reason: str, detail: str) -> None:
        if submission.times_sent > 1 and reason in ALREADY_THERE:
            submission.is_unsure = True
            self._note(submission, Stage.ACCEPTED, None)
            return
        submission.error = refusal(reason, detail, otherwise=TransactionRefused)
        self.give_up(submission)

    def _decide(
        self, submission: Submission, height: int | None, events: tuple[Event | OtherEvent, ...]
    ) -> None:
        submission.receipt = Receipt(submission.receipt.transaction_id, Stage.FINAL, height, events)
        for event in events:
            if type(event).__name__ == "TransactionRejected":
                submission.error = TransactionRejected(event.reason, event.detail)  # type: ignore[union-attr]
        self.give_up(submission)


def read_frame(data: bytes | str) -> dict[str, Any]:
    """One message of the gateway. Raises BadAnswer."""
    try:
        form = msgspec.msgpack.decode(data) if isinstance(data, bytes) else msgspec.json.decode(data)
    except msgspec.DecodeError:
        raise BadAnswer("the gateway sent a frame that is neither msgpack nor JSON") from None
    if not isinstance(form, dict):
        raise BadAnswer("the gateway sent a frame that is no object")
    return form
