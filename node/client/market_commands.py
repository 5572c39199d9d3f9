"""`quorate book` and `quorate watch`: the market, once and live. Prints."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.live import Live

from node.client import questions
from node.client.blocking import Client
from node.client.feed import account_channel
from node.client.terminal import DEFAULT_GATEWAY, Gateway, console, helpful, print_json, read_address
from node.client.watch_view import Watched, book_table
from node.rpc.client_form import client_form

DRAW_SECONDS = 0.25
"""Between two drawings of the live view."""


def book(
    name: Annotated[str, Parameter(help="Instrument, such as BTC-PERPETUAL.")],
    /,
    *,
    levels: Annotated[int, Parameter(help="Prices a side, at most 50.")] = 10,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """The order book of one instrument.

    Example: quorate book BTC-PERPETUAL --levels 5
    """
    with helpful(), gateway.client() as client:
        item = client.market.find(name)
        answer = client.ask(questions.book(name))
        if gateway.as_json:
            print_json(answer)
        else:
            console().print(book_table(answer, item.lots_per_contract, levels))


def watch(
    target: Annotated[str, Parameter(help="Instrument, or ADDRESS/SUBACCOUNT.")] = "BTC-PERPETUAL",
    /,
    *,
    seconds: Annotated[float | None, Parameter(help="Stop after so long.")] = None,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """A live view: book, trades, mark and finality of an instrument, or all that happens to an account.

    With --json, or where there is no terminal, one line for each message. Ctrl-C ends it.

    Example: quorate watch BTC-PERPETUAL --node http://127.0.0.1:26700
    """
    with helpful(), gateway.client() as client:
        if gateway.as_json or not sys.stdout.isatty():
            _print_messages(client, target, seconds)
        else:
            _draw_messages(client, target, seconds)


def _channels(client: Client, target: str) -> list[str]:
    if len(target.removeprefix("0x").partition("/")[0]) == 40:
        owner, subaccount = read_address(target)
        client.ask(questions.account(owner, subaccount))
        account = account_channel(owner, subaccount)
        return [account, account.replace("account:", "margin:"), "instruments", "finality", "blocks"]
    name = client.market.find(target).name
    return [f"book:{name}", f"trades:{name}", f"marks:{name}", "instruments", "finality", "blocks"]


def _print_messages(client: Client, target: str, seconds: float | None) -> None:
    for message in client.follow(*_channels(client, target), seconds=seconds):
        sys.stdout.write(msgspec.json.encode(client_form(message)).decode() + "\n")
        sys.stdout.flush()


def _draw_messages(client: Client, target: str, seconds: float | None) -> None:
    channels = _channels(client, target)
    watched, drawn_at = Watched(client.market, target), 0.0
    if channels[0].startswith("book:"):
        watched.take_book(client.ask(questions.book(target)))
        watched.take_trades(client.ask(questions.trades(target, limit=16)))
    with ExitStack() as stack:
        live = stack.enter_context(Live(console=console(), auto_refresh=False, screen=True))
        for message in client.follow(*channels, seconds=seconds):
            watched.take(message)
            if time.monotonic() - drawn_at >= DRAW_SECONDS:
                live.update(watched.render(), refresh=True)
                drawn_at = time.monotonic()
    console().print(watched.render())
