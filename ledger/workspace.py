"""One block's working copies: accounts and books are opened once, changed freely, written back once. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.accounts import (
    Account,
    OpenOrder,
    Position,
    new_account,
    nonce_bits_of,
    nonce_bits_to_int,
    trade_perpetual,
)
from ledger.events import Event, OrderCancelled
from ledger.funding import funding_uusd
from ledger.instruments import Instrument, Kind
from ledger.matching.book import Book
from ledger.matching.orders import AccountKey, RestingOrder
from ledger.reasons import CancelReason
from ledger.state import State, Supply, Totals
from ledger.state_keys import KEY_SUPPLY, KEY_TOTALS
from ledger.trading.events import OrderReduced
from ledger.trading.state import OpenTrading, get_trading
from primitives.errors import InvariantViolation, ensure

if TYPE_CHECKING:
    from ledger.breakers.phases import Phases


class OpenAccount:
    """An account under work: `positions` maps instrument to (lots, cost), `orders` id to instrument.

    `stored`: the leaf it was opened from or last written as.
    """

    __slots__ = (
        "_stored_positions", "cash_uusd", "health", "key", "nonce_floor", "nonce_used", "orders", "positions",
        "stored",
    )  # fmt: skip

    def __init__(self, account: Account) -> None:
        self.key = account.key
        self.cash_uusd = account.cash_uusd
        self.nonce_floor = account.nonce_floor
        self.nonce_used = nonce_bits_to_int(account.nonce_bits)
        self.health = account.health
        self.positions = {item.instrument: (item.lots, item.cost_uusd) for item in account.positions}
        self.orders = {item.order_id: item.instrument for item in account.orders}
        self.keep(account)

    def keep(self, leaf: Account) -> None:
        """These values are stored as this leaf."""
        self.stored = leaf
        self._stored_positions = self.positions.copy()

    def lots(self, instrument: int) -> int:
        """Signed lots held of one instrument."""
        return self.positions.get(instrument, (0, 0))[0]

    def copy(self) -> OpenAccount:
        """Another one to try things on; the workspace does not know it."""
        return OpenAccount(self.closed())

    def trade(self, instrument: Instrument, lots: int, basis_uusd: int) -> int:
        """Change the position as a trade does, at a price less funding; gives the cash that the caller moves."""
        value_uusd = lots * basis_uusd // instrument.lots_per_contract
        held, cost_uusd = self.positions.get(instrument.id, (0, 0))
        if instrument.kind == Kind.PERPETUAL:
            new_lots, new_cost, cash = trade_perpetual(held, cost_uusd, lots, value_uusd)
        else:
            new_lots, new_cost, cash = held + lots, 0, -value_uusd
        if new_lots:
            self.positions[instrument.id] = (new_lots, new_cost)
        else:
            ensure(new_cost == 0, "a closed position has no cost left")
            self.positions.pop(instrument.id, None)
        return cash

    def closed(self) -> Account:
        """The leaf these values make."""
        owner, subaccount = self.key
        return Account(
            owner,
            subaccount,
            self.cash_uusd,
            self.nonce_floor,
            nonce_bits_of(self.nonce_used),
            self.health,
            self._closed_positions(),
            self._closed_orders(),
        )

    def has_stored_positions(self) -> bool:
        """Whether the positions are what they were when the block opened the account."""
        return self.positions == self._stored_positions

    def _closed_positions(self) -> tuple[Position, ...]:
        if self.has_stored_positions():
            return self.stored.positions
        return tuple(Position(item, *self.positions[item]) for item in sorted(self.positions))

    def _closed_orders(self) -> tuple[OpenOrder, ...]:
        """Those that were open before keep their entries, which are ascending; newer ones follow."""
        orders, stored = self.orders, self.stored.orders
        kept = [item for item in stored if item.order_id in orders]
        if len(kept) == len(stored) == len(orders):
            return stored
        # Ids are given in sequence, so what is newer stands behind in the dict.
        return (*kept, *[OpenOrder(*item) for item in islice(orders.items(), len(kept), None)])


class Workspace:
    """What a block has changed so far. Nothing reaches the state's leaves before `write_back`."""

    def __init__(self, state: State, height: int, time_ns: int, phases: Phases) -> None:
        self.state = state
        self.phases = phases
        self.height = height
        self.time_ns = time_ns
        self.events: list[Event] = []
        self.supply: dict[str, int] = {name: getattr(state.supply, name) for name in Supply.__struct_fields__}
        self.cash_change_uusd = 0
        self.cost_change_uusd = 0
        self.lots_change: dict[int, int] = {}
        """Per instrument, the sum of lots given and taken: 0 when the block is done."""
        self.next_order_id = state.clock.next_order_id
        self.books: dict[int, Book] = {}
        self.incoming: dict[int, list[RestingOrder]] = {}
        """This block's new orders by instrument; state.orders and their accounts know them already."""
        self._accounts: dict[AccountKey, OpenAccount] = {}
        self._trading: dict[AccountKey, OpenTrading | None] = {}

    # --- accounts ---

    def account(self, key: AccountKey) -> OpenAccount | None:
        """The working copy of an account, None when there is no such account."""
        found = self._accounts.get(key)
        if found is None:
            stored = self.state.account(key)
            if stored is None:
                return None
            found = self._accounts[key] = OpenAccount(stored)
        return found

    def open(self, stored: Account) -> OpenAccount:
        """The working copy of an account that the state holds."""
        key = stored.key
        found = self._accounts.get(key)
        if found is None:
            found = self._accounts[key] = OpenAccount(stored)
        return found

    def existing(self, key: AccountKey) -> OpenAccount:
        """The working copy of an account that must exist."""
        found = self._accounts.get(key) or self.account(key)
        if found is None:
            raise InvariantViolation("an order's account exists")
        return found

    def find_trading(self, key: AccountKey) -> OpenTrading | None:
        """The working copy of an account's trading leaf, None when it has none."""
        if key not in self._trading:
            stored = get_trading(self.state, key)
            self._trading[key] = None if stored is None else OpenTrading(key, stored)
        return self._trading[key]

    def trading(self, key: AccountKey) -> OpenTrading:
        """The working copy of an account's trading leaf, with nothing in it when there was none."""
        found = self.find_trading(key)
        if found is None:
            found = self._trading[key] = OpenTrading(key, None)
        return found

    def opened_count(self) -> int:
        """Accounts that this block opened."""
        return sum(1 for key in self._accounts if self.state.account(key) is None)

    def account_or_new(self, key: AccountKey) -> OpenAccount:
        """The working copy of an account, opened with nothing in it when there was none."""
        found = self.account(key)
        if found is None:
            found = self._accounts[key] = OpenAccount(new_account(*key, 0))
        return found

    def add_cash(self, account: OpenAccount, amount_uusd: int) -> None:
        """Credit (+) or debit (-); the other side of the entry is the caller's."""
        account.cash_uusd += amount_uusd
        self.cash_change_uusd += amount_uusd

    def trade(self, account: OpenAccount, instrument: Instrument, lots: int, price_uusd: int) -> None:
        """Give an account `lots` (signed, + buys) of an instrument at a price per contract on the grid."""
        _, cost_uusd = account.positions.get(instrument.id, (0, 0))
        cash = account.trade(instrument, lots, price_uusd - funding_uusd(self.state, instrument))
        _, new_cost = account.positions.get(instrument.id, (0, 0))
        self.lots_change[instrument.id] = self.lots_change.get(instrument.id, 0) + lots
        self.cost_change_uusd += new_cost - cost_uusd
        self.add_cash(account, cash)

    def close_position(self, account: OpenAccount, instrument: int) -> None:
        """Take a settled option position away; its payment is the caller's."""
        lots, _ = account.positions.pop(instrument)
        self.lots_change[instrument] = self.lots_change.get(instrument, 0) - lots

    # --- orders and books ---

    def book(self, instrument: int) -> Book:
        """The book as it stands in this block."""
        found = self.books.get(instrument)
        return self.state.book(instrument) if found is None else found

    def add_order(self, account: OpenAccount, instrument: int, order: RestingOrder) -> None:
        """Enter a new order for this block's call; its id must be `next_order_id`."""
        ensure(order.order_id == self.next_order_id, "order ids are given in sequence")
        self.next_order_id += 1
        self.state.orders.put(order.order_id, order)
        account.orders[order.order_id] = instrument
        self.incoming.setdefault(instrument, []).append(order)

    def cancel_resting(self, instrument: int, order_ids: Iterable[int], reason: CancelReason) -> None:
        """Take resting orders of one book off, in order of id."""
        ids = sorted(order_ids)
        orders = [self.order(order_id) for order_id in ids]
        book = self.book(instrument)
        self.books[instrument] = book.without(orders[0]) if len(orders) == 1 else book.without_ids(set(ids))
        for order in orders:
            self.forget(instrument, order, reason)

    def cancel_open(self, order_ids: Iterable[int], reason: CancelReason) -> None:
        """Cancel open orders wherever they are: resting, or waiting for this block's call."""
        by_instrument: dict[int, list[int]] = {}
        for order_id in sorted(order_ids):
            order = self.order(order_id)
            instrument = self.existing(order.account).orders[order_id]
            waiting = self.incoming.get(instrument, [])
            if order.placed_height == self.height and order in waiting:
                waiting.remove(order)
                self.forget(instrument, order, reason)
            else:
                by_instrument.setdefault(instrument, []).append(order_id)
        for instrument in sorted(by_instrument):
            self.cancel_resting(instrument, by_instrument[instrument], reason)

    def reduce_resting(self, instrument: int, order: RestingOrder, left_lots: int) -> None:
        """Leave fewer lots of a resting order, at its price and age."""
        reduced = replace(order, left_lots=left_lots)
        self.books[instrument] = self.book(instrument).replaced(reduced)
        self.state.orders.put(order.order_id, reduced)
        self.events.append(OrderReduced(order.order_id, *order.account, instrument, left_lots))

    def take_id(self) -> int:
        """A number from the sequence of order ids, for something that waits."""
        self.next_order_id += 1
        return self.next_order_id - 1

    def order(self, order_id: int) -> RestingOrder:
        """An open order by id."""
        found = self.state.orders.values.get(order_id)
        if found is None:
            raise InvariantViolation("an account's order rests in its book")
        return found

    def forget(self, instrument: int, order: RestingOrder, reason: CancelReason) -> None:
        """An order has left its book (or never got there): close it with its account and say so."""
        self.close_order(order)
        self.events.append(
            OrderCancelled(
                order.order_id, order.owner, order.subaccount, instrument, order.left_lots, reason.value
            )
        )

    def close_order(self, order: RestingOrder) -> None:
        """Take an order from the index and from its account."""
        self.state.orders.put(order.order_id, None)
        self.existing(order.account).orders.pop(order.order_id, None)
        trading = self.find_trading(order.account)
        if trading is not None:
            trading.forget_order(order.order_id)

    def shrink_order(self, order: RestingOrder, by_lots: int) -> None:
        """The index follows a book in which an order was partly filled."""
        self.state.orders.put(order.order_id, replace(order, left_lots=order.left_lots - by_lots))

    # --- the end ---

    def touched(self) -> list[OpenAccount]:
        """Every account opened in this block, by key."""
        return [self._accounts[key] for key in sorted(self._accounts)]

    def write_back(self) -> None:
        """Write every account and book that changed, and the money outside the accounts."""
        state = self.state
        for account in self.touched():
            leaf = account.closed()
            if leaf != account.stored or state.account(account.key) is None:
                state.put_account(leaf)
                account.keep(leaf)
        opened = {key: trading for key, trading in self._trading.items() if trading is not None}
        for key in sorted(opened):
            if (stored := opened[key].closed()) != get_trading(state, key):
                state.put_trading(key, stored)
        for instrument in sorted(self.books):
            if self.books[instrument] != state.book(instrument):
                state.put_book(instrument, self.books[instrument])
        supply = Supply(**self.supply)
        if supply != state.supply:
            state.put(KEY_SUPPLY, supply)
        if self.cash_change_uusd or self.cost_change_uusd:
            totals = state.totals
            state.put(
                KEY_TOTALS,
                Totals(totals.cash_uusd + self.cash_change_uusd, totals.cost_uusd + self.cost_change_uusd),
            )
            self.cash_change_uusd = self.cost_change_uusd = 0
