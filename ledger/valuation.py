"""A block's marks, risk arrays and every account's margin, for all its phases to ask. Pure.

What does not change from block to block (portfolio columns, stored health) is kept in state.caches and
follows the state through its dirty accounts; the caches hold nothing that could not be rebuilt from the
leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ledger.accounts import Account
from ledger.accounts import Position as StoredPosition
from ledger.events import HealthChanged
from ledger.instruments import Instrument, Kind, Underlying
from ledger.margin.health import Health, health_of_all
from ledger.margin.portfolio import PortfolioTable, Position
from ledger.margin.requirements import (
    Margin,
    MarginArrays,
    OpenOrder,
    compute_margin,
    compute_margins,
    compute_order_margin,
    margin_at,
)
from ledger.margin.scenarios import SETTLEMENT_BUCKETS, RiskArrays, SettlementWindow, build_risk_arrays
from ledger.market import UnderlyingMarket
from ledger.matching.orders import AccountKey
from ledger.oracle import SILENT_BLOCKS_PER_EPOCH, current_market
from ledger.pricing.kernel import Ints
from ledger.settlement.expiry import buckets_total
from primitives.amounts import PPM
from primitives.hashing import digest

if TYPE_CHECKING:
    from ledger.state import State
    from ledger.workspace import OpenAccount, Workspace

BAND_VOLATILITY_POINTS = 15
"""The price band is at least so many volatility points wide."""
BAND_INDEX_PPM_MIN = 1_000
"""And at least 0.1 % of the index, so that a worthless option can still be closed."""


class AccountRows(NamedTuple):
    """The accounts of one block, by key, beside arrays of the same length; never changed afterwards."""

    keys: list[AccountKey]
    order: Ints
    """Place of each key in the margin arrays."""
    health: Ints
    """Health as stored before the block."""


class AccountTable:
    """All accounts as columns, in step with the state: portfolio rows and stored health."""

    def __init__(self) -> None:
        self.portfolios: PortfolioTable[AccountKey] = PortfolioTable()
        self._health: dict[AccountKey, int] = {}
        self._positions: dict[AccountKey, tuple[StoredPosition, ...]] = {}
        no_ints: Ints = np.zeros(0, dtype=np.int64)
        self._rows = AccountRows([], no_ints, no_ints)

    def follow(self, state: State) -> AccountRows:
        """Take over every account written or undone since the last call; the rows as of now."""
        if not state.dirty_accounts:
            return self._rows
        is_known = True
        for key in sorted(state.dirty_accounts):
            account = state.account(key)
            is_known &= (account is not None) == (key in self._health)
            if account is None:
                self._health.pop(key, None)
                self._positions.pop(key, None)
                self.portfolios.replace(key, 0, ())
                continue
            self._health[key] = account.health
            if self._positions.get(key) == account.positions:
                self.portfolios.set_cash(key, account.cash_uusd)
                continue
            self._positions[key] = account.positions
            self.portfolios.replace(key, account.cash_uusd, positions_of(account))
        state.dirty_accounts.clear()
        keys, order = self._rows.keys, self._rows.order
        if not is_known:
            keys = sorted(self._health)
            order = np.array([self.portfolios.place_of(key) for key in keys], dtype=np.int64)
        health = np.array([self._health[key] for key in keys], dtype=np.int64)
        self._rows = AccountRows(keys, order, health)
        return self._rows


def positions_of(account: Account) -> list[Position]:
    """An account's positions as the margin model takes them."""
    return [Position(item.instrument, item.lots, item.cost_uusd) for item in account.positions]


def live_instruments(state: State) -> list[Instrument]:
    """Everything not settled yet, by id."""
    live = []
    for instrument_id in sorted(state.instruments):
        listing = state.listing(instrument_id)
        if listing is not None and not listing.is_settled:
            live.append(listing.instrument)
    return live


def current_markets(state: State) -> dict[Underlying, UnderlyingMarket]:
    """Every underlying's market at the state's own time."""
    return {
        Underlying(item.underlying): current_market(state, item.underlying, state.clock.time_ns)
        for item in state.genesis.underlyings
    }


def settlement_progress(
    state: State, instruments: Iterable[Instrument]
) -> dict[tuple[Underlying, int], SettlementWindow]:
    """The averages under way, in the margin model's 450 buckets."""
    parameters = state.parameters
    total = buckets_total(parameters.settlement_window_ns, parameters.settlement_bucket_ns)
    progress = {}
    for underlying, expiry_ns in sorted({(item.underlying, item.expiry_ns) for item in instruments}):
        window = state.window(underlying, expiry_ns)
        if window is None:
            continue
        remaining = max(0, total - window.next_bucket)
        counted = window.valid + remaining
        if window.valid and counted:
            left = SETTLEMENT_BUCKETS * remaining // counted
            fixed = window.sum_uusd * (SETTLEMENT_BUCKETS - left) // window.valid
            progress[(Underlying(underlying), expiry_ns)] = SettlementWindow(fixed, left)
    return progress


def build_risk(state: State, markets: dict[Underlying, UnderlyingMarket]) -> RiskArrays:
    """Risk arrays of everything live at the state's own time."""
    instruments = live_instruments(state)
    parameters = {Underlying(item.underlying): item.margin for item in state.genesis.underlyings}
    return build_risk_arrays(
        state.clock.time_ns, instruments, markets, parameters, settlement_progress(state, instruments)
    )


class Valuation:
    """One block's prices and margins, from the state after the oracle and settlements, before any trade."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.markets = current_markets(state)
        self.risk = build_risk(state, self.markets)
        accounts: AccountTable = state.caches.setdefault("accounts", AccountTable())
        self.table = accounts.follow(state)
        self.margins: MarginArrays = compute_margins(self.risk, accounts.portfolios)
        self._place_of = accounts.portfolios.place_of
        self._row = {int(item): row for row, item in enumerate(self.risk.instrument_ids.tolist())}
        self._mark: list[int] = self.risk.mark_uusd.tolist()
        self._vega: list[int] = self.risk.vega_uusd.tolist()
        self._delta: list[int] = self.risk.delta_ppm.tolist()
        self._confidence = {
            (int(underlying), item.expiry_ns): item.confidence_ppm
            for underlying, market in self.markets.items()
            for item in market.slices
        }

    @property
    def account_count(self) -> int:
        """Accounts margined in this block."""
        return len(self.table.keys)

    @property
    def instrument_count(self) -> int:
        """Instruments marked in this block."""
        return len(self._row)

    # --- prices ---

    def row_of(self, instrument: int) -> int:
        """An instrument's row in the risk arrays."""
        return self._row[instrument]

    def mark_uusd(self, instrument: int) -> int:
        """Mark per contract."""
        return self._mark[self._row[instrument]]

    def delta_ppm(self, instrument: int) -> int:
        """Delta per contract."""
        return self._delta[self._row[instrument]]

    def index_uusd(self, underlying: int) -> int:
        """The index."""
        return self.markets[Underlying(underlying)].index_uusd

    def confidence_ppm(self, instrument: Instrument) -> int:
        """Confidence in an option's slice; for a perpetual it is full while reports come."""
        if instrument.kind == Kind.PERPETUAL:
            silent_epochs = self.state.clock.blocks_without_oracle // SILENT_BLOCKS_PER_EPOCH
            return max(0, PPM - silent_epochs * self.state.parameters.confidence_decay_ppm)
        return self._confidence[instrument.underlying, instrument.expiry_ns]

    def band_uusd(self, instrument: Instrument) -> int:
        """How far above (buys) or below (sells) the mark an order may be priced."""
        row = self._row[instrument.id]
        return max(
            self._mark[row] * self.state.parameters.price_band_ppm // PPM,
            BAND_VOLATILITY_POINTS * self._vega[row],
            self.index_uusd(instrument.underlying) * BAND_INDEX_PPM_MIN // PPM,
        )

    def marks(self) -> tuple[tuple[int, int], ...]:
        """(instrument, mark) of everything live, by id."""
        return tuple(zip(self.risk.instrument_ids.tolist(), self._mark, strict=True))

    # --- margins ---

    def margins_digest(self) -> bytes:
        """Digest of every account's IM and MM excess, by account key: validators compare all of them."""
        order = self.table.order
        raw = self.margins.im_excess_uusd[order].astype("<i8").tobytes()
        raw += self.margins.mm_excess_uusd[order].astype("<i8").tobytes()
        return digest(b"quorate-margins", raw)

    def margin(self, key: AccountKey) -> Margin:
        """An account's margin at the start of the block."""
        return margin_at(self.margins, self._place_of(key))

    def record_health(self, workspace: Workspace) -> None:
        """Write every account's health that is not what it was, with an event."""
        order = self.table.order
        codes = health_of_all(self.margins.im_excess_uusd, self.margins.mm_excess_uusd)[order]
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

    def current_margin(self, account: OpenAccount) -> Margin:
        """An account's margin as it stands inside the block."""
        positions = [Position(item, *account.positions[item]) for item in sorted(account.positions)]
        return compute_margin(self.risk, account.cash_uusd, positions)

    def excess_with_orders_uusd(self, account: OpenAccount, orders: list[OpenOrder], cash_uusd: int) -> int:
        """IM excess with `cash_uusd` for cash and the worse of all buys and all sells filled."""
        positions = [Position(item, *account.positions[item]) for item in sorted(account.positions)]
        if not orders:
            return compute_margin(self.risk, cash_uusd, positions).im_excess_uusd
        return compute_order_margin(self.risk, cash_uusd, positions, orders)
