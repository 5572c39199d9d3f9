"""Replays real option chains: quoted volatilities carried between snapshots along a real price path. Disk.

At a snapshot's time its quotes are met exactly; between two, volatility at the same moneyness is interpolated
and every option re-priced at the moving forward. The index follows spot bars where they cover both snapshots,
else the perpetual's prices, bent so that it meets each snapshot's index.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from math import exp, log, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ledger.instruments import Kind, Underlying
from node.oracle.black import price_and_vega
from primitives.amounts import NS
from primitives.errors import OperatorError
from testnet.market.snapshots import (
    Knots,
    Series,
    Smile,
    Snapshot,
    find_snapshots,
    read_bars,
    read_perpetuals,
    read_snapshot,
)
from testnet.market.source import (
    DAY_NS,
    EXPIRY_LEAD_NS_MIN,
    EXPIRY_OF_DAY_NS,
    EXPIRY_SHARE_OF_RUN,
    Shock,
    TrueChain,
    years_between,
)

STRIKES_MAX = 24
"""Strikes quoted per expiry: the ones nearest to the forward at the start."""
DAYS_MAX = 100
"""Expiries further out than this many days are left out."""
TICKS = {Underlying.BTC: 0.1, Underlying.ETH: 0.01}
"""Least half spread in USD."""


def suggest_start_ns(directory: Path, speed: float, seconds: float) -> int:
    """A start such that an 08:00 expiry comes within a run of `seconds` at `speed`, on the finest price path.

    Raises:
        OperatorError: the data cover no such run.
    """
    times = [time_ns for time_ns, _ in find_snapshots(directory)]
    span_ns = int(speed * seconds) * NS
    lead_ns = max(EXPIRY_LEAD_NS_MIN, int(span_ns * EXPIRY_SHARE_OF_RUN) // NS * NS)
    bars = read_bars(directory, Underlying.BTC, Counter())
    first = (times[0] - EXPIRY_OF_DAY_NS) // DAY_NS * DAY_NS + DAY_NS + EXPIRY_OF_DAY_NS
    starts = [expiry - lead_ns for expiry in range(first, times[-1], DAY_NS)]
    fitting = [start for start in starts if times[0] <= start and start + span_ns <= times[-1]]
    if not fitting:
        raise OperatorError(
            f"{directory} covers no run of {span_ns // NS} seconds of market time with an expiry."
        )
    return min(fitting, key=lambda start: (not _is_fine(times, bars, start), _gap(times, start), start))


def _is_fine(times: list[int], bars: list[Knots], start_ns: int) -> bool:
    place = bisect_right(times, start_ns)
    return _covering(bars, times[place - 1], times[min(place, len(times) - 1)]) is not None


def _gap(times: list[int], start_ns: int) -> int:
    """Days without a chain between the snapshots around a time."""
    place = bisect_right(times, start_ns)
    return (times[min(place, len(times) - 1)] - times[place - 1]) // DAY_NS


def _covering(files: list[Knots], from_ns: int, to_ns: int) -> Knots | None:
    return next((knots for knots in files if knots[0][0] <= from_ns and to_ns <= knots[-1][0]), None)


class ReplayMarket:
    """A MarketSource over the data of a directory. Series are fixed at the start.

    `skipped` counts malformed rows by kind of file.
    """

    def __init__(
        self, directory: Path, start_ns: int, shock: Shock | None = None, expiries_max: int = 4
    ) -> None:
        """Raises OperatorError: no data there, unreadable data, or a start outside it."""
        self.start_ns = start_ns
        self.time_ns = start_ns
        self.skipped: Counter[str] = Counter()
        self._shock = shock
        self._files = find_snapshots(directory)
        self._times = [time_ns for time_ns, _ in self._files]
        if not self._times[0] <= start_ns < self._times[-1]:
            raise OperatorError(
                f"The replay starts at {start_ns} ns, the chains in {directory} cover {self._times[0]} to "
                f"{self._times[-1]}."
            )
        self._directory = directory
        self._bars: dict[Underlying, list[Knots]] = {}
        self._place = -1
        self._before = self._after = Snapshot(0, {}, {})
        self._carried: dict[Series, Smile] = {}
        self._perpetuals = read_perpetuals(directory, self.skipped)
        self._turn_to(start_ns)
        self.underlyings = tuple(sorted(self._before.indexes))
        self._strikes = self._choose_series(expiries_max)

    def advance_to(self, market_time_ns: int) -> None:
        """Move on; after the last snapshot only time passes."""
        self.time_ns = max(self.time_ns, market_time_ns)
        self._turn_to(self.time_ns)

    def index(self, underlying: Underlying) -> float:
        """Spot in USD."""
        before, after = self._before, self._after
        ends = [log(snapshot.indexes[underlying]) for snapshot in (before, after)]
        path = self._paths[underlying]
        share = self._share()
        bend = (1 - share) * (ends[0] - path(before.time_ns)) + share * (ends[1] - path(after.time_ns))
        shock = self._shock.factor(self.time_ns) if self._shock else 1.0
        return shock * exp(path(min(self.time_ns, after.time_ns)) + bend)

    def expiries(self, underlying: Underlying) -> tuple[int, ...]:
        """Expiries still ahead, ascending."""
        return tuple(e for u, e in self._strikes if u == underlying and e > self.time_ns)

    def strikes(self, underlying: Underlying, expiry_ns: int) -> tuple[int, ...]:
        """Strikes in micro-USD, ascending."""
        return tuple(self._strikes[underlying, expiry_ns].tolist())

    def forwards(self, underlying: Underlying) -> tuple[tuple[int, float], ...]:
        """(expiry, forward in USD) of every unexpired expiry, ascending."""
        index = self.index(underlying)
        return tuple((e, index * exp(self._premium((underlying, e)))) for e in self.expiries(underlying))

    def chain(self, underlying: Underlying) -> tuple[TrueChain, ...]:
        """One chain per unexpired expiry, ascending."""
        return tuple(
            self._chain((underlying, expiry), forward) for expiry, forward in self.forwards(underlying)
        )

    def _turn_to(self, time_ns: int) -> None:
        """Hold the snapshots on both sides of a time; what an expiry last showed is carried on."""
        place = min(bisect_right(self._times, time_ns), len(self._times) - 1)
        if place == self._place:
            return
        one_further = place == self._place + 1
        self._before = self._after if one_further else read_snapshot(*self._files[place - 1], self.skipped)
        self._after = read_snapshot(*self._files[place], self.skipped)
        self._place = place
        self._carried |= self._before.smiles
        self._paths = {u: self._path_between(u) for u in self._before.indexes}

    def _path_between(self, underlying: Underlying) -> _LogPath:
        """The finest prices between the two snapshots: bars, the perpetual, or none at all (a level)."""
        bars = self._bars.setdefault(underlying, read_bars(self._directory, underlying, self.skipped))
        knots = _covering(bars, self._before.time_ns, self._after.time_ns)
        return _LogPath(knots or self._perpetuals.get(underlying) or [(0, 0.0)])

    def _share(self) -> float:
        """How far the time is from the snapshot before to the one after, 0 to 1."""
        span = self._after.time_ns - self._before.time_ns
        return min(1.0, (self.time_ns - self._before.time_ns) / span)

    def _choose_series(self, expiries_max: int) -> dict[Series, NDArray[np.int64]]:
        """The first expiry and others spread over DAYS_MAX, each with the strikes nearest to its forward."""
        chosen = {}
        for underlying in self.underlyings:
            ahead = [
                expiry
                for owner, expiry in self._before.smiles
                if owner == underlying and self.start_ns < expiry <= self.start_ns + DAYS_MAX * DAY_NS
            ]
            count = min(expiries_max, len(ahead))
            for place in np.linspace(0, len(ahead) - 1, count).round().astype(int) if count else []:
                series = (underlying, ahead[place])
                smile = self._before.smiles[series]
                nearest = np.abs(smile.strikes - smile.forward).argsort()[:STRIKES_MAX]
                chosen[series] = np.rint(np.sort(smile.strikes[nearest]) * 1e6).astype(np.int64)
        return chosen

    def _smiles(self, series: Series) -> tuple[Smile, Smile]:
        """The series' smile before and after now; the same one twice where the next snapshot lacks it."""
        before = self._carried[series]
        return before, self._after.smiles.get(series, before)

    def _premium(self, series: Series) -> float:
        before, after = self._smiles(series)
        return before.premium + self._share() * (after.premium - before.premium)

    def _chain(self, series: Series, forward: float) -> TrueChain:
        underlying, expiry_ns = series
        tau = years_between(self.time_ns, expiry_ns)
        before, after = self._smiles(series)
        share = self._share()
        strikes = np.repeat(self._strikes[series], 2)
        kinds = np.tile(np.array([Kind.CALL, Kind.PUT], dtype=np.int64), len(strikes) // 2)
        moneyness = np.log(strikes / 1e6 / forward) / sqrt(tau)
        vols, half_vols = (
            (1 - share) * np.interp(moneyness, before.moneyness, old)
            + share * np.interp(moneyness, after.moneyness, new)
            for old, new in ((before.vols, after.vols), (before.half_spreads, after.half_spreads))
        )
        mids, vegas = price_and_vega(forward, strikes / 1e6, tau, vols, kinds == Kind.CALL)
        half_spreads = np.maximum(half_vols * vegas, TICKS[underlying])
        return TrueChain(underlying, expiry_ns, forward, strikes, kinds, vols, mids, vegas, half_spreads)


class _LogPath:
    """Logarithm of a price between knots, linear; level beyond the ends."""

    def __init__(self, knots: Knots) -> None:
        self._times, self._logs = zip(*knots, strict=True)

    def __call__(self, time_ns: int) -> float:
        return float(np.interp(time_ns, self._times, self._logs))
