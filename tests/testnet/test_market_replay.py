"""Replaying chains: snapshots met exactly, interpolated between, bad files told clearly, bad rows counted."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ledger.instruments import Kind, Underlying
from node.oracle.aggregate import AggregationRules, build_view
from node.oracle.black import implied_vol, price_and_vega
from node.oracle.fitter import SurfaceFitter
from node.oracle.venue_book import VenueBook
from primitives.amounts import NS
from primitives.errors import OperatorError
from testnet.market.config import MarketConfig, MarketKind, default_venues
from testnet.market.replay import ReplayMarket, suggest_start_ns
from testnet.market.snapshots import BARS_DIRECTORY, CHAIN_DIRECTORY, PERPETUAL_FILE, find_snapshots
from testnet.market.source import DAY_NS, EXPIRY_OF_DAY_NS, Shock, listing, years_between
from testnet.market.venues import make_venue, moment_of

REAL_DATA = Path(os.environ.get("QUORATE_MARKET_DATA", "../shared/data"))
BEGAN = datetime(2030, 3, 1, 6, tzinfo=UTC)
T0 = int(BEGAN.timestamp()) * NS
HOUR_NS = 3_600 * NS
SOON, LATER = T0 + 2 * HOUR_NS, T0 + 7 * DAY_NS + 2 * HOUR_NS
STRIKES = tuple(range(80_000, 102_000, 2_000))


def utc(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns / NS, tz=UTC)


def rows_at(time_ns: int, index: float, vol: float) -> list[dict[str, object]]:
    """A chain in the columns of the data, premiums in coin, 0.001 wide; futures 0.1 % above the index."""
    rows: list[dict[str, object]] = []
    future = index * 1.001
    for expiry_ns in (SOON, LATER):
        if expiry_ns <= time_ns:
            continue
        for option_type in ("call", "put"):
            tau = years_between(time_ns, expiry_ns)
            strikes = np.array(STRIKES, dtype=float)
            calls = np.full(len(STRIKES), option_type == "call")
            values, _ = price_and_vega(future, strikes, tau, np.full(len(STRIKES), vol), calls)
            rows += [
                {
                    "currency": "BTC",
                    "expiry_datetime": utc(expiry_ns).isoformat(),
                    "futures_price": future,
                    "option_type": option_type,
                    "strike": strike,
                    "bid_price": value / future - 0.0005 if value / future > 0.0005 else "",
                    "ask_price": value / future + 0.0005,
                    "index_price": index,
                }
                for strike, value in zip(STRIKES, values.tolist(), strict=True)
            ]
    return rows


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def snapshot_path(directory: Path, time_ns: int) -> Path:
    stamp = utc(time_ns).strftime("%Y%m%dT%H%M%S")
    return directory / CHAIN_DIRECTORY / f"deribit_options_snapshot_{stamp}Z.csv.gz"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three chains four hours apart: index 90,000 then 88,000 then 88,000, volatility 40 %, 60 %, 60 %."""
    for hours, index, vol in ((0, 90_000.0, 0.4), (4, 88_000.0, 0.6), (8, 88_000.0, 0.6)):
        write_csv(snapshot_path(tmp_path, T0 + hours * HOUR_NS), rows_at(T0 + hours * HOUR_NS, index, vol))
    return tmp_path


def at_the_money_vol(market: ReplayMarket) -> float:
    chain = market.chain(Underlying.BTC)[-1]
    return float(np.interp(chain.forward, chain.strikes_uusd / 1e6, chain.vols))


def test_at_a_snapshot_its_own_quotes_are_met(data: Path) -> None:
    market = ReplayMarket(data, T0)
    soon, later = market.chain(Underlying.BTC)
    assert (soon.expiry_ns, later.expiry_ns) == (SOON, LATER)
    assert (market.index(Underlying.BTC), later.forward) == pytest.approx((90_000.0, 90_090.0))
    np.testing.assert_allclose(later.vols, 0.4, rtol=1e-4)
    near = np.abs(later.strikes_uusd / 1e6 - 90_000) < 4_000
    np.testing.assert_allclose(later.half_spreads[near], 0.0005 * 90_090, rtol=1e-3)


def test_between_snapshots_volatility_and_price_move_from_one_to_the_other(data: Path) -> None:
    market = ReplayMarket(data, T0)
    market.advance_to(T0 + 2 * HOUR_NS)
    assert market.index(Underlying.BTC) == pytest.approx((90_000 * 88_000) ** 0.5)
    assert at_the_money_vol(market) == pytest.approx(0.5, rel=1e-3)
    market.advance_to(T0 + 4 * HOUR_NS)
    assert (market.index(Underlying.BTC), at_the_money_vol(market)) == pytest.approx(
        (88_000.0, 0.6), rel=1e-3
    )


def test_values_are_consistent_with_volatilities_at_the_moving_forward(data: Path) -> None:
    market = ReplayMarket(data, T0)
    market.advance_to(T0 + HOUR_NS)
    chain = market.chain(Underlying.BTC)[-1]
    tau = years_between(market.time_ns, chain.expiry_ns)
    strikes = chain.strikes_uusd / 1e6
    found, _ = implied_vol(chain.forward, strikes, tau, chain.mids, chain.kinds == Kind.CALL)
    near = np.abs(strikes - chain.forward) < 6_000
    np.testing.assert_allclose(found[near], chain.vols[near], rtol=1e-6)


def test_the_perpetual_bends_the_path_between_snapshots(data: Path) -> None:
    prices = ((0, 90_100.0), (2, 93_000.0), (4, 88_050.0), (8, 88_000.0))
    rows: list[dict[str, object]] = [
        {"snapshot_timestamp_ms": (T0 + h * HOUR_NS) // 10**6, "coin": "BTC", "candle_price_used": price}
        for h, price in prices
    ]
    write_csv(
        data / PERPETUAL_FILE, [*rows, {**rows[0], "candle_price_used": "nan"}, {**rows[0], "coin": "?"}]
    )
    market = ReplayMarket(data, T0)
    market.advance_to(T0 + 2 * HOUR_NS)
    basis = ((90_100 / 90_000) * (88_050 / 88_000)) ** 0.5
    assert (market.index(Underlying.BTC), market.skipped) == (
        pytest.approx(93_000 / basis),
        {"perpetual_row": 2},
    )


def test_bars_that_cover_both_snapshots_are_preferred(data: Path) -> None:
    def bar(hour: int, *prices: float) -> list[object]:
        opened_ms = (T0 + hour * HOUR_NS) // 10**6
        return [opened_ms, *(str(price) for price in prices), "1", opened_ms + 3_599_999]

    bars = [bar(hour, 90_000, 91_000, 89_000, 90_000) for hour in range(8)]
    bars[2] = bar(2, 90_000, 95_000, 90_000, 92_000)
    (data / BARS_DIRECTORY).mkdir()
    with gzip.open(data / BARS_DIRECTORY / "BTCUSDT_1h_2030-03-01.json.gz", "wt") as file:
        json.dump([*bars, ["not", "a", "bar"]], file)
    market = ReplayMarket(data, T0)
    market.advance_to(T0 + 2 * HOUR_NS + 2 * HOUR_NS // 3)
    bend = (88_000 / 90_000) ** ((2 + 2 / 3) / 4)
    assert (market.index(Underlying.BTC), market.skipped) == (pytest.approx(95_000 * bend), {"bar": 1})


def test_an_expiry_between_snapshots_is_quoted_until_it_is_over(data: Path) -> None:
    market = ReplayMarket(data, T0)
    market.advance_to(SOON - NS)
    assert [chain.expiry_ns for chain in market.chain(Underlying.BTC)] == [SOON, LATER]
    market.advance_to(SOON)
    assert market.expiries(Underlying.BTC) == (LATER,)


def test_after_the_last_snapshot_only_time_passes(data: Path) -> None:
    market = ReplayMarket(data, T0)
    market.advance_to(T0 + 30 * HOUR_NS)
    assert (market.index(Underlying.BTC), at_the_money_vol(market)) == pytest.approx(
        (88_000.0, 0.6), rel=1e-3
    )


def test_a_shock_multiplies_real_prices_too(data: Path) -> None:
    market = ReplayMarket(data, T0, Shock(T0 + HOUR_NS, -60_000))
    calm = ReplayMarket(data, T0)
    for either in (market, calm):
        either.advance_to(T0 + HOUR_NS)
    assert market.index(Underlying.BTC) / calm.index(Underlying.BTC) == pytest.approx(0.94)


def test_the_suggested_start_puts_an_expiry_into_the_run(data: Path) -> None:
    start = suggest_start_ns(data, 60.0, 60.0)
    assert start == SOON - 2_160 * NS
    with pytest.raises(OperatorError, match="covers no run of 360000 s"):
        suggest_start_ns(data, 3_600.0, 100.0)


def test_malformed_rows_are_skipped_and_counted(data: Path) -> None:
    rows = rows_at(T0, 90_000.0, 0.4)
    faults = ({"strike": "x"}, {"currency": "DOGE"}, {"option_type": "swap"}, {"futures_price": "-1"})
    rows += [{**rows[0], **fault} for fault in (*faults, {"expiry_datetime": ""}, {"index_price": "inf"})]
    write_csv(snapshot_path(data, T0), rows)
    market = ReplayMarket(data, T0)
    assert (market.skipped, len(market.chain(Underlying.BTC))) == ({"option_row": 6}, 2)


def test_what_cannot_be_replayed_is_one_clear_sentence(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(OperatorError, match="has no market to replay"):
        ReplayMarket(tmp_path_factory.mktemp("empty"), T0)
    with pytest.raises(OperatorError, match="The replay starts at"):
        ReplayMarket(data, T0 - NS)
    path = snapshot_path(data, T0)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(OperatorError, match="Cannot read"):
        ReplayMarket(data, T0)
    write_csv(path, [{"nothing": 1}])
    with pytest.raises(OperatorError, match="holds no usable option quotes"):
        ReplayMarket(data, T0)


def test_a_real_market_is_listed_quoted_and_fitted() -> None:
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real chains at {REAL_DATA}")
    start = suggest_start_ns(REAL_DATA, 60.0, 60.0)
    market = ReplayMarket(REAL_DATA, start)
    assert (market.expiries(Underlying.BTC)[0] - start, market.skipped) == (2_160 * NS, Counter())
    instruments = listing(market)
    assert len(instruments) == 2 + 2 * 4 * 8 * 2
    moment = moment_of(market, with_chains=True)
    series = {(item.underlying, item.expiry_ns) for item in instruments[2:]}
    books = [VenueBook(spec.name, series) for spec in default_venues()]
    for book, spec in zip(books, default_venues(), strict=True):
        for quote in make_venue(spec, 7).quotes(moment):
            book.add(quote, start)
    for underlying in market.underlyings:
        view = build_view(underlying, books, start, AggregationRules())
        assert view is not None
        slices = SurfaceFitter().propose(view)
        assert [item.expiry_ns for item in slices] == list(market.expiries(underlying))
        assert all(item.confidence_ppm >= 550_000 for item in slices)


def test_real_snapshots_meet_their_own_index() -> None:
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real chains at {REAL_DATA}")
    for time_ns, _ in find_snapshots(REAL_DATA)[6:10]:
        market = ReplayMarket(REAL_DATA, time_ns)
        before = market.index(Underlying.BTC)
        assert before == pytest.approx(market._before.indexes[Underlying.BTC], rel=1e-12)


def test_the_market_process_serves_and_ends_in_order(tmp_path: Path) -> None:
    start = 20_000 * DAY_NS + EXPIRY_OF_DAY_NS
    config = MarketConfig(
        MarketKind.SYNTHETIC, 7, 60.0, start, time.monotonic_ns(), str(tmp_path), default_venues()
    )
    path = tmp_path / "market.json"
    path.write_bytes(msgspec.json.encode(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "testnet.market", str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    names = sorted(item.name for item in tmp_path.glob("*.sock"))
    process.send_signal(signal.SIGTERM)
    ended = json.loads(process.communicate(timeout=10)[0])
    assert ready == {"event": "market_ready", "venues": 5}
    assert names == ["east.sock", "mirage.sock", "north.sock", "south.sock", "truth.sock", "west.sock"]
    assert (process.returncode, ended["event"]) == (0, "market_stopped")


def test_a_missing_market_is_told_by_the_process_in_one_line(tmp_path: Path) -> None:
    config = MarketConfig(
        MarketKind.REPLAY, 7, 60.0, T0, 0, str(tmp_path), default_venues(), path=str(tmp_path / "none")
    )
    path = tmp_path / "market.json"
    path.write_bytes(msgspec.json.encode(config))
    done = subprocess.run(
        [sys.executable, "-m", "testnet.market", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "has no market to replay" in done.stderr
