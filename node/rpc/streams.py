"""WebSocket clients: what they follow, and the acknowledgement of their orders until final. asyncio.

A text frame is a JSON object, a binary frame the same object in msgpack; answers come in the form that
the client used last. Each client has one bounded queue: who does not read is disconnected, nobody waits for
him.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect

from ledger.events import Event, TransactionRejected
from ledger.matching.orders import AccountKey
from node.rpc.access import Caller
from node.rpc.channels import (
    AccountChannel,
    BlocksChannel,
    BookChannel,
    Channel,
    DepthChannel,
    FinalityChannel,
    FinalNews,
    InstrumentsChannel,
    MarginChannel,
    MarksChannel,
    News,
    Outgoing,
    Source,
    TradesChannel,
)
from node.rpc.client_form import client_form
from node.rpc.order_entry import OrderEntry
from node.rpc.parameters import read_hexadecimal, read_number
from node.rpc.protocol import RAW_BYTES_MAX, FinalBlockNotice, Notice, TransactionStatus
from node.rpc.queries import Queries
from node.rpc.reasons import GatewayReason
from node.rpc.stream_forms import (
    CHANNELS_MAX,
    Accepted,
    Final,
    Follow,
    Gap,
    Notarized,
    Refused,
    Rejected,
    Request,
    Submit,
    Subscribed,
    Unfollow,
)
from node.rpc.tokens import Right
from primitives.errors import ProtocolViolation

CLIENTS_MAX = 2_048
"""WebSocket clients; a further one is closed as BUSY."""
CLIENTS_PER_CALLER_MAX = 128
"""Of them, those of one token or address, unless it is on this machine; a further one is closed as BUSY."""
QUEUE_MESSAGES_MAX = 2_048
"""Messages waiting for one client; a further one disconnects it as a slow consumer."""
WAITING_MAX = 4_096
"""Orders of one client that are not final yet; a further one is refused."""
HANDING_OVER_MAX = 256
"""Orders of one client on their way to the node; its next frame waits in the socket."""
FRAME_BYTES_MAX = 4 * RAW_BYTES_MAX
"""One frame from a client."""
OPEN_CHANNELS_MAX = 8_192
"""Channels that anybody follows or has followed lately; one more is refused as BUSY."""
LINGER_SECONDS = 120.0
"""A channel that nobody follows is kept so long for those who come back."""
QUOTA_PAUSE_SECONDS = 0.25
"""Whose quota is used up is not read for so long: what it sends waits in the socket."""
CLOSE_SECONDS_MAX = 1.0
"""A slow consumer gets this long to hear why it is disconnected."""

_JSON = msgspec.json.Decoder(Request)
_MSGPACK = msgspec.msgpack.Decoder(Request)

log = structlog.get_logger()


class StreamClient:
    """One connection and what waits for it."""

    def __init__(self, socket: WebSocket, caller: Caller) -> None:
        self.socket = socket
        self.caller = caller
        self.channels: set[str] = set()
        self.waiting: dict[bytes, int] = {}
        """Its orders that are not final yet -> the id it gave them."""
        self.is_binary = False
        self.fell_behind = asyncio.Event()
        self.handing_over = asyncio.Semaphore(HANDING_OVER_MAX)
        self._queue: asyncio.Queue[Outgoing] = asyncio.Queue(QUEUE_MESSAGES_MAX)

    def push(self, message: Outgoing) -> None:
        """Queue a message; a full queue ends the connection (`serve` watches `fell_behind`)."""
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.fell_behind.set()

    def tell(self, answer: msgspec.Struct) -> None:
        """Queue an answer to this client alone."""
        self.push(Outgoing(client_form(answer)))

    async def write(self) -> None:
        """Send what waits, until cancelled."""
        while True:
            message = await self._queue.get()
            if self.is_binary:
                await self.socket.send_bytes(message.msgpack)
            else:
                await self.socket.send_text(message.json)


class Streams:
    """All WebSocket clients and channels, and what every notice means to each."""

    def __init__(self, queries: Queries, orders: OrderEntry) -> None:
        self._queries = queries
        self._orders = orders
        self._stream = secrets.token_hex(8)
        """Names this life of the gateway: its sequence numbers begin anew."""
        self._source = Source(queries)
        self._channels: dict[str, Channel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.clients: set[StreamClient] = set()
        self.dropped = 0
        """Slow consumers disconnected so far."""

    def metrics_text(self) -> bytes:
        """Prometheus text of the gateway's own numbers."""
        numbers = {
            "stream_dropped_total": self.dropped,
            "stream_channels": len(self._channels),
            "stream_clients": len(self.clients),
        }
        return "".join(f"quorate_gateway_{name} {count}\n" for name, count in numbers.items()).encode()

    # --- connections ---

    async def serve(self, socket: WebSocket) -> None:
        """One WebSocket client, until it leaves or falls behind."""
        caller: Caller = socket.state.caller
        try:
            caller.check(Right.READ)
        except ProtocolViolation as violation:
            await socket.close(1008, violation.reason.value)
            return
        await socket.accept()
        if len(self.clients) >= CLIENTS_MAX or self._has_enough(caller):
            await socket.close(1013, GatewayReason.BUSY.value)
            return
        client = StreamClient(socket, caller)
        self.clients.add(client)
        works = (client.write(), self._read(client), client.fell_behind.wait())
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                _note_failure(task)
        finally:
            self.clients.discard(client)
            self._leave(client, set(client.channels))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if client.fell_behind.is_set():
            self.dropped += 1
            with contextlib.suppress(TimeoutError, RuntimeError):
                async with asyncio.timeout(CLOSE_SECONDS_MAX):
                    await socket.close(1013, GatewayReason.SLOW_CONSUMER.value)

    def _has_enough(self, caller: Caller) -> bool:
        same = sum(client.caller.identity == caller.identity for client in self.clients)
        return bool(caller.allowance.limit) and same >= CLIENTS_PER_CALLER_MAX

    async def _read(self, client: StreamClient) -> None:
        while True:
            message = await client.socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            await self._take(client, message.get("bytes", b"") if text is None else text)

    # --- requests ---

    async def _take(self, client: StreamClient, data: str | bytes) -> None:
        """One frame of a client; every refusal is a message to it, never an exception."""
        client.is_binary = isinstance(data, bytes)
        request_id: int | None = None
        try:
            client.caller.charge(1)
            request = _decode_request(data)
            if isinstance(request, Submit):
                request_id = request.id
                await self._begin_submit(client, request)
            elif isinstance(request, Unfollow):
                self._leave(client, set(request.channels))
                self._tell_channels(client)
            else:
                client.caller.charge(len(request.channels))
                self._follow(client, request)
        except ProtocolViolation as violation:
            _tell_refusal(client, request_id, None, violation)
            if violation.reason == GatewayReason.QUOTA_EXCEEDED:
                await asyncio.sleep(QUOTA_PAUSE_SECONDS)

    def _leave(self, client: StreamClient, names: set[str]) -> None:
        for name in names & client.channels:
            channel = self._channels[name]
            channel.followers.discard(client)
            channel.left_s = time.monotonic()
        client.channels -= names

    def _follow(self, client: StreamClient, request: Follow) -> None:
        if len(client.channels | set(request.channels)) > CHANNELS_MAX:
            raise ProtocolViolation(
                GatewayReason.TOO_MANY_SUBSCRIPTIONS, f"at most {CHANNELS_MAX} channels per connection"
            )
        wanted = [self._channel(name) for name in dict.fromkeys(request.channels)]
        fresh = [channel for channel in wanted if client not in channel.followers]
        for channel in fresh:
            channel.followers.add(client)
        client.channels |= {channel.name for channel in wanted}
        self._tell_channels(client)
        for channel in fresh:
            self._begin(client, channel, request)

    def _tell_channels(self, client: StreamClient) -> None:
        client.tell(Subscribed(channels=tuple(sorted(client.channels)), stream=self._stream))

    def _begin(self, client: StreamClient, channel: Channel, request: Follow) -> None:
        """What a new follower is told first: what it missed, or that there is a gap, or the snapshot."""
        last_seq = request.resume.get(channel.name)
        if last_seq is not None:
            missed = channel.missed(last_seq) if request.stream == self._stream else None
            if missed is not None:
                for message in missed:
                    client.push(message)
                return
            client.tell(Gap(channel=channel.name, last_seq=last_seq, seq=channel.seq))
        if (last_seq is not None or channel.has_snapshot_first) and (
            snapshot := channel.snapshot()
        ) is not None:
            client.tell(snapshot)

    def _channel(self, name: str) -> Channel:
        """The channel of that name, opened if need be. Raises BAD_REQUEST, NOT_FOUND, BUSY."""
        found = self._channels.get(name)
        if found is None:
            if len(self._channels) >= OPEN_CHANNELS_MAX:
                raise ProtocolViolation(GatewayReason.BUSY, "too many channels are open")
            found = self._channels[name] = self._opened(name)
        return found

    def _opened(self, name: str) -> Channel:
        source = self._source
        kind, _, subject = name.partition(":")
        match kind, bool(subject):
            case "blocks", False:
                return BlocksChannel(name, source)
            case "finality", False:
                return FinalityChannel(name, source)
            case "instruments", False:
                return InstrumentsChannel(name, source)
            case "trades", _:
                return TradesChannel(name, source, self._number(subject) if subject else None)
            case "marks" | "greeks", _:
                return MarksChannel(name, source, self._number(subject) if subject else None)
            case "book", True:
                return BookChannel(name, source, self._number(subject))
            case "depth", True:
                return DepthChannel(name, source, self._number(subject), subject)
            case "account", True:
                return AccountChannel(name, source, _account_of(subject))
            case "margin", True:
                return MarginChannel(name, source, _account_of(subject))
        raise ProtocolViolation(GatewayReason.BAD_REQUEST, "there is no such channel: see the documentation")

    def _number(self, name: str) -> int:
        """Id of an instrument, which a channel calls by its name only."""
        item = self._queries.instrument(name)
        if item.name != name:
            raise ProtocolViolation(GatewayReason.BAD_REQUEST, "channels call an instrument by its name")
        return item.id

    # --- orders ---

    async def _begin_submit(self, client: StreamClient, request: Submit) -> None:
        """Hand the order over beside the reading, so that a client may send the next one meanwhile."""
        client.caller.check(Right.TRADE)
        if len(client.waiting) >= WAITING_MAX:
            raise ProtocolViolation(
                GatewayReason.TOO_MANY_WAITING, f"{WAITING_MAX} of your transactions are not final yet"
            )
        await client.handing_over.acquire()
        task = asyncio.create_task(self._submit(client, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _submit(self, client: StreamClient, request: Submit) -> None:
        try:
            reply = await self._orders.submit(request.transaction, client.caller)
        except ProtocolViolation as violation:
            _tell_refusal(client, request.id, None, violation)
            return
        finally:
            client.handing_over.release()
        name = reply.transaction_id
        if not reply.accepted:
            answer = Refused(id=request.id, transaction_id=name, reason=reply.reason, detail=reply.detail)
            client.tell(answer)
            return
        client.tell(Accepted(id=request.id, transaction_id=name))
        client.waiting[name] = request.id
        self._catch_up(client, name)

    def _catch_up(self, client: StreamClient, name: bytes) -> None:
        """Acknowledge an order that has become final while nobody looked."""
        height = self._queries.decided_at(name)
        if height is not None and name in client.waiting:
            _acknowledge(client, height, _by_transaction(self._queries.events(height)))

    # --- from the node ---

    def on_connected(self) -> None:
        """Notices may have been missed: acknowledge what became final meanwhile, from the store."""
        for client in self.clients:
            for name in list(client.waiting):
                self._catch_up(client, name)

    def on_notice(self, notice: Notice) -> None:
        """Tell every client what concerns it."""
        news: News
        if isinstance(notice, FinalBlockNotice):
            news = FinalNews(notice)
            self._acknowledge_final(news)
            self._forget_channels()
        else:
            news = notice
            if isinstance(notice, TransactionStatus):
                self._orders.on_status(notice)
                self._acknowledge_stage(notice)
        for channel in list(self._channels.values()):
            channel.on_news(news)

    def _acknowledge_stage(self, status: TransactionStatus) -> None:
        names = set(status.transaction_ids)
        for client in self.clients:
            for name in client.waiting.keys() & names:
                client.tell(Notarized(id=client.waiting[name], transaction_id=name, height=status.height))

    def _acknowledge_final(self, news: FinalNews) -> None:
        if not self._orders.progress:
            return  # Every order that anybody here waits for came through here.
        own = _by_transaction(news.events)
        self._orders.on_final(set(own))
        for client in self.clients:
            if client.waiting:
                _acknowledge(client, news.height, own)

    def _forget_channels(self) -> None:
        limit_s = time.monotonic() - LINGER_SECONDS
        gone = [item.name for item in self._channels.values() if not item.followers and item.left_s < limit_s]
        for name in gone:
            self._channels.pop(name).close()


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


def _account_of(subject: str) -> AccountKey:
    address, _, subaccount = subject.partition("/")
    number = read_number(subaccount, "sub-account")
    if number > 255 or str(number) != subaccount:
        raise ProtocolViolation(GatewayReason.BAD_REQUEST, "the sub-account must be 0 to 255")
    return read_hexadecimal(address, 20, "address"), number


def _tell_refusal(
    client: StreamClient, request_id: int | None, name: bytes | None, violation: ProtocolViolation
) -> None:
    client.tell(
        Refused(id=request_id, transaction_id=name, reason=violation.reason.value, detail=violation.detail)
    )


def _by_transaction(events: Sequence[Event]) -> dict[bytes, list[Event]]:
    """What each transaction of a block did."""
    found: dict[bytes, list[Event]] = {}
    for event in events:
        name = getattr(event, "transaction_id", None)
        if name is not None:
            found.setdefault(name, []).append(event)
    return found


def _acknowledge(client: StreamClient, height: int, own: dict[bytes, list[Event]]) -> None:
    """Tell a client that its transactions are final, each with what it did."""
    for name in client.waiting.keys() & own.keys():
        events = tuple(own[name])
        done: dict[str, Any] = {
            "id": client.waiting.pop(name),
            "transaction_id": name,
            "height": height,
            "events": events,
        }
        refused = next((event for event in events if isinstance(event, TransactionRejected)), None)
        if refused is None:
            client.tell(Final(**done))
        else:
            client.tell(Rejected(reason=refused.reason, detail=refused.detail, **done))


def _note_failure(task: asyncio.Future[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, WebSocketDisconnect | RuntimeError):
        log.error("gateway_stream_failed", exc_info=error)
