"""The venues: each quotes the one market with its own errors to any number of validators. Trio sockets.

One task moves the market and lets every venue quote it; a frame is encoded once and goes to all of a venue's
subscribers. A further stream, `truth`, carries noiseless mids for measuring how far the chain is off.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import sqrt

import numpy as np
import trio
from numpy.typing import NDArray

from ledger.instruments import Kind, Underlying
from node.oracle.black import price_and_vega
from node.oracle.quotes import ChainSnapshot, ForwardQuote, IndexQuote, Quote, encode_frame
from node.oracle.venue_client import parse_address
from primitives.amounts import PPM
from primitives.errors import OperatorError
from testnet.market.config import TRUTH, MarketConfig, VenueSpec, venue_address
from testnet.market.source import MarketSource, TrueChain, random_stream, years_between

QUEUE_FRAMES_MAX = 32
"""Frames waiting for one subscriber; when full the subscriber is dropped and may dial again."""
SUBSCRIBERS_MAX = 64
"""Connections per venue; one more is closed at once."""
INDEX_HALF_SPREAD = 0.00005
"""Half the spread of an index or a future, as a fraction of its price."""
PERSISTENCE = 0.9
"""How much of a venue's error is left after one quote; the rest is fresh."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The market at one time, computed once for all venues, in USD. `chains` is empty when no chain is due.

    `forwards` is keyed by (underlying, expiry): dated futures, or synthetic ones where none is listed.
    """

    time_ns: int
    indexes: dict[Underlying, float]
    forwards: dict[tuple[Underlying, int], float]
    chains: tuple[TrueChain, ...]


def moment_of(source: MarketSource, *, with_chains: bool) -> Moment:
    """The market as it is now, with its chains or without."""
    underlyings = source.underlyings
    forwards = {(u, expiry): forward for u in underlyings for expiry, forward in source.forwards(u)}
    chains = tuple(chain for u in underlyings for chain in source.chain(u)) if with_chains else ()
    return Moment(source.time_ns, {u: source.index(u) for u in underlyings}, forwards, chains)


class Venue:
    """How one venue sees the market: its errors, its spread and its lies. No I/O."""

    def __init__(self, spec: VenueSpec, seed: int) -> None:
        self.spec = spec
        self._random = random_stream(seed, "venue", spec.name)
        self._price_errors: dict[Underlying, float] = {}
        self._vol_errors: dict[tuple[Underlying, int], NDArray[np.float64]] = {}

    def quotes(self, moment: Moment) -> list[Quote]:
        """Its messages at this moment: indexes and forwards always, chains when they are due."""
        messages: list[Quote] = []
        for underlying, index in moment.indexes.items():
            self._move_error(underlying)
            sides = _two_sided(index * self._price_factor(underlying), INDEX_HALF_SPREAD)
            messages.append(IndexQuote(underlying, moment.time_ns, *sides))
        for (underlying, expiry_ns), forward in moment.forwards.items():
            sides = _two_sided(forward * self._price_factor(underlying), INDEX_HALF_SPREAD)
            messages.append(ForwardQuote(underlying, expiry_ns, moment.time_ns, *sides))
        messages += [self._chain_snapshot(chain, moment.time_ns) for chain in moment.chains]
        return messages

    def _price_factor(self, underlying: Underlying) -> float:
        """What it multiplies prices by at the moment: its error and its lie."""
        return (1 + self._price_errors[underlying]) * (1 + self.spec.index_bias_ppm / PPM)

    def _move_error(self, underlying: Underlying) -> None:
        fresh = float(self._random.standard_normal()) * self.spec.index_noise_ppm / PPM
        error = PERSISTENCE * self._price_errors.get(underlying, fresh) + sqrt(1 - PERSISTENCE**2) * fresh
        self._price_errors[underlying] = error

    def _chain_snapshot(self, chain: TrueChain, time_ns: int) -> ChainSnapshot:
        key = (chain.underlying, chain.expiry_ns)
        fresh = self._random.standard_normal(len(chain.mids)) * (self.spec.vol_noise_points / 100)
        before = self._vol_errors.get(key, fresh)
        if len(before) != len(fresh):  # More strikes are listed.
            before = fresh
        errors = PERSISTENCE * before + sqrt(1 - PERSISTENCE**2) * fresh
        self._vol_errors[key] = errors
        mids = chain.mids
        if self.spec.index_bias_ppm or self.spec.vol_factor_ppm != PPM:
            forward = chain.forward * (1 + self.spec.index_bias_ppm / PPM)
            tau, vols = years_between(time_ns, chain.expiry_ns), chain.vols * (self.spec.vol_factor_ppm / PPM)
            mids = price_and_vega(forward, chain.strikes_uusd / 1e6, tau, vols, chain.kinds == Kind.CALL)[0]
        half_spreads = chain.half_spreads * (self.spec.spread_factor_ppm / PPM)
        return chain_snapshot(chain, time_ns, mids + chain.vegas * errors, half_spreads)


def chain_snapshot(
    chain: TrueChain, time_ns: int, mids: NDArray[np.float64], half_spreads: NDArray[np.float64]
) -> ChainSnapshot:
    """The wire form of a chain quoted at these mids; a bid that would be negative is none."""
    bids = np.rint(np.maximum(mids - half_spreads, 0.0) * 1e6).astype(np.int64)
    asks = np.rint(np.maximum(mids + half_spreads, 0.0) * 1e6).astype(np.int64)
    columns = (chain.strikes_uusd, chain.kinds, bids, asks)
    return ChainSnapshot(
        chain.underlying, chain.expiry_ns, time_ns, *(tuple(column.tolist()) for column in columns)
    )


def true_quotes(moment: Moment) -> list[Quote]:
    """The market as it is: bid = ask = true mid."""
    messages: list[Quote] = [
        IndexQuote(underlying, moment.time_ns, *_two_sided(index, 0.0))
        for underlying, index in moment.indexes.items()
    ]
    messages += [
        ForwardQuote(underlying, expiry_ns, moment.time_ns, *_two_sided(forward, 0.0))
        for (underlying, expiry_ns), forward in moment.forwards.items()
    ]
    messages += [
        chain_snapshot(chain, moment.time_ns, chain.mids, np.zeros_like(chain.mids))
        for chain in moment.chains
    ]
    return messages


def _two_sided(price: float, half_spread: float) -> tuple[int, int]:
    """(bid, ask) in micro-USD around a price in USD; `half_spread` is a fraction of it."""
    return round(price * (1 - half_spread) * 1e6), round(price * (1 + half_spread) * 1e6)


class Publisher:
    """The subscribers of one stream. A slow one is dropped, a new one first gets the newest frames."""

    def __init__(self, counters: Counter[str]) -> None:
        self.counters = counters
        self._newest: dict[bool, bytes] = {}
        self._queues: dict[trio.MemorySendChannel[bytes], trio.CancelScope] = {}

    def publish(self, frame: bytes, *, has_chains: bool) -> None:
        """Queue a frame for every subscriber."""
        self._newest[has_chains] = frame
        for queue, scope in list(self._queues.items()):
            try:
                queue.send_nowait(frame)
            except trio.WouldBlock:
                self.counters["slow_subscribers_dropped"] += 1
                del self._queues[queue]
                scope.cancel()

    async def serve(self, stream: trio.SocketStream) -> None:
        """Send to one subscriber until it leaves or is dropped."""
        if len(self._queues) >= SUBSCRIBERS_MAX:
            self.counters["subscribers_refused"] += 1
            await stream.aclose()
            return
        self.counters["subscribers"] += 1
        queue, frames = trio.open_memory_channel[bytes](QUEUE_FRAMES_MAX)
        with trio.CancelScope() as scope, suppress(trio.BrokenResourceError):
            self._queues[queue] = scope
            for _, frame in sorted(self._newest.items(), reverse=True):
                queue.send_nowait(frame)
            try:
                async for frame in frames:
                    await stream.send_all(frame)
            finally:
                self._queues.pop(queue, None)
        await trio.aclose_forcefully(stream)


class _Feed:
    """One stream: who quotes it, who hears it, and how late."""

    def __init__(
        self, quote: Callable[[Moment], list[Quote]], latency_ms: int, counters: Counter[str]
    ) -> None:
        self.publisher = Publisher(counters)
        self._quote = quote
        self._latency_seconds = latency_ms / 1_000

    def start(self, moment: Moment, nursery: trio.Nursery) -> None:
        frame = encode_frame(self._quote(moment))
        nursery.start_soon(self._publish_later, frame, bool(moment.chains))

    async def _publish_later(self, frame: bytes, has_chains: bool) -> None:
        await trio.sleep(self._latency_seconds)
        self.publisher.publish(frame, has_chains=has_chains)


class _FrozenVenue(Venue):
    """Repeats its first quotes of each kind, stamps included."""

    def __init__(self, spec: VenueSpec, seed: int) -> None:
        super().__init__(spec, seed)
        self._first: dict[bool, list[Quote]] = {}

    def quotes(self, moment: Moment) -> list[Quote]:
        return self._first.setdefault(bool(moment.chains), super().quotes(moment))


def make_venue(spec: VenueSpec, seed: int) -> Venue:
    """The venue of a specification."""
    return _FrozenVenue(spec, seed) if spec.is_frozen else Venue(spec, seed)


async def serve_venues(
    source: MarketSource,
    config: MarketConfig,
    listeners: Mapping[str, Sequence[trio.SocketListener]],
    now_ns: Callable[[], int],
    counters: Counter[str],
) -> None:
    """Serve every venue and the truth until cancelled; `now_ns` is the market clock.

    `listeners` has an entry for each venue's name and for TRUTH, see `listen_all`.
    """
    feeds = {
        spec.name: _Feed(make_venue(spec, config.seed).quotes, spec.latency_ms, counters)
        for spec in config.venues
    }
    feeds[TRUTH] = _Feed(true_quotes, 0, counters)
    async with trio.open_nursery() as nursery:
        for name, feed in feeds.items():
            nursery.start_soon(trio.serve_listeners, feed.publisher.serve, list(listeners[name]))
        await _move_market(source, config, now_ns, list(feeds.values()), nursery)


async def listen_all(config: MarketConfig) -> dict[str, list[trio.SocketListener]]:
    """Listeners for every venue and the truth. Raises OperatorError as `open_listeners` does."""
    names = [*(spec.name for spec in config.venues), TRUTH]
    return {name: await open_listeners(venue_address(config.socket_dir, name)) for name in names}


async def _move_market(
    source: MarketSource,
    config: MarketConfig,
    now_ns: Callable[[], int],
    feeds: Sequence[_Feed],
    nursery: trio.Nursery,
) -> None:
    """Every index interval one moment; chains with every so many."""
    interval_seconds = config.index_interval_ms / 1_000
    chain_every = max(1, config.chain_interval_ms // config.index_interval_ms)
    began, tick = trio.current_time(), 0
    while True:
        source.advance_to(now_ns())
        moment = moment_of(source, with_chains=tick % chain_every == 0)
        for feed in feeds:
            feed.start(moment, nursery)
            await trio.lowlevel.checkpoint()
        tick = max(tick + 1, int((trio.current_time() - began) / interval_seconds))
        await trio.sleep_until(began + tick * interval_seconds)


async def open_listeners(address: str) -> list[trio.SocketListener]:
    """Listen on a venue's address; a socket file left by an earlier run is replaced.

    Raises:
        OperatorError: the path is too long for a socket, or the address is taken or not allowed.
    """
    scheme, host, port = parse_address(address)
    try:
        if scheme == "tcp":
            return list(await trio.open_tcp_listeners(port, host=host))
        with suppress(FileNotFoundError):
            os.unlink(host)
        socket = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await socket.bind(host)
        socket.listen(SUBSCRIBERS_MAX)
        return [trio.SocketListener(socket)]
    except OSError as error:
        raise OperatorError(f"Cannot listen on {address}: {error.strerror or error}.") from None
