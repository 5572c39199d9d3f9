"""All replicated data as leaves under namespaced keys, with undo for blocks that are not final yet. Pure.

One leaf is one immutable Wire value; its bytes are the canonical encoding. Every write goes through a Table,
which remembers what it replaced, layer by layer: `begin_block` opens a layer, `rollback_block` undoes the
newest one, `commit_oldest` forgets how to undo the oldest one. Caches (the Merkle tree, portfolio rows)
follow through dirty keys. Keys and their order: docs/spec/state.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from ledger.accounts import Account, new_account
from ledger.breakers.state import KEY_BREAKERS
from ledger.breakers.state import LEAF_KINDS as BREAKER_KINDS
from ledger.genesis import LedgerGenesis, LedgerParameters, UnderlyingParameters, check_genesis
from ledger.instruments import Instrument
from ledger.listing import Listing
from ledger.margin.requirements import Spread
from ledger.matching.book import EMPTY_BOOK, Book
from ledger.matching.orders import AccountKey, RestingOrder
from ledger.oracle import ReporterState, UnderlyingOracle, genesis_oracle
from ledger.settlement.expiry import SettlementWindow
from ledger.settlement.state import KEY_PROTECTION, VAULT_KEY
from ledger.settlement.state import LEAF_KINDS as SETTLEMENT_KINDS
from ledger.staking.epochs import put_genesis_stake
from ledger.staking.state import LEAF_KINDS as STAKING_KINDS
from ledger.state_keys import (
    KEY_CLOCK,
    KEY_MARKS,
    KEY_PARAMETERS,
    KEY_SUPPLY,
    KEY_TOTALS,
    account_key,
    book_key,
    listing_key,
    oracle_key,
    reporter_key,
    underlying_key,
    window_key,
)
from ledger.state_tree import Proof, StateTree
from ledger.trading.state import KEY_TRADING, AccountTrading, trading_key
from ledger.trading.state import LEAF_KINDS as TRADING_KINDS
from ledger.transactions import MarginModel
from primitives.codec import I64, U32, U63, Bytes32, Wire, decode_own, encode
from primitives.errors import ensure
from primitives.signing import address_of

LAYERS_MAX = 1_024
"""Blocks applied and not final; one more stops the process: consensus retains no more views than that."""


class Clock(Wire):
    """Where the ledger stands, and its counters."""

    height: U63
    time_ns: U63
    next_order_id: U63
    blocks_without_oracle: U32


class Supply(Wire):
    """Everything outside the accounts; the fund may not be negative, a debt stays with its account."""

    deposited_uusd: U63
    withdrawn_uusd: U63
    fund_uusd: U63
    fees_uusd: U63
    vault_uusd: U63
    debt_uusd: U63
    """What closed accounts owe and the fund could not pay; withdrawals and fees repay it."""


class Totals(Wire):
    """Sums that conservation needs every block, kept by difference and recomputed by tests."""

    cash_uusd: I64
    cost_uusd: I64


class Marks(Wire):
    """This block's (instrument, mark in micro-USD), and a digest of every account's margin."""

    marks: tuple[tuple[U32, U63], ...]
    margins_digest: Bytes32


_KINDS: dict[int, type[Wire]] = {
    ord("a"): Account,
    ord("b"): Book,
    ord("c"): Clock,
    ord("i"): Listing,
    ord("m"): Marks,
    ord("o"): UnderlyingOracle,
    ord("p"): LedgerParameters,
    ord("r"): ReporterState,
    ord("s"): Supply,
    ord("t"): Totals,
    ord("u"): UnderlyingParameters,
    ord("w"): SettlementWindow,
}


def kind_of(key: bytes) -> type[Wire]:
    """The type of the leaf under a key. Raises KeyError or IndexError when there is no such kind."""
    if key[0] == ord("k"):
        return STAKING_KINDS[key[1]]
    if key[0] == ord("x"):
        return SETTLEMENT_KINDS[key[1]]
    if key[0] == ord("y"):
        return BREAKER_KINDS[key[1]]
    return TRADING_KINDS[key[1]] if key[0] == ord("q") else _KINDS[key[0]]


K = TypeVar("K")
V = TypeVar("V")


class Table(Generic[K, V]):
    """A dict whose writes can be undone in layers: a key's first write in a layer records what was there."""

    def __init__(self) -> None:
        self.values: dict[K, V] = {}
        self._layers: list[dict[K, V | None]] = []

    def get(self, key: K) -> V | None:
        """The value now, or None."""
        return self.values.get(key)

    def put(self, key: K, value: V | None) -> None:
        """Set (None deletes)."""
        if self._layers and key not in (layer := self._layers[-1]):
            layer[key] = self.values.get(key)
        self._set(key, value)

    def _set(self, key: K, value: V | None) -> None:
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value

    def begin(self) -> None:
        """Open a layer."""
        self._layers.append({})

    def changed(self) -> Iterable[K]:
        """Keys written since the newest layer was opened."""
        return self._layers[-1].keys()

    def rollback(self) -> Iterable[K]:
        """Undo the newest layer; gives the keys it had written."""
        layer = self._layers.pop()
        for key, old in layer.items():
            self._set(key, old)
        return layer.keys()

    def commit_oldest(self) -> None:
        """Forget how to undo the oldest layer."""
        self._layers.pop(0)

    @property
    def layers(self) -> int:
        """How many layers can be undone."""
        return len(self._layers)


class State:
    """The ledger's whole state. Made by from_genesis or from_leaves; changed by ledger.apply only."""

    def __init__(self, chain_id: bytes, genesis: LedgerGenesis) -> None:
        self.chain_id = chain_id
        self.genesis = genesis
        self.leaves: Table[bytes, Any] = Table()
        self.orders: Table[int, RestingOrder] = Table()
        """Every resting order by id: derived from the books, never a leaf itself."""
        self.watched: Table[AccountKey, bool] = Table()
        """Accounts whose triggers or times every block must look at: derived from their trading leaves."""
        self.dirty_accounts: set[AccountKey] = set()
        """Accounts written since the portfolio table last looked."""
        self.standard: Table[AccountKey, bool] = Table()
        """Accounts that chose the standard margin model: derived from their trading leaves."""
        self._tree = StateTree()
        self._trees: list[StateTree] = []
        self._dirty: set[bytes] = set()
        self.caches: dict[str, Any] = {}
        """What ledger modules derive from this state and keep between blocks; never replicated."""
        self.spread: Spread = map
        """How work on many accounts is divided; a node gives the map of its threads, and no unit changes."""
        self.instruments: dict[int, Instrument] = {item.id: item for item in genesis.instruments}

    # --- making one ---

    @classmethod
    def from_genesis(cls, genesis: LedgerGenesis, chain_id: bytes) -> State:
        """The state before the first block, at height 0. Raises as genesis.check_genesis."""
        check_genesis(genesis)
        state = cls(chain_id, genesis)
        deposited = sum(account.cash_uusd for account in genesis.accounts)
        staked = sum(item.stake_uusd for item in genesis.staking.validators)
        fund = genesis.parameters.insurance_fund_uusd
        vault = genesis.protection.vault_uusd
        state.put(KEY_CLOCK, Clock(0, genesis.time_ns, 1, 0))
        state.put(KEY_SUPPLY, Supply(deposited + staked + fund + vault, 0, fund, 0, 0, 0))
        state.put(KEY_TOTALS, Totals(deposited + vault, 0))
        state.put(KEY_PROTECTION, genesis.protection)
        state.put(KEY_PARAMETERS, genesis.parameters)
        state.put(KEY_TRADING, genesis.trading)
        state.put(KEY_BREAKERS, genesis.breakers)
        for item in genesis.underlyings:
            state.put(underlying_key(item.underlying), item)
            own = [entry for entry in genesis.instruments if entry.underlying == item.underlying]
            state.put(oracle_key(item.underlying), genesis_oracle(item.index_uusd, genesis.time_ns, own))
        for instrument in genesis.instruments:
            state.put(listing_key(instrument.id), Listing(instrument, False, 0))
        for start in genesis.accounts:
            account = new_account(start.owner, start.subaccount, start.cash_uusd)
            ensure(state.account(account.key) is None, "a genesis account is listed once")
            state.put_account(account)
        if vault:
            state.put_account(new_account(*VAULT_KEY, vault))
        operators = {item.operator for item in genesis.staking.validators}
        for owner in sorted({address_of(genesis.custodian_key), *operators}):
            if state.account((owner, 0)) is None:
                state.put_account(new_account(owner, 0, 0))
        put_genesis_stake(state, genesis)
        return state

    @classmethod
    def from_leaves(
        cls, chain_id: bytes, genesis: LedgerGenesis, leaves: Iterable[tuple[bytes, bytes]]
    ) -> State:
        """Exactly the state whose leaves these are (same root). Raises msgspec errors on foreign bytes."""
        state = cls(chain_id, genesis)
        state.instruments.clear()
        for key, raw in leaves:
            value = decode_own(kind_of(key), raw)
            state.put(key, value)
            if isinstance(value, Account):
                state.dirty_accounts.add(value.key)
            elif isinstance(value, Listing):
                state.instruments[value.instrument.id] = value.instrument
            elif isinstance(value, Book):
                for order in (*value.bids, *value.asks):
                    state.orders.put(order.order_id, order)
            elif isinstance(value, AccountTrading):
                state._index_trading((value.owner, value.subaccount), value)
        return state

    # --- blocks that may be undone ---

    def begin_block(self) -> None:
        """Open a layer. ledger.apply.apply_block does this itself."""
        ensure(self.leaves.layers < LAYERS_MAX, "blocks that are not final are few")
        self._flush()
        self._trees.append(self._tree)
        self.leaves.begin()
        self.orders.begin()
        self.watched.begin()
        self.standard.begin()

    def rollback_block(self) -> None:
        """Undo the newest applied block; the root is again the one before it."""
        self._tree = self._trees.pop()
        self._dirty.clear()
        for key in self.leaves.rollback():
            if key[0] == ord("a"):
                self.dirty_accounts.add((key[1:21], key[21]))
            elif key[0] == ord("i"):
                self._follow_listing(key)
        self.orders.rollback()
        self.watched.rollback()
        self.standard.rollback()

    def commit_oldest(self) -> None:
        """The oldest applied block is final: it can no longer be undone."""
        self._trees.pop(0)
        self.leaves.commit_oldest()
        self.orders.commit_oldest()
        self.watched.commit_oldest()
        self.standard.commit_oldest()

    @property
    def open_blocks(self) -> int:
        """Applied blocks that can still be undone."""
        return self.leaves.layers

    def changed_leaves(self) -> list[tuple[bytes, bytes | None]]:
        """(key, bytes or None when deleted) of every leaf written by the newest applied block, by key."""
        return [(key, self.leaf_bytes(key)) for key in sorted(self.leaves.changed())]

    # --- the root ---

    def root(self) -> bytes:
        """32 bytes that commit to every leaf."""
        self._flush()
        return self._tree.root

    def prove(self, key: bytes) -> Proof:
        """That the leaf under `key` is in the root, or that no leaf is."""
        self._flush()
        return self._tree.prove(key)

    def _flush(self) -> None:
        if self._dirty:
            values = self.leaves.values
            self._tree = self._tree.update(
                [(key, None if (value := values.get(key)) is None else encode(value)) for key in self._dirty]
            )
            self._dirty.clear()

    def leaf_bytes(self, key: bytes) -> bytes | None:
        """The canonical bytes of a leaf, None when there is none."""
        value = self.leaves.get(key)
        return None if value is None else encode(value)

    def all_leaves(self) -> list[tuple[bytes, bytes]]:
        """Every (key, bytes), by key: what from_leaves takes."""
        return [(key, encode(value)) for key, value in sorted(self.leaves.values.items())]

    # --- reading and writing ---

    def put(self, key: bytes, value: Wire | None) -> None:
        """Write one leaf (None deletes)."""
        self.leaves.put(key, value)
        self._dirty.add(key)

    def put_listing(self, instrument: int, listing: Listing | None) -> None:
        """Write one instrument's leaf (None: it is forgotten)."""
        self.put(listing_key(instrument), listing)
        self._follow_listing(listing_key(instrument))

    def _follow_listing(self, key: bytes) -> None:
        """Keep `instruments` in step with a listing's leaf."""
        listing: Listing | None = self.leaves.get(key)
        if listing is None:
            self.instruments.pop(int.from_bytes(key[1:], "big"), None)
        else:
            self.instruments[listing.instrument.id] = listing.instrument

    def put_account(self, account: Account) -> None:
        """Write one account."""
        key = account.key
        self.put(account_key(key), account)
        self.dirty_accounts.add(key)

    def put_trading(self, key: AccountKey, leaf: AccountTrading | None) -> None:
        """Write one account's trading leaf (None deletes)."""
        self.put(trading_key(key), leaf)
        self._index_trading(key, leaf)

    def _index_trading(self, key: AccountKey, leaf: AccountTrading | None) -> None:
        for table, holds in (
            (self.watched, leaf is not None and leaf.is_watched),
            (self.standard, leaf is not None and leaf.margin_model != MarginModel.PORTFOLIO),
        ):
            if holds != (table.get(key) is not None):
                table.put(key, True if holds else None)

    def account(self, key: AccountKey) -> Account | None:
        """One sub-account, or None."""
        found: Account | None = self.leaves.get(account_key(key))
        return found

    def accounts(self) -> Iterator[Account]:
        """All accounts, by key."""
        for key in sorted(key for key in self.leaves.values if key[0] == ord("a")):
            yield self.leaves.values[key]

    def book(self, instrument: int) -> Book:
        """The resting orders of one instrument."""
        found: Book | None = self.leaves.get(book_key(instrument))
        return EMPTY_BOOK if found is None else found

    def put_book(self, instrument: int, book: Book) -> None:
        """Write one book; an empty one has no leaf."""
        self.put(book_key(instrument), book if len(book) else None)

    def listing(self, instrument: int) -> Listing | None:
        """One instrument's leaf, or None when there is no such instrument."""
        found: Listing | None = self.leaves.get(listing_key(instrument))
        return found

    def oracle(self, underlying: int) -> UnderlyingOracle:
        """What the validators last agreed on for one underlying."""
        found: UnderlyingOracle = self.leaves.values[oracle_key(underlying)]
        return found

    def window(self, underlying: int, expiry_ns: int) -> SettlementWindow | None:
        """An expiry's settlement average under way, or None."""
        found: SettlementWindow | None = self.leaves.get(window_key(underlying, expiry_ns))
        return found

    def reporter_time_ns(self, reporter: int) -> int:
        """The time of the reporter's last used report, 0 for none."""
        found: ReporterState | None = self.leaves.get(reporter_key(reporter))
        return 0 if found is None else found.time_ns

    @property
    def clock(self) -> Clock:
        """Height, time and counters."""
        found: Clock = self.leaves.values[KEY_CLOCK]
        return found

    @property
    def supply(self) -> Supply:
        """Money outside the accounts."""
        found: Supply = self.leaves.values[KEY_SUPPLY]
        return found

    @property
    def totals(self) -> Totals:
        """Running sums over accounts."""
        found: Totals = self.leaves.values[KEY_TOTALS]
        return found

    @property
    def parameters(self) -> LedgerParameters:
        """Policy numbers."""
        found: LedgerParameters = self.leaves.values[KEY_PARAMETERS]
        return found

    @property
    def marks(self) -> Marks | None:
        """The last block's marks; None before the first block."""
        found: Marks | None = self.leaves.get(KEY_MARKS)
        return found

    def underlying(self, underlying: int) -> UnderlyingParameters:
        """One underlying's parameters."""
        found: UnderlyingParameters = self.leaves.values[underlying_key(underlying)]
        return found
