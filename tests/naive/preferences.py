"""What an account sets for itself, and its trading leaf. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ledger.trading.events import SettingChanged
from ledger.trading.state import AccountTrading, Deadline, Protection, session_key, trading_key
from ledger.transactions import (
    RegisterSessionKey,
    ResetProtection,
    RevokeSessionKey,
    SetCancelTime,
    SetMarginModel,
    SetProtection,
)
from tests.naive.account import AccountKey
from tests.naive.orders import open_orders
from tests.naive.quotes import quotes_on
from tests.naive.sent import Sent
from tests.naive.sessions import keys_of, register, revoke
from tests.naive.standard import margin_of

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

SETTINGS = (
    SetCancelTime,
    SetProtection,
    ResetProtection,
    RegisterSessionKey,
    RevokeSessionKey,
    SetMarginModel,
)


def change_setting(ledger: NaiveLedger, sent: Sent, action: object) -> str | None:
    """One setting, or why it is refused."""
    account, reason = ledger.accounts[sent.key], None
    if isinstance(action, SetCancelTime):
        if 0 < action.cancel_at_ns <= ledger.time_ns:
            return "time_passed"
        account.cancel_at_ns = action.cancel_at_ns
    elif isinstance(action, SetProtection):
        reason = _set_protection(ledger, sent.key, action)
    elif isinstance(action, ResetProtection):
        old = account.protections.get(action.underlying)
        if old is None:
            return "no_protection"
        account.protections[action.underlying] = replace(
            old, since_ns=ledger.time_ns, lots=0, delta_ppm=0, vega_uusd=0, frozen_until_ns=0
        )
    elif isinstance(action, RegisterSessionKey):
        reason = register(ledger, sent.key, action)
    elif isinstance(action, RevokeSessionKey):
        reason = revoke(ledger, sent.key, action)
    elif isinstance(action, SetMarginModel):
        reason = _set_model(ledger, sent.key, action.model)
    if reason is None:
        ledger.events.append(SettingChanged(*sent.key, type(action).__name__))
    return reason


def _set_model(ledger: NaiveLedger, key: AccountKey, model: int) -> str | None:
    account = ledger.accounts[key]
    orders = [
        (item.instrument, item.lots if item.is_buy else -item.lots, item.price_uusd)
        for item in open_orders(ledger, key)
        if not item.reduce_only
    ]
    if margin_of(ledger, account, orders, model).im_excess_uusd < 0:
        return "insufficient_margin"
    account.model = model
    return None


def _set_protection(ledger: NaiveLedger, key: AccountKey, action: SetProtection) -> str | None:
    if action.underlying not in ledger.ticks:
        return "unknown_underlying"
    if quotes_on(ledger, key, action.underlying):
        return "quotes_open"
    protections = ledger.accounts[key].protections
    if action.lots_max or action.delta_ppm_max or action.vega_uusd_max:
        protections[action.underlying] = Protection(
            action.underlying,
            action.interval_ns,
            action.frozen_ns,
            action.lots_max,
            action.delta_ppm_max,
            action.vega_uusd_max,
            ledger.time_ns,
            0,
            0,
            0,
            0,
        )
    else:
        protections.pop(action.underlying, None)
    return None


def trading_leaves(ledger: NaiveLedger) -> dict[bytes, Any]:
    """What accounts keep beyond cash and positions, and their session keys."""
    leaves: dict[bytes, Any] = {session_key(address): item for address, item in ledger.sessions.items()}
    for key, account in ledger.accounts.items():
        own, sessions = open_orders(ledger, key), keys_of(ledger, key)
        leaf = AccountTrading(
            *key,
            account.cancel_at_ns,
            account.model,
            tuple(item for _, item in sorted(account.triggers.items())),
            tuple(Deadline(item.id, item.expires_ns) for item in own if item.expires_ns),
            tuple(item.id for item in own if item.is_quote),
            tuple(item for _, item in sorted(account.protections.items())),
            tuple(sessions),
        )
        if leaf != AccountTrading(*key, 0, 0, (), (), (), (), ()):
            leaves[trading_key(key)] = leaf
    return leaves
