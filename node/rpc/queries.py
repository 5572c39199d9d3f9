"""What clients may ask about the final state, answered from the block store. Reads LMDB, read only.

Answers are plain dicts in client_form. Everything comes from leaves and views of the final tip; marks carry
the height they belong to. Unknown things raise ProtocolViolation(NOT_FOUND), ill-formed names BAD_REQUEST.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypeVar

from consensus.messages import Block, QuorumCertificate, hash_of
from ledger.accounts import Account
from ledger.events import Event
from ledger.instruments import Instrument, Kind, Underlying
from ledger.listing import Listing
from ledger.market import Slice
from ledger.matching.book import Book
from ledger.matching.orders import RestingOrder
from ledger.state_keys import account_key, book_key, listing_key, oracle_key
from ledger.transactions import transaction_id
from node.genesis import GenesisDocument
from node.rpc.client_form import client_form, event_form
from node.rpc.reasons import GatewayReason
from node.rpc.stake_queries import StakeQueries
from node.rpc.views import MarginRow, MarginsView, MarkRow, MarksView, StatusView, ViewName
from node.storage.block_store import BlockStore
from primitives.codec import U8, U63, Wire, decode_own
from primitives.errors import ProtocolViolation

BOOK_LEVELS_MAX = 50
"""Price levels per side in an answer."""

V = TypeVar("V", bound=Wire)
Answer = dict[str, Any]

_HEALTH = ("healthy", "reduce_only", "liquidation")


class _OracleLeaf(Wire):
    """The stored form of ledger.oracle.UnderlyingOracle, which costs numpy to import."""

    index_uusd: U63
    index_ns: U63
    slices: tuple[tuple[Slice, U63, U63, U8], ...]


class Queries:
    """Read-only questions to one store. Decoded views are kept until the node writes new ones."""

    def __init__(self, store: BlockStore, genesis: GenesisDocument) -> None:
        self._store = store
        self._instruments = {item.id: item for item in genesis.ledger.instruments}
        self._by_name = {item.name: item for item in genesis.ledger.instruments}
        self._underlyings = [item.underlying for item in genesis.ledger.underlyings]
        self._stake = StakeQueries(store, genesis.ledger.staking)
        self._decoded: dict[str, tuple[bytes, Wire]] = {}
        self._margin_rows: tuple[MarginsView | None, dict[tuple[bytes, int], MarginRow]] = (None, {})

    # --- the chain ---

    def tip(self) -> Answer:
        """Height, hash and state root of the newest final block."""
        status = self._view(ViewName.STATUS, StatusView)
        if status is not None:
            form: Answer = client_form(status)
            return form
        tip = self._store.tip()
        return {"height": tip.height if tip else 0, "block_hash": tip.block_hash.hex() if tip else ""}

    def block(self, which: str) -> Answer:
        """One final block by height, or `latest`: header, transactions' ids, proof's signers, events."""
        tip = self._store.tip()
        height = tip.height if which == "latest" and tip is not None else read_number(which, "height")
        raw = self._store.block_at(height)
        if raw is None:
            raise _not_found(f"there is no final block at height {height} here")
        block = decode_own(Block, raw)
        proof = self._store.proof_at(height)
        return {
            "height": height,
            "hash": hash_of(block.header).hex(),
            "header": client_form(block.header),
            "transaction_ids": [transaction_id(item).hex() for item in block.transactions[1:]],
            "finalized_by": list(decode_own(QuorumCertificate, proof).signers) if proof else [],
            "events": [event_form(event) for event in self.events(height)],
        }

    def events(self, height: int) -> Sequence[Event]:
        """What happened in a final block."""
        raw = self._store.events_at(height)
        return () if raw is None else decode_events(raw)

    def decided_at(self, name: bytes) -> int | None:
        """Height of the final block that holds a transaction."""
        return self._store.height_of_transaction(name)

    def transaction(self, name: str) -> Answer:
        """Where a transaction was decided, and its events."""
        wanted = read_hexadecimal(name, 32, "transaction id")
        height = self.decided_at(wanted)
        if height is None:
            raise _not_found("this transaction is in no final block here; it may be waiting")
        own = [event for event in self.events(height) if getattr(event, "transaction_id", None) == wanted]
        return {
            "transaction_id": name,
            "status": "final",
            "height": height,
            "events": [event_form(event) for event in own],
        }

    # --- accounts ---

    def account(self, address: str, subaccount: str) -> Answer:
        """Cash, positions, open orders and margin of one sub-account."""
        key = read_hexadecimal(address, 20, "address"), read_number(subaccount, "sub-account")
        raw = self._store.leaf(account_key(key)) if key[1] <= 255 else None
        if raw is None:
            raise _not_found("there is no such account")
        account = decode_own(Account, raw)
        margin = self._margins().get(key)
        return {
            "address": address,
            "subaccount": account.subaccount,
            "cash_uusd": str(account.cash_uusd),
            "health": _HEALTH[account.health],
            "nonce_floor": str(account.nonce_floor),
            "positions": [
                {"name": self._name(item.instrument), **client_form(item)} for item in account.positions
            ],
            "orders": [self._open_order(item.order_id, item.instrument) for item in account.orders],
            "margin": None
            if margin is None
            else _without(client_form(margin), "owner", "subaccount", "health"),
        }

    # --- stake ---

    def validators(self) -> Answer:
        """Every validator, and the sets of this epoch and the next."""
        tip = self._store.tip()
        return self._stake.validators(tip.height if tip else 0)

    def stake(self, address: str, subaccount: str) -> Answer:
        """What a sub-account has bonded, and what is on its way out."""
        key = read_hexadecimal(address, 20, "address"), read_number(subaccount, "sub-account")
        return self._stake.stake(key) if key[1] <= 255 else {"bonded": [], "unbonding": []}

    def _open_order(self, order_id: int, instrument: int) -> Answer:
        order = self._book(instrument).find(order_id)
        details = {} if order is None else _without(client_form(order), "owner", "subaccount")
        return {"order_id": str(order_id), "instrument": instrument, "name": self._name(instrument)} | details

    # --- the market ---

    def instruments(self) -> list[Answer]:
        """Every listed instrument, with its mark while it lives and its settlement price afterwards."""
        marks = self._marks()
        return [self._instrument_form(item, marks.get(item.id)) for item in self._instruments.values()]

    def _instrument_form(self, item: Instrument, mark: MarkRow | None) -> Answer:
        raw = self._store.leaf(listing_key(item.id))
        listing = decode_own(Listing, raw) if raw is not None else None
        is_settled = listing is not None and listing.is_settled
        return {
            "name": item.name,
            **client_form(item),
            "underlying": Underlying(item.underlying).name,
            "kind": Kind(item.kind).name.lower(),
            "is_settled": is_settled,
            "settlement_price_uusd": str(listing.settlement_price_uusd) if listing and is_settled else None,
            "mark": None if mark is None else _without(client_form(mark), "instrument"),
        }

    def book(self, name: str) -> Answer:
        """Price levels of one instrument, by name or id, best first."""
        item = self.instrument(name)
        book = self._book(item.id)
        mark = self._marks().get(item.id)
        return {
            "instrument": item.id,
            "name": item.name,
            "mark_uusd": None if mark is None else str(mark.mark_uusd),
            "bids": _levels(book.bids),
            "asks": _levels(book.asks),
        }

    def surface(self, name: str) -> Answer:
        """One underlying's index and agreed volatility slices."""
        if name not in Underlying.__members__ or Underlying[name] not in self._underlyings:
            raise _not_found("there is no such underlying")
        raw = self._store.leaf(oracle_key(Underlying[name]))
        if raw is None:
            raise _not_found("no final block has agreed on this underlying yet")
        leaf = decode_own(_OracleLeaf, raw)
        return {
            "underlying": name,
            "index_uusd": str(leaf.index_uusd),
            "index_ns": str(leaf.index_ns),
            "slices": [
                {**client_form(item), "agreed_index_uusd": str(index_uusd), "agreed_ns": str(agreed_ns)}
                for item, index_uusd, agreed_ns, _ in leaf.slices
            ],
        }

    def instrument(self, name: str) -> Instrument:
        """By name (BTC-PERPETUAL) or number. Raises NOT_FOUND."""
        item = self._by_name.get(name)
        if item is None and name.isdecimal() and len(name) <= 10:
            item = self._instruments.get(int(name))
        if item is None:
            raise _not_found("there is no such instrument")
        return item

    # --- leaves and views ---

    def _book(self, instrument: int) -> Book:
        raw = self._store.leaf(book_key(instrument))
        return Book((), ()) if raw is None else decode_own(Book, raw)

    def _marks(self) -> dict[int, MarkRow]:
        view = self._view(ViewName.MARKS, MarksView)
        return {} if view is None else {row.instrument: row for row in view.rows}

    def _margins(self) -> dict[tuple[bytes, int], MarginRow]:
        view = self._view(ViewName.MARGINS, MarginsView)
        if view is not None and view is not self._margin_rows[0]:
            self._margin_rows = view, {(row.owner, row.subaccount): row for row in view.rows}
        return self._margin_rows[1]

    def _view(self, name: ViewName, kind: type[V]) -> V | None:
        raw = self._store.view(name)
        if raw is None:
            return None
        held = self._decoded.get(name)
        if held is None or held[0] != raw:
            held = self._decoded[name] = (raw, decode_own(kind, raw))
        view = held[1]
        return view if isinstance(view, kind) else None

    def _name(self, instrument: int) -> str:
        item = self._instruments.get(instrument)
        return "" if item is None else item.name


def decode_events(raw: bytes) -> tuple[Event, ...]:
    """The ledger events of one block as the node stored or sent them."""
    events: tuple[Event, ...] = decode_own(tuple[Event, ...], raw)
    return events


def _levels(orders: Sequence[RestingOrder]) -> list[Answer]:
    grouped = groupby(orders, key=lambda order: order.price_uusd)
    levels = [
        {"price_uusd": str(price), "size_lots": sum(order.left_lots for order in same)}
        for price, same in grouped
    ]
    return levels[:BOOK_LEVELS_MAX]


def _without(form: Answer, *names: str) -> Answer:
    return {name: value for name, value in form.items() if name not in names}


def read_number(text: str, what: str) -> int:
    """A decimal number of a path or query. Raises BAD_REQUEST."""
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise ProtocolViolation(GatewayReason.BAD_REQUEST, f"the {what} must be a decimal number")
    return int(text)


def read_hexadecimal(text: str, length: int, what: str) -> bytes:
    """So many bytes in lower-case hexadecimal. Raises BAD_REQUEST."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != length or raw.hex() != text:
        raise ProtocolViolation(
            GatewayReason.BAD_REQUEST, f"the {what} must be {2 * length} lower-case hexadecimal digits"
        )
    return raw


def _not_found(sentence: str) -> ProtocolViolation:
    return ProtocolViolation(GatewayReason.NOT_FOUND, sentence)
