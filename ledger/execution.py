"""The transactions of one block: nonces, cancels, cash, stake, then orders into the call. Pure.

A batch is not all-or-nothing: each action is refused on its own with its reason. Inside a block all cancels
come before all cash, all cash before all staking, and all staking before all orders, whatever their place in a
batch; a cancel sees what rested when the block began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ledger.accounts import use_nonce
from ledger.admission import ReadTransaction, check_custodian, check_sender
from ledger.events import ActionRejected, CashMoved, TransactionApplied, TransactionRejected
from ledger.genesis import ACCOUNTS_MAX, DEPOSITED_UUSD_MAX
from ledger.placement import OrderDesk
from ledger.reasons import CancelReason, LedgerReason
from ledger.staking.actions import STAKING_ACTIONS, StakingDesk
from ledger.transactions import (
    CancelAll,
    CancelLabel,
    CancelOrder,
    Deposit,
    PlaceOrder,
    TransferCash,
    Withdraw,
)
from ledger.valuation import Valuation
from ledger.workspace import OpenAccount, Workspace
from primitives.errors import ProtocolViolation


class _Batch(NamedTuple):
    """A transaction whose sender and nonce are good."""

    read: ReadTransaction
    account: OpenAccount


def execute_transactions(
    workspace: Workspace, valuation: Valuation, transactions: Iterable[ReadTransaction]
) -> None:
    """Apply a block's transactions by owner, sub-account, nonce and id; refusals become events."""
    batches = [
        batch
        for read in sorted(transactions, key=lambda item: item.order)
        if (batch := _open_batch(workspace, read)) is not None
    ]
    cancels = _Cancels(workspace)
    for batch in batches:
        _each_action(workspace, batch, (CancelOrder, CancelLabel, CancelAll), cancels.add)
    cancels.apply()
    desk = OrderDesk(workspace, valuation)
    cashier = _Cashier(workspace, desk, valuation.account_count)
    for batch in batches:
        _each_action(workspace, batch, (Deposit,), cashier.deposit)
    for batch in batches:
        _each_action(workspace, batch, (Withdraw, TransferCash), cashier.move_out)
    staking = StakingDesk(workspace, desk.check_withdrawal)
    for batch in batches:
        _each_action(
            workspace, batch, STAKING_ACTIONS, lambda item, action: staking.perform(item.account, action)
        )
    for batch in batches:
        orders = [
            (index, action)
            for index, action in enumerate(batch.read.content.actions)
            if isinstance(action, PlaceOrder)
        ]
        if orders:
            desk.place(batch.read.id, batch.account, orders)


def _open_batch(workspace: Workspace, read: ReadTransaction) -> _Batch | None:
    try:
        check_sender(workspace.state, read)
        account = workspace.existing(read.account)
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
    return _Batch(read, account)


def _each_action(
    workspace: Workspace,
    batch: _Batch,
    kinds: tuple[type, ...],
    perform: Callable[[_Batch, object], None],
) -> None:
    for index, action in enumerate(batch.read.content.actions):
        if not isinstance(action, kinds):
            continue
        try:
            perform(batch, action)
        except ProtocolViolation as violation:
            workspace.events.append(
                ActionRejected(batch.read.id, index, violation.reason.value, violation.detail)
            )


class _Cancels:
    """Gathers the block's cancels, so that each book is rewritten once."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._first_new_id = workspace.state.clock.next_order_id
        self._chosen: dict[int, int] = {}

    def add(self, batch: _Batch, action: object) -> None:
        """Choose what one cancel names. Raises UNKNOWN_ORDER; that cancel-all finds nothing is fine."""
        resting = {
            order_id: instrument
            for order_id, instrument in batch.account.orders.items()
            if order_id < self._first_new_id and order_id not in self._chosen
        }
        if isinstance(action, CancelAll):
            named = [key for key, value in resting.items() if action.instrument in (None, value)]
        elif isinstance(action, CancelOrder):
            named = [action.order_id] if action.order_id in resting else []
        else:
            assert isinstance(action, CancelLabel)
            named = [key for key in resting if self._workspace.order(key).label == action.label != 0]
        if not named and not isinstance(action, CancelAll):
            raise ProtocolViolation(LedgerReason.UNKNOWN_ORDER, "no such open order when the block began")
        self._chosen.update((order_id, resting[order_id]) for order_id in named)

    def apply(self) -> None:
        """Take them off their books, by instrument and id."""
        by_instrument: dict[int, list[int]] = {}
        for order_id in sorted(self._chosen):
            by_instrument.setdefault(self._chosen[order_id], []).append(order_id)
        for instrument in sorted(by_instrument):
            self._workspace.cancel_resting(instrument, by_instrument[instrument], CancelReason.REQUESTED)


class _Cashier:
    """Deposits, withdrawals and transfers."""

    def __init__(self, workspace: Workspace, desk: OrderDesk, accounts: int) -> None:
        self._workspace = workspace
        self._accounts = accounts
        self._desk = desk

    def deposit(self, batch: _Batch, action: object) -> None:
        """Credit an account; its first deposit opens it. Raises NOT_CUSTODIAN, DEPOSIT_LIMIT."""
        assert isinstance(action, Deposit)
        workspace = self._workspace
        check_custodian(workspace.state, batch.read.public_key)
        if workspace.supply["deposited_uusd"] + action.amount_uusd > DEPOSITED_UUSD_MAX:
            raise ProtocolViolation(LedgerReason.DEPOSIT_LIMIT, "more than the ledger can count exactly")
        account = self._opened((action.owner, action.subaccount))
        workspace.supply["deposited_uusd"] += action.amount_uusd
        self._credit(account, action.amount_uusd, "deposit")

    def move_out(self, batch: _Batch, action: object) -> None:
        """Withdraw or transfer. Raises INSUFFICIENT_MARGIN, ACCOUNT_IN_LIQUIDATION, SAME_ACCOUNT."""
        assert isinstance(action, Withdraw | TransferCash)
        workspace, account, amount_uusd = self._workspace, batch.account, action.amount_uusd
        if isinstance(action, TransferCash) and action.to_subaccount == account.key[1]:
            raise ProtocolViolation(LedgerReason.SAME_ACCOUNT, "a transfer needs another sub-account")
        self._desk.check_withdrawal(account, amount_uusd)
        if isinstance(action, TransferCash):
            target = self._opened((account.key[0], action.to_subaccount))
            self._credit(account, -amount_uusd, "transfer")
            self._credit(target, amount_uusd, "transfer")
        else:
            workspace.supply["withdrawn_uusd"] += amount_uusd
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
