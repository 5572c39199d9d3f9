"""Questions about a state that clients and operators ask; nothing here changes anything. Pure.

Marks and margins are those of the state's own block time, from the positions as they are now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ledger.accounts import Account
from ledger.instruments import Instrument
from ledger.margin.health import Health
from ledger.margin.requirements import Margin, compute_margin
from ledger.market import UnderlyingMarket
from ledger.matching.orders import AccountKey, RestingOrder
from ledger.oracle import current_market
from ledger.prices import get_prices
from ledger.pricing.kernel import volatility_e9
from ledger.state import State
from ledger.state_keys import account_key
from ledger.state_tree import Proof
from ledger.trading.margin_model import model_of, with_standard
from ledger.transactions import MarginModel, Side
from ledger.valuation import positions_of


class InstrumentView(NamedTuple):
    """One live instrument; prices per contract, volatility and delta in 1e-6, None where there is none."""

    instrument: Instrument
    mark_uusd: int
    volatility_e6: int
    delta_ppm: int
    gamma_e12: int
    vega_uusd: int
    theta_uusd: int
    best_bid_uusd: int | None
    best_ask_uusd: int | None


class PositionView(NamedTuple):
    """One holding; value is lots * mark / lots_per_contract rounded down, before cost."""

    instrument: Instrument
    lots: int
    cost_uusd: int
    mark_uusd: int
    value_uusd: int
    delta_ppm: int
    """Delta of the whole position in contracts of the underlying."""


class AccountView(NamedTuple):
    """One sub-account; equity = cash + mark-to-market value."""

    account: Account
    equity_uusd: int
    margin: Margin
    health: Health
    next_nonce: int
    positions: tuple[PositionView, ...]
    orders: tuple[tuple[Instrument, RestingOrder], ...]


class BookView(NamedTuple):
    """(price, lots) levels, best first."""

    bids: Sequence[tuple[int, int]]
    asks: Sequence[tuple[int, int]]


class ProvenLeaf(NamedTuple):
    """A leaf's bytes (None: there is no such leaf) with the proof of it under `root`."""

    root: bytes
    key: bytes
    value: bytes | None
    proof: Proof


def get_instruments(state: State) -> list[InstrumentView]:
    """Everything live, by id."""
    prices = get_prices(state)
    risk = prices.risk
    left_ns = [
        max(0, state.instruments[item].expiry_ns - state.clock.time_ns)
        for item in risk.instrument_ids.tolist()
    ]
    vols = volatility_e9(risk.variance_e15, risk.instrument_ids * 0 + left_ns)
    columns = (vols, risk.delta_ppm, risk.gamma_e12, risk.vega_uusd, risk.theta_uusd)
    rows = zip(risk.instrument_ids.tolist(), *(column.tolist() for column in columns), strict=True)
    views = []
    for item, vol_e9, delta, gamma, vega, theta in rows:
        book, mark_uusd = state.book(item), prices.mark_uusd(item)
        best = book.best_bid_uusd, book.best_ask_uusd
        views.append(
            InstrumentView(
                state.instruments[item], mark_uusd, vol_e9 // 1000, delta, gamma, vega, theta, *best
            )
        )
    return views


def get_account(state: State, key: AccountKey) -> AccountView | None:
    """One sub-account with its margin, positions and orders; None when there is none."""
    account = state.account(key)
    if account is None:
        return None
    prices = get_prices(state)
    held = positions_of(account)
    margin = compute_margin(prices.risk, account.cash_uusd, held)
    if model_of(state, key) == MarginModel.STANDARD:
        margin = with_standard(state, prices.risk, margin, account.cash_uusd, held)
    positions = []
    for item in account.positions:
        instrument, mark_uusd = state.instruments[item.instrument], prices.mark_uusd(item.instrument)
        per_contract = instrument.lots_per_contract
        positions.append(
            PositionView(
                instrument,
                item.lots,
                item.cost_uusd,
                mark_uusd,
                item.lots * mark_uusd // per_contract,
                item.lots * prices.delta_ppm(item.instrument) // per_contract,
            )
        )
    orders = tuple(
        (state.instruments[item.instrument], order)
        for item in account.orders
        if (order := state.orders.get(item.order_id)) is not None
    )
    equity_uusd = margin.mtm_uusd + account.cash_uusd
    health, nonce = Health(account.health), account.next_nonce
    return AccountView(account, equity_uusd, margin, health, nonce, tuple(positions), orders)


def get_subaccounts(state: State, owner: bytes) -> list[int]:
    """Numbers of an owner's sub-accounts."""
    return [number for number in range(256) if state.account((owner, number)) is not None]


def get_book(state: State, instrument: int, levels_max: int) -> BookView:
    """Depth of one book; empty for an unknown instrument."""
    book = state.book(instrument)
    return BookView(book.depth(Side.BUY, levels_max), book.depth(Side.SELL, levels_max))


def get_market(state: State, underlying: int) -> UnderlyingMarket:
    """Index and surface as of the state's block time, confidence decayed."""
    return current_market(state, underlying, state.clock.time_ns)


def get_open_interest(state: State) -> dict[int, int]:
    """Lots held long of every instrument that anybody holds; walks all accounts."""
    lots: dict[int, int] = {}
    for account in state.accounts():
        for item in account.positions:
            if item.lots > 0:
                lots[item.instrument] = lots.get(item.instrument, 0) + item.lots
    return dict(sorted(lots.items()))


def get_proof(state: State, key: bytes) -> ProvenLeaf:
    """Proof that the leaf under `key` (ledger/state_keys.py) is in the root, or that none is."""
    return ProvenLeaf(state.root(), key, state.leaf_bytes(key), state.prove(key))


def get_account_proof(state: State, key: AccountKey) -> ProvenLeaf:
    """Proof of one account's leaf or of its absence."""
    return get_proof(state, account_key(key))
