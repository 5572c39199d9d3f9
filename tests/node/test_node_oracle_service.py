"""A validator's reports: signed, newest only, and as good as what its venues show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from ledger.instruments import Instrument
from ledger.transactions import OracleReport, SeenDelay, SignedReport, report_sign_bytes
from node.clock import MarketClock
from node.messages import ReportMessage
from node.oracle.aggregate import AggregationRules
from node.oracle.quotes import IndexQuote
from node.oracle.venue_book import VenueBook, series_of
from node.oracle_service import OracleService, ReportPool
from primitives.amounts import USD
from primitives.codec import decode_own
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex
from primitives.reasons import CodecReason
from primitives.signing import is_valid
from tests.node.memory_network import Hub, MemoryNetwork
from tests.node.network_of_nodes import INSTRUMENTS, TIME_NS, a_report, keys_of

CHAIN = bytes(range(32))
KEYS = {index: keys_of(index).oracle.public_key for index in range(4)}


def reason_of(pool: ReportPool, report: SignedReport) -> str:
    with pytest.raises(ProtocolViolation) as refused:
        pool.check(report)
    return refused.value.reason


def test_only_the_newest_report_of_each_validator_is_kept_in_order_of_reporter() -> None:
    pool = ReportPool(KEYS, CHAIN)
    old, new, other = a_report(2, CHAIN, 5), a_report(2, CHAIN, 9), a_report(0, CHAIN, 7)
    assert [pool.add(time_ns, report) for time_ns, report in ((9, new), (5, old), (9, new), (7, other))] == [
        *(True, False, False, True)
    ]
    assert pool.newest() == [other, new]


def test_a_report_says_its_time_and_what_to_verify() -> None:
    report = a_report(3, CHAIN, 77)
    time_ns, check = ReportPool(KEYS, CHAIN).check(report)
    assert (time_ns, check[0], is_valid(*check)) == (77, KEYS[3], True)


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (replace(a_report(1, CHAIN, 1), reporter=4), CodecReason.OUT_OF_RANGE),
        (replace(a_report(1, CHAIN, 1), reporter=2), CodecReason.OUT_OF_RANGE),
        (a_report(1, bytes(32), 1), CodecReason.OUT_OF_RANGE),
        (replace(a_report(1, CHAIN, 1), payload=b""), CodecReason.MALFORMED),
        (
            replace(a_report(1, CHAIN, 1), payload=a_report(1, CHAIN, 1).payload + b"\0"),
            CodecReason.MALFORMED,
        ),
        (replace(a_report(1, CHAIN, 1), payload=bytes(20_000)), CodecReason.TOO_LARGE),
    ],
)
def test_a_report_of_somebody_else_or_of_another_chain_is_refused(report: SignedReport, reason: str) -> None:
    assert reason_of(ReportPool(KEYS, CHAIN), report) == reason


def test_reporters_change_and_what_the_former_ones_said_is_forgotten() -> None:
    pool = ReportPool(KEYS, CHAIN)
    for reporter in (2, 3):
        pool.add(5, a_report(reporter, CHAIN, 5))
    joined = keys_of(5).oracle.public_key
    assert pool.number_of(joined) is None
    pool.change_reporters({2: KEYS[2], 7: joined})
    assert (pool.newest(), pool.number_of(joined), pool.number_of(KEYS[3])) == (
        *([a_report(2, CHAIN, 5)], 7, None),
    )
    assert reason_of(pool, a_report(3, CHAIN, 6)) == CodecReason.OUT_OF_RANGE


class Venue:
    """An adapter without a socket: its book is filled by the test."""

    def __init__(self, name: str) -> None:
        self.book = VenueBook(name, series_of(INSTRUMENTS))
        self.counters: Counter[str] = Counter()

    async def run(self) -> None:
        await trio.sleep_forever()

    def relist(self, listed: Sequence[Instrument]) -> None:
        self.book.list_series(series_of(listed))


def an_oracle(
    venues: list[Venue],
    network: MemoryNetwork,
    pool: ReportPool,
    listed: Callable[[], Sequence[Instrument]] = lambda: INSTRUMENTS,
) -> OracleService:
    import time

    return OracleService(
        key=keys_of(1).oracle,
        chain_id=CHAIN,
        clock=MarketClock(TIME_NS, time.monotonic_ns(), 1),
        adapters=venues,
        rules=AggregationRules(),
        network=network,
        pool=pool,
        listed=listed,
        asked=lambda _: INSTRUMENTS,
        delays=lambda: (SeenDelay(7, 2, 1_000),),
        index_interval_ms=50,
        surface_interval_ms=100,
    )


def quote(venue: Venue, underlying: int, usd: int, now_ns: int) -> None:
    venue.book.add(IndexQuote(underlying, now_ns, usd * USD, usd * USD), now_ns)


async def reports_with(prices: list[int]) -> tuple[list[OracleReport], ReportPool]:
    """What an oracle says while its venues show these BTC prices."""
    venues = [Venue(name) for name in ("north", "south", "east", "west")][: len(prices)]
    network, pool = MemoryNetwork(Hub(4), ValidatorIndex(1), None), ReportPool(KEYS, CHAIN)
    oracle = an_oracle(venues, network, pool)
    for venue, price in zip(venues, prices, strict=True):
        quote(venue, 0, price, TIME_NS)
    with trio.move_on_after(0.3):
        await oracle.run()
    told = [decode_own(ReportMessage, raw).report for _, raw in network.sent[::3]]
    for report in told:
        assert is_valid(KEYS[1], report_sign_bytes(report.payload), report.signature)
    return [decode_own(OracleReport, report.payload) for report in told], pool


async def test_reports_are_signed_go_to_everybody_and_into_our_own_pool() -> None:
    reports, pool = await reports_with([100_000, 100_010, 99_990, 100_000])
    assert len(reports) >= 3
    times = [report.time_ns for report in reports]
    assert times == sorted(set(times)) and times[0] >= TIME_NS
    assert {(report.chain_id, report.reporter) for report in reports} == {(CHAIN, 1)}
    assert {report.delays for report in reports} == {(SeenDelay(7, 2, 1_000),)}
    assert decode_own(OracleReport, pool.newest()[0].payload) == reports[-1]


async def test_one_lying_venue_of_four_moves_nothing_much() -> None:
    reports, _ = await reports_with([100_000, 100_010, 99_990, 130_000])
    (index,) = reports[-1].indices
    assert 99_900 * USD <= index.index_uusd <= 100_100 * USD


async def test_without_quotes_nothing_is_reported() -> None:
    assert (await reports_with([]))[0] == []


def test_market_time_runs_at_its_speed_and_the_wall_clock_at_one(monkeypatch: Any) -> None:
    import time

    clock = MarketClock(1_000, time.monotonic_ns(), 60)
    before = time.monotonic_ns()
    first = clock.now_ns()
    assert 0 <= first - 1_000 <= 60 * (time.monotonic_ns() - clock.start_monotonic_ns)
    monkeypatch.setattr(time, "monotonic_ns", lambda: before + 10**9)
    assert clock.now_ns() == 1_000 + (before + 10**9 - clock.start_monotonic_ns) * 60
    monkeypatch.undo()
    assert abs(MarketClock.wall().now_ns() - time.time_ns()) < 10**8


def test_what_each_venue_counts_is_told_under_its_name() -> None:
    venues = [Venue("north"), Venue("south")]
    venues[0].counters.update(quotes=3, stale=1)
    venues[1].counters.update(connect_failed=2)
    oracle = an_oracle(venues, MemoryNetwork(Hub(4), ValidatorIndex(1), None), ReportPool(KEYS, CHAIN))
    assert oracle.venue_counters() == {
        ("venue_events", "north.quotes"): 3,
        ("venue_events", "north.stale"): 1,
        ("venue_events", "south.connect_failed"): 2,
    }
