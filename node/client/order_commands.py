"""`quorate order`: place, replace and cancel. Prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import App, Parameter

from ledger.transactions import Action
from node.client import market as words
from node.client import questions
from node.client.blocking import Client
from node.client.errors import BadOrder
from node.client.market import InForce
from node.client.sentences import sentences
from node.client.terminal import (
    DEFAULT_GATEWAY,
    DEFAULT_SIGNING,
    Gateway,
    Signing,
    account_of,
    console,
    helpful,
    money,
    perform,
    print_json,
    table,
)
from primitives.amounts import NS

app = App(name="order", help="Place, replace and cancel orders.")

Size = Annotated[str, Parameter(help="Contracts, such as 0.05.")]
Name = Annotated[str, Parameter(help="Instrument, such as BTC-PERPETUAL.")]
SideArgument = Literal["buy", "sell"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Terms:
    """What an order is beside its side, size and instrument."""

    price: Annotated[str | None, Parameter(help="Dollars; without it the order is at market.")] = None
    ioc: Annotated[bool, Parameter(negative="", help="Immediate or cancel.")] = False
    fok: Annotated[bool, Parameter(negative="", help="Fill or kill.")] = False
    post_only: Annotated[bool, Parameter(negative="", help="Refused if it would trade at once.")] = False
    reduce_only: Annotated[bool, Parameter(negative="", help="Never more than the position.")] = False
    good_for_seconds: Annotated[int | None, Parameter(help="Of market time; then it is cancelled.")] = None
    trigger_above: Annotated[str | None, Parameter(help="Wait until the mark is at or above this.")] = None
    trigger_below: Annotated[str | None, Parameter(help="Wait until the mark is at or below this.")] = None
    label: Annotated[int, Parameter(help="A number of your own to cancel it by.")] = 0

    def action(self, client: Client, side: SideArgument, size: str, name: str) -> Action:
        """The order. Raises BadOrder."""
        market, in_force = client.market, self._in_force()
        is_trigger = self.trigger_above is not None or self.trigger_below is not None
        if (is_trigger or self.price is None) and (self.post_only or self.good_for_seconds is not None):
            raise BadOrder("post-only and good for a time is an order with a --price and without a trigger")
        if is_trigger:
            return market.trigger(
                *(name, side, size),
                above=self.trigger_above,
                below=self.trigger_below,
                price=self.price,
                in_force=in_force,
                reduce_only=self.reduce_only,
                label=self.label,
            )
        if self.price is None:
            immediate = in_force or "ioc"
            return market.market(
                *(name, side, size), in_force=immediate, reduce_only=self.reduce_only, label=self.label
            )
        return market.limit(
            *(name, side, size, self.price),
            in_force=in_force or "gtc",
            post_only=self.post_only,
            reduce_only=self.reduce_only,
            expires_ns=self._expires_ns(client),
            label=self.label,
        )

    def _in_force(self) -> InForce | None:
        return "fok" if self.fok else "ioc" if self.ioc else None

    def _expires_ns(self, client: Client) -> int | None:
        if self.good_for_seconds is None:
            return None
        return client.ask(questions.status()).market_time_ns + self.good_for_seconds * NS


DEFAULT_TERMS = Terms()


@app.command
def place(
    side: SideArgument,
    size: Size,
    name: Name,
    /,
    *,
    terms: Terms = DEFAULT_TERMS,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Hand in one order and wait until the block that decides it is final.

    Examples:

        quorate order place buy 0.05 BTC-PERPETUAL --price 90000 --post-only

        quorate order place sell 0.05 BTC-PERPETUAL --reduce-only

        quorate order place sell 0.05 BTC-PERPETUAL --trigger-below 85000 --reduce-only
    """
    perform(signing, gateway, lambda client: terms.action(client, side, size, name))


@app.command
def simulate(
    side: SideArgument,
    size: Size,
    name: Name,
    /,
    *,
    terms: Terms = DEFAULT_TERMS,
    account: Annotated[
        str | None, Parameter(help="ADDRESS/SUBACCOUNT; the key file's own if not given.")
    ] = None,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """What an order would do to the account's margin, if nothing else came with it; nothing is handed in.

    Example: quorate order simulate buy 2 BTC-PERPETUAL
    """
    owner, subaccount = account_of(account, signing)
    with helpful(), gateway.client() as client:
        action = terms.action(client, side, size, name)
        answer = client.ask(questions.simulate(owner, subaccount, [action]))
        if gateway.as_json:
            print_json(answer)
            return
        for line in sentences(answer.events, owner, client.market):
            print(line)
        made = table("", ">before", ">after")
        for field in ("cash", "equity", "im_requirement", "mm_requirement", "im_excess", "mm_excess"):
            before, after = (getattr(side, f"{field}_uusd") for side in (answer.before, answer.after))
            made.add_row(_WORDS.get(field, field), money(before), money(after))
        console().print(made)


_WORDS = {
    "im_requirement": "initial requirement",
    "mm_requirement": "maintenance requirement",
    "im_excess": "above initial",
    "mm_excess": "above maintenance",
}


@app.command
def replace(
    order_id: int,
    name: Name,
    /,
    *,
    size: Size,
    price: Annotated[str, Parameter(help="Dollars.")],
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Change price and size of an open order; fewer lots at the same price keep its place."""
    perform(signing, gateway, lambda client: client.market.replace(order_id, name, size, price))


@app.command
def cancel(
    order_id: Annotated[int | None, Parameter(help="The ledger's id.")] = None,
    /,
    *,
    label: Annotated[int | None, Parameter(help="Your own number instead.")] = None,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Cancel one order, by its id or by your label."""

    def make(_: Client) -> Action:
        if (order_id is None) == (label is None):
            raise BadOrder("name the order by its id or by --label")
        return words.cancel(order_id) if order_id is not None else words.cancel_label(label or 0)

    perform(signing, gateway, make)


@app.command
def cancel_all(
    name: Annotated[str | None, Parameter(help="Of one instrument only.")] = None,
    /,
    *,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Cancel every open order of the sub-account."""
    perform(signing, gateway, lambda client: client.market.cancel_all(name))


@app.command
def dead_man(
    seconds: Annotated[int, Parameter(help="Of market time from now; 0 switches it off.")],
    /,
    *,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Have all orders cancelled at a time unless this is said again before."""

    def make(client: Client) -> Action:
        now_ns = client.ask(questions.status()).market_time_ns
        return words.dead_man_switch(now_ns + seconds * NS if seconds else 0)

    perform(signing, gateway, make)
