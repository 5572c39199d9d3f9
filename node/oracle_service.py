"""The validator's oracle: venues in, signed reports out, the newest report of every validator kept. Trio tasks.

Each index interval this validator reports its indices and forwards, and each surface interval it also fits every
expiry (on a worker thread); a report always carries the last fit, so that none is lost between two blocks. While the
chain has an epoch to judge, reports also carry the raw quotes of the instruments that it asks for. Reports go to all
validators on the bulk lane; the leader puts the newest of each into its block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import trio

from gossip.network import Network
from ledger.instruments import Instrument, Underlying
from ledger.market import Slice
from ledger.transactions import (
    NO_QUOTES,
    IndexReport,
    OracleReport,
    QuotesReport,
    SeenDelay,
    SignedReport,
    SurfaceReport,
    report_sign_bytes,
)
from node.clock import MarketClock
from node.messages import ReportMessage, lane_of
from node.oracle.aggregate import (
    AggregationRules,
    UnderlyingView,
    aggregate_forward,
    aggregate_index,
    build_view,
)
from node.oracle.fitter import SurfaceFitter
from node.oracle.gaps import fill_gaps
from node.oracle.raw_quotes import raw_quotes
from node.oracle.venue_book import Series, VenueBook, series_of
from node.oracle.venue_client import VenueAdapter
from primitives.codec import decode, encode
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason
from primitives.signing import SigningKey

REPORT_BYTES_MAX = 16_384
GAP_SECONDS = 60.0
"""A listed expiry that no venue of ours quoted for so long is taken for one that they do not list."""


class ReportPool:
    """The newest report of each validator; at most one each, so it is bounded by their number."""

    def __init__(self, oracle_keys: Mapping[int, bytes], chain_id: bytes) -> None:
        """`oracle_keys`: by reporter's number."""
        self._keys = dict(oracle_keys)
        self._chain_id = chain_id
        self._newest: dict[int, tuple[int, SignedReport]] = {}

    def change_reporters(self, oracle_keys: Mapping[int, bytes]) -> None:
        """Others report from now on; what was heard from those that no longer do is forgotten."""
        self._keys = dict(oracle_keys)
        self._newest = {number: kept for number, kept in self._newest.items() if number in self._keys}

    def number_of(self, oracle_key: bytes) -> int | None:
        """The reporter with this key; None if nobody reports with it."""
        return next((number for number, key in self._keys.items() if key == oracle_key), None)

    def check(self, report: SignedReport) -> tuple[int, tuple[bytes, bytes, bytes]]:
        """(the reporter's clock, the signature to verify) of a report from the wire.

        Raises:
            ProtocolViolation: unknown reporter, undecodable payload, or another chain's report.
        """
        if report.reporter not in self._keys:
            raise ProtocolViolation(CodecReason.OUT_OF_RANGE, "no such oracle reporter")
        content = decode(OracleReport, report.payload, bytes_max=REPORT_BYTES_MAX)
        if content.reporter != report.reporter or content.chain_id != self._chain_id:
            raise ProtocolViolation(CodecReason.OUT_OF_RANGE, "the report names another reporter or chain")
        key = self._keys[report.reporter]
        return content.time_ns, (key, report_sign_bytes(report.payload), report.signature)

    def add(self, time_ns: int, report: SignedReport) -> bool:
        """Keep a verified report if it is newer than what we hold."""
        held = self._newest.get(report.reporter)
        if held is not None and held[0] >= time_ns:
            return False
        self._newest[report.reporter] = (time_ns, report)
        return True

    def newest(self) -> list[SignedReport]:
        """The newest report of each validator, ascending by reporter."""
        return [self._newest[reporter][1] for reporter in sorted(self._newest)]


class OracleService:
    """Runs the venue adapters and reports what they show."""

    def __init__(
        self,
        *,
        key: SigningKey,
        chain_id: bytes,
        clock: MarketClock,
        adapters: Sequence[VenueAdapter],
        rules: AggregationRules,
        network: Network,
        pool: ReportPool,
        listed: Callable[[], Sequence[Instrument]],
        asked: Callable[[int], Sequence[Instrument]],
        delays: Callable[[], tuple[SeenDelay, ...]],
        index_interval_ms: int,
        surface_interval_ms: int,
    ) -> None:
        """`listed`: what the chain lists now, ascending by id; adapters are told when it changes.

        `asked`: whose raw quotes the chain wants at a market time, ascending by id.
        `delays`: how late we saw the newest proposals.
        """
        self._key = key
        self._chain_id = chain_id
        self._clock = clock
        self._adapters = adapters
        self._rules = rules
        self._network = network
        self._pool = pool
        self._index_interval_s = index_interval_ms / 1000
        self._surface_every = max(1, surface_interval_ms // index_interval_ms)
        self._listed = listed
        self._followed: Sequence[Instrument] = ()
        """The listing that the adapters were last told of."""
        self._listed_since: dict[Series, float] = {}
        self._asked = asked
        self._delays = delays
        self._fitter = SurfaceFitter()
        self._surfaces: tuple[SurfaceReport, ...] = ()
        self.views: dict[int, UnderlyingView] = {}
        self.rmse_vol_points: list[float] = []
        """Error of every expiry's last fit, in volatility points."""

    async def run(self) -> None:
        """Stream venues and report until cancelled."""
        async with trio.open_nursery() as nursery:
            for adapter in self._adapters:
                nursery.start_soon(adapter.run)
            nursery.start_soon(self._report_forever)

    def venue_counters(self) -> dict[tuple[str, str], int]:
        """What each venue's adapter counted: ("venue_events", "<venue>.<what or reason>") -> count."""
        return {
            ("venue_events", f"{adapter.book.name}.{what}"): count
            for adapter in self._adapters
            for what, count in adapter.counters.items()
        }

    async def _report_forever(self) -> None:
        turn = 0
        while True:
            deadline = trio.current_time() + self._index_interval_s
            await self._report(with_surfaces=turn % self._surface_every == 0)
            turn += 1
            await trio.sleep_until(deadline)

    def _follow_listing(self) -> None:
        """Venues are asked for what the chain lists, as series come and go."""
        listed = self._listed()
        if listed != self._followed:
            self._followed = listed
            now = trio.current_time()
            self._listed_since = {
                series: self._listed_since.get(series, now) for series in sorted(series_of(listed))
            }
            for adapter in self._adapters:
                adapter.relist(listed)

    async def _report(self, *, with_surfaces: bool) -> None:
        self._follow_listing()
        reporter = self._pool.number_of(self._key.public_key)
        if reporter is None:
            return  # Our validator is not in the set yet, or no longer.
        now_ns = self._clock.now_ns()
        asked = self._asked(now_ns)
        if with_surfaces or asked:
            await trio.to_thread.run_sync(self._refresh, now_ns)
        if with_surfaces:
            await trio.to_thread.run_sync(self._fit)
        indices = self._look(now_ns)
        if not indices:
            return
        said = (indices, self._without_gaps(now_ns), self._delays(), self._quotes(asked))
        report = OracleReport(self._chain_id, reporter, now_ns, *said)
        payload = encode(report)
        signed = SignedReport(payload, reporter, self._key.sign(report_sign_bytes(payload)))
        self._pool.add(now_ns, signed)
        message = ReportMessage(signed)
        self._network.broadcast(lane_of(message), encode(message))

    def _look(self, now_ns: int) -> tuple[IndexReport, ...]:
        """The indices now; the slices of the last fit follow with their forwards of now."""
        books = [adapter.book for adapter in self._adapters]
        indices: list[IndexReport] = []
        for underlying in Underlying:
            quotes = [book.indexes[underlying] for book in books if underlying in book.indexes]
            found = aggregate_index(quotes, now_ns, self._rules)
            if found is not None:
                indices.append(IndexReport(underlying, found[0]))
        self._surfaces = tuple(
            SurfaceReport(surface.underlying, self._moved(surface, books, now_ns))
            for surface in self._surfaces
        )
        return tuple(indices)

    def _moved(self, surface: SurfaceReport, books: Sequence[VenueBook], now_ns: int) -> tuple[Slice, ...]:
        moved: list[Slice] = []
        for piece in surface.slices:
            if piece.expiry_ns <= now_ns:
                continue
            key = (surface.underlying, piece.expiry_ns)
            futures = [book.forwards[key] for book in books if key in book.forwards]
            found = aggregate_forward(futures, (), now_ns, self._rules)
            moved.append(msgspec.structs.replace(piece, forward_uusd=found[0]) if found else piece)
        return tuple(moved)

    def _without_gaps(self, now_ns: int) -> tuple[SurfaceReport, ...]:
        """What was fitted, and something between for expiries that no venue of ours ever quoted."""
        since = trio.current_time() - GAP_SECONDS
        unquoted = [
            series
            for series, listed_at in self._listed_since.items()
            if listed_at <= since and series[1] > now_ns and self._fitter.fit_of(*series) is None
        ]
        return tuple(
            SurfaceReport(
                surface.underlying,
                fill_gaps(
                    surface.slices, [expiry for owner, expiry in unquoted if owner == surface.underlying]
                ),
            )
            for surface in self._surfaces
        )

    def _quotes(self, asked: Sequence[Instrument]) -> QuotesReport:
        """The raw view of this moment; nothing when nothing is asked for."""
        if not asked or not self.views:
            return NO_QUOTES
        views = [self.views[underlying] for underlying in sorted(self.views)]
        books = [adapter.book for adapter in self._adapters]
        return raw_quotes(views, books, asked, views[0].time_ns - self._rules.spot_age_ns_max)

    def _fit(self) -> None:
        """Fit every expiry of the views: milliseconds, hence on a thread."""
        self._surfaces = tuple(
            SurfaceReport(underlying, self._fitter.propose(view))
            for underlying, view in sorted(self.views.items())
        )

        fits = [
            self._fitter.fit_of(surface.underlying, piece.expiry_ns)
            for surface in self._surfaces
            for piece in surface.slices
        ]
        self.rmse_vol_points = [fit.rmse_vol_points for fit in fits if fit is not None]

    def _refresh(self, now_ns: int) -> None:
        """Gather what the venues show: milliseconds, hence on a thread."""
        books = [adapter.book for adapter in self._adapters]
        views: dict[int, UnderlyingView] = {}
        for underlying in Underlying:
            view = build_view(underlying, books, now_ns, self._rules)
            if view is not None:
                views[underlying] = view
        self.views = views
