"""A block's transactions as they were sent: who acts, in what order, and how an action is refused. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ledger.events import ActionRejected
from ledger.trading.state import Session
from ledger.transactions import (
    Action,
    Envelope,
    NamedInstrument,
    SignedTransaction,
    Transaction,
    transaction_id,
)
from primitives.codec import decode
from primitives.signing import address_of
from tests.naive.account import AccountKey

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger


class Sent(NamedTuple):
    """A transaction: `sender` signed it, `key` is the account that acts, by its owner or by a session key."""

    id: bytes
    signer: bytes
    sender: AccountKey
    key: AccountKey
    content: Transaction
    names: tuple[NamedInstrument, ...]
    session: Session | None
    actions: list[tuple[int, Action]]
    """With their places; without those that a session key may not sign."""

    @property
    def limit_uusd(self) -> int | None:
        """How much exposure the signer may build; None: the owner is not limited."""
        return None if self.session is None else self.session.notional_uusd_max


def read(raw: bytes) -> Sent:
    """A transaction of the block, as if its owner had signed it."""
    signed: Envelope = decode(Envelope, raw, bytes_max=1 << 20)  # type: ignore[arg-type]
    content = decode(Transaction, signed.payload, bytes_max=1 << 20)
    actions = list(enumerate(content.actions))
    if isinstance(signed, SignedTransaction):
        key = (address_of(signed.public_key), content.subaccount)
        return Sent(transaction_id(raw), signed.public_key, key, key, content, (), None, actions)
    key = (signed.owner, content.subaccount)
    return Sent(transaction_id(raw), b"", key, key, content, signed.names, None, actions)


def actions_of(sent: list[Sent], kinds: tuple[type, ...]) -> Iterator[tuple[Sent, int, Action]]:
    """Every action of these kinds, transaction by transaction."""
    for item in sent:
        for index, action in item.actions:
            if isinstance(action, kinds):
                yield item, index, action


def refuse(ledger: NaiveLedger, transaction: bytes, index: int, reason: str | None) -> None:
    """Say why an action was refused, if it was."""
    if reason is not None:
        ledger.events.append(ActionRejected(transaction, index, reason, ""))
