"""Series listed while clients are connected: told on a channel, found by name, tradable without a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from ledger.events import Event, ExpirySettled, SeriesListed
from ledger.instruments import Instrument, Kind, Underlying
from ledger.listing import Listing
from ledger.state_keys import listing_key
from node.client import questions
from node.client.blocking import Client
from node.client.errors import BadOrder
from node.client.market import Market
from node.client.on_trio import open_client
from node.client.watch_view import Watched
from node.rpc.stream_forms import ExpirySettledMessage, SeriesListedMessage
from node.rpc.views import GreeksRow, GreeksView, MarkRow, MarksView
from primitives.amounts import NS, USD
from primitives.codec import encode
from tests.node.running_gateway import PERPETUAL, TIME_NS, Running, running

EXPIRY_NS = 1_801_900_800 * NS
"""2027-02-06 08:00 UTC."""
NEW = tuple(
    Instrument(900 + kind, Underlying.BTC, kind, EXPIRY_NS, 88_000 * USD, 100)
    for kind in (Kind.CALL, Kind.PUT)
)
NAME = "BTC-6FEB27-88000-C"
LISTED = SeriesListed(Underlying.BTC, EXPIRY_NS, NEW[0].id, 2)
SETTLED = ExpirySettled(Underlying.BTC, EXPIRY_NS, 90_000 * USD, 7, 14 * USD)


def list_series(it: Running) -> None:
    """What a node stores in the block that lists the series."""
    leaves = [(listing_key(item.id), encode(Listing(item, False, 0))) for item in NEW]
    views = {
        "marks": encode(MarksView(2, TIME_NS, tuple(MarkRow(item.id, 9 * USD, 0, 1) for item in NEW))),
        "greeks": encode(GreeksView(2, tuple(GreeksRow(item.id, 0, 0, 0) for item in NEW))),
    }
    it.become_final([LISTED], leaves, views)


def settle_series(it: Running) -> None:
    leaves = [(listing_key(item.id), encode(Listing(item, True, 90_000 * USD))) for item in NEW]
    it.become_final([SETTLED], leaves, {"marks": encode(MarksView(3, TIME_NS, ()))})


async def in_thread(work: Callable[[], Any]) -> Any:
    return await trio.to_thread.run_sync(work)


def url_of(it: Running) -> str:
    return f"http://127.0.0.1:{it.gateway.port}"


async def test_listing_and_settlement_are_told_on_the_instruments_channel(tmp_path: Path) -> None:
    async with (
        running(tmp_path / "h") as it,
        open_client(url_of(it)) as client,
        client.follow("instruments", f"depth:{PERPETUAL}") as messages,
    ):
        await anext(messages)  # The snapshot of the depth: both are followed now.
        list_series(it)
        listed = await anext(messages)
        settle_series(it)
        settled = await anext(messages)
    assert isinstance(listed, SeriesListedMessage)
    assert (listed.underlying, listed.expiry_ns, listed.height) == ("BTC", EXPIRY_NS, 2)
    assert [(item.name, item.id, item.is_settled) for item in listed.instruments] == [
        (NAME, 901, False),
        ("BTC-6FEB27-88000-P", 902, False),
    ]
    assert [item.mark.mark_uusd for item in listed.instruments if item.mark] == [9 * USD] * 2
    assert settled == ExpirySettledMessage(
        channel="instruments",
        seq=2,
        height=3,
        underlying="BTC",
        expiry_ns=EXPIRY_NS,
        settlement_price_uusd=90_000 * USD,
        positions=7,
        paid_uusd=14 * USD,
    )


async def test_a_new_series_has_marks_greeks_a_book_and_channels_of_its_own(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it, open_client(url_of(it)) as client:
        async with client.follow("marks") as messages:
            first = await anext(messages)
            list_series(it)
            changed = await anext(messages)
        assert NEW[0].id not in {row.instrument for row in first.marks}
        assert {row.instrument: row.mark_uusd for row in changed.marks} == {item.id: 9 * USD for item in NEW}
        assert (await client.ask(questions.book(NAME))).instrument == NEW[0].id
        assert [row.name for row in (await client.ask(questions.marks())).marks] == [
            item.name for item in NEW
        ]
        async with client.follow(f"depth:{NAME}", f"greeks:{NAME}") as messages:
            told = [await anext(messages) for _ in range(2)]
        assert {message.type for message in told} == {"depth_snapshot", "greeks"}


async def test_clients_that_knew_the_listing_before_find_what_was_listed_since(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it, open_client(url_of(it)) as on_trio:
        blocking = await in_thread(lambda: Client(url_of(it)))
        before = await in_thread(lambda: blocking.market)
        assert not before.has(NAME) and not (await on_trio.market()).has(NAME)
        list_series(it)
        await trio.sleep(1.1)  # Longer than what is listed is not asked for again.
        order = await in_thread(lambda: blocking.market.limit(NAME, "buy", "0.05", "9"))
        assert order == (await on_trio.market(NAME)).limit(NAME, "buy", "0.05", "9")
        assert order.instrument == NEW[0].id
        await in_thread(blocking.close)


async def test_an_unknown_series_is_an_error_in_words_and_no_flood_of_questions(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it, open_client(url_of(it)) as on_trio:
        client = await in_thread(lambda: Client(url_of(it)))
        asked: list[str] = []
        ask = client.ask
        client.ask = lambda question: (asked.append(question.path), ask(question))[1]  # type: ignore[method-assign]
        for name in ("BTC-6FEB27-88000-C", 901):
            with pytest.raises(BadOrder, match=f"there is no instrument {name}"):
                await in_thread(lambda name=name: client.market.find(name))
        assert asked == ["/v1/instruments"]
        with pytest.raises(BadOrder, match="did you mean BTC-PERPETUAL"):
            (await on_trio.market("btc-perp")).find("btc-perp")
        await in_thread(client.close)


@pytest.mark.parametrize(
    ("event", "words"),
    [(LISTED, "BTC of 2027-02-06 listed: 0 options"), (SETTLED, "BTC of 2027-02-06 settled at 90,000.00")],
)
def test_quorate_watch_says_what_was_listed_and_settled(event: Event, words: str) -> None:
    head = {"channel": "instruments", "seq": 1, "height": 5, "underlying": "BTC", "expiry_ns": EXPIRY_NS}
    watched = Watched(Market(()), "BTC-PERPETUAL")
    if isinstance(event, SeriesListed):
        watched.take(SeriesListedMessage(**head, instruments=()))
    else:
        paid = {"settlement_price_uusd": 90_000 * USD, "positions": 7, "paid_uusd": 0}
        watched.take(ExpirySettledMessage(**head, **paid))
    assert words in str(watched._news())
