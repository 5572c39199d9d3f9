"""What an account keeps beyond cash, positions and orders: one leaf, only for those who use it. Pure.

Keys: "qa" owner sub-account (AccountTrading), "qs" address (Session), "qr" id (QuoteRequest), "qi" (OpenRequests),
"qp" (TradingParameters).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.matching.orders import AccountKey
from ledger.trading.parameters import TradingParameters
from ledger.transactions import Leg, PlaceTrigger
from primitives.codec import I64, U8, U32, U63, Bytes20, Bytes32, Wire

if TYPE_CHECKING:
    from ledger.state import State

KEY_TRADING = b"qp"
KEY_OPEN_REQUESTS = b"qi"


class Trigger(Wire):
    """A waiting trigger order; the transaction and place of its action name it to the client."""

    trigger_id: U63
    transaction_id: Bytes32
    index: U32
    order: PlaceTrigger


class Deadline(Wire):
    """When an open order goes."""

    order_id: U63
    expires_ns: U63


class Protection(Wire):
    """Market-maker protection on one underlying: limits, and what quotes traded since `since_ns`.

    Sums are signed and net over the interval for delta (ppm of a contract) and vega (micro-USD per volatility
    point), gross for lots. `frozen_until_ns` is 0 when quotes are taken.
    """

    underlying: U8
    interval_ns: U63
    frozen_ns: U63
    lots_max: U32
    delta_ppm_max: U63
    vega_uusd_max: U63
    since_ns: U63
    lots: U63
    delta_ppm: I64
    vega_uusd: I64
    frozen_until_ns: U63

    @property
    def is_exceeded(self) -> bool:
        """Whether a limit that is set (not 0) is reached."""
        return (
            (0 < self.lots_max <= self.lots)
            or (0 < self.delta_ppm_max <= abs(self.delta_ppm))
            or (0 < self.vega_uusd_max <= abs(self.vega_uusd))
        )


class AccountTrading(Wire):
    """One sub-account's leaf; everything in ascending order, absent when nothing is in it.

    `cancel_at_ns` is the dead-man switch's time, 0 for none; `quotes` are open orders that a mass quote placed;
    `sessions` are addresses of session keys.
    """

    owner: Bytes20
    subaccount: U8
    cancel_at_ns: U63
    margin_model: U8
    triggers: tuple[Trigger, ...]
    deadlines: tuple[Deadline, ...]
    quotes: tuple[U63, ...]
    protections: tuple[Protection, ...]
    sessions: tuple[Bytes20, ...]

    @property
    def is_watched(self) -> bool:
        """Whether every block has to look at it: time, prices or its health may act."""
        is_protected = bool(self.quotes and self.protections)
        return bool(self.cancel_at_ns or self.triggers or self.deadlines) or is_protected


class Session(Wire):
    """A key that acts for one sub-account: scope bits, until when, and how much exposure it may build."""

    owner: Bytes20
    subaccount: U8
    scope: U8
    expires_ns: U63
    notional_uusd_max: U63


class MakerQuote(Wire):
    """One maker's firm prices for the whole package: what its buyer pays in all; None: no such side."""

    owner: Bytes20
    subaccount: U8
    bid_uusd: I64 | None
    ask_uusd: I64 | None
    expires_ns: U63


class QuoteRequest(Wire):
    """An open request for quote; quotes in order of maker."""

    request_id: U63
    owner: Bytes20
    subaccount: U8
    legs: tuple[Leg, ...]
    expires_ns: U63
    quotes: tuple[MakerQuote, ...]


class OpenRequest(Wire):
    """One open request, as the list of all knows it."""

    request_id: U63
    owner: Bytes20
    subaccount: U8
    expires_ns: U63


class OpenRequests(Wire):
    """All open requests, in order of id; absent when there are none."""

    requests: tuple[OpenRequest, ...]


LEAF_KINDS: dict[int, type[Wire]] = {
    ord("a"): AccountTrading,
    ord("i"): OpenRequests,
    ord("p"): TradingParameters,
    ord("r"): QuoteRequest,
    ord("s"): Session,
}
"""By a key's second letter."""


def trading_key(key: AccountKey) -> bytes:
    """b"qa", owner, sub-account."""
    return b"qa" + key[0] + bytes((key[1],))


def session_key(address: bytes) -> bytes:
    """b"qs", address of the session key."""
    return b"qs" + address


def request_key(request_id: int) -> bytes:
    """b"qr", id."""
    return b"qr" + request_id.to_bytes(8, "big")


def get_trading(state: State, key: AccountKey) -> AccountTrading | None:
    """An account's leaf, or None."""
    found: AccountTrading | None = state.leaves.get(trading_key(key))
    return found


def get_session(state: State, address: bytes) -> Session | None:
    """What a session key may do, or None."""
    found: Session | None = state.leaves.get(session_key(address))
    return found


def get_request(state: State, request_id: int) -> QuoteRequest | None:
    """An open request, or None."""
    found: QuoteRequest | None = state.leaves.get(request_key(request_id))
    return found


def get_open_requests(state: State) -> tuple[OpenRequest, ...]:
    """All open requests, in order of id."""
    found: OpenRequests | None = state.leaves.get(KEY_OPEN_REQUESTS)
    return () if found is None else found.requests


def get_parameters(state: State) -> TradingParameters:
    """The parameters in force."""
    found: TradingParameters = state.leaves.values[KEY_TRADING]
    return found


class OpenTrading:
    """An account's leaf under work."""

    __slots__ = (
        "cancel_at_ns", "deadlines", "key", "margin_model", "protections", "quotes", "sessions", "triggers",
    )  # fmt: skip

    def __init__(self, key: AccountKey, stored: AccountTrading | None) -> None:
        self.key = key
        self.cancel_at_ns = stored.cancel_at_ns if stored else 0
        self.margin_model = stored.margin_model if stored else 0
        self.triggers = {item.trigger_id: item for item in stored.triggers} if stored else {}
        self.deadlines = {item.order_id: item.expires_ns for item in stored.deadlines} if stored else {}
        self.quotes = set(stored.quotes) if stored else set()
        self.protections = {item.underlying: item for item in stored.protections} if stored else {}
        self.sessions = set(stored.sessions) if stored else set()

    def forget_order(self, order_id: int) -> None:
        """An order is gone."""
        self.deadlines.pop(order_id, None)
        self.quotes.discard(order_id)

    def closed(self) -> AccountTrading | None:
        """The leaf these values make, None when there is nothing in it."""
        parts = (self.triggers, self.deadlines, self.quotes, self.protections, self.sessions)
        if not (self.cancel_at_ns or self.margin_model or any(parts)):
            return None
        return AccountTrading(
            *self.key,
            self.cancel_at_ns,
            self.margin_model,
            tuple(self.triggers[item] for item in sorted(self.triggers)),
            tuple(Deadline(item, self.deadlines[item]) for item in sorted(self.deadlines)),
            tuple(sorted(self.quotes)),
            tuple(self.protections[item] for item in sorted(self.protections)),
            tuple(sorted(self.sessions)),
        )
