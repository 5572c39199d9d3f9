"""What clients follow: per channel a sequence of messages, the newest of them kept for those who come back. asyncio.

A message is made once for all followers and encoded once for each form. Channels nobody follows are kept for
LINGER_SECONDS, so that a client that lost its connection finds what it missed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import msgspec

from ledger.events import Event, ExpirySettled, SeriesListed, Trade
from ledger.instruments import Underlying
from ledger.matching.book import Book
from ledger.matching.orders import AccountKey
from node.event_parties import parties_of
from node.rpc.answers import GreeksForm, LevelForm, form_of, margin_form
from node.rpc.client_form import client_form
from node.rpc.history import Place, cursor_of
from node.rpc.protocol import BlockTiming, FinalBlockNotice, TransactionStatus
from node.rpc.queries import Queries, decode_events
from node.rpc.stream_forms import (
    AccountMessage,
    AccountSnapshot,
    BlockMessage,
    BookMessage,
    ChannelMessage,
    DepthMessage,
    DepthSnapshot,
    ExpirySettledMessage,
    FinalityMessage,
    GreeksMessage,
    MarginMessage,
    MarkRowForm,
    MarksMessage,
    SeriesListedMessage,
    TradeMessage,
)
from primitives.errors import ProtocolViolation

LOG_MESSAGES_MAX = 512
"""Messages of one channel kept for those who come back; the oldest goes."""
LOG_BYTES_MAX = 1024 * 1024
"""Bytes of them in JSON, likewise."""


LOGS_BYTES_MAX = 128 * 1024 * 1024
"""Bytes of all channels' messages; a channel that publishes beyond it keeps its newest message only."""


class Outgoing:
    """One message as its bytes in both encodings; those in msgpack are made when first needed."""

    __slots__ = ("_msgpack", "json")

    def __init__(self, form: dict[str, Any]) -> None:
        self.json = msgspec.json.encode(form).decode()
        self._msgpack: bytes | None = None

    @property
    def msgpack(self) -> bytes:
        """The same object."""
        if self._msgpack is None:
            self._msgpack = msgspec.msgpack.encode(msgspec.json.decode(self.json))
        return self._msgpack


class Source:
    """What all channels share: what they tell of, and the room for what they keep."""

    def __init__(self, queries: Queries) -> None:
        self.queries = queries
        self.log_bytes = 0


class Follower(Protocol):
    """Whoever is told."""

    def push(self, message: Outgoing) -> None:
        """Never blocks."""


class FinalNews:
    """One final block as channels look at it; everything is worked out once, on demand."""

    def __init__(self, notice: FinalBlockNotice) -> None:
        self.notice = notice
        self.height = notice.height

    @cached_property
    def events(self) -> Sequence[Event]:
        """What happened."""
        return decode_events(self.notice.events)

    @cached_property
    def trades(self) -> list[tuple[str, Trade]]:
        """With their cursors."""
        return [(self._cursor(at), item) for at, item in enumerate(self.events) if isinstance(item, Trade)]

    @cached_property
    def touched(self) -> frozenset[int]:
        """Instruments that an event names."""
        named = (getattr(event, "instrument", None) for event in self.events)
        return frozenset(item for item in named if item is not None)

    @cached_property
    def by_account(self) -> dict[AccountKey, list[tuple[str, Event]]]:
        """Events of each sub-account, with their cursors."""
        found: dict[AccountKey, list[tuple[str, Event]]] = {}
        for at, event in enumerate(self.events):
            for key in dict.fromkeys(parties_of(event)):
                found.setdefault(key, []).append((self._cursor(at), event))
        return found

    def _cursor(self, place: int) -> str:
        return cursor_of(Place(self.height, place))


News = FinalNews | TransactionStatus | BlockTiming


class Channel:
    """One channel: its followers, its sequence, its newest messages."""

    has_snapshot_first = False
    """Whether a new follower gets the snapshot at once."""

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self.queries = source.queries
        self._source = source
        self.seq = 0
        self.followers: set[Follower] = set()
        self.left_s = 0.0
        """When the last follower left."""
        self._log: deque[tuple[int, Outgoing]] = deque()
        self._log_bytes = 0

    def on_news(self, news: News) -> None:
        """Publish what the news mean here."""
        for message in self.messages(news):
            # Messages are made with the number that they get.
            self.seq += 1
            form = client_form(message) if isinstance(message, ChannelMessage) else message
            outgoing = Outgoing(form | {"seq": self.seq})
            self._keep(outgoing)
            for follower in self.followers:
                follower.push(outgoing)

    def messages(self, news: News) -> Iterable[ChannelMessage | dict[str, Any]]:
        """The messages of these news; their `seq` is filled in afterwards."""
        raise NotImplementedError

    def snapshot(self) -> ChannelMessage | None:
        """Where a follower that knows nothing, or missed something, begins."""
        return None

    def missed(self, last_seq: int) -> list[Outgoing] | None:
        """What came after a sequence number; None when it is not kept any more."""
        if last_seq == self.seq:
            return []
        if last_seq > self.seq or not self._log or self._log[0][0] > last_seq + 1:
            return None
        return [message for seq, message in self._log if seq > last_seq]

    def close(self) -> None:
        """Nobody comes back: give the room back."""
        self._source.log_bytes -= self._log_bytes
        self._log.clear()
        self._log_bytes = 0

    def _keep(self, outgoing: Outgoing) -> None:
        self._log.append((self.seq, outgoing))
        self._count(len(outgoing.json))
        while len(self._log) > 1 and (
            len(self._log) > LOG_MESSAGES_MAX
            or self._log_bytes > LOG_BYTES_MAX
            or self._source.log_bytes > LOGS_BYTES_MAX
        ):
            _, oldest = self._log.popleft()
            self._count(-len(oldest.json))

    def _count(self, size: int) -> None:
        self._log_bytes += size
        self._source.log_bytes += size

    def _head(self, height: int | None = None) -> dict[str, Any]:
        """The fields that every message begins with."""
        return {
            "channel": self.name,
            "seq": self.seq,
            "height": self.queries.height if height is None else height,
        }


class BlocksChannel(Channel):
    """`blocks`."""

    def messages(self, news: News) -> Iterator[ChannelMessage]:
        if isinstance(news, FinalNews):
            head = self._head(news.height)
            yield form_of(BlockMessage, news.notice, **{**head, "event_count": len(news.events)})


class FinalityChannel(Channel):
    """`finality`."""

    def messages(self, news: News) -> Iterator[ChannelMessage]:
        if isinstance(news, TransactionStatus):
            yield self._stage(news.height, "notarized", transactions=len(news.transaction_ids))
        elif isinstance(news, BlockTiming):
            told = {"block_hash": news.block_hash, "is_fast": news.is_fast, "signers": news.signers}
            yield self._stage(news.height, "final", **told)

    def _stage(self, height: int, stage: Any, **told: Any) -> FinalityMessage:
        blank = {"block_hash": None, "transactions": None, "is_fast": None, "signers": ()}
        return FinalityMessage(stage=stage, **{**self._head(height), **blank, **told})


class TradesChannel(Channel):
    """`trades` and `trades:NAME`."""

    def __init__(self, name: str, source: Source, instrument: int | None) -> None:
        super().__init__(name, source)
        self._instrument = instrument

    def messages(self, news: News) -> Iterator[ChannelMessage]:
        if isinstance(news, FinalNews):
            for cursor, trade in news.trades:
                if self._instrument in (None, trade.instrument):
                    yield form_of(TradeMessage, trade, cursor=cursor, **self._head(news.height))


class BookChannel(Channel):
    """`book:NAME`."""

    def __init__(self, name: str, source: Source, instrument: int) -> None:
        super().__init__(name, source)
        self._instrument = instrument

    def messages(self, news: News) -> Iterator[ChannelMessage]:
        if isinstance(news, FinalNews) and self._instrument in news.touched:
            yield self._book(news.height)

    def snapshot(self) -> ChannelMessage:
        return self._book(None)

    def _book(self, height: int | None) -> BookMessage:
        return form_of(BookMessage, self.queries.book(str(self._instrument)), **self._head(height))


class DepthChannel(Channel):
    """`depth:NAME`: keeps the levels that its followers have been told of."""

    has_snapshot_first = True

    def __init__(self, name: str, source: Source, instrument: int, instrument_name: str) -> None:
        super().__init__(name, source)
        self._instrument = instrument
        self._instrument_name = instrument_name
        self._known = self._levels()

    def messages(self, news: News) -> Iterator[ChannelMessage]:
        if isinstance(news, FinalNews) and self._instrument in news.touched:
            before, self._known = self._known, self._levels()
            changes = [_changes(old, new) for old, new in zip(before, self._known, strict=True)]
            if any(changes):
                bids, asks = (tuple(_forms(side)) for side in changes)
                yield DepthMessage(
                    instrument=self._instrument, bids=bids, asks=asks, **self._head(news.height)
                )

    def snapshot(self) -> ChannelMessage:
        bids, asks = (tuple(_forms(side)) for side in self._known)
        return DepthSnapshot(
            instrument=self._instrument, name=self._instrument_name, bids=bids, asks=asks, **self._head()
        )

    def _levels(self) -> tuple[dict[int, int], dict[int, int]]:
        book: Book = self.queries.resting(self._instrument)
        sides: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for levels, orders in zip(sides, (book.bids, book.asks), strict=True):
            for order in orders:
                levels[order.price_uusd] = levels.get(order.price_uusd, 0) + order.left_lots
        return sides


class MarksChannel(Channel):
    """`marks` and `greeks`, of everything or of one instrument: keeps the rows that its followers have."""

    has_snapshot_first = True

    def __init__(self, name: str, source: Source, instrument: int | None) -> None:
        super().__init__(name, source)
        self._instrument = instrument
        self._is_greeks = name.startswith("greeks")
        self._known: dict[int, GreeksForm] = {}
        self._time_ns = 0
        self._follow()

    def messages(self, news: News) -> Iterator[ChannelMessage]:
        if isinstance(news, FinalNews):
            changed = self._follow()
            if changed:
                yield self._message(changed, news.height, is_snapshot=False)

    def snapshot(self) -> ChannelMessage:
        return self._message(list(self._known.values()), None, is_snapshot=True)

    def _follow(self) -> list[GreeksForm]:
        """Take over the newest rows; those that differ in what this channel tells."""
        view, rows = self.queries.greeks()
        self._time_ns = 0 if view is None else view.time_ns
        before, self._known = self._known, rows
        if self._instrument is not None:
            found = rows.get(self._instrument)
            self._known = {} if found is None else {self._instrument: found}
        if self._is_greeks:
            return [row for item, row in self._known.items() if before.get(item) != row]
        return [
            row
            for item, row in self._known.items()
            if item not in before or before[item].mark_uusd != row.mark_uusd
        ]

    def _message(self, rows: list[GreeksForm], height: int | None, *, is_snapshot: bool) -> ChannelMessage:
        head = {**self._head(height), "time_ns": self._time_ns, "is_snapshot": is_snapshot}
        if self._is_greeks:
            return GreeksMessage(greeks=tuple(rows), **head)
        return MarksMessage(marks=tuple(form_of(MarkRowForm, row) for row in rows), **head)


class InstrumentsChannel(Channel):
    """`instruments`: what was listed or settled. Where things stand is told by /v1/instruments."""

    def messages(self, news: News) -> Iterator[ChannelMessage]:
        if not isinstance(news, FinalNews):
            return
        for event in news.events:
            if isinstance(event, SeriesListed):
                ids = range(event.first_id, event.first_id + event.count)
                yield SeriesListedMessage(
                    underlying=Underlying(event.underlying).name,
                    expiry_ns=event.expiry_ns,
                    instruments=self.queries.instrument_forms(ids),
                    **self._head(news.height),
                )
            elif isinstance(event, ExpirySettled):
                name = Underlying(event.underlying).name
                yield form_of(ExpirySettledMessage, event, **{**self._head(news.height), "underlying": name})


class AccountChannel(Channel):
    """`account:ADDRESS/SUBACCOUNT`."""

    def __init__(self, name: str, source: Source, key: AccountKey) -> None:
        super().__init__(name, source)
        self._key = key

    def messages(self, news: News) -> Iterator[dict[str, Any]]:
        if isinstance(news, FinalNews):
            for cursor, event in news.by_account.get(self._key, ()):
                own = AccountMessage(
                    account=self.name.partition(":")[2], cursor=cursor, **self._head(news.height)
                )
                yield {**client_form(event), **client_form(own)}

    def snapshot(self) -> ChannelMessage | None:
        try:
            return AccountSnapshot(account=self.queries.account(self._key), **self._head())
        except ProtocolViolation:
            return None


class MarginChannel(Channel):
    """`margin:ADDRESS/SUBACCOUNT`."""

    has_snapshot_first = True

    def __init__(self, name: str, source: Source, key: AccountKey) -> None:
        super().__init__(name, source)
        self._key = key
        self._known = self.queries.margin(key)

    def messages(self, news: News) -> Iterator[ChannelMessage]:
        if isinstance(news, FinalNews):
            newest = self.queries.margin(self._key)
            if newest != self._known:
                self._known = newest
                yield self._message(news.height)

    def snapshot(self) -> ChannelMessage:
        return self._message(None)

    def _message(self, height: int | None) -> MarginMessage:
        row = self._known
        return MarginMessage(
            account=self.name.partition(":")[2],
            health=None if row is None else row.health,  # type: ignore[arg-type]
            margin=None if row is None else margin_form(row),
            **self._head(height),
        )


def _changes(old: Mapping[int, int], new: Mapping[int, int]) -> dict[int, int]:
    """Price -> new size of every level that is not what it was; 0 for one that is gone."""
    return {price: new.get(price, 0) for price in old.keys() | new.keys() if old.get(price) != new.get(price)}


def _forms(levels: Mapping[int, int]) -> Iterator[LevelForm]:
    return (LevelForm(price_uusd=price, size_lots=size) for price, size in levels.items())
