"""Pages of final blocks, transactions and events, by cursors that stay good for ever. Reads LMDB, read only.

A cursor is a place (height, place in the block). Final blocks never change, so it means the same at every node
and after every restart. Blocking; the gateway asks from a worker thread.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from consensus.messages import Block, hash_of
from ledger.events import Event, Trade
from ledger.transactions import transaction_id
from node.event_parties import parties_of
from node.rpc.answers import (
    BlockRow,
    BlocksPage,
    EventRow,
    EventsPage,
    TransactionRow,
    TransactionsPage,
    form_of,
)
from node.rpc.client_form import EVENT_KINDS, snake
from node.rpc.parameters import AccountHistory, EventsQuery, PageQuery, TradesQuery
from node.rpc.queries import Queries, not_found
from node.rpc.reasons import GatewayReason
from node.storage.block_store import BlockStore
from primitives.codec import decode_own
from primitives.errors import ProtocolViolation

SCAN_BLOCKS_MAX = 512
"""Blocks that one request looks at; a page that is not full by then ends there, with `next`."""
SCAN_EVENTS_MAX = 50_000
"""Events that one request looks at; after the block that passes it the page ends, with `next`."""
PLACE_MAX = 2**32 - 1

T = TypeVar("T")
Q = TypeVar("Q", bound=PageQuery)


class Place(NamedTuple):
    """Where something stands in history; a page begins strictly beyond it."""

    height: int
    place: int


def cursor_of(place: Place) -> str:
    """The opaque form: 12 bytes in base64 for URLs."""
    raw = place.height.to_bytes(8, "big") + place.place.to_bytes(4, "big")
    return base64.urlsafe_b64encode(raw).decode()


def read_cursor(text: str) -> Place:
    """Raises ProtocolViolation(BAD_REQUEST)."""
    try:
        raw = base64.b64decode(text, altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) != 12 or raw[0] & 0x80:
        raise ProtocolViolation(GatewayReason.BAD_REQUEST, "this cursor was not made here")
    return Place(int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big"))


class _Looked(NamedTuple, Generic[T]):
    """What one block gives to a page: wanted items with their places, ascending, and how many events it looked at."""

    items: list[tuple[int, T]]
    events: int


class _Page(NamedTuple, Generic[T]):
    items: list[tuple[Place, T]]
    next: str | None
    tip: int


class History:
    """Read-only walks through one store's blocks."""

    def __init__(self, store: BlockStore, queries: Queries) -> None:
        self._store = store
        self._queries = queries

    def blocks(self, query: PageQuery) -> BlocksPage:
        """Final blocks in short."""
        page = self._page(query, lambda height: _Looked([(0, self._block_row(height))], 1))
        return BlocksPage(items=tuple(row for _, row in page.items), next=page.next, height=page.tip)

    def transactions(self, query: PageQuery) -> TransactionsPage:
        """Clients' transactions by block and place."""
        page = self._page(query, self._transaction_ids)
        rows = (
            TransactionRow(height=at.height, place=at.place, transaction_id=name) for at, name in page.items
        )
        return TransactionsPage(items=tuple(rows), next=page.next, height=page.tip)

    def trades(self, query: TradesQuery) -> EventsPage:
        """Trades, of one instrument or of all."""
        wanted = self._queries.instrument(query.instrument).id if query.instrument else None
        return self._events(
            query, lambda event: isinstance(event, Trade) and wanted in (None, event.instrument)
        )

    def events(self, query: EventsQuery) -> EventsPage:
        """Everything that happened, or one kind of it."""
        if query.event and query.event not in EVENT_NAMES:
            raise not_found("there is no such kind of event")
        return self._events(query, lambda event: query.event in ("", snake(type(event).__name__)))

    def account(self, query: AccountHistory) -> EventsPage:
        """What concerned one sub-account; towards older blocks by the store's index."""
        key = query.address, query.subaccount
        heights = self._heights_of if query.direction == "older" else None
        return self._events(query, lambda event: key in parties_of(event), heights)

    def _heights_of(self, query: AccountHistory, highest: int) -> Iterator[int]:
        """Blocks that concerned an account, from `highest` down, read from the index a stretch at a time."""
        account, below = query.address + bytes((query.subaccount,)), highest + 1
        while heights := self._store.heights_of_account(account, below):
            yield from heights
            below = heights[-1]

    def _events(
        self,
        query: Q,
        is_wanted: Callable[[Event], bool],
        heights: Callable[[Q, int], Iterable[int]] | None = None,
    ) -> EventsPage:
        def look(height: int) -> _Looked[Event]:
            events = self._queries.events(height)
            wanted = [(place, event) for place, event in enumerate(events) if is_wanted(event)]
            return _Looked(wanted, len(events))

        page = self._page(query, look, heights)
        rows = (
            EventRow(height=at.height, place=at.place, cursor=cursor_of(at), event=event)
            for at, event in page.items
        )
        return EventsPage(items=tuple(rows), next=page.next, height=page.tip)

    def _block_row(self, height: int) -> BlockRow:
        block = decode_own(Block, self._store.block_at(height) or b"")
        return form_of(
            BlockRow, block.header, hash=hash_of(block.header), transactions=len(block.transactions) - 1
        )

    def _transaction_ids(self, height: int) -> _Looked[bytes]:
        names = decode_own(Block, self._store.block_at(height) or b"").transactions[1:]
        return _Looked([(place, transaction_id(raw)) for place, raw in enumerate(names)], len(names))

    def _page(
        self,
        query: Q,
        look: Callable[[int], _Looked[T]],
        heights_of: Callable[[Q, int], Iterable[int]] | None = None,
    ) -> _Page[T]:
        """The next items beyond the cursor, of all older blocks or those of `heights_of`; see Page about its end."""
        is_newer = query.direction == "newer"
        tip, first = self._queries.height, self._store.first_height() or 1
        start = Place(first, -1) if is_newer else Place(tip, PLACE_MAX)
        if query.cursor:
            start = read_cursor(query.cursor)
        heights: Iterable[int] = range(min(start.height, tip), first - 1, -1)
        if is_newer:
            heights = range(max(start.height, first), tip + 1)
        elif heights_of is not None:
            heights = heights_of(query, min(start.height, tip))
        found: list[tuple[Place, T]] = []
        looked = 0
        for blocks, height in enumerate(heights, 1):
            items, events = look(height)
            looked += events
            for place, item in items if is_newer else reversed(items):
                at = Place(height, place)
                if at > start if is_newer else at < start:
                    found.append((at, item))
                    if len(found) == query.limit:
                        return _Page(found, cursor_of(at), tip)
            if blocks == SCAN_BLOCKS_MAX or looked > SCAN_EVENTS_MAX:
                return _Page(found, cursor_of(Place(height, PLACE_MAX if is_newer else 0)), tip)
        return _Page(found, cursor_of(max(start, Place(tip, PLACE_MAX))) if is_newer else None, tip)


EVENT_NAMES = frozenset(snake(kind.__name__) for kind in EVENT_KINDS)
