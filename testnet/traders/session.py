"""One trader's connection to a gateway: signs, submits, and follows each transaction until it is final. Trio.

Speaks the gateway's binary WebSocket form. Reconnects to the next gateway when its own goes away; what was accepted and
not yet seen as final stays on record as such.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import trio
import trio_websocket

from ledger.transactions import Action, PlaceOrder, SignedTransaction, Transaction, transaction_sign_bytes
from primitives.codec import encode
from primitives.identifiers import Address
from primitives.signing import SigningKey, address_of
from testnet.traders.config import TradersOutcome

ANSWER_SECONDS_MAX = 5.0
"""Without an answer by then the gateway is taken for dead."""
MESSAGE_BYTES_MAX = 8 * 1024 * 1024
RECONNECT_SECONDS = 0.5
REFUSALS_PAUSE_SECONDS = 0.2


class Session:
    """Submits for one account. `positions` holds signed lots by instrument, from the account's own events."""

    def __init__(
        self, key: SigningKey, chain_id: bytes, gateways: Sequence[str], first: int, outcome: TradersOutcome
    ) -> None:
        self.address: Address = address_of(key.public_key)
        self.positions: dict[int, int] = {}
        self.rejections = 0
        """Orders that the ledger refused, so far."""
        self._key = key
        self._chain_id = chain_id
        self._gateways = tuple(gateways)
        self._turn = first
        self._outcome = outcome
        self._nonce = 0
        self._next_id = 1
        self._socket: trio_websocket.WebSocketConnection | None = None
        self._answers: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._sent_at: dict[str, float] = {}
        self._connected = trio.Event()
        """Replaced only after it was set, so that nobody waits for an event that is forgotten."""
        self._connection = trio.CancelScope()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            url = f"ws://{self._gateways[self._turn % len(self._gateways)]}/v1/ws"
            try:
                with trio.CancelScope() as self._connection:
                    async with trio_websocket.open_websocket_url(
                        url,
                        max_message_size=MESSAGE_BYTES_MAX,
                        connect_timeout=ANSWER_SECONDS_MAX,
                        disconnect_timeout=RECONNECT_SECONDS,
                    ) as socket:
                        await self._serve(socket)
            except* (OSError, trio_websocket.HandshakeError, trio_websocket.ConnectionClosed):
                pass
            self._socket = None
            if self._connected.is_set():
                self._connected = trio.Event()
            for answer in self._answers.values():
                answer.close()
            self._turn += 1
            await trio.sleep(RECONNECT_SECONDS)

    async def _serve(self, socket: trio_websocket.WebSocketConnection) -> None:
        channels = [f"account:{self.address.hex()}/0"]
        await socket.send_message(msgspec.msgpack.encode({"op": "subscribe", "channels": channels}))
        self._socket = socket
        self._connected.set()
        while True:
            message = await socket.get_message()
            self._take(msgspec.msgpack.decode(message) if isinstance(message, bytes) else {})

    async def submit(self, actions: Sequence[Action]) -> bool:
        """Sign and send one transaction; whether a node accepted it. Waits while there is no connection."""
        await self._connected.wait()
        socket = self._socket
        if socket is None:
            return False
        raw = self._signed(actions)
        number, self._next_id = self._next_id, self._next_id + 1
        send, receive = trio.open_memory_channel[dict[str, Any]](1)
        self._answers[number] = send
        self._outcome.submitted_transactions += 1
        self._outcome.submitted_orders += sum(isinstance(action, PlaceOrder) for action in actions)
        sent_at = time.monotonic()
        try:
            await socket.send_message(
                msgspec.msgpack.encode({"op": "submit", "id": number, "transaction": raw})
            )
            with trio.fail_after(ANSWER_SECONDS_MAX):
                answer = await receive.receive()
        except (trio.TooSlowError, trio.EndOfChannel, trio_websocket.ConnectionClosed):
            self._count("no_answer")
            self._give_up(socket)
            return False
        finally:
            del self._answers[number]
        if answer["type"] != "accepted":
            self._count(str(answer["reason"]))
            await trio.sleep(REFUSALS_PAUSE_SECONDS)
            return False
        name = str(answer["transaction_id"])
        self._outcome.accepted.append(name)
        self._sent_at[name] = sent_at
        return True

    def _give_up(self, socket: trio_websocket.WebSocketConnection) -> None:
        """Let `run` go on to the next gateway, if it has not done so already."""
        if self._socket is socket:
            self._socket, self._connected = None, trio.Event()
            self._connection.cancel()

    def _signed(self, actions: Sequence[Action]) -> bytes:
        self._nonce += 1
        payload = encode(Transaction(self._chain_id, 0, self._nonce, tuple(actions)))
        signature = self._key.sign(transaction_sign_bytes(payload))
        return encode(SignedTransaction(payload, self._key.public_key, signature))

    def _count(self, reason: str) -> None:
        self._outcome.refused[reason] = self._outcome.refused.get(reason, 0) + 1

    # --- what the gateway says ---

    def _take(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind in ("accepted", "refused"):
            answer = self._answers.get(message.get("id") or 0)
            if answer is not None:
                answer.send_nowait(message)
        elif kind in ("final", "rejected"):
            self._note_final(message)
        elif kind == "account":
            self._note_event(message)

    def _note_final(self, message: dict[str, Any]) -> None:
        name = str(message["transaction_id"])
        self._outcome.final.append(name)
        sent_at = self._sent_at.pop(name, None)
        if sent_at is not None:
            self._outcome.order_to_final_ms.append((time.monotonic() - sent_at) * 1e3)
        self.rejections += sum(event.get("event") == "action_rejected" for event in message["events"])

    def _note_event(self, event: dict[str, Any]) -> None:
        if event.get("event") != "trade":
            return
        own, instrument, lots = self.address.hex(), int(event["instrument"]), int(event["size_lots"])
        if event["buyer"] == own and event["buyer_subaccount"] == 0:
            self.positions[instrument] = self.positions.get(instrument, 0) + lots
        if event["seller"] == own and event["seller_subaccount"] == 0:
            self.positions[instrument] = self.positions.get(instrument, 0) - lots
