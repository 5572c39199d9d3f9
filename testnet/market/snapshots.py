"""Reads Deribit chain snapshots and price bars: CSV and JSON files, gzip-compressed. Disk.

A bad or missing file is an OperatorError; a malformed row is skipped and counted.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from math import isfinite, log
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ledger.instruments import Underlying
from node.oracle.black import implied_vol
from primitives.errors import OperatorError
from testnet.market.source import years_between

CHAIN_DIRECTORY = "deribit_chain_snapshots"
PERPETUAL_FILE = "deribit_perp_at_snapshots.csv.gz"
BARS_DIRECTORY = "binance_spot_klines"
ROWS_MAX = 200_000
"""Rows beyond these of one file are not read."""
HALF_SPREAD_VOL_MAX = 0.10
"""Half spreads beyond ten volatility points are taken as ten."""
_NAME = re.compile(r"deribit_options_snapshot_(\d{8}T\d{6})Z\.csv\.gz")

Series = tuple[Underlying, int]
Knots = list[tuple[int, float]]
"""(time in nanoseconds, logarithm of the price in USD), ascending."""


@dataclass(frozen=True, slots=True)
class Smile:
    """One expiry's implied volatilities at a snapshot, ascending by strike (USD).

    `premium` is ln(forward / index), `moneyness` ln(strike / forward) / sqrt(tau); half spreads are in
    volatility.
    """

    forward: float
    premium: float
    strikes: NDArray[np.float64]
    moneyness: NDArray[np.float64]
    vols: NDArray[np.float64]
    half_spreads: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Index per underlying and smile per (underlying, expiry) at one time."""

    time_ns: int
    indexes: dict[Underlying, float]
    smiles: dict[Series, Smile]


@dataclass(frozen=True, slots=True)
class OptionRow:
    """One option of a chain, premiums already in USD; 0 where a side is not quoted."""

    index: float
    future: float
    strike: float
    is_call: bool
    bid: float
    ask: float


def find_snapshots(directory: Path) -> list[tuple[int, Path]]:
    """(time, file) of every chain snapshot, ascending. Raises OperatorError when there are fewer than two."""
    found = []
    for path in sorted((directory / CHAIN_DIRECTORY).glob("*.csv.gz")):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((_time_ns(datetime.strptime(match[1] + "+0000", "%Y%m%dT%H%M%S%z")), path))
    if len(found) < 2:
        raise OperatorError(
            f"{directory} has no market to replay: it needs at least two files "
            f"{CHAIN_DIRECTORY}/deribit_options_snapshot_<UTC time>Z.csv.gz."
        )
    return found


def read_snapshot(time_ns: int, path: Path, skipped: Counter[str]) -> Snapshot:
    """One chain snapshot. Raises OperatorError when the file is unreadable or nothing in it can be used."""
    indexes: dict[Underlying, list[float]] = {}
    rows: dict[Series, list[OptionRow]] = {}
    for series, found in read_options(path, skipped).items():
        indexes.setdefault(series[0], []).extend(row.index for row in found)
        quoted = [row for row in found if 0 < row.bid <= row.ask]
        if series[1] > time_ns and quoted:
            rows[series] = quoted
    spots = {underlying: median(prices) for underlying, prices in sorted(indexes.items())}
    smiles = {
        series: _smile(rows[series], spots[series[0]], years_between(time_ns, series[1]))
        for series in sorted(rows)
    }
    usable = {series: smile for series, smile in smiles.items() if len(smile.vols) >= 2}
    if not usable:
        raise OperatorError(f"{path} holds no usable option quotes.")
    return Snapshot(time_ns, spots, usable)


def read_options(path: Path, skipped: Counter[str]) -> dict[Series, list[OptionRow]]:
    """Every row of a chain snapshot by series. Raises OperatorError when the file is unreadable."""
    rows: dict[Series, list[OptionRow]] = {}
    for record in _records(path):
        try:
            series, row = _option_row(record)
        except (KeyError, ValueError, TypeError, AttributeError):
            skipped["option_row"] += 1
            continue
        rows.setdefault(series, []).append(row)
    return rows


def _option_row(record: dict[str, str]) -> tuple[Series, OptionRow]:
    """Coin premiums become USD at the row's own futures price; an empty premium is 0."""
    expiry_ns = _time_ns(datetime.fromisoformat(record["expiry_datetime"]))
    future = _positive(record["futures_price"])
    row = OptionRow(
        index=_positive(record["index_price"]),
        future=future,
        strike=_positive(record["strike"]),
        is_call={"call": True, "put": False}[record["option_type"]],
        bid=float(record["bid_price"] or 0) * future,
        ask=float(record["ask_price"] or 0) * future,
    )
    return (Underlying[record["currency"]], expiry_ns), row


def _smile(rows: list[OptionRow], index: float, tau: float) -> Smile:
    """Per strike the out-of-the-money option, the other where that is not quoted on both sides."""
    best: dict[float, OptionRow] = {}
    for row in rows:
        if row.strike not in best or row.is_call == (row.strike >= row.future):
            best[row.strike] = row
    chosen = [best[strike] for strike in sorted(best)]
    futures, strikes, bids, asks = np.array([(r.future, r.strike, r.bid, r.ask) for r in chosen]).T
    is_call = np.array([row.is_call for row in chosen])
    vols, vegas = implied_vol(futures, strikes, tau, (bids + asks) / 2, is_call)
    half_spreads = np.minimum((asks - bids) / 2 / np.maximum(vegas, 1e-9), HALF_SPREAD_VOL_MAX)
    sound = ~np.isnan(vols)
    moneyness = np.log(strikes / futures) / np.sqrt(tau)
    columns = (column[sound] for column in (strikes, moneyness, vols, half_spreads))
    forward = median(row.future for row in rows)
    return Smile(forward, log(forward / index), *columns)


def read_perpetuals(directory: Path, skipped: Counter[str]) -> dict[Underlying, Knots]:
    """The perpetual's price at each snapshot time; empty when the file is absent."""
    path = directory / PERPETUAL_FILE
    found: dict[Underlying, dict[int, float]] = {}
    for record in _records(path) if path.exists() else []:
        try:
            time_ns = int(record["snapshot_timestamp_ms"]) * 1_000_000
            found.setdefault(Underlying[record["coin"]], {})[time_ns] = log(
                _positive(record["candle_price_used"])
            )
        except (KeyError, ValueError, TypeError):
            skipped["perpetual_row"] += 1
    return {underlying: sorted(knots.items()) for underlying, knots in sorted(found.items())}


def read_bars(directory: Path, underlying: Underlying, skipped: Counter[str]) -> list[Knots]:
    """Every file of price bars of an underlying, four points a bar: open, the two extremes, close."""
    paths = sorted((directory / BARS_DIRECTORY).glob(f"{underlying.name}USDT_*.json.gz"))
    return [knots for path in paths if (knots := _bar_knots(_read_json(path), skipped))]


def _bar_knots(bars: list[Any], skipped: Counter[str]) -> Knots:
    knots: dict[int, float] = {}
    for bar in bars[:ROWS_MAX]:
        try:
            opened_ns, closed_ns = int(bar[0]) * 1_000_000, (int(bar[6]) + 1) * 1_000_000
            first, high, low, last = (log(_positive(price)) for price in bar[1:5])
        except (LookupError, ValueError, TypeError):
            skipped["bar"] += 1
            continue
        # A rising bar most likely saw its low first, a falling one its high.
        extremes = (low, high) if last >= first else (high, low)
        third = (closed_ns - opened_ns) // 3
        knots |= {
            opened_ns: first,
            opened_ns + third: extremes[0],
            opened_ns + 2 * third: extremes[1],
            closed_ns: last,
        }
    return sorted(knots.items())


def _records(path: Path) -> list[dict[str, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            return list(islice(csv.DictReader(file), ROWS_MAX))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise OperatorError(f"Cannot read {path}: {error}.") from None


def _read_json(path: Path) -> list[Any]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            bars = json.load(file)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise OperatorError(f"Cannot read {path}: {error}.") from None
    return bars if isinstance(bars, list) else []


def _positive(text: str) -> float:
    value = float(text)
    if not (isfinite(value) and value > 0):
        raise ValueError(text)
    return value


def _time_ns(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp()) * 1_000_000_000
