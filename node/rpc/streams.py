"""WebSocket clients: what they follow, and the acknowledgement of their orders until final. asyncio.

A text frame is a JSON object, a binary frame the same object in msgpack; answers come in the form that
the client used last. Each client has one bounded queue: who does not read is disconnected, nobody waits for
him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Protocol

import msgspec

from ledger.events import (
    CashMoved,
    Event,
    ExpirySettled,
    HealthChanged,
    LiquidationStep,
    OrderAccepted,
    OrderCancelled,
    Trade,
    TransactionRejected,
)
from node.rpc.client_form import client_form, event_form
from node.rpc.node_link import NodeLink
from node.rpc.protocol import RAW_BYTES_MAX, BlockTiming, FinalBlockNotice, Notice, TransactionStatus
from node.rpc.queries import Queries, decode_events
from node.rpc.reasons import GatewayReason
from primitives.errors import ProtocolViolation

QUEUE_MESSAGES_MAX = 2_048
"""Messages waiting for one client; a further one disconnects it as a slow consumer."""
CHANNELS_MAX = 256
"""Channels one client may follow."""
WAITING_MAX = 4_096
"""Orders of one client that are not final yet; a further one is refused."""
FRAME_BYTES_MAX = 4 * RAW_BYTES_MAX
"""One frame from a client."""

Channel = Annotated[str, msgspec.Meta(max_length=128)]
Form = dict[str, Any]


class Follow(msgspec.Struct, tag_field="op", tag="subscribe", forbid_unknown_fields=True):
    """Channels: `blocks`, `trades`, `book:NAME`, `account:ADDRESS/SUBACCOUNT`."""

    channels: Annotated[list[Channel], msgspec.Meta(max_length=CHANNELS_MAX)]


class Unfollow(msgspec.Struct, tag_field="op", tag="unsubscribe", forbid_unknown_fields=True):
    """Channels to leave."""

    channels: Annotated[list[Channel], msgspec.Meta(max_length=CHANNELS_MAX)]


class Submit(msgspec.Struct, tag_field="op", tag="submit", forbid_unknown_fields=True):
    """A signed transaction: raw bytes in msgpack, base64 in JSON. `id` comes back in every answer to it."""

    id: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    transaction: bytes


Request = Follow | Unfollow | Submit
_JSON = msgspec.json.Decoder(Request)
_MSGPACK = msgspec.msgpack.Decoder(Request)


class Socket(Protocol):
    """What a WebSocket of any server offers."""

    async def send_text(self, text: str) -> None: ...

    async def send_bytes(self, raw: bytes) -> None: ...


class StreamClient:
    """One connection: what it follows and what waits to be sent to it."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.channels: set[str] = set()
        self.waiting: dict[bytes, int] = {}
        self.is_binary = False
        self.fell_behind = asyncio.Event()
        self._queue: asyncio.Queue[Form] = asyncio.Queue(QUEUE_MESSAGES_MAX)

    def push(self, form: Form) -> None:
        """Queue a message; a full queue ends the connection (the gateway watches `fell_behind`)."""
        try:
            self._queue.put_nowait(form)
        except asyncio.QueueFull:
            self.fell_behind.set()

    async def write(self) -> None:
        """Send what waits, until cancelled."""
        while True:
            form = await self._queue.get()
            if self.is_binary:
                await self.socket.send_bytes(msgspec.msgpack.encode(form))
            else:
                await self.socket.send_text(msgspec.json.encode(form).decode())


class Streams:
    """All WebSocket clients, and what every notice means to each."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._link: NodeLink | None = None
        self.clients: set[StreamClient] = set()

    def connect(self, link: NodeLink) -> None:
        """Where orders go."""
        self._link = link

    # --- from clients ---

    async def take(self, client: StreamClient, data: str | bytes) -> None:
        """One frame of a client; every refusal is a message to it, never an exception."""
        client.is_binary = isinstance(data, bytes)
        request_id: int | None = None
        try:
            request = _decode_request(data)
            if isinstance(request, Submit):
                request_id = request.id
                await self._submit(client, request)
            else:
                self._follow(client, request)
        except ProtocolViolation as violation:
            client.push(
                {"type": "refused", "id": request_id, "reason": violation.reason, "detail": violation.detail}
            )

    def _follow(self, client: StreamClient, request: Follow | Unfollow) -> None:
        if isinstance(request, Unfollow):
            client.channels -= set(request.channels)
        else:
            for channel in request.channels:
                self._check_channel(channel)
            if len(client.channels | set(request.channels)) > CHANNELS_MAX:
                raise ProtocolViolation(
                    GatewayReason.TOO_MANY_SUBSCRIPTIONS, f"at most {CHANNELS_MAX} channels per connection"
                )
            client.channels |= set(request.channels)
        client.push({"type": "subscribed", "channels": sorted(client.channels)})

    def _check_channel(self, channel: str) -> None:
        kind, _, name = channel.partition(":")
        if channel in ("blocks", "trades"):
            return
        if kind == "book" and self._queries.instrument(name).name == name:
            return
        address, _, subaccount = name.partition("/")
        if kind == "account" and _is_account(address, subaccount):
            return
        raise ProtocolViolation(
            GatewayReason.BAD_REQUEST, "channels are blocks, trades, book:NAME and account:ADDRESS/SUBACCOUNT"
        )

    async def _submit(self, client: StreamClient, request: Submit) -> None:
        if len(client.waiting) >= WAITING_MAX:
            raise ProtocolViolation(
                GatewayReason.TOO_MANY_WAITING, f"{WAITING_MAX} of your transactions are not final yet"
            )
        if self._link is None:
            raise ProtocolViolation(GatewayReason.NODE_UNAVAILABLE, "the node is not reachable")
        reply = await self._link.submit(request.transaction)
        form = {"id": request.id, "transaction_id": reply.transaction_id.hex()}
        if reply.accepted:
            client.waiting[reply.transaction_id] = request.id
            client.push({"type": "accepted", **form})
        else:
            client.push({"type": "refused", **form, "reason": reply.reason, "detail": reply.detail})

    # --- from the node ---

    def on_connected(self) -> None:
        """Notices may have been missed: acknowledge what became final meanwhile, from the store."""
        for client in self.clients:
            for name in list(client.waiting):
                height = self._queries.decided_at(name)
                if height is not None and name in client.waiting:
                    _acknowledge(client, height, self._queries.events(height))

    def on_notice(self, notice: Notice) -> None:
        """Tell every client what concerns it."""
        match notice:
            case FinalBlockNotice():
                self._on_final(notice)
            case TransactionStatus(stage, height, transaction_ids):
                for client in self.clients:
                    for name in client.waiting.keys() & set(transaction_ids):
                        client.push(_progress(client, name, stage, height))
            case BlockTiming():
                pass

    def _on_final(self, notice: FinalBlockNotice) -> None:
        if not self.clients:
            return
        events = decode_events(notice.events)
        published = _Published(notice, events, self._queries)
        for client in list(self.clients):
            if client.waiting:
                _acknowledge(client, notice.height, events)
            for channel in client.channels:
                for form in published.forms(channel):
                    client.push(form)


class _Published:
    """The messages of one final block by channel, made once each, on demand."""

    def __init__(self, notice: FinalBlockNotice, events: Sequence[Event], queries: Queries) -> None:
        self._notice = notice
        self._events = events
        self._queries = queries
        self._made: dict[str, list[Form]] = {}

    def forms(self, channel: str) -> list[Form]:
        """What a follower of the channel is told."""
        if channel not in self._made:
            self._made[channel] = list(self._make(channel))
        return self._made[channel]

    def _make(self, channel: str) -> Iterator[Form]:
        height = self._notice.height
        kind, _, name = channel.partition(":")
        if channel == "blocks":
            form = client_form(self._notice)
            del form["events"]
            yield {"type": "block", **form, "event_count": len(self._events)}
        elif channel == "trades":
            for event in self._events:
                if isinstance(event, Trade):
                    yield {"type": "trade", "height": height, **client_form(event)}
        elif kind == "book":
            number = self._queries.instrument(name).id
            if any(number == getattr(event, "instrument", None) for event in self._events):
                yield {"type": "book", "height": height, **self._queries.book(name)}
        else:
            address, _, subaccount = name.partition("/")
            key = bytes.fromhex(address), int(subaccount)
            for event in self._events:
                if key in _parties(event):
                    yield {"type": "account", "height": height, "account": name, **event_form(event)}


def _decode_request(data: str | bytes) -> Request:
    if len(data) > FRAME_BYTES_MAX:
        raise ProtocolViolation(GatewayReason.BODY_TOO_LARGE, f"a frame has at most {FRAME_BYTES_MAX} bytes")
    decode: Callable[[Any], Request] = _MSGPACK.decode if isinstance(data, bytes) else _JSON.decode
    try:
        return decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise ProtocolViolation(
            GatewayReason.BAD_REQUEST, "expected an object with op subscribe, unsubscribe or submit"
        ) from None


def _is_account(address: str, subaccount: str) -> bool:
    try:
        return bytes.fromhex(address).hex() == address and len(address) == 40 and int(subaccount) <= 255
    except ValueError:
        return False


def _acknowledge(client: StreamClient, height: int, events: Sequence[Event]) -> None:
    """Tell a client that its transactions are final, each with what it did."""
    own: dict[bytes, list[Event]] = {}
    for event in events:
        name = getattr(event, "transaction_id", None)
        if name in client.waiting:
            own.setdefault(name, []).append(event)
    for name, its_events in own.items():
        is_rejected = any(isinstance(event, TransactionRejected) for event in its_events)
        form = _progress(client, name, "rejected" if is_rejected else "final", height)
        client.push({**form, "events": [event_form(event) for event in its_events]})
        del client.waiting[name]


def _progress(client: StreamClient, name: bytes, stage: str, height: int) -> Form:
    return {"type": stage, "id": client.waiting[name], "transaction_id": name.hex(), "height": height}


def _parties(event: Event) -> tuple[tuple[bytes, int], ...]:
    """The accounts that an event concerns."""
    match event:
        case Trade():
            return (event.buyer, event.buyer_subaccount), (event.seller, event.seller_subaccount)
        case OrderAccepted() | OrderCancelled() | CashMoved() | HealthChanged() | LiquidationStep():
            return ((event.owner, event.subaccount),)
        case ExpirySettled():
            return ()
        case _:
            return ()
