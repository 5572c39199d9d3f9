"""Deribit's chains through fitter, clamps and the ledger's own marks, snapshot by snapshot. Disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, sqrt
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from ledger.instruments import LOTS_PER_CONTRACT, Instrument, Kind, Underlying
from ledger.margin.parameters import default_margin_parameters
from ledger.margin.scenarios import build_risk_arrays
from ledger.market import Slice, UnderlyingMarket
from ledger.pricing.surface import clamp_slices
from node.oracle import ssvi
from node.oracle.aggregate import ChainView, UnderlyingView
from node.oracle.fitter import TAU_SECONDS_MIN, SurfaceFitter
from primitives.amounts import NS, USD
from testnet.market.snapshots import OptionRow, find_snapshots, read_options

CALM_MOVE = 0.02
"""A snapshot is calm when BTC's index is within so much of every snapshot's a day around it."""
DAY_NS = 86_400 * NS
VENUES = 3
"""The snapshot stands for a full set of venues: confidence is not what is measured here."""
DENSITY_TOLERANCE = -1e-9
CALENDAR_TOLERANCE = 1e-9
"""In total variance: the size of the slices' own rounding."""
DEVIATIONS = np.linspace(-4, 4, 161)
"""Where arbitrage is looked for, in sqrt(theta): inside the wings, beyond which variance is flat."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quoted:
    """One option quoted on both sides, in USD, beside the ledger's mark."""

    tau_days: float
    is_fitted: bool
    """Out of the money: what the fit looks at where both kinds are quoted."""
    deviations: float
    """ln(strike / forward) in sqrt(theta) of its slice."""
    bid: float
    ask: float
    mark: float

    @property
    def is_inside(self) -> bool:
        """Whether the mark lies within the quoted spread, its ends included."""
        return self.bid <= self.mark <= self.ask


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """What one snapshot gave."""

    time_ns: int
    btc_index: float
    fit_vol_points: tuple[tuple[float, float], ...]
    """(days to expiry, RMSE in volatility points) of every slice fitted."""
    butterflies: int
    """Slices with a negative density somewhere, after the clamps."""
    calendars: int
    """Neighbouring slices whose variances cross, after the clamps."""
    slices: int
    options: tuple[Quoted, ...]


class ChainReplay:
    """One validator's fitter over all snapshots in order, warm-started as in life."""

    def __init__(self) -> None:
        self._fitter = SurfaceFitter()
        self.skipped: Counter[str] = Counter()

    def take(self, time_ns: int, path: Path) -> SnapshotResult:
        """Fit, clamp and mark one snapshot. Raises OperatorError for an unreadable file."""
        rows = read_options(path, self.skipped)
        by_underlying: dict[Underlying, dict[int, list[OptionRow]]] = {}
        for (underlying, expiry_ns), found in rows.items():
            if expiry_ns - time_ns >= TAU_SECONDS_MIN * NS:
                by_underlying.setdefault(underlying, {})[expiry_ns] = found
        fits: list[tuple[float, float]] = []
        options: list[Quoted] = []
        butterflies = calendars = count = 0
        for underlying, chains in sorted(by_underlying.items()):
            index_usd = median(row.index for found in chains.values() for row in found)
            view = _view(underlying, time_ns, index_usd, chains)
            slices = clamp_slices(self._fitter.propose(view))
            for item in slices:
                fit = self._fitter.fit_of(underlying, item.expiry_ns)
                if fit is not None:
                    fits.append(((item.expiry_ns - time_ns) / DAY_NS, fit.rmse_vol_points))
            butterflies += sum(has_negative_density(item) for item in slices)
            calendars += crossings(slices)
            count += len(slices)
            market = UnderlyingMarket(round(index_usd * USD), slices)
            options += _marked(underlying, time_ns, market, chains)
        btc = median(row.index for found in by_underlying[Underlying.BTC].values() for row in found)
        return SnapshotResult(time_ns, btc, tuple(fits), butterflies, calendars, count, tuple(options))


def replay_chains(directory: Path, limit: int | None = None) -> list[SnapshotResult]:
    """Every snapshot of a directory, or the first `limit`. Raises OperatorError as find_snapshots."""
    replay = ChainReplay()
    return [replay.take(time_ns, path) for time_ns, path in find_snapshots(directory)[:limit]]


def calm_times(results: Sequence[SnapshotResult]) -> set[int]:
    """Times of the calm snapshots: no snapshot within a day saw an index CALM_MOVE away."""
    return {
        item.time_ns
        for item in results
        if all(
            abs(other.btc_index / item.btc_index - 1) <= CALM_MOVE
            for other in results
            if abs(other.time_ns - item.time_ns) <= DAY_NS
        )
    }


def _view(
    underlying: Underlying, time_ns: int, index_usd: float, chains: dict[int, list[OptionRow]]
) -> UnderlyingView:
    views = []
    for expiry_ns, rows in sorted(chains.items()):
        ordered = sorted(rows, key=lambda row: (row.strike, not row.is_call))
        forward_uusd = round(median(row.future for row in rows) * USD)
        bids, asks = (
            np.array([value if value > 0 else np.nan for value in column])
            for column in ([row.bid for row in ordered], [row.ask for row in ordered])
        )
        views.append(
            ChainView(
                expiry_ns,
                time_ns,
                forward_uusd,
                forward_uusd,
                VENUES,
                np.array([round(row.strike * USD) for row in ordered], dtype=np.int64),
                np.array([Kind.CALL if row.is_call else Kind.PUT for row in ordered], dtype=np.int64),
                bids,
                asks,
                (bids + asks) / 2,
            )
        )
    return UnderlyingView(underlying, time_ns, round(index_usd * USD), VENUES, tuple(views))


def _marked(
    underlying: Underlying, time_ns: int, market: UnderlyingMarket, chains: dict[int, list[OptionRow]]
) -> list[Quoted]:
    """Every option with two sides, at the mark that the ledger's kernel gives it."""
    forwards = {item.expiry_ns: item.forward_uusd / USD for item in market.slices}
    roots = {item.expiry_ns: sqrt(item.theta_e12 / 1e12) for item in market.slices}
    quoted = [
        (expiry_ns, row)
        for expiry_ns, rows in sorted(chains.items())
        for row in rows
        if expiry_ns in forwards and 0 < row.bid <= row.ask
    ]
    instruments = [
        Instrument(
            number,
            underlying,
            Kind.CALL if row.is_call else Kind.PUT,
            expiry_ns,
            round(row.strike * USD),
            LOTS_PER_CONTRACT[underlying],
        )
        for number, (expiry_ns, row) in enumerate(quoted)
    ]
    parameters = {underlying: default_margin_parameters(underlying)}
    marks = build_risk_arrays(time_ns, instruments, {underlying: market}, parameters).mark_uusd
    return [
        Quoted(
            (expiry_ns - time_ns) / DAY_NS,
            row.is_call == (row.strike >= forwards[expiry_ns]),
            log(row.strike / forwards[expiry_ns]) / roots[expiry_ns],
            row.bid,
            row.ask,
            mark_uusd / USD,
        )
        for (expiry_ns, row), mark_uusd in zip(quoted, marks.tolist(), strict=True)
    ]


# --- arbitrage, from the slices as they are ---


def _parameters(item: Slice) -> tuple[float, float, float, float]:
    return item.theta_e12 / 1e12, item.rho_e6 / 1e6, item.psi_e9 / 1e9, item.wings_e9 / 1e9


def _variance(item: Slice, k: Floats) -> Floats:
    theta, rho, psi, wings = _parameters(item)
    return ssvi.total_variance(theta, rho, psi, k, wings)


def has_negative_density(item: Slice) -> bool:
    """Whether Durrleman's g is below 0 somewhere inside the wings; derivatives are exact.

    g = (1 - k w' / 2w)^2 - w'^2 / 4 (1/w + 1/4) + w'' / 2. Source: Gatheral and Jacquier (2014), lemma 2.2.
    """
    theta, rho, psi, wings = _parameters(item)
    k: Floats = DEVIATIONS * np.sqrt(theta)
    w = _variance(item, k)
    root = np.sqrt((psi * k) ** 2 + 2 * rho * theta * psi * k + theta**2)
    slope = 0.5 * psi * (rho + (psi * k + rho * theta) / root) + 2 * wings * k
    curvature = 0.5 * psi**2 * theta**2 * (1 - rho**2) / root**3 + 2 * wings
    g = (1 - k * slope / (2 * w)) ** 2 - slope**2 / 4 * (1 / w + 0.25) + curvature / 2
    return bool((g < DENSITY_TOLERANCE).any())


def crossings(slices: Sequence[Slice]) -> int:
    """Neighbours of which the earlier has more total variance at some moneyness inside its wings."""
    count = 0
    for earlier, later in pairwise(slices):
        k: Floats = DEVIATIONS * np.sqrt(earlier.theta_e12 / 1e12)
        gap = _variance(later, k) - _variance(earlier, k)
        count += bool((gap < -CALENDAR_TOLERANCE).any())
    return count
