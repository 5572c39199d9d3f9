"""What one may ask a gateway: a path, and the type of its answer. Pure.

`client.ask(questions.book("BTC-PERPETUAL"))` gives a BookAnswer, blocking or on trio alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

import msgspec

from ledger.transactions import Action
from node.client.errors import BadAnswer, TransactionRefused, TryLater, refusal
from node.client.typed import read_form
from node.rpc.answers import (
    AccountAnswer,
    BlockAnswer,
    BookAnswer,
    BreakersAnswer,
    EventsPage,
    InstrumentsAnswer,
    MarksAnswer,
    PolicyAnswer,
    SimulateAnswer,
    StakeAnswer,
    StatusAnswer,
    SubmitAnswer,
    SurfaceAnswer,
    TransactionAnswer,
    ValidatorsAnswer,
)
from node.rpc.client_form import client_form, snake

T = TypeVar("T")
Direction = Literal["older", "newer"]
NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """One HTTP request. `body` makes it a POST."""

    path: str
    kind: type[T]
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    is_json: bool = False
    """Whether the body is JSON; else it is bytes."""

    @property
    def method(self) -> str:
        """Of HTTP."""
        return "GET" if self.body is None else "POST"

    @property
    def headers(self) -> dict[str, str]:
        """What the body is."""
        return {"content-type": "application/json"} if self.is_json else {}

    def read(self, status: int, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> T:
        """The answer. Raises Refused (by its reason), or BadAnswer."""
        try:
            form: Any = msgspec.json.decode(body)
        except msgspec.DecodeError:
            raise BadAnswer(f"{self.path} was answered with status {status} and no JSON") from None
        if not isinstance(form, dict):
            raise BadAnswer(f"{self.path} was answered with no JSON object")
        if status >= 400 and "accepted" not in form:
            error = refusal(str(form.get("reason", status)), str(form.get("detail", "")))
            if isinstance(error, TryLater) and (wait := headers.get("retry-after", "")).isdecimal():
                error.wait_seconds = int(wait)
            raise error
        return read_form(self.kind, form)


def status() -> Question[StatusAnswer]:
    """Where the node stands."""
    return Question("/v1/status", StatusAnswer)


def instruments() -> Question[InstrumentsAnswer]:
    """Everything listed."""
    return Question("/v1/instruments", InstrumentsAnswer)


def marks() -> Question[MarksAnswer]:
    """Marks and Greeks of everything live."""
    return Question("/v1/marks", MarksAnswer)


def book(name: str | int) -> Question[BookAnswer]:
    """Price levels of one instrument."""
    return Question(f"/v1/books/{quote(str(name), safe='')}", BookAnswer)


def surface(underlying: str) -> Question[SurfaceAnswer]:
    """Index and volatilities of BTC or ETH."""
    return Question(f"/v1/surface/{quote(underlying, safe='')}", SurfaceAnswer)


def breakers() -> Question[BreakersAnswer]:
    """The trading phase of each underlying, and how far marks are from the venues."""
    return Question("/v1/breakers", BreakersAnswer)


def account(address: bytes, subaccount: int = 0) -> Question[AccountAnswer]:
    """Cash, positions, orders, nonces and margin of a sub-account."""
    return Question(f"/v1/accounts/{address.hex()}/{subaccount}", AccountAnswer)


def account_history(
    address: bytes, subaccount: int = 0, *, cursor: str = "", direction: Direction = "older", limit: int = 100
) -> Question[EventsPage]:
    """What happened to a sub-account, a page at a time."""
    path = f"/v1/accounts/{address.hex()}/{subaccount}/history"
    return Question(path, EventsPage, _page(cursor, direction, limit))


def trades(
    name: str = "", *, cursor: str = "", direction: Direction = "older", limit: int = 100
) -> Question[EventsPage]:
    """Trades of one instrument or of all, a page at a time."""
    return Question("/v1/trades", EventsPage, {"instrument": name, **_page(cursor, direction, limit)})


def block(height: int | Literal["latest"] = "latest") -> Question[BlockAnswer]:
    """One final block with its events."""
    return Question(f"/v1/blocks/{height}", BlockAnswer)


def transaction(transaction_id: bytes) -> Question[TransactionAnswer]:
    """How far a transaction has come."""
    return Question(f"/v1/transactions/{transaction_id.hex()}", TransactionAnswer)


def validators() -> Question[ValidatorsAnswer]:
    """Every validator, and the sets of this epoch and the next."""
    return Question("/v1/validators", ValidatorsAnswer)


def policy() -> Question[PolicyAnswer]:
    """Every number that a vote can change, ballots and decided changes."""
    return Question("/v1/policy", PolicyAnswer)


def stake(address: bytes, subaccount: int = 0) -> Question[StakeAnswer]:
    """What a sub-account has bonded, and what is on its way out."""
    return Question(f"/v1/accounts/{address.hex()}/{subaccount}/stake", StakeAnswer)


def simulate(address: bytes, subaccount: int, actions: Sequence[Action]) -> Question[SimulateAnswer]:
    """What these actions would do to the account's margin, on top of the newest final block."""
    forms = [{"action": snake(type(action).__name__), **client_form(action)} for action in actions]
    body = {"address": address.hex(), "subaccount": subaccount, "actions": forms}
    return Question("/v1/simulate", SimulateAnswer, body=msgspec.json.encode(body), is_json=True)


def hand_in(raw: bytes) -> Question[SubmitAnswer]:
    """A signed transaction; then see `check_accepted`."""
    return Question("/v1/orders", SubmitAnswer, body=raw)


def check_accepted(answer: SubmitAnswer) -> None:
    """Raises TransactionRefused, or TryLater."""
    if not answer.accepted:
        raise refusal(answer.reason, answer.detail, otherwise=TransactionRefused)


def _page(cursor: str, direction: Direction, limit: int) -> dict[str, str]:
    return {"cursor": cursor, "direction": direction, "limit": str(limit)}
