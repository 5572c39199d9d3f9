"""Session keys: another key that acts for one sub-account, within a scope, for a time, up to a notional. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.trading.reasons import TradingReason
from ledger.trading.state import Session, get_parameters, get_session, session_key
from ledger.transactions import (
    SUBACCOUNT_MAX,
    CancelAll,
    CancelLabel,
    CancelOrder,
    OrderAction,
    PackageAction,
    RegisterSessionKey,
    ResetProtection,
    RevokeSessionKey,
    SessionScope,
    SetCancelTime,
    TransferCash,
    session_proof_bytes,
)
from primitives.errors import ProtocolViolation
from primitives.signing import address_of, is_valid

if TYPE_CHECKING:
    from ledger.workspace import OpenAccount, Workspace


def scope_of(action: object) -> int:
    """Bits of which one lets a session key sign this action; 0: the owner alone."""
    match action:
        case SetCancelTime():
            return SessionScope.TRADE | SessionScope.CANCEL
        case CancelOrder() | CancelLabel() | CancelAll():
            return SessionScope.CANCEL
        case TransferCash():
            return SessionScope.TRANSFER
    if isinstance(action, OrderAction | ResetProtection):
        return SessionScope.TRADE
    return SessionScope.NEGOTIATE if isinstance(action, PackageAction) else 0


def check_scope(session: Session, action: object) -> None:
    """Raises ProtocolViolation(SESSION_SCOPE)."""
    if not session.scope & scope_of(action):
        raise ProtocolViolation(
            TradingReason.SESSION_SCOPE, f"the session key may not sign {type(action).__name__}"
        )


def register(workspace: Workspace, account: OpenAccount, action: RegisterSessionKey) -> None:
    """Let a key act for the account; one it has already is given its new terms. Expired ones make room.

    Raises:
        ProtocolViolation: TIME_PASSED, SESSION_KEY_IN_USE, TOO_MANY_SESSION_KEYS, SESSION_PROOF.
    """
    state, address = workspace.state, address_of(action.public_key)
    if action.expires_ns <= workspace.time_ns:
        raise ProtocolViolation(TradingReason.TIME_PASSED, "the session would be over already")
    known = get_session(state, address)
    is_taken = known is not None and (known.owner, known.subaccount) != account.key
    if is_taken or any(workspace.account((address, number)) for number in range(SUBACCOUNT_MAX + 1)):
        raise ProtocolViolation(
            TradingReason.SESSION_KEY_IN_USE, "the key owns accounts or serves another sub-account"
        )
    current = workspace.find_trading(account.key)
    over = [] if current is None else [item for item in current.sessions if _is_over(workspace, item)]
    alive = set() if current is None else current.sessions - set(over)
    if len(alive | {address}) > get_parameters(state).session_keys_max:
        raise ProtocolViolation(TradingReason.TOO_MANY_SESSION_KEYS, "revoke a session key first")
    if not is_valid(action.public_key, session_proof_bytes(state.chain_id, *account.key), action.proof):
        raise ProtocolViolation(TradingReason.SESSION_PROOF, "the key has not signed to serve this account")
    for item in over:
        state.put(session_key(item), None)
    workspace.trading(account.key).sessions = alive | {address}
    session = Session(*account.key, action.scope, action.expires_ns, action.notional_uusd_max)
    state.put(session_key(address), session)


def _is_over(workspace: Workspace, address: bytes) -> bool:
    session = get_session(workspace.state, address)
    return session is None or session.expires_ns <= workspace.time_ns


def revoke(workspace: Workspace, account: OpenAccount, action: RevokeSessionKey) -> None:
    """End a key's right. Raises ProtocolViolation(UNKNOWN_SESSION_KEY)."""
    address = address_of(action.public_key)
    trading = workspace.find_trading(account.key)
    if trading is None or address not in trading.sessions:
        raise ProtocolViolation(TradingReason.UNKNOWN_SESSION_KEY, "no such session key of this sub-account")
    trading.sessions.discard(address)
    workspace.state.put(session_key(address), None)
