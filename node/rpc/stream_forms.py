"""What is said over the WebSocket, as types; the OpenAPI document tells of them under `x-websocket`. Pure."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from ledger.events import Event
from node.rpc.answers import (
    BASE64,
    AccountAnswer,
    Cursor,
    Form,
    GreeksForm,
    HealthName,
    InstrumentForm,
    LevelForm,
    MarginForm,
)
from node.rpc.protocol import RAW_BYTES_MAX
from primitives.codec import I64, U8, U32, U63, Bytes20, Bytes32

CHANNELS_MAX = 256
"""Channels one client may follow."""

ChannelName = Annotated[str, msgspec.Meta(max_length=128)]
RequestId = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Follow(msgspec.Struct, tag_field="op", tag="subscribe", forbid_unknown_fields=True):
    """Follow channels; with `stream` and the last sequence number seen of each, go on where one was."""

    channels: Annotated[list[ChannelName], msgspec.Meta(max_length=CHANNELS_MAX)]
    stream: Annotated[str, msgspec.Meta(max_length=64)] = ""
    resume: Annotated[dict[str, Sequence], msgspec.Meta(max_length=CHANNELS_MAX)] = {}


class Unfollow(msgspec.Struct, tag_field="op", tag="unsubscribe", forbid_unknown_fields=True):
    """Leave channels."""

    channels: Annotated[list[ChannelName], msgspec.Meta(max_length=CHANNELS_MAX)]


class Submit(msgspec.Struct, tag_field="op", tag="submit", forbid_unknown_fields=True):
    """A signed transaction: raw bytes in msgpack, base64 in JSON. `id` comes back in every answer to it."""

    id: RequestId
    transaction: Annotated[bytes, msgspec.Meta(max_length=RAW_BYTES_MAX, extra_json_schema=BASE64)]


Request = Follow | Unfollow | Submit


class Subscribed(Form, frozen=True, kw_only=True):
    """All channels followed. `stream` names this life of the gateway: sequence numbers hold within it."""

    type: Literal["subscribed"] = "subscribed"
    channels: tuple[str, ...]
    stream: str


class Accepted(Form, frozen=True, kw_only=True):
    """The transaction waits in the node's mempool."""

    type: Literal["accepted"] = "accepted"
    id: RequestId
    transaction_id: Bytes32


class Refused(Form, frozen=True, kw_only=True):
    """A request, or the transaction of one, was refused; nothing of it was done."""

    type: Literal["refused"] = "refused"
    id: RequestId | None
    transaction_id: Bytes32 | None
    reason: str
    detail: str


class Notarized(Form, frozen=True, kw_only=True):
    """Its block is notarized: final unless more than the stated faults occur."""

    type: Literal["notarized"] = "notarized"
    id: RequestId
    transaction_id: Bytes32
    height: U63


class Final(Form, frozen=True, kw_only=True):
    """Decided, executed and on this node's disk. `events` say what each action did: look for action_rejected."""

    type: Literal["final"] = "final"
    id: RequestId
    transaction_id: Bytes32
    height: U63
    events: tuple[Event, ...]


class Rejected(Form, frozen=True, kw_only=True):
    """Decided, and nothing of it took effect; `reason` says why."""

    type: Literal["rejected"] = "rejected"
    id: RequestId
    transaction_id: Bytes32
    height: U63
    reason: str
    detail: str
    events: tuple[Event, ...]


class ChannelMessage(Form, frozen=True, kw_only=True):
    """Base of what channels carry; `seq` goes up by one from message to message of a channel."""

    channel: str
    seq: Sequence
    height: U63
    is_open: ClassVar[bool] = False
    """Whether the fields of an event stand beside its own."""


class BlockMessage(ChannelMessage, frozen=True, kw_only=True):
    """`blocks`: a block is final and stored."""

    type: Literal["block"] = "block"
    block_hash: Bytes32
    state_root: Bytes32
    time_ns: U63
    market_time_ns: U63
    event_count: U32


class FinalityMessage(ChannelMessage, frozen=True, kw_only=True):
    """`finality`: how far a block has come. `transactions` of it that are known when it is notarized."""

    type: Literal["finality"] = "finality"
    stage: Literal["notarized", "final"]
    block_hash: Bytes32 | None
    transactions: U32 | None
    is_fast: bool | None
    signers: tuple[U32, ...]


class TradeMessage(ChannelMessage, frozen=True, kw_only=True):
    """`trades`, `trades:NAME`: one match of a call. `cursor` continues after it at /v1/trades."""

    type: Literal["trade"] = "trade"
    cursor: Cursor
    instrument: U32
    price_uusd: U63
    size_lots: U32
    buy_order_id: U63
    sell_order_id: U63
    buyer: Bytes20
    buyer_subaccount: U8
    seller: Bytes20
    seller_subaccount: U8
    buyer_fee_uusd: I64
    seller_fee_uusd: I64


class BookMessage(ChannelMessage, frozen=True, kw_only=True):
    """`book:NAME`: the best 50 levels a side, whenever something happened on it."""

    type: Literal["book"] = "book"
    instrument: U32
    name: str
    mark_uusd: U63 | None
    bids: tuple[LevelForm, ...]
    asks: tuple[LevelForm, ...]


class DepthSnapshot(ChannelMessage, frozen=True, kw_only=True):
    """`depth:NAME`: every level, best first; later `depth` messages change it."""

    type: Literal["depth_snapshot"] = "depth_snapshot"
    instrument: U32
    name: str
    bids: tuple[LevelForm, ...]
    asks: tuple[LevelForm, ...]


class DepthMessage(ChannelMessage, frozen=True, kw_only=True):
    """`depth:NAME`: levels that changed, each with its new size; 0 lots: the level is gone."""

    type: Literal["depth"] = "depth"
    instrument: U32
    bids: tuple[LevelForm, ...]
    asks: tuple[LevelForm, ...]


class MarkRowForm(Form, frozen=True, kw_only=True):
    """One instrument's mark per contract."""

    instrument: U32
    mark_uusd: U63


class MarksMessage(ChannelMessage, frozen=True, kw_only=True):
    """`marks`, `marks:NAME`: the marks that changed; all of them at first, with `is_snapshot`."""

    type: Literal["marks"] = "marks"
    time_ns: U63
    is_snapshot: bool
    marks: tuple[MarkRowForm, ...]


class SeriesListedMessage(ChannelMessage, frozen=True, kw_only=True):
    """`instruments`: an expiry is listed; orders for its options are taken from the next block on."""

    type: Literal["series_listed"] = "series_listed"
    underlying: str
    expiry_ns: U63
    instruments: tuple[InstrumentForm, ...]


class ExpirySettledMessage(ChannelMessage, frozen=True, kw_only=True):
    """`instruments`: an expiry is settled; `positions` were paid out and are gone, like its books."""

    type: Literal["expiry_settled"] = "expiry_settled"
    underlying: str
    expiry_ns: U63
    settlement_price_uusd: U63
    positions: U32
    paid_uusd: U63


class GreeksMessage(ChannelMessage, frozen=True, kw_only=True):
    """`greeks`, `greeks:NAME`: marks and Greeks of what changed; all at first, with `is_snapshot`."""

    type: Literal["greeks"] = "greeks"
    time_ns: U63
    is_snapshot: bool
    greeks: tuple[GreeksForm, ...]


class AccountMessage(ChannelMessage, frozen=True, kw_only=True):
    """`account:ADDRESS/SUBACCOUNT`: an event that concerned it, whose fields stand beside these."""

    type: Literal["account"] = "account"
    account: str
    cursor: Cursor
    is_open: ClassVar[bool] = True


class AccountSnapshot(ChannelMessage, frozen=True, kw_only=True):
    """`account:...` after a gap: the account as it is."""

    type: Literal["account_snapshot"] = "account_snapshot"
    account: AccountAnswer


class MarginMessage(ChannelMessage, frozen=True, kw_only=True):
    """`margin:ADDRESS/SUBACCOUNT`: its equity and excesses whenever they change, and at first."""

    type: Literal["margin"] = "margin"
    account: str
    health: HealthName | None
    margin: MarginForm | None


class Gap(Form, frozen=True, kw_only=True):
    """What came after `last_seq` is not kept any more; what follows goes on from `seq`. A snapshot comes next."""

    type: Literal["gap"] = "gap"
    channel: str
    last_seq: Sequence
    seq: Sequence


REQUESTS = (Follow, Unfollow, Submit)
MESSAGES = (
    *(Subscribed, Accepted, Refused, Notarized, Final, Rejected, BlockMessage, FinalityMessage, TradeMessage),
    *(BookMessage, DepthSnapshot, DepthMessage, MarksMessage, GreeksMessage, AccountMessage, AccountSnapshot),
    *(MarginMessage, SeriesListedMessage, ExpirySettledMessage, Gap),
)
