"""`quorate order`: place, replace and cancel. Prints."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from ledger.transactions import Action
from node.client import market as words
from node.client import questions
from node.client.blocking import Client
from node.client.errors import BadOrder
from node.client.market import InForce
from node.client.terminal import DEFAULT_GATEWAY, DEFAULT_SIGNING, Gateway, Signing, perform
from primitives.amounts import NS

app = App(name="order", help="Place, replace and cancel orders.")

Flag = Annotated[bool, Parameter(negative="")]
Size = Annotated[str, Parameter(help="Contracts, such as 0.05.")]
Name = Annotated[str, Parameter(help="Instrument, such as BTC-PERPETUAL.")]
Price = Annotated[str | None, Parameter(help="Dollars; without it the order is at market.")]


@app.command
def place(
    side: Literal["buy", "sell"],
    size: Size,
    name: Name,
    /,
    *,
    price: Price = None,
    ioc: Annotated[bool, Parameter(negative="", help="Immediate or cancel.")] = False,
    fok: Annotated[bool, Parameter(negative="", help="Fill or kill.")] = False,
    post_only: Flag = False,
    reduce_only: Flag = False,
    good_for_seconds: Annotated[int | None, Parameter(help="Of market time; then it is cancelled.")] = None,
    trigger_above: Annotated[str | None, Parameter(help="Wait until the mark is at or above this.")] = None,
    trigger_below: Annotated[str | None, Parameter(help="Wait until the mark is at or below this.")] = None,
    label: Annotated[int, Parameter(help="A number of your own to cancel it by.")] = 0,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Hand in one order and wait until the block that decides it is final.

    Examples:

        quorate order place buy 0.05 BTC-PERPETUAL --price 90000 --post-only

        quorate order place sell 0.05 BTC-PERPETUAL --reduce-only

        quorate order place sell 0.05 BTC-PERPETUAL --trigger-below 85000 --reduce-only
    """
    in_force: InForce | None = "fok" if fok else "ioc" if ioc else None

    def make(client: Client) -> Action:
        market, common = client.market, {"reduce_only": reduce_only, "label": label}
        if trigger_above is not None or trigger_below is not None:
            if post_only or good_for_seconds is not None:
                raise BadOrder("a trigger is neither post-only nor good for a time")
            above_below = {"above": trigger_above, "below": trigger_below, "price": price}
            return market.trigger(name, side, size, in_force=in_force, **above_below, **common)  # type: ignore[arg-type]
        if price is None:
            if post_only or good_for_seconds is not None:
                raise BadOrder("an order that rests needs a --price")
            return market.market(name, side, size, in_force=in_force or "ioc", **common)  # type: ignore[arg-type]
        expires_ns = None
        if good_for_seconds is not None:
            expires_ns = client.ask(questions.status()).market_time_ns + good_for_seconds * NS
        return market.limit(
            name,
            side,
            size,
            price,
            in_force=in_force or "gtc",
            post_only=post_only,
            expires_ns=expires_ns,
            **common,  # type: ignore[arg-type]
        )

    perform(signing, gateway, make)


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
