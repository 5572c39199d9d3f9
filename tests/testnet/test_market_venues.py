"""The venues over real sockets: near the truth together, the liar held by the others, the slow dropped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio

from ledger.instruments import Underlying
from node.oracle.aggregate import AggregationRules, build_view
from node.oracle.fitter import SurfaceFitter
from node.oracle.quotes import ChainSnapshot, IndexQuote
from node.oracle.venue_book import VenueBook
from node.oracle.venue_client import VenueClient
from primitives.amounts import NS
from primitives.errors import OperatorError
from testnet.market.config import (
    TRUTH,
    MarketConfig,
    MarketKind,
    VenueSpec,
    default_venues,
    market_time_ns,
    venue_address,
)
from testnet.market.synthetic import SyntheticMarket, suggest_start_ns
from testnet.market.venues import (
    QUEUE_FRAMES_MAX,
    Moment,
    Publisher,
    listen_all,
    make_venue,
    moment_of,
    open_listeners,
    serve_venues,
    true_quotes,
)

SPEED = 60.0
START = suggest_start_ns(SPEED, 60.0)
RULES = AggregationRules(speed=SPEED)


def a_config(socket_dir: Path, venues: tuple[VenueSpec, ...] = default_venues()) -> MarketConfig:
    return MarketConfig(
        kind=MarketKind.SYNTHETIC,
        seed=7,
        speed=SPEED,
        start_market_ns=START,
        start_monotonic_ns=time.monotonic_ns(),
        socket_dir=str(socket_dir),
        venues=venues,
        index_interval_ms=20,
        chain_interval_ms=40,
    )


def a_moment(market: SyntheticMarket) -> Moment:
    return moment_of(market, with_chains=True)


def all_series(market: SyntheticMarket) -> list[tuple[int, int]]:
    return [(int(u), expiry) for u in market.underlyings for expiry in market.expiries(u)]


def books_at(moment: Moment, market: SyntheticMarket, venues: tuple[VenueSpec, ...]) -> list[VenueBook]:
    books = []
    for spec in venues:
        book = VenueBook(spec.name, all_series(market), SPEED)
        for quote in make_venue(spec, 7).quotes(moment):
            book.add(quote, moment.time_ns)
        books.append(book)
    return books


def test_everything_a_default_venue_says_passes_the_checks_until_and_after_an_expiry() -> None:
    for spec in default_venues():
        book, venue = VenueBook(spec.name, (), SPEED), make_venue(spec, 7)
        for seconds in (0, 60, 2_100, 2_159, 2_160, 3_000):
            market = SyntheticMarket(7, START)
            market.advance_to(START + seconds * NS)
            book.list_series(all_series(market))
            for quote in venue.quotes(a_moment(market)):
                book.add(quote, market.time_ns)


def test_the_liar_is_far_off_alone_and_harmless_among_honest_venues() -> None:
    market = SyntheticMarket(7, START)
    moment = a_moment(market)
    books = books_at(moment, market, default_venues())
    truth = market.index(Underlying.BTC) * 1e6
    alone, together = (build_view(0, some, START, RULES) for some in (books[-1:], books))
    assert alone is not None
    assert together is not None
    assert alone.index_uusd / truth - 1 == pytest.approx(0.03, abs=0.001)
    assert abs(together.index_uusd / truth - 1) < 0.0003
    true_mids = market.chain(Underlying.BTC)[2].mids
    halves = market.chain(Underlying.BTC)[2].half_spreads
    assert (np.abs(together.chains[2].mids - true_mids) < 2 * halves).all()
    assert (np.abs(alone.chains[2].mids - true_mids) > 2 * halves).any()


def test_a_frozen_venue_repeats_its_first_stamp() -> None:
    market = SyntheticMarket(7, START)
    venue = make_venue(VenueSpec("stuck", is_frozen=True), 7)
    first = venue.quotes(a_moment(market))
    market.advance_to(START + 60 * NS)
    assert venue.quotes(a_moment(market)) == first


def test_the_truth_is_told_without_noise() -> None:
    market = SyntheticMarket(7, START)
    index, *_, chain = true_quotes(a_moment(market))
    price = round(market.index(Underlying.BTC) * 1e6)
    assert index == IndexQuote(0, START, price, price)
    assert isinstance(chain, ChainSnapshot)
    mids = market.chain(Underlying.ETH)[-1].mids
    assert chain.bids_uusd == chain.asks_uusd == tuple(round(mid * 1e6) for mid in mids.tolist())


@asynccontextmanager
async def a_running_market(config: MarketConfig, counters: Counter[str]) -> AsyncIterator[SyntheticMarket]:
    source = SyntheticMarket(config.seed, config.start_market_ns)
    async with trio.open_nursery() as nursery:
        listeners = await listen_all(config)
        nursery.start_soon(serve_venues, source, config, listeners, lambda: now(config), counters)
        yield source
        nursery.cancel_scope.cancel()


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - the other side is a socket, which sets no event.
            await trio.sleep(0.002)


def now(config: MarketConfig) -> int:
    return market_time_ns(config, time.monotonic_ns())


async def test_validators_over_unix_sockets_see_the_truth_within_the_spread(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    async with a_running_market(config, Counter()) as source, trio.open_nursery() as nursery:
        clients = {}
        for name in (*(spec.name for spec in config.venues), TRUTH):
            book = VenueBook(name, all_series(source), SPEED)
            clients[name] = VenueClient(venue_address(config.socket_dir, name), book, lambda: now(config))
            nursery.start_soon(clients[name].run)
        await wait_until(lambda: all(len(client.book.chains) == 8 for client in clients.values()))
        truth = clients.pop(TRUTH).book
        view = build_view(0, [client.book for client in clients.values()], now(config), RULES)
        assert view is not None
        assert view.index_uusd == pytest.approx(truth.indexes[0].bid_uusd, rel=5e-4)
        slices = SurfaceFitter().propose(view)
        assert [item.confidence_ppm for item in slices] == [1_000_000] * 4
        assert all(set(client.counters) == {"connects", "frames", "quotes"} for client in clients.values())
        nursery.cancel_scope.cancel()


async def test_a_slow_subscriber_is_dropped_and_the_others_are_served(tmp_path: Path) -> None:
    counters: Counter[str] = Counter()
    publisher = Publisher(counters)
    listeners = await open_listeners(f"unix:{tmp_path}/venue.sock")
    frame = bytes(60_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, publisher.serve, listeners)
        slow, quick = [await trio.open_unix_socket(f"{tmp_path}/venue.sock") for _ in range(2)]
        await wait_until(lambda: counters["subscribers"] == 2)
        received, count = 0, 2 * QUEUE_FRAMES_MAX
        for published in range(1, count + 1):
            publisher.publish(frame, has_chains=False)
            while received < len(frame) * published:
                received += len(await quick.receive_some(65_536))
        assert (counters["slow_subscribers_dropped"], received) == (1, count * len(frame))
        with trio.fail_after(2):
            while await slow.receive_some(1 << 20):
                pass
        nursery.cancel_scope.cancel()


async def test_a_new_subscriber_gets_the_newest_frames_at_once(tmp_path: Path) -> None:
    publisher = Publisher(Counter())
    for frame, has_chains in ((b"old", False), (b"chains", True), (b"new", False)):
        publisher.publish(frame, has_chains=has_chains)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            trio.serve_listeners, publisher.serve, await open_listeners(f"unix:{tmp_path}/v.sock")
        )
        stream = await trio.open_unix_socket(f"{tmp_path}/v.sock")
        received = b""
        with trio.fail_after(2):
            while len(received) < len(b"chainsnew"):
                received += await stream.receive_some(100)
        assert received == b"chainsnew"
        nursery.cancel_scope.cancel()


async def test_an_address_that_cannot_be_listened_on_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"Cannot listen on unix:.*\.sock"):
        await open_listeners(f"unix:{tmp_path}/{'long' * 40}.sock")
    with pytest.raises(OperatorError, match="Cannot listen on unix:"):
        await open_listeners(f"unix:{tmp_path}/absent/venue.sock")
