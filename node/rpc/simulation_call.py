"""What the gateway and the process that simulates for it say to each other. Pure."""

from __future__ import annotations

from ledger.transactions import (
    CancelAll,
    CancelLabel,
    CancelOrder,
    MassQuote,
    PlaceMarket,
    PlaceOrder,
    PlaceTrigger,
    PlaceUntil,
    ReplaceOrder,
    SetMarginModel,
    TransferCash,
    Withdraw,
)
from node.rpc.answers import SimulateAnswer
from primitives.codec import U8, Bytes20, Wire

SimulatedAction = (
    PlaceOrder
    | PlaceUntil
    | PlaceMarket
    | PlaceTrigger
    | ReplaceOrder
    | MassQuote
    | CancelOrder
    | CancelLabel
    | CancelAll
    | Withdraw
    | TransferCash
    | SetMarginModel
)
"""What changes the margin of its own account, and asks for no leaf that a simulation leaves out."""


class SimulateCall(Wire):
    """One question."""

    owner: Bytes20
    subaccount: U8
    actions: tuple[SimulatedAction, ...]


class SimulateReply(Wire):
    """The answer, or a reason and a sentence why there is none."""

    answer: SimulateAnswer | None
    reason: str
    detail: str
