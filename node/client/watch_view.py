"""The live view of an instrument or an account. Draws with rich."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from decimal import Decimal

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ledger.events import Trade
from ledger.instruments import date_of
from node.client.feed import AccountEvent, Message
from node.client.market import Market
from node.client.sentences import sentence
from node.client.terminal import HEALTH_STYLE, money, table
from node.rpc.answers import BookAnswer, EventsPage, LevelForm
from node.rpc.stream_forms import (
    BlockMessage,
    BookMessage,
    ExpirySettledMessage,
    FinalityMessage,
    Gap,
    MarginMessage,
    MarksMessage,
    SeriesListedMessage,
    TradeMessage,
)
from primitives.amounts import NS

LINES = 16
"""Trades or events kept on the screen."""
LEVELS = 8
BAR_CELLS = 14


def book_table(book: BookAnswer | BookMessage, lots_per_contract: int, levels: int) -> Table:
    """Asks above bids, both towards the middle, each with a bar of its size."""
    made = table(">contracts", ">price", "", title=f"{book.name}  mark {money(book.mark_uusd)}")
    asks, bids = book.asks[:levels], book.bids[:levels]
    most = max((level.size_lots for level in (*asks, *bids)), default=1)
    _add_levels(made, asks[::-1], "red", most, lots_per_contract)
    made.add_row("", f"[dim]{_spread(book)}[/]", "")
    _add_levels(made, bids, "green", most, lots_per_contract)
    return made


def _add_levels(
    made: Table, levels: Sequence[LevelForm], color: str, most: int, lots_per_contract: int
) -> None:
    for level in levels:
        bar = "█" * max(1, level.size_lots * BAR_CELLS // most)
        size = Decimal(level.size_lots) / lots_per_contract
        made.add_row(str(size), f"[{color}]{money(level.price_uusd)}[/]", f"[{color}]{bar}[/]")


def _spread(book: BookAnswer | BookMessage) -> str:
    if not book.asks or not book.bids:
        return "one side is empty" if book.asks or book.bids else "empty"
    return f"spread {money(book.asks[0].price_uusd - book.bids[0].price_uusd)}"


class Watched:
    """What the view has been told so far."""

    def __init__(self, market: Market, target: str) -> None:
        self._market = market
        self._target = target
        self._book: BookAnswer | BookMessage | None = None
        self._marks: deque[int] = deque(maxlen=48)
        self._lines: deque[str] = deque(maxlen=LINES)
        self._block: BlockMessage | None = None
        self._notarized: dict[int, float] = {}
        self._final_ms: deque[float] = deque(maxlen=200)
        self._fast: deque[bool] = deque(maxlen=200)
        self._margin: MarginMessage | None = None

    def take_book(self, book: BookAnswer) -> None:
        """Where the book begins; channels tell of changes only."""
        self._book = book

    def take_trades(self, page: EventsPage) -> None:
        """The newest trades, newest first."""
        for row in reversed(page.items):
            if isinstance(row.event, Trade):
                self._note_trade(row.height, row.event)

    def _note_trade(self, height: int, trade: Trade | TradeMessage) -> None:
        name = self._market.find(trade.instrument).name
        size = self._market.size(trade.instrument, trade.size_lots)
        self._lines.appendleft(f"{height:>8}  {size!s:>8} {name} at {money(trade.price_uusd)}")

    def take(self, message: Message) -> None:
        """One message of the channels."""
        match message:
            case BookMessage():
                self._book = message
            case MarksMessage():
                self._marks.extend(row.mark_uusd for row in message.marks)
            case TradeMessage():
                self._note_trade(message.height, message)
            case AccountEvent():
                owner = bytes.fromhex(message.account.partition("/")[0])
                if said := sentence(message.event, owner, self._market):
                    self._lines.appendleft(f"{message.height:>8}  {said}")
            case SeriesListedMessage() | ExpirySettledMessage():
                self._lines.appendleft(f"{message.height:>8}  {_listing_news(message)}")
            case MarginMessage():
                self._margin = message
            case FinalityMessage():
                self._on_finality(message)
            case BlockMessage():
                self._block = message
            case Gap():
                self._lines.appendleft(f"   [yellow]{message.channel}: some messages were missed[/]")

    def _on_finality(self, message: FinalityMessage) -> None:
        if message.stage == "notarized":
            self._notarized[message.height] = time.monotonic()
            return
        self._fast.append(bool(message.is_fast))
        seen = self._notarized.pop(message.height, None)
        if seen is not None:
            self._final_ms.append((time.monotonic() - seen) * 1e3)

    # --- drawing ---

    def render(self) -> RenderableType:
        """The whole screen."""
        parts: list[RenderableType] = [self._head()]
        if self._book is not None:
            lots_per_contract = self._market.find(self._book.instrument).lots_per_contract
            book = book_table(self._book, lots_per_contract, LEVELS)
            parts.append(Columns([Panel(book, title="book"), Panel(self._news(), title="trades")]))
        else:
            parts += [self._account(), Panel(self._news(), title="events")]
        return Group(*parts)

    def _head(self) -> Text:
        block, text = self._block, Text()
        text.append(f"{self._target}  ", style="bold")
        if block is not None:
            text.append(f"block {block.height}  {_clock(block.time_ns)}  ")
        if self._fast:
            share = 100 * sum(self._fast) / len(self._fast)
            text.append(f"final at once {share:.0f} %  ", style="green")
        if self._final_ms:
            middle = sorted(self._final_ms)[len(self._final_ms) // 2]
            text.append(f"notarized to final {middle:.0f} ms  ")
        if self._marks:
            text.append(f"mark {money(self._marks[-1])} ")
            text.append(_sparkline(list(self._marks)), style="cyan")
        return text

    def _account(self) -> RenderableType:
        if self._margin is None or self._margin.margin is None or self._margin.health is None:
            return Text("no margin yet")
        margin, style = self._margin.margin, HEALTH_STYLE[self._margin.health]
        return Text.from_markup(
            f"[{style}]{self._margin.health}[/]  equity {money(margin.equity_uusd)}  "
            f"above initial {money(margin.im_excess_uusd)}  above maintenance {money(margin.mm_excess_uusd)}"
        )

    def _news(self) -> RenderableType:
        return Text.from_markup("\n".join(self._lines)) if self._lines else Text("nothing yet", style="dim")


def _listing_news(message: SeriesListedMessage | ExpirySettledMessage) -> str:
    when = f"{message.underlying} of {_clock(message.expiry_ns)[:10]}"
    if isinstance(message, SeriesListedMessage):
        return f"[cyan]{when} listed: {len(message.instruments)} options[/]"
    return f"[cyan]{when} settled at {money(message.settlement_price_uusd)}[/]"


def _sparkline(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return "".join("▁▂▃▄▅▆▇█"[(value - low) * 7 // max(1, high - low)] for value in values)


def _clock(time_ns: int) -> str:
    year, month, day = date_of(time_ns)
    seconds = time_ns // NS % 86_400
    return (
        f"{year}-{month:02d}-{day:02d} {seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d} UTC"
    )
