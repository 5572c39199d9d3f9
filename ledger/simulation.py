"""What a batch of actions would do to an account's margin if the next block held nothing else. Pure.

The ledger's own phases run on the state as it stands, at its own block time and prices, and everything is undone
afterwards. The next block's prices, and what others send, nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ledger.admission import ReadTransaction
from ledger.breakers.phases import Phases
from ledger.calls import run_calls
from ledger.events import ActionRejected, Event, TransactionApplied
from ledger.execution import execute_transactions
from ledger.matching.orders import AccountKey
from ledger.placement import OrderDesk
from ledger.reasons import LedgerReason
from ledger.state import State
from ledger.trading.margin_model import model_of
from ledger.transactions import Action, Transaction
from ledger.valuation import Valuation
from ledger.workspace import OpenAccount, Workspace
from primitives.errors import ProtocolViolation

_NAME = bytes(32)


class MarginNow(NamedTuple):
    """One account's margin in micro-USD; a requirement is equity less excess.

    `im_excess_with_orders_uusd`: every open order filled the worse way, which is what new orders are judged by.
    """

    model: int
    cash_uusd: int
    equity_uusd: int
    im_excess_uusd: int
    mm_excess_uusd: int
    im_excess_with_orders_uusd: int


class Simulation(NamedTuple):
    """Margin before and after, and what happened: the events of the batch, and those that name its account."""

    before: MarginNow
    after: MarginNow
    refused: dict[int, ActionRejected]
    """By place in the batch."""
    events: tuple[Event, ...]


def simulate(state: State, key: AccountKey, actions: Sequence[Action]) -> Simulation:
    """Try a batch; the state is the same afterwards.

    The state needs the account, every book, and the accounts of all who have orders on them; of other accounts it
    may know nothing, as long as the actions are orders, cancels, cash and the margin model.

    Raises:
        ProtocolViolation: UNKNOWN_ACCOUNT.
    """
    stored = state.account(key)
    if stored is None:
        raise ProtocolViolation(LedgerReason.UNKNOWN_ACCOUNT, "there is no such account")
    content = Transaction(state.chain_id, key[1], stored.next_nonce, tuple(actions))
    read = ReadTransaction(_NAME, key[0], key[0], content, None)
    state.begin_block()
    try:
        workspace = Workspace(state, state.clock.height + 1, state.clock.time_ns, Phases(state))
        valuation = Valuation(state)
        account = workspace.existing(key)
        before = _margin_now(workspace, valuation, account)
        execute_transactions(workspace, valuation, [read])
        run_calls(workspace, valuation)
        # The margin model is asked of the state.
        workspace.write_back()
        after = _margin_now(workspace, valuation, account)
    finally:
        state.rollback_block()
    mine = [event for event in workspace.events if _concerns(event, key)]
    refused = {event.index: event for event in mine if isinstance(event, ActionRejected)}
    told = tuple(event for event in mine if not isinstance(event, ActionRejected | TransactionApplied))
    return Simulation(before, after, refused, told)


def _margin_now(workspace: Workspace, valuation: Valuation, account: OpenAccount) -> MarginNow:
    margin = valuation.margin_now(account)
    desk = OrderDesk(workspace, valuation)
    return MarginNow(
        model_of(workspace.state, account.key),
        account.cash_uusd,
        margin.mtm_uusd + account.cash_uusd,
        margin.im_excess_uusd,
        margin.mm_excess_uusd,
        desk.excess_uusd(account, cash_uusd=account.cash_uusd),
    )


def _concerns(event: Event, key: AccountKey) -> bool:
    if getattr(event, "transaction_id", None) == _NAME:
        return True
    roles = (("owner", "subaccount"), ("buyer", "buyer_subaccount"), ("seller", "seller_subaccount"))
    return any((getattr(event, owner, None), getattr(event, number, None)) == key for owner, number in roles)
