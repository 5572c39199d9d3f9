"""What a sub-account sets for itself: the dead-man switch, protection, session keys, margin model. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.trading.events import SettingChanged
from ledger.trading.protection import cleared, protection_of, quotes_on
from ledger.trading.reasons import TradingReason
from ledger.trading.sessions import register, revoke
from ledger.transactions import (
    RegisterSessionKey,
    ResetProtection,
    RevokeSessionKey,
    SetCancelTime,
    SetMarginModel,
    SetProtection,
)
from primitives.errors import ProtocolViolation

if TYPE_CHECKING:
    from ledger.placement import OrderDesk
    from ledger.workspace import OpenAccount, Workspace


def change_setting(workspace: Workspace, desk: OrderDesk, account: OpenAccount, action: object) -> None:
    """Do what was asked. Raises ProtocolViolation with the reason; then nothing has changed."""
    match action:
        case SetCancelTime():
            _set_cancel_time(workspace, account, action)
        case SetProtection():
            _set_protection(workspace, account, action)
        case ResetProtection():
            _reset_protection(workspace, account, action)
        case RegisterSessionKey():
            register(workspace, account, action)
        case RevokeSessionKey():
            revoke(workspace, account, action)
        case SetMarginModel():
            desk.check_model(account, action.model)
            trading = workspace.trading(account.key)
            trading.margin_model = action.model
            # Written at once: margins of this very block follow the leaf.
            workspace.state.put_trading(account.key, trading.closed())
    workspace.events.append(SettingChanged(*account.key, type(action).__name__))


def _set_cancel_time(workspace: Workspace, account: OpenAccount, action: SetCancelTime) -> None:
    if 0 < action.cancel_at_ns <= workspace.time_ns:
        raise ProtocolViolation(TradingReason.TIME_PASSED, "the cancel time is not after the block's")
    workspace.trading(account.key).cancel_at_ns = action.cancel_at_ns


def _set_protection(workspace: Workspace, account: OpenAccount, action: SetProtection) -> None:
    if all(item.underlying != action.underlying for item in workspace.state.genesis.underlyings):
        raise ProtocolViolation(TradingReason.UNKNOWN_UNDERLYING, f"no underlying {action.underlying}")
    trading = workspace.trading(account.key)
    if quotes_on(workspace, trading, action.underlying):
        raise ProtocolViolation(TradingReason.QUOTES_OPEN, "protection changes while no quotes are open")
    if not (action.lots_max or action.delta_ppm_max or action.vega_uusd_max):
        trading.protections.pop(action.underlying, None)
        return
    trading.protections[action.underlying] = protection_of(action, workspace.time_ns)


def _reset_protection(workspace: Workspace, account: OpenAccount, action: ResetProtection) -> None:
    trading = workspace.find_trading(account.key)
    old = None if trading is None else trading.protections.get(action.underlying)
    if trading is None or old is None:
        raise ProtocolViolation(
            TradingReason.NO_PROTECTION, f"there is no protection on underlying {action.underlying}"
        )
    trading.protections[action.underlying] = cleared(old, workspace.time_ns)
