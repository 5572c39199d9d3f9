"""What one follows: channels over one WebSocket after another, going on where the last one broke off. Pure.

A new connection names the last message seen of each channel. A gateway that still has what followed sends it; else it
sends a `Gap` and, where there is one, the channel's snapshot: what was missed is in the history pages then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ledger.events import Event
from node.client.errors import BadAnswer, refusal
from node.client.submissions import read_frame
from node.client.typed import OtherEvent, read_event, read_form
from node.rpc.stream_forms import (
    AccountSnapshot,
    BlockMessage,
    BookMessage,
    DepthMessage,
    DepthSnapshot,
    ExpirySettledMessage,
    FinalityMessage,
    Gap,
    GreeksMessage,
    MarginMessage,
    MarksMessage,
    SeriesListedMessage,
    Subscribed,
    TradeMessage,
)

_PLAIN: dict[str, type[Any]] = {
    "block": BlockMessage,
    "finality": FinalityMessage,
    "trade": TradeMessage,
    "book": BookMessage,
    "depth_snapshot": DepthSnapshot,
    "depth": DepthMessage,
    "marks": MarksMessage,
    "greeks": GreeksMessage,
    "account_snapshot": AccountSnapshot,
    "margin": MarginMessage,
    "series_listed": SeriesListedMessage,
    "expiry_settled": ExpirySettledMessage,
    "gap": Gap,
}


class AccountEvent(msgspec.Struct, frozen=True, kw_only=True):
    """`account:ADDRESS/SUBACCOUNT`: something happened to it. `cursor` continues after it in its history."""

    channel: str
    seq: int
    height: int
    account: str
    cursor: str
    event: Event | OtherEvent


Message = (
    BlockMessage
    | FinalityMessage
    | TradeMessage
    | BookMessage
    | DepthSnapshot
    | DepthMessage
    | MarksMessage
    | GreeksMessage
    | AccountEvent
    | AccountSnapshot
    | MarginMessage
    | SeriesListedMessage
    | ExpirySettledMessage
    | Gap
)


def account_channel(address: bytes, subaccount: int = 0) -> str:
    """The channel of what happens to a sub-account."""
    return f"account:{address.hex()}/{subaccount}"


class Feed:
    """The channels of one follower, and how far it is in each."""

    def __init__(self, channels: Iterable[str]) -> None:
        self._channels = list(channels)
        self._stream = ""
        self._seen: dict[str, int] = {}

    def opening(self) -> bytes:
        """The first frame on a new connection."""
        request: dict[str, Any] = {"op": "subscribe", "channels": self._channels}
        if self._seen:
            request |= {"stream": self._stream, "resume": self._seen}
        return msgspec.msgpack.encode(request)

    def take(self, data: bytes | str) -> Message | None:
        """What one frame tells; None for what only the connection needs. Raises Refused, BadAnswer."""
        form = read_frame(data)
        kind = str(form.get("type"))
        if kind == "subscribed":
            self._stream = read_form(Subscribed, form).stream
            return None
        if kind == "refused":
            raise refusal(str(form.get("reason")), str(form.get("detail", "")))
        if kind != "account" and kind not in _PLAIN:
            return None
        message: Message = _account_event(form) if kind == "account" else read_form(_PLAIN[kind], form)
        self._seen[message.channel] = message.seq
        return message


def _account_event(form: dict[str, Any]) -> AccountEvent:
    try:
        head = {name: form[name] for name in ("channel", "seq", "height", "account", "cursor")}
    except KeyError as error:
        raise BadAnswer(f"an account message without {error}") from None
    return AccountEvent(**head, event=read_event(form))
