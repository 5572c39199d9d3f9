"""What clients may ask about the final state, answered from the block store. Reads LMDB, read only.

Everything comes from leaves and views of the final tip; marks carry the height they belong to. Unknown things raise
ProtocolViolation(NOT_FOUND).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeVar

from consensus.messages import Block, QuorumCertificate, hash_of
from ledger.accounts import Account
from ledger.events import Event
from ledger.instruments import Instrument, Kind, Underlying
from ledger.listing import Listing
from ledger.market import Slice
from ledger.matching.book import Book
from ledger.matching.orders import AccountKey, RestingOrder
from ledger.state_keys import account_key, book_key, oracle_key
from ledger.transactions import transaction_id
from node.genesis import GenesisDocument
from node.rpc.answers import (
    AccountAnswer,
    BlockAnswer,
    BookAnswer,
    BreakersAnswer,
    GreeksForm,
    InstrumentForm,
    InstrumentsAnswer,
    LevelForm,
    MarksAnswer,
    OrderForm,
    PolicyAnswer,
    StakeAnswer,
    SurfaceAnswer,
    TipAnswer,
    TransactionAnswer,
    ValidatorsAnswer,
    form_of,
    margin_form,
    mark_form,
    position_form,
    slice_form,
)
from node.rpc.breaker_queries import breakers_answer
from node.rpc.parameters import read_number
from node.rpc.policy_queries import PolicyQueries
from node.rpc.reasons import GatewayReason
from node.rpc.stake_queries import StakeQueries
from node.rpc.views import (
    HEALTH_NAMES,
    GreeksView,
    MarginRow,
    MarginsView,
    MarkRow,
    MarksView,
    StatusView,
    ViewName,
)
from node.storage.block_store import BlockStore
from primitives.codec import U8, U63, Wire, decode_own
from primitives.errors import ProtocolViolation

BOOK_LEVELS_MAX = 50
"""Price levels per side in an answer."""
LISTING_PREFIX = b"i"

V = TypeVar("V", bound=Wire)


class _OracleLeaf(Wire):
    """The stored form of ledger.oracle.UnderlyingOracle, which costs numpy to import."""

    index_uusd: U63
    index_ns: U63
    slices: tuple[tuple[Slice, U63, U63, U8], ...]


class Queries:
    """Read-only questions to one store. Decoded views are kept until the node writes new ones."""

    def __init__(self, store: BlockStore, genesis: GenesisDocument) -> None:
        self._store = store
        self.nonce_window = genesis.ledger.parameters.nonce_window
        self._listings: dict[int, Listing] = {}
        self._by_name: dict[str, Instrument] = {}
        self._listed_height = -1
        self._underlyings = [item.underlying for item in genesis.ledger.underlyings]
        self._stake = StakeQueries(store, genesis.ledger.staking)
        self._policy = PolicyQueries(store, genesis.ledger)
        self._decoded: dict[str, tuple[int, Wire]] = {}
        """Views by name, with the tip's height before they were read."""
        self._greeks: tuple[MarksView | None, dict[int, GreeksForm]] = (None, {})

    # --- the chain ---

    def tip(self) -> TipAnswer:
        """Height, hash and state root of the newest final block."""
        status = self._view(ViewName.STATUS, StatusView)
        if status is not None:
            return form_of(TipAnswer, status)
        tip = self._store.tip()
        return TipAnswer(height=tip.height if tip else 0, block_hash=tip.block_hash if tip else b"")

    @property
    def height(self) -> int:
        """The newest final height, 0 before the first."""
        tip = self._store.tip()
        return 0 if tip is None else tip.height

    def block(self, which: str) -> BlockAnswer:
        """One final block by height, or `latest`: header, transactions' ids, proof's signers, events."""
        height = self.height if which == "latest" else read_number(which, "height")
        raw = self._store.block_at(height)
        if raw is None:
            raise not_found(f"there is no final block at height {height} here")
        block = decode_own(Block, raw)
        proof = self._store.proof_at(height)
        return BlockAnswer(
            height=height,
            hash=hash_of(block.header),
            header=block.header,
            transaction_ids=tuple(transaction_id(item) for item in block.transactions[1:]),
            finalized_by=decode_own(QuorumCertificate, proof).signers if proof else (),
            events=tuple(self.events(height)),
        )

    def events(self, height: int) -> Sequence[Event]:
        """What happened in a final block."""
        raw = self._store.events_at(height)
        return () if raw is None else decode_events(raw)

    def decided_at(self, name: bytes) -> int | None:
        """Height of the final block that holds a transaction."""
        return self._store.height_of_transaction(name)

    def transaction(self, wanted: bytes) -> TransactionAnswer:
        """Where a transaction was decided, and its events."""
        height = self.decided_at(wanted)
        if height is None:
            raise not_found("this transaction is in no final block here")
        own = tuple(
            event for event in self.events(height) if getattr(event, "transaction_id", None) == wanted
        )
        return TransactionAnswer(transaction_id=wanted, status="final", height=height, events=own)

    # --- accounts ---

    def account(self, key: AccountKey) -> AccountAnswer:
        """Cash, positions, open orders and margin of one sub-account."""
        raw = self._store.leaf(account_key(key))
        if raw is None:
            raise not_found("there is no such account")
        account = decode_own(Account, raw)
        margin = self.margin(key)
        orders = (self._open_order(item.order_id, item.instrument) for item in account.orders)
        return AccountAnswer(
            address=account.owner,
            subaccount=account.subaccount,
            cash_uusd=account.cash_uusd,
            health=HEALTH_NAMES[account.health],  # type: ignore[arg-type]
            nonce_floor=account.nonce_floor,
            next_nonce=account.next_nonce,
            nonce_max=account.nonce_floor + 2 * self.nonce_window - 1,
            positions=tuple(position_form(item, self._name(item.instrument)) for item in account.positions),
            orders=tuple(order for order in orders if order is not None),
            margin=None if margin is None else margin_form(margin),
        )

    def margin(self, key: AccountKey) -> MarginRow | None:
        """An account's row of the newest margins, None when it has none."""
        view = self._view(ViewName.MARGINS, MarginsView)
        return None if view is None else view.find(*key)

    def _open_order(self, order_id: int, instrument: int) -> OrderForm | None:
        """None for an order that has gone since the account was read."""
        order = self.resting(instrument).find(order_id)
        name = self._name(instrument)
        return None if order is None else form_of(OrderForm, order, instrument=instrument, name=name)

    # --- stake ---

    def validators(self) -> ValidatorsAnswer:
        """Every validator, and the sets of this epoch and the next."""
        return self._stake.validators(self.height)

    def stake(self, key: AccountKey) -> StakeAnswer:
        """What a sub-account has bonded, and what is on its way out."""
        return self._stake.stake(key)

    def policy(self) -> PolicyAnswer:
        """Every number that a vote can change, open ballots and decided changes."""
        return self._policy.policy()

    # --- the market ---

    def instruments(self) -> InstrumentsAnswer:
        """Every listed instrument, with its mark while it lives and its settlement price afterwards."""
        self._follow_listings()
        return InstrumentsAnswer(instruments=self.instrument_forms(sorted(self._listings)))

    def instrument_forms(self, ids: Iterable[int]) -> tuple[InstrumentForm, ...]:
        """Some of them; those that are none are left out."""
        self._follow_listings()
        marks = self._marks()
        known = [item for item in ids if item in self._listings]
        return tuple(self._instrument_form(self._listings[item], marks.get(item)) for item in known)

    def _instrument_form(self, listing: Listing, mark: MarkRow | None) -> InstrumentForm:
        item = listing.instrument
        return form_of(
            InstrumentForm,
            item,
            name=item.name,
            underlying=Underlying(item.underlying).name,
            kind=Kind(item.kind).name.lower(),
            is_settled=listing.is_settled,
            settlement_price_uusd=listing.settlement_price_uusd if listing.is_settled else None,
            mark=None if mark is None else mark_form(mark),
        )

    def marks(self) -> MarksAnswer:
        """Marks and Greeks of everything live. NOT_FOUND before the first block."""
        view, rows = self.greeks()
        if view is None:
            raise not_found("no final block has marks yet")
        return MarksAnswer(height=view.height, time_ns=view.time_ns, marks=tuple(rows.values()))

    def greeks(self) -> tuple[MarksView | None, dict[int, GreeksForm]]:
        """The newest marks and what they are by instrument, ascending."""
        view = self._view(ViewName.MARKS, MarksView)
        if view is not None and view is not self._greeks[0]:
            greeks = self._view(ViewName.GREEKS, GreeksView)
            others = {row.instrument: row for row in greeks.rows} if greeks is not None else {}
            forms = {
                row.instrument: form_of(
                    GreeksForm, row, others[row.instrument], name=self._name(row.instrument)
                )
                for row in view.rows
                if row.instrument in others
            }
            self._greeks = view, forms
        return self._greeks

    def book(self, name: str, levels_max: int | None = BOOK_LEVELS_MAX) -> BookAnswer:
        """Price levels of one instrument, by name or id, best first; None: all levels."""
        item = self.instrument(name)
        book = self.resting(item.id)
        mark = self._marks().get(item.id)
        return BookAnswer(
            instrument=item.id,
            name=item.name,
            mark_uusd=None if mark is None else mark.mark_uusd,
            bids=tuple(_levels(book.bids)[:levels_max]),
            asks=tuple(_levels(book.asks)[:levels_max]),
        )

    def surface(self, name: str) -> SurfaceAnswer:
        """One underlying's index and agreed volatility slices."""
        if name not in Underlying.__members__ or Underlying[name] not in self._underlyings:
            raise not_found("there is no such underlying")
        raw = self._store.leaf(oracle_key(Underlying[name]))
        if raw is None:
            raise not_found("no final block has agreed on this underlying yet")
        leaf = decode_own(_OracleLeaf, raw)
        slices = tuple(slice_form(item, index, agreed_ns) for item, index, agreed_ns, _ in leaf.slices)
        return SurfaceAnswer(
            underlying=name, index_uusd=leaf.index_uusd, index_ns=leaf.index_ns, slices=slices
        )

    def breakers(self) -> BreakersAnswer:
        """Every underlying's phase, and how far the marks are from the venues."""
        return breakers_answer(self._store, self._underlyings, self._name)

    def instrument(self, name: str) -> Instrument:
        """By name (BTC-PERPETUAL) or number. Raises NOT_FOUND."""
        item = self._find(name)
        if item is None:
            self._follow_listings()
            item = self._find(name)
        if item is None:
            raise not_found("there is no such instrument")
        return item

    def _find(self, name: str) -> Instrument | None:
        if name.isascii() and name.isdecimal() and len(name) <= 10:
            listing = self._listings.get(int(name))
            return None if listing is None else listing.instrument
        return self._by_name.get(name)

    def _follow_listings(self) -> None:
        """Take over what was listed or settled since."""
        height = self.height
        if height != self._listed_height:
            listed = [decode_own(Listing, raw) for _, raw in self._store.leaves(LISTING_PREFIX)]
            self._listings = {item.instrument.id: item for item in listed}
            self._by_name = {item.instrument.name: item.instrument for item in listed}
            self._listed_height = height

    # --- leaves and views ---

    def resting(self, instrument: int) -> Book:
        """The book of an instrument."""
        raw = self._store.leaf(book_key(instrument))
        return Book((), ()) if raw is None else decode_own(Book, raw)

    def _marks(self) -> dict[int, MarkRow]:
        view = self._view(ViewName.MARKS, MarksView)
        return {} if view is None else {row.instrument: row for row in view.rows}

    def _view(self, name: ViewName, kind: type[V]) -> V | None:
        height = self.height
        held = self._decoded.get(name)
        if held is None or held[0] != height:
            raw = self._store.view(name)
            if raw is None:
                return None
            held = self._decoded[name] = (height, decode_own(kind, raw))
        view = held[1]
        return view if isinstance(view, kind) else None

    def _name(self, instrument: int) -> str:
        if instrument not in self._listings:
            self._follow_listings()
        listing = self._listings.get(instrument)
        return "" if listing is None else listing.instrument.name


def decode_events(raw: bytes) -> tuple[Event, ...]:
    """The ledger events of one block as the node stored or sent them."""
    events: tuple[Event, ...] = decode_own(tuple[Event, ...], raw)
    return events


def _levels(orders: Sequence[RestingOrder]) -> list[LevelForm]:
    grouped = groupby(orders, key=lambda order: order.price_uusd)
    return [
        LevelForm(price_uusd=price, size_lots=sum(order.left_lots for order in same))
        for price, same in grouped
    ]


def not_found(sentence: str) -> ProtocolViolation:
    """Nothing there."""
    return ProtocolViolation(GatewayReason.NOT_FOUND, sentence)
