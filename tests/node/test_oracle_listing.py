"""Series come and go: venues are asked for them without a restart, and gaps between what venues list are filled."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import trio

import node.oracle_service
from ledger.instruments import Instrument, Kind
from ledger.market import Slice
from ledger.transactions import OracleReport
from node.clock import MarketClock
from node.messages import ReportMessage
from node.oracle.adapters import connection
from node.oracle.adapters.shares import shared
from node.oracle.aggregate import AggregationRules
from node.oracle.black import price_and_vega
from node.oracle.gaps import CONFIDENCE_PPM_MAX, fill_gaps
from node.oracle.quotes import ChainSnapshot, ForwardQuote, IndexQuote
from node.oracle.venue_book import VenueBook, series_of
from node.oracle_service import OracleService, ReportPool
from primitives.amounts import NS, SECONDS_PER_YEAR, USD
from primitives.codec import decode_own
from primitives.identifiers import ValidatorIndex
from tests.node.exchange_server import (
    EXPIRY,
    LISTED,
    NOW,
    Socket,
    an_exchange,
    an_option,
    hurry,
    wait_until,
)
from tests.node.memory_network import Hub, MemoryNetwork
from tests.node.network_of_nodes import keys_of
from tests.node.test_oracle_exchange_options import option_of, refusals

__all__ = ["hurry"]

DAY_NS = 86_400 * NS
LATER = EXPIRY + DAY_NS
NEW = tuple(an_option(88_000, kind, expiry_ns=LATER) for kind in (Kind.CALL, Kind.PUT))
NEW_NAMES = {
    "deribit": ("BTC-7FEB26-88000-C", "BTC-7FEB26-88000-P"),
    "okx": ("BTC-USD-260207-88000-C", "BTC-USD-260207-88000-P"),
    "bybit": ("BTC-7FEB26-88000-C-USDT", "BTC-7FEB26-88000-P-USDT"),
}
three_exchanges = pytest.mark.parametrize("exchange", ["deribit", "okx", "bybit"])


def asked(exchange: str, requests: Sequence[dict[str, Any]]) -> list[tuple[bool, set[str]]]:
    """(whether it subscribes, the options and futures named) of each request about instruments."""
    found = []
    for request in requests:
        if exchange == "deribit":
            names = {
                item.split(".")[1] for item in request["params"].get("channels", ()) if "ticker." in item
            }
            is_new = request["method"] == "public/subscribe"
        elif exchange == "okx":
            names = {item["instId"] for item in request["args"] if item["channel"] == "tickers"}
            is_new = request["op"] == "subscribe"
        else:
            names = {item.removeprefix("tickers.") for item in request["args"]} - {"BTCUSDT", "ETHUSDT"}
            is_new = request["op"] == "subscribe"
        if names:
            found.append((is_new, names))
    return found


@three_exchanges
async def test_what_is_settled_is_left_and_what_is_listed_is_asked_for_on_the_same_connection(
    exchange: str,
) -> None:
    sockets: list[Socket] = []

    async def script(socket: Socket, turn: int) -> None:
        if exchange != "bybit" or socket.path.endswith("/option"):
            sockets.append(socket)
            for key in ("C", "P", "C9"):
                for message in option_of(exchange, key, "0.01", "0.02"):
                    await socket.send_message(message)
        await trio.sleep_forever()

    async with an_exchange(exchange, script) as (adapter, server):
        await wait_until(lambda: (0, EXPIRY) in adapter.book.chains)
        before = asked(exchange, server.requests)
        adapter.relist([LISTED[0], *LISTED[1:2], *NEW])  # One option stays, two are gone, two are new.
        await wait_until(lambda: len(asked(exchange, server.requests)) == len(before) + 2)
        (gone, gone_names), (new, new_names) = asked(exchange, server.requests)[len(before) :]
        futures = {"deribit": {"BTC-7FEB26"}, "okx": {"BTC-USD-260207"}, "bybit": set()}[exchange]
        old_names = set().union(*(names for _, names in before))
        assert (gone, new) == (False, True)
        assert new_names == {*NEW_NAMES[exchange], *futures}
        assert gone_names < old_names and len(gone_names) == 2

        call, put = NEW_NAMES[exchange]
        for name in (call, put, next(iter(gone_names))):
            summary = name if exchange == "okx" else None
            for message in option_of(exchange, name, "0.01", "0.02"):
                text = message if summary is None else message.replace("BTC-USD-260206-88000-C", call)
                await sockets[0].send_message(text)
        await wait_until(lambda: (0, LATER) in adapter.book.chains)
        assert adapter.book.chains[(0, LATER)].kinds == (Kind.CALL, Kind.PUT)
        await wait_until(lambda: refusals(adapter) == {"unknown_series": 1})
        assert len(server.paths) == (2 if exchange == "bybit" else 1), "nobody dialled again"

        adapter.relist([LISTED[0], *NEW])
        assert set(adapter.book.chains) == {(0, LATER)}, "a settled expiry is forgotten at once"


@three_exchanges
async def test_an_option_that_the_exchange_lists_later_than_we_do_is_asked_for_again(
    exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ASK_AGAIN_SECONDS", 0.02)

    async def script(socket: Socket, turn: int) -> None:
        if exchange != "bybit" or socket.path.endswith("/option"):
            for key in ("C", "P"):
                for message in option_of(exchange, key, "0.01", "0.02"):
                    await socket.send_message(message)
        await trio.sleep_forever()

    async with an_exchange(exchange, script) as (adapter, server):
        await wait_until(lambda: adapter.counters["quotes"] >= 2)
        await wait_until(lambda: len(asked(exchange, server.requests)) >= 3)
        *_, (is_new, names) = asked(exchange, server.requests)
        missing = {"deribit": "BTC-6FEB26-90000-C", "okx": "BTC-USD-260206-90000-C"}
        assert (is_new, names) == (True, {missing.get(exchange, "BTC-6FEB26-90000-C-USDT")})
        assert len(server.paths) == (2 if exchange == "bybit" else 1)


def many(day: int, count: int) -> list[Instrument]:
    return [
        an_option(strike, Kind.CALL, expiry_ns=EXPIRY + day * DAY_NS)
        for strike in range(1_000, 1_000 + count)
    ]


def test_options_stay_on_their_connection_and_new_ones_go_where_there_is_room() -> None:
    first = shared([], [*many(0, 300), *many(1, 150), *many(2, 200)], 500)
    assert [(len(share), len(series_of(share))) for share in first] == [(450, 2), (200, 1)]
    second = shared(first, [*many(1, 150), *many(2, 200), *many(3, 340), *many(4, 400)], 500)
    assert [sorted((e - EXPIRY) // DAY_NS for _, e in series_of(share)) for share in second] == [
        [1, 3],
        [2],
        [4],
    ]
    assert shared(second, many(4, 400), 500) == [[], [], many(4, 400)]
    assert shared([], [], None) == [[]], "the index has a connection in any case"


async def test_bybit_gets_another_connection_when_the_first_is_full_and_an_empty_one_is_closed() -> None:
    alive: dict[int, str] = {}

    async def script(socket: Socket, turn: int) -> None:
        try:
            alive[turn] = socket.path
            while True:
                await socket.send_message('{"op":"pong"}')
                await trio.sleep(0.005)
        finally:
            del alive[turn]

    async with an_exchange("bybit", script, listed=many(0, 300)) as (adapter, server):
        await wait_until(lambda: sorted(server.paths) == ["/option", "/spot"])
        adapter.relist([*many(0, 300), *many(1, 300)])
        await wait_until(lambda: sorted(server.paths) == ["/option", "/option", "/spot"])
        adapter.relist(many(1, 300))
        await wait_until(lambda: sorted(alive.values()) == ["/option", "/spot"])
        await trio.sleep(0.05)
        assert len(server.paths) == 3, "the empty one does not dial again, the other goes on"


# --- the oracle ---


class Venue:
    """An adapter without a socket that quotes whatever is listed at 50 % volatility, but for some expiries."""

    def __init__(self, missing: Sequence[int] = ()) -> None:
        self.book = VenueBook("north", ())
        self.counters: Counter[str] = Counter()
        self.told: list[int] = []
        self._missing = missing

    async def run(self) -> None:
        await trio.sleep_forever()

    def relist(self, listed: Sequence[Instrument]) -> None:
        self.told.append(len(listed))
        self.book.list_series(series_of(listed))
        self.book.add(IndexQuote(0, NOW, 88_000 * USD, 88_000 * USD), NOW)
        for series in sorted(series_of(listed)):
            if series[1] not in self._missing:
                self._quote(series, [item for item in listed if item.expiry_ns == series[1]])

    def _quote(self, series: tuple[int, int], options: Sequence[Instrument]) -> None:
        strikes = np.array([item.strike_uusd / USD for item in options])
        years = (series[1] - NOW) / NS / SECONDS_PER_YEAR
        is_call = np.array([item.kind == Kind.CALL for item in options])
        values, _ = price_and_vega(88_000.0, strikes, years, np.full(len(options), 0.5), is_call)
        rows = sorted(
            (item.strike_uusd, item.kind, int(value * 999_000), int(value * 1_001_000))
            for item, value in zip(options, values.tolist(), strict=True)
        )
        self.book.add(ForwardQuote(*series, NOW, 88_000 * USD, 88_000 * USD), NOW)
        self.book.add(ChainSnapshot(*series, NOW, *zip(*rows, strict=True)), NOW)


def series(day: int) -> list[Instrument]:
    return [
        an_option(strike, kind, expiry_ns=EXPIRY + day * DAY_NS)
        for strike in (84_000, 86_000, 88_000, 90_000, 92_000)
        for kind in (Kind.CALL, Kind.PUT)
    ]


def an_oracle(venue: Venue, listed: list[Instrument], network: MemoryNetwork) -> OracleService:
    return OracleService(
        key=keys_of(1).oracle,
        chain_id=bytes(32),
        clock=MarketClock(NOW, time.monotonic_ns(), 1),
        adapters=[venue],
        rules=AggregationRules(),
        network=network,
        pool=ReportPool({1: keys_of(1).oracle.public_key}, bytes(32)),
        listed=lambda: list(listed),
        asked=lambda _: (),
        delays=lambda: (),
        index_interval_ms=20,
        surface_interval_ms=20,
    )


def last_slices(network: MemoryNetwork) -> list[Slice]:
    report = decode_own(OracleReport, decode_own(ReportMessage, network.sent[-1][1]).report.payload)
    return [item for surface in report.surfaces for item in surface.slices]


async def test_series_are_fitted_and_reported_from_listing_to_settlement() -> None:
    listed = series(0)
    network, venue = MemoryNetwork(Hub(4), ValidatorIndex(1), None), Venue()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(an_oracle(venue, listed, network).run)
        await wait_until(
            lambda: bool(network.sent) and [s.expiry_ns for s in last_slices(network)] == [EXPIRY]
        )
        listed += series(1)
        await wait_until(lambda: [s.expiry_ns for s in last_slices(network)] == [EXPIRY, LATER])
        listed[:] = series(1)
        await wait_until(lambda: [s.expiry_ns for s in last_slices(network)] == [LATER])
        nursery.cancel_scope.cancel()
    assert venue.told == [10, 20, 10], "and nothing is asked for twice"


async def test_an_expiry_that_no_venue_lists_is_interpolated_after_a_while_and_trusted_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = [*series(0), *series(1), *series(2), *series(3)]
    missing = [EXPIRY + DAY_NS, EXPIRY + 3 * DAY_NS]
    for seconds, days in ((60.0, [0, 2]), (0.0, [0, 1, 2])):
        monkeypatch.setattr(node.oracle_service, "GAP_SECONDS", seconds)
        network, venue = MemoryNetwork(Hub(4), ValidatorIndex(1), None), Venue(missing)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(an_oracle(venue, listed, network).run)
            await wait_until(
                lambda network=network: len(network.sent) >= 9 and len(last_slices(network)) >= 2
            )
            nursery.cancel_scope.cancel()
        slices = {(item.expiry_ns - EXPIRY) // DAY_NS: item for item in last_slices(network)}
        assert list(slices) == days, "beyond the last that is quoted nothing is made up"
    vol = (slices[1].theta_e12 * 1e-12 / ((LATER - NOW) / NS / SECONDS_PER_YEAR)) ** 0.5
    assert abs(vol - 0.5) < 0.01
    # With two of the four expiries fitted from one venue confidence is low anyway; never above the chain's limit.
    assert slices[1].confidence_ppm <= CONFIDENCE_PPM_MAX < slices[0].confidence_ppm


def test_between_two_slices_variance_is_linear_and_the_smile_in_between() -> None:
    near = Slice(100, 90_000 * USD, 1_000_000, 10_000_000, -200_000, 4_000_000, 0, 900_000)
    far = Slice(300, 92_000 * USD, 1_000_000, 40_000_000, -400_000, 8_000_000, 2_000, 150_000)
    between = Slice(150, 90_500 * USD, 1_000_000, 17_500_000, -280_000, 5_000_000, 500, 150_000)
    assert fill_gaps((near, far), [50, 150, 400]) == (near, between, far)
    assert fill_gaps((near,), [50, 150]) == (near,)
