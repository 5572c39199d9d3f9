"""The transactions of a block, phase by phase: nonces, cancels, cash, stake, settings, triggers, orders. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ledger.events import TransactionApplied, TransactionRejected
from ledger.transactions import (
    BidAuction,
    Deposit,
    NamedInstrument,
    PlaceTrigger,
    TransferCash,
    VoteParameter,
    Withdraw,
)
from tests.naive.account import AccountKey, NaiveAccount
from tests.naive.bids import bid
from tests.naive.cancels import cancel_due, cancel_requested, cancel_silent
from tests.naive.governance import vote
from tests.naive.orders import place_orders
from tests.naive.preferences import SETTINGS, change_setting
from tests.naive.sent import Sent, actions_of, read, refuse
from tests.naive.sessions import may_sign
from tests.naive.staking import STAKING, perform
from tests.naive.triggers import fire, place_trigger
from tests.naive.waterfall import haircut_uusd
from tests.naive.withdrawals import why_not_withdrawn

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger


def execute(ledger: NaiveLedger, raw_transactions: tuple[bytes, ...]) -> list[Sent]:
    """All of a block's transactions but packages; gives those that are good."""
    sent = sorted(map(read, raw_transactions), key=lambda item: (*item.sender, item.content.nonce, item.id))
    good = [opened for item in sent if (opened := _open(ledger, item)) is not None]
    cancel_due(ledger)
    cancel_requested(ledger, good)
    for kinds, do in PHASES:
        for item, index, action in actions_of(good, kinds):
            refuse(ledger, item.id, index, do(ledger, item, action))
    cancel_silent(ledger)
    fire(ledger)
    for item in good:
        for _, index, action in actions_of([item], (PlaceTrigger,)):
            assert isinstance(action, PlaceTrigger)
            refuse(ledger, item.id, index, place_trigger(ledger, item, index, action))
        place_orders(ledger, item)
    return good


def _open(ledger: NaiveLedger, sent: Sent) -> Sent | None:
    """The transaction with the account it acts for and what its key may sign; None when nothing of it counts."""
    key, nonce, session = sent.sender, sent.content.nonce, None
    if key not in ledger.accounts:
        session = ledger.sessions.get(key[0])
        if session is not None and session.subaccount == key[1]:
            key = (session.owner, session.subaccount)
    reason = _why_nothing(ledger, sent, key)
    if reason is None and session is not None and session.expires_ns <= ledger.time_ns:
        reason = "session_expired"
    if reason is None and not use_nonce(ledger, key, nonce):
        reason = "bad_nonce"
    if reason is not None:
        ledger.events.append(TransactionRejected(sent.id, reason, ""))
        return None
    ledger.events.append(TransactionApplied(sent.id, *key, nonce))
    allowed = []
    for index, action in sent.actions:
        if session is None or may_sign(session, action):
            allowed.append((index, action))
        else:
            refuse(ledger, sent.id, index, "session_scope")
    return sent._replace(key=key, session=session, actions=allowed)


def _why_nothing(ledger: NaiveLedger, sent: Sent, key: AccountKey) -> str | None:
    if sent.content.chain_id != ledger.chain_id:
        return "wrong_chain"
    if not all(_is_named_right(ledger, named) for named in sent.names):
        return "wrong_name"
    return None if key in ledger.accounts else "unknown_account"


def _is_named_right(ledger: NaiveLedger, named: NamedInstrument) -> bool:
    known = ledger.instruments.get(named.id)
    return (
        known is not None and known.name == named.name and known.lots_per_contract == named.lots_per_contract
    )


def is_good_nonce(ledger: NaiveLedger, key: AccountKey, nonce: int) -> bool:
    """Whether an account may still use it."""
    account, window = ledger.accounts[key], ledger.parameters.nonce_window
    return nonce not in account.nonces_used and 0 <= nonce - account.nonce_floor < 2 * window


def use_nonce(ledger: NaiveLedger, key: AccountKey, nonce: int) -> bool:
    """Use it up, if it is good."""
    if not is_good_nonce(ledger, key, nonce):
        return False
    account, window = ledger.accounts[key], ledger.parameters.nonce_window
    account.nonce_floor = max(account.nonce_floor, nonce - window + 1)
    account.nonces_used = {item for item in {*account.nonces_used, nonce} if item >= account.nonce_floor}
    return True


# --- cash ---


def _deposit(ledger: NaiveLedger, sent: Sent, action: object) -> str | None:
    assert isinstance(action, Deposit)
    if sent.signer != ledger.genesis.custodian_key:
        return "not_custodian"
    key = (action.owner, action.subaccount)
    if _is_for_sale(ledger, key):
        return "auction_under_way"
    ledger.accounts.setdefault(key, NaiveAccount(0))
    ledger.supply["deposited_uusd"] += action.amount_uusd
    ledger.move_cash(key, action.amount_uusd, "deposit")
    return None


def _move_out(ledger: NaiveLedger, sent: Sent, action: object) -> str | None:
    assert isinstance(action, Withdraw | TransferCash)
    amount = action.amount_uusd
    if isinstance(action, TransferCash) and action.to_subaccount == sent.key[1]:
        return "same_account"
    reason = why_not_withdrawn(ledger, sent.key, amount)
    if reason is not None:
        return reason
    if isinstance(action, Withdraw):
        kept = haircut_uusd(ledger, amount)
        ledger.supply["debt_uusd"] -= kept
        ledger.supply["withdrawn_uusd"] += amount - kept
        ledger.move_cash(sent.key, -amount, "withdrawal")
    else:
        target = (sent.key[0], action.to_subaccount)
        if _is_for_sale(ledger, target):
            return "auction_under_way"
        ledger.accounts.setdefault(target, NaiveAccount(0))
        ledger.move_cash(sent.key, -amount, "transfer")
        ledger.move_cash(target, amount, "transfer")
    return None


def _is_for_sale(ledger: NaiveLedger, key: AccountKey) -> bool:
    leaf = ledger.liquidations.get(key)
    return leaf is not None and leaf.auction_ns > 0


Perform = Callable[["NaiveLedger", Sent, object], str | None]
PHASES: tuple[tuple[tuple[type, ...], Perform], ...] = (
    ((Deposit,), _deposit),
    ((Withdraw, TransferCash), _move_out),
    ((BidAuction,), bid),
    ((VoteParameter,), vote),
    (STAKING, perform),
    (SETTINGS, change_setting),
)
"""What comes between cancels and orders, kind after kind."""
