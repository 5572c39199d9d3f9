"""What can go wrong between a client and the exchange, by what the caller may do about it. Pure."""

from __future__ import annotations

from ledger.events import ActionRejected


class ClientError(Exception):
    """Base of everything that the client raises."""


class Unreachable(ClientError):
    """No gateway answered: the address is wrong, or it is away."""


class BadAnswer(ClientError):
    """The gateway said something that this version does not understand."""


class BadOrder(ClientError):
    """What was asked for cannot be expressed: no such instrument, or a size or price finer than its units."""


class TimedOut(ClientError):
    """Not decided in the time given. It may still be: ask for `transaction_id` later."""

    def __init__(self, transaction_id: bytes, seconds: float) -> None:
        super().__init__(f"transaction {transaction_id.hex()} is not decided after {seconds:g} s")
        self.transaction_id = transaction_id


class Refused(ClientError):
    """A request or a transaction was not taken; `reason` is a stable code (docs/spec/reasons.md)."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class NotFound(Refused):
    """No such block, account, instrument, order, transaction or path."""


class NotAllowed(Refused):
    """The token is missing, unknown, or not enough."""


FORBIDDEN = (401, 403)
"""HTTP statuses with which a gateway refuses a WebSocket."""


def no_entry() -> NotAllowed:
    """For a WebSocket that is refused."""
    return NotAllowed("unauthorized", "the gateway refuses the connection: a token is needed, or another one")


class TryLater(Refused):
    """Nothing is wrong with the request: a queue is full, a quota used up, or the node is away.

    `wait_seconds`: how long the gateway asks to wait, 0 when it does not say.
    """

    wait_seconds = 0


class TransactionRefused(Refused):
    """The transaction does not wait for a block: nothing of it will happen, and its nonce is free."""


class TransactionRejected(Refused):
    """A final block holds the transaction and nothing of it took effect."""


class ActionsRejected(Refused):
    """The transaction is final; these of its actions were refused, the others took effect."""

    def __init__(self, rejections: tuple[ActionRejected, ...]) -> None:
        super().__init__(rejections[0].reason, rejections[0].detail)
        self.rejections = rejections


_KINDS: dict[str, type[Refused]] = {
    "not_found": NotFound,
    "unauthorized": NotAllowed,
    "forbidden": NotAllowed,
    **dict.fromkeys(
        ("busy", "sender_busy", "quota_exceeded", "node_unavailable", "timeout", "slow_consumer"), TryLater
    ),
    **dict.fromkeys(("too_many_waiting", "too_many_subscriptions", "resume_too_old"), TryLater),
}


def refusal(reason: str, detail: str, *, otherwise: type[Refused] = Refused) -> Refused:
    """The exception for a reason code."""
    return _KINDS.get(reason, otherwise)(reason, detail)
