"""The transactions of one block: nonces, cancels, cash, stake, settings, then orders into the call. Pure.

A batch is not all-or-nothing: each action is refused on its own with its reason. Inside a block all cancels
come before all cash, then staking, settings, triggers that fire, and orders, whatever their place in a batch;
a cancel sees what rested when the block began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, get_args

from ledger.accounts import use_nonce
from ledger.admission import ReadTransaction, check_custodian, check_session_time, resolve_sender
from ledger.events import ActionRejected, CashMoved, TransactionApplied, TransactionRejected
from ledger.genesis import ACCOUNTS_MAX, DEPOSITED_UUSD_MAX
from ledger.governance import VoteDesk
from ledger.placement import OrderDesk
from ledger.reasons import LedgerReason
from ledger.settlement.auction import AuctionDesk, check_no_auction
from ledger.settlement.insurance_fund import take_haircut
from ledger.staking.actions import STAKING_ACTIONS, StakingDesk
from ledger.trading.cancels import Cancels, cancel_due, cancel_silent
from ledger.trading.packages import PackageDesk, Sender
from ledger.trading.sessions import check_scope
from ledger.trading.settings import change_setting
from ledger.trading.state import Session
from ledger.trading.triggers import TriggerDesk
from ledger.transactions import (
    AcceptQuote,
    Action,
    BidAuction,
    BlockTrade,
    CancelAll,
    CancelLabel,
    CancelOrder,
    Deposit,
    MassQuote,
    PlaceMarket,
    PlaceOrder,
    PlaceTrigger,
    PlaceUntil,
    QuotePackage,
    ReplaceOrder,
    RequestQuotes,
    SettingAction,
    TransferCash,
    VoteParameter,
    Withdraw,
    WithdrawRequest,
)
from ledger.valuation import Valuation
from ledger.workspace import OpenAccount, Workspace
from primitives.errors import ProtocolViolation

CANCELS = (CancelOrder, CancelLabel, CancelAll, ReplaceOrder, MassQuote)
ORDERS = (PlaceOrder, PlaceUntil, PlaceMarket, ReplaceOrder, MassQuote)
PACKAGES = ((WithdrawRequest,), (RequestQuotes,), (QuotePackage,), (AcceptQuote, BlockTrade))
"""In this order: a maker's newer quote comes before a taker's acceptance of the older one."""
SETTINGS: tuple[type, ...] = get_args(SettingAction)


class Batch(NamedTuple):
    """A transaction whose sender and nonce are good, and those of its actions that its key may sign."""

    read: ReadTransaction
    account: OpenAccount
    session: Session | None
    """What its key may do, None for the owner's own."""
    actions: list[tuple[int, Action]]
    """With their places in the transaction."""


def execute_transactions(
    workspace: Workspace, valuation: Valuation, transactions: Iterable[ReadTransaction]
) -> list[Batch]:
    """Apply a block's transactions by owner, sub-account, nonce and id, all but packages; refusals become events.

    Returns:
        The batches, for `settle_packages` after the calls.
    """
    batches = [
        batch
        for read in sorted(transactions, key=lambda item: item.order)
        if (batch := _open_batch(workspace, read)) is not None
    ]
    cancel_due(workspace)
    phase = _Phases(workspace, batches)
    cancels = Cancels(workspace)
    phase.each(CANCELS, lambda item, action: cancels.add(item.account, action))
    cancels.apply()
    desk = OrderDesk(workspace, valuation)
    cashier = _Cashier(workspace, desk, valuation.account_count)
    phase.each((Deposit,), cashier.deposit)
    phase.each((Withdraw, TransferCash), cashier.move_out)
    auctions = AuctionDesk(workspace, valuation)
    phase.each((BidAuction,), lambda item, action: auctions.bid(item.account, action))
    votes = VoteDesk(workspace)
    phase.each((VoteParameter,), lambda item, action: votes.vote(item.account, action))
    staking = StakingDesk(workspace, desk.check_withdrawal)
    phase.each(STAKING_ACTIONS, lambda item, action: staking.perform(item.account, action))
    phase.each(SETTINGS, lambda item, action: change_setting(workspace, desk, item.account, action))
    cancel_silent(workspace)
    triggers = TriggerDesk(workspace, valuation, desk)
    triggers.fire()
    for batch in batches:
        limit_uusd = None if batch.session is None else batch.session.notional_uusd_max
        for index, action in batch.actions:
            if isinstance(action, PlaceTrigger):
                add = partial(triggers.add, batch.read.id, index, batch.account, action, limit_uusd)
                _attempt(workspace, batch, index, add)
        orders = [item for item in batch.actions if isinstance(item[1], ORDERS)]
        if orders:
            desk.place(batch.read.id, batch.account, orders, limit_uusd)
    return batches


def settle_packages(workspace: Workspace, valuation: Valuation, batches: Iterable[Batch]) -> None:
    """After the calls: what requests for quote and block trades do, kind by kind."""
    desk = PackageDesk(workspace, valuation, OrderDesk(workspace, valuation))
    desk.expire()
    rare = _rare(batches)
    for kinds in PACKAGES:
        for batch, index, action in rare:
            if isinstance(action, kinds):
                limit_uusd = None if batch.session is None else batch.session.notional_uusd_max
                sender = Sender(batch.read.id, index, batch.account, limit_uusd)
                _attempt(workspace, batch, index, partial(desk.perform, sender, action))


def _open_batch(workspace: Workspace, read: ReadTransaction) -> Batch | None:
    try:
        stored, session = resolve_sender(workspace.state, read)
        check_session_time(session, workspace.time_ns)
        account = workspace.open(stored)
        account.nonce_floor, account.nonce_used = use_nonce(
            account.nonce_floor,
            account.nonce_used,
            read.content.nonce,
            workspace.state.parameters.nonce_window,
        )
    except ProtocolViolation as violation:
        workspace.events.append(TransactionRejected(read.id, violation.reason.value, violation.detail))
        return None
    workspace.events.append(TransactionApplied(read.id, *account.key, read.content.nonce))
    actions: list[tuple[int, Action]] = []
    batch = Batch(read, account, session, actions)
    for index, action in enumerate(read.content.actions):
        if session is None or _attempt(workspace, batch, index, partial(check_scope, session, action)):
            actions.append((index, action))
    return batch


class _Phases:
    """A block's actions by kind, so that a phase looks only at its own; plain orders have a phase of their own."""

    def __init__(self, workspace: Workspace, batches: Sequence[Batch]) -> None:
        self._workspace = workspace
        self._rare = _rare(batches)
        self._kinds = {type(action) for _, _, action in self._rare}

    def each(self, kinds: tuple[type, ...], perform: Callable[[Batch, object], None]) -> None:
        """Do every action of these kinds, batch by batch; refusals become events."""
        if self._kinds.isdisjoint(kinds):
            return
        for batch, index, action in self._rare:
            if isinstance(action, kinds):
                _attempt(self._workspace, batch, index, partial(perform, batch, action))


def _rare(batches: Iterable[Batch]) -> list[tuple[Batch, int, Action]]:
    """Every action but plain orders, with its batch and its place in it."""
    return [
        (batch, index, action)
        for batch in batches
        for index, action in batch.actions
        if type(action) is not PlaceOrder
    ]


def _attempt(workspace: Workspace, batch: Batch, index: int, perform: Callable[[], None]) -> bool:
    """Whether it was done; a refusal becomes an event."""
    try:
        perform()
    except ProtocolViolation as violation:
        workspace.events.append(
            ActionRejected(batch.read.id, index, violation.reason.value, violation.detail)
        )
        return False
    return True


class _Cashier:
    """Deposits, withdrawals and transfers."""

    def __init__(self, workspace: Workspace, desk: OrderDesk, accounts: int) -> None:
        self._workspace = workspace
        self._accounts = accounts
        self._desk = desk

    def deposit(self, batch: Batch, action: object) -> None:
        """Credit an account; its first deposit opens it. Raises NOT_CUSTODIAN, DEPOSIT_LIMIT."""
        assert isinstance(action, Deposit)
        workspace = self._workspace
        check_custodian(workspace.state, batch.read.signer)
        if workspace.supply["deposited_uusd"] + action.amount_uusd > DEPOSITED_UUSD_MAX:
            raise ProtocolViolation(LedgerReason.DEPOSIT_LIMIT, "more than the ledger can count exactly")
        check_no_auction(workspace, (action.owner, action.subaccount))
        account = self._opened((action.owner, action.subaccount))
        workspace.supply["deposited_uusd"] += action.amount_uusd
        self._credit(account, action.amount_uusd, "deposit")

    def move_out(self, batch: Batch, action: object) -> None:
        """Withdraw or transfer. Raises INSUFFICIENT_MARGIN, ACCOUNT_IN_LIQUIDATION, SAME_ACCOUNT."""
        assert isinstance(action, Withdraw | TransferCash)
        workspace, account, amount_uusd = self._workspace, batch.account, action.amount_uusd
        if isinstance(action, TransferCash) and action.to_subaccount == account.key[1]:
            raise ProtocolViolation(LedgerReason.SAME_ACCOUNT, "a transfer needs another sub-account")
        self._desk.check_withdrawal(account, amount_uusd)
        if isinstance(action, TransferCash):
            check_no_auction(workspace, (account.key[0], action.to_subaccount))
            target = self._opened((account.key[0], action.to_subaccount))
            self._credit(account, -amount_uusd, "transfer")
            self._credit(target, amount_uusd, "transfer")
        else:
            kept_uusd = take_haircut(workspace, amount_uusd)
            workspace.supply["withdrawn_uusd"] += amount_uusd - kept_uusd
            self._credit(account, -amount_uusd, "withdrawal")

    def _credit(self, account: OpenAccount, amount_uusd: int, cause: str) -> None:
        self._workspace.add_cash(account, amount_uusd)
        self._workspace.events.append(CashMoved(*account.key, amount_uusd, cause))

    def _opened(self, key: tuple[bytes, int]) -> OpenAccount:
        workspace = self._workspace
        if workspace.account(key) is None and self._accounts + workspace.opened_count() >= ACCOUNTS_MAX:
            raise ProtocolViolation(
                LedgerReason.TOO_MANY_ACCOUNTS, f"the ledger holds {ACCOUNTS_MAX} accounts"
            )
        return workspace.account_or_new(key)
