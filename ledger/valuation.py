"""A block's marks, risk arrays and every account's margin, for all its phases to ask. Pure.

What does not change from block to block (portfolio columns, stored health) is kept in state.caches and
follows the state through its dirty accounts; the caches hold nothing that could not be rebuilt from the
leaves.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ledger.accounts import Account
from ledger.accounts import Position as StoredPosition
from ledger.events import HealthChanged
from ledger.exposure import compute_stress, is_critical
from ledger.margin.health import Health, health_of_all
from ledger.margin.portfolio import Portfolios, PortfolioTable, Position
from ledger.margin.requirements import (
    Margin,
    MarginArrays,
    OpenOrder,
    compute_margin,
    compute_margins,
    compute_order_margin,
    margin_at,
)
from ledger.matching.orders import AccountKey
from ledger.prices import Prices
from ledger.pricing.kernel import Ints
from ledger.trading.margin_model import model_of, overwrite_standard, standard_order_excess, with_standard
from ledger.transactions import MarginModel
from primitives.hashing import digest

if TYPE_CHECKING:
    from ledger.state import State
    from ledger.workspace import OpenAccount, Workspace


FEW_ACCOUNTS = 64
"""Up to so many accounts, opened or undone in a block, are put in their places one by one."""


class AccountRows(NamedTuple):
    """The accounts of one block, by key, beside arrays of the same length; never changed afterwards."""

    keys: list[AccountKey]
    packed_keys: bytes
    """Owner and sub-account of each, one after another."""
    order: Ints
    """Place of each key in the margin arrays."""
    health: Ints
    """Health as stored before the block."""


class AccountTable:
    """All accounts as columns, in step with the state: portfolio rows and stored health."""

    def __init__(self) -> None:
        self.portfolios: PortfolioTable[AccountKey] = PortfolioTable()
        self._positions: dict[AccountKey, tuple[StoredPosition, ...]] = {}
        """Of every account that there is; the portfolio table keeps the places of those that were undone."""
        no_ints: Ints = np.zeros(0, dtype=np.int64)
        self._health = no_ints
        """By place."""
        self._rows = AccountRows([], b"", no_ints, no_ints)

    def follow(self, state: State) -> AccountRows:
        """Take over every account written or undone since the last call; the rows as of now."""
        if not state.dirty_accounts:
            return self._rows
        unlisted: list[AccountKey] = []
        codes: list[tuple[int, int]] = []
        for key in sorted(state.dirty_accounts):
            account = state.account(key)
            if (account is not None) != (key in self._positions):
                unlisted.append(key)
            if account is None:
                self._positions.pop(key, None)
                self.portfolios.replace(key, 0, ())
                continue
            if self._positions.get(key) == account.positions:
                self.portfolios.set_cash(key, account.cash_uusd)
            else:
                self._positions[key] = account.positions
                self.portfolios.replace(key, account.cash_uusd, positions_of(account))
            codes.append((self.portfolios.place_of(key), account.health))
        state.dirty_accounts.clear()
        self._write_health(codes)
        keys, packed_keys, order = self._listed(unlisted)
        self._rows = AccountRows(keys, packed_keys, order, self._health[order])
        return self._rows

    def _write_health(self, codes: list[tuple[int, int]]) -> None:
        more = len(self.portfolios.accounts) - len(self._health)
        if more:
            self._health = np.concatenate((self._health, np.zeros(more, dtype=np.int64)))
        if codes:
            places, values = np.array(codes, dtype=np.int64).T
            self._health[places] = values

    def _listed(self, changed: list[AccountKey]) -> tuple[list[AccountKey], bytes, Ints]:
        """Keys, ascending, also packed, and their places, after these accounts were opened or undone."""
        keys, packed, order, _ = self._rows
        if not changed:
            return keys, packed, order
        if len(changed) > FEW_ACCOUNTS:
            keys = sorted(self._positions)
            places = [self.portfolios.place_of(key) for key in keys]
            return keys, b"".join(map(_packed, keys)), np.array(places, dtype=np.int64)
        keys = keys.copy()
        for key in changed:
            at = bisect_left(keys, key)
            own = _packed(key)
            start = at * len(own)
            if key in self._positions:
                keys.insert(at, key)
                packed = packed[:start] + own + packed[start:]
                order = np.insert(order, at, self.portfolios.place_of(key))
            else:
                del keys[at]
                packed = packed[:start] + packed[start + len(own) :]
                order = np.delete(order, at)
        return keys, packed, order


def _packed(key: AccountKey) -> bytes:
    return key[0] + bytes((key[1],))


def positions_of(account: Account) -> list[Position]:
    """An account's positions as the margin model takes them."""
    return [Position(item.instrument, item.lots, item.cost_uusd) for item in account.positions]


class Valuation(Prices):
    """One block's prices and every account's margin, before any trade of the block."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        accounts: AccountTable = state.caches.setdefault("accounts", AccountTable())
        self.table = accounts.follow(state)
        self.margins: MarginArrays = compute_margins(self.risk, accounts.portfolios, state.spread)
        overwrite_standard(state, self.risk, accounts.portfolios, self.margins)
        self.standard = frozenset(state.standard.values)
        """Accounts margined by the standard model when the block began; some may have chosen anew since."""
        self._place_of = accounts.portfolios.place_of
        self._portfolios = accounts.portfolios
        self.stress = compute_stress(
            self.risk, self.portfolios, self.margins.mtm_uusd + self.portfolios.cash_uusd
        )

    @property
    def portfolios(self) -> Portfolios:
        """Every account's holdings, in the order of the margin arrays."""
        return self._portfolios.portfolios(self.risk)[0]

    @property
    def account_count(self) -> int:
        """Accounts margined in this block."""
        return len(self.table.keys)

    def cash_and_health(self) -> tuple[Ints, Ints]:
        """Each account's cash and health as the state has them by now, in the order of `table`.

        Ask before another block is valued: what was written since the block began is known until then.
        """
        keys, _, order, health = self.table
        cash, health = self.portfolios.cash_uusd[order], health.copy()
        for key in self.state.dirty_accounts:
            at = bisect_left(keys, key)
            account = self.state.account(key)
            if account is not None and at < len(keys) and keys[at] == key:
                cash[at], health[at] = account.cash_uusd, account.health
        return cash, health

    def margins_digest(self) -> bytes:
        """Digest of every account's IM and MM excess, by account key: validators compare all of them."""
        order = self.table.order
        raw = self.margins.im_excess_uusd[order].astype("<i8").tobytes()
        raw += self.margins.mm_excess_uusd[order].astype("<i8").tobytes()
        return digest(b"quorate-margins", raw)

    def margin(self, key: AccountKey) -> Margin:
        """An account's margin at the start of the block."""
        return margin_at(self.margins, self._place_of(key))

    def im_excess_uusd(self, key: AccountKey) -> int:
        """An account's IM excess at the start of the block."""
        return int(self.margins.im_excess_uusd[self._place_of(key)])

    def record_health(self, workspace: Workspace) -> None:
        """Write every account's health that is not what it was, with an event."""
        order = self.table.order
        codes = health_of_all(self.margins.im_excess_uusd, self.margins.mm_excess_uusd)
        if is_critical(self.state, self.stress):
            codes[self.stress.places] = np.maximum(codes[self.stress.places], Health.REDUCE_ONLY)
        codes = codes[order]
        for at in np.flatnonzero(codes != self.table.health).tolist():
            key = self.table.keys[at]
            workspace.existing(key).health = int(codes[at])
            place = int(order[at])
            workspace.events.append(
                HealthChanged(
                    *key,
                    Health(int(codes[at])).name.lower(),
                    int(self.margins.im_excess_uusd[place]),
                    int(self.margins.mm_excess_uusd[place]),
                )
            )

    def accounts_in_liquidation(self) -> list[AccountKey]:
        """Accounts whose MM excess is below 0 at the start of the block, by key."""
        at = np.flatnonzero(self.margins.mm_excess_uusd[self.table.order] < 0)
        return [self.table.keys[place] for place in at.tolist()]

    def accounts_recovered(self) -> list[AccountKey]:
        """Accounts that were below maintenance in the block before and are not now, by key."""
        is_below = self.margins.mm_excess_uusd[self.table.order] < 0
        at = np.flatnonzero((self.table.health == Health.LIQUIDATION) & ~is_below)
        return [self.table.keys[place] for place in at.tolist()]

    def margin_now(self, account: OpenAccount) -> Margin:
        """An account's margin with the positions and cash it has by now in this block."""
        positions = [Position(item, *account.positions[item]) for item in sorted(account.positions)]
        margin = compute_margin(self.risk, account.cash_uusd, positions)
        if model_of(self.state, account.key) == MarginModel.STANDARD:
            return with_standard(self.state, self.risk, margin, account.cash_uusd, positions)
        return margin

    def opposing_uusd(self, wanted: dict[int, int]) -> list[tuple[AccountKey, int]]:
        """(account, value at the index of what it held of `wanted` (signed lots) when the block began)."""
        portfolios = self.portfolios
        ids = sorted(wanted)
        rows = np.searchsorted(ids, portfolios.instrument_ids)
        rows = np.minimum(rows, len(ids) - 1)
        lots = np.array([wanted[item] for item in ids], dtype=np.int64)[rows]
        is_wanted = (np.array(ids)[rows] == portfolios.instrument_ids) & (
            np.sign(lots) == np.sign(portfolios.lots)
        )
        instruments = [self.state.instruments[item] for item in ids]
        unit = np.array(
            [self.index_uusd(item.underlying) // item.lots_per_contract for item in instruments],
            dtype=np.int64,
        )
        value = np.where(is_wanted, np.minimum(np.abs(lots), np.abs(portfolios.lots)) * unit[rows], 0)
        running = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(value)))
        totals = running[portfolios.offsets[1:]] - running[portfolios.offsets[:-1]]
        return [
            (self._portfolios.accounts[place], int(totals[place]))
            for place in np.flatnonzero(totals).tolist()
        ]

    def excess_with_orders_uusd(
        self, account: OpenAccount, orders: list[OpenOrder], cash_uusd: int, model: int | None = None
    ) -> int:
        """IM excess with `cash_uusd` for cash and the worse of all buys and all sells filled.

        `model`: another margin model than the account's own.
        """
        positions = [Position(item, *account.positions[item]) for item in sorted(account.positions)]
        if (model_of(self.state, account.key) if model is None else model) == MarginModel.STANDARD:
            return standard_order_excess(self.state, self.risk, cash_uusd, positions, orders)
        if not orders:
            return compute_margin(self.risk, cash_uusd, positions).im_excess_uusd
        return compute_order_margin(self.risk, cash_uusd, positions, orders)
