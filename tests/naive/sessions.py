"""Session keys: who else may act for an account, in what, until when, and up to what exposure. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger import transactions as wire
from ledger.instruments import Instrument
from ledger.trading.state import Session
from primitives.signing import address_of, is_valid
from tests.naive.account import AccountKey
from tests.naive.call import Order

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

TRADE, CANCEL, TRANSFER, NEGOTIATE = 1, 2, 4, 8
BITS: dict[type, int] = {
    wire.PlaceOrder: TRADE,
    wire.PlaceUntil: TRADE,
    wire.PlaceMarket: TRADE,
    wire.PlaceTrigger: TRADE,
    wire.ReplaceOrder: TRADE,
    wire.MassQuote: TRADE,
    wire.ResetProtection: TRADE,
    wire.SetCancelTime: TRADE | CANCEL,
    wire.CancelOrder: CANCEL,
    wire.CancelLabel: CANCEL,
    wire.CancelAll: CANCEL,
    wire.TransferCash: TRANSFER,
    wire.RequestQuotes: NEGOTIATE,
    wire.QuotePackage: NEGOTIATE,
    wire.AcceptQuote: NEGOTIATE,
    wire.WithdrawRequest: NEGOTIATE,
    wire.BlockTrade: NEGOTIATE,
}
"""Any of these bits is enough; what is not here only the owner signs."""


def may_sign(session: Session, action: object) -> bool:
    """Whether an action is within a session key's scope."""
    return session.scope & BITS.get(type(action), 0) != 0


def notional_uusd(ledger: NaiveLedger, instrument: Instrument, lots: int) -> int:
    """So many lots at the index, rounded up."""
    index = ledger.oracle.agreed[instrument.underlying].index_uusd
    return -(-abs(lots) * index // instrument.lots_per_contract)


def gross_uusd(ledger: NaiveLedger, key: AccountKey, orders: list[Order]) -> int:
    """Positions, these orders and the triggers of an account, gross at the index."""
    account = ledger.accounts[key]
    parts = [(number, lots) for number, (lots, _) in account.positions.items()]
    parts += [(item.instrument, item.lots) for item in orders]
    parts += [(item.order.instrument, item.order.size_lots) for item in account.triggers.values()]
    return sum(notional_uusd(ledger, ledger.instruments[number], lots) for number, lots in parts)


def keys_of(ledger: NaiveLedger, key: AccountKey) -> list[bytes]:
    """Addresses of an account's session keys."""
    return sorted(
        address for address, item in ledger.sessions.items() if (item.owner, item.subaccount) == key
    )


def register(ledger: NaiveLedger, key: AccountKey, action: wire.RegisterSessionKey) -> str | None:
    """Give a key its right, or new terms; those of the account that are over make room."""
    address, now = address_of(action.public_key), ledger.time_ns
    if action.expires_ns <= now:
        return "time_passed"
    known = ledger.sessions.get(address)
    serves_another = known is not None and (known.owner, known.subaccount) != key
    if serves_another or any(owner == address for owner, _ in ledger.accounts):
        return "session_key_in_use"
    own = keys_of(ledger, key)
    alive = [item for item in own if ledger.sessions[item].expires_ns > now]
    if len({*alive, address}) > ledger.trading_rules.session_keys_max:
        return "too_many_session_keys"
    words = b"QUORATE-SESSION-1" + ledger.chain_id + key[0] + bytes((key[1],))
    if not is_valid(action.public_key, words, action.proof):
        return "session_proof"
    for item in own:
        if item not in alive:
            del ledger.sessions[item]
    ledger.sessions[address] = Session(*key, action.scope, action.expires_ns, action.notional_uusd_max)
    return None


def revoke(ledger: NaiveLedger, key: AccountKey, action: wire.RevokeSessionKey) -> str | None:
    """End a key's right."""
    address = address_of(action.public_key)
    if address not in keys_of(ledger, key):
        return "unknown_session_key"
    del ledger.sessions[address]
    return None
