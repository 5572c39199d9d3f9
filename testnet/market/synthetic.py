"""A made-up market: correlated stochastic volatility with jumps, the same path for the same seed. Pure.

Heston-like variance with mean reversion, Merton jumps that hit both underlyings at once, an SSVI smile per
expiry that moves with the variance. The path lives on a fixed grid of market time: asking changes nothing. New expiries
and strikes are quoted each hour by the chain's own rule, at half its steps, so that what the chain lists is among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ledger.instruments import Kind, Underlying
from ledger.listing_schedule import scheduled_expiries, strikes_around
from node.genesis_defaults import default_listing
from node.oracle import ssvi
from node.oracle.black import price_and_vega
from primitives.amounts import NS, SECONDS_PER_YEAR, USD
from testnet.market.source import (
    DAY_NS,
    EXPIRY_LEAD_NS_MIN,
    EXPIRY_OF_DAY_NS,
    EXPIRY_SHARE_OF_RUN,
    Shock,
    TrueChain,
    random_stream,
    years_between,
)

HOUR_NS = DAY_NS // 24
GRID_NS = NS
"""One step of the path: a second of market time."""
BLOCK_STEPS = 3_600
"""Random numbers are drawn in blocks of this many steps, each from its own stream."""
CORRELATION = 0.8
"""Between the underlyings' returns."""
JUMPS_PER_YEAR = 60.0
JUMP_MEAN, JUMP_DEVIATION = -0.006, 0.018
"""Of the logarithm of a jump; both underlyings jump together."""
SCHEDULE = replace(default_listing(strikes_max=8), weekly=2, monthly=1, quarterly=0)
"""Four or five expiries at a time, of which one ends each day: a small market, so that the machine can hold it."""
FIRST_DAY_NS = 1_767_225_600 * NS
"""2026-01-01T00:00:00Z: where synthetic markets begin unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Dynamics:
    """Parameters of one underlying; rates per year, variances annual, prices in USD."""

    index: float
    long_variance: float
    reversion: float
    vol_of_vol: float
    leverage: float
    carry: float
    tick: float


DYNAMICS = {
    Underlying.BTC: Dynamics(90_000.0, 0.45**2, 18.0, 2.2, -0.45, 0.05, 0.1),
    Underlying.ETH: Dynamics(3_000.0, 0.65**2, 20.0, 3.0, -0.40, 0.04, 0.01),
}


def suggest_start_ns(speed: float, seconds: float) -> int:
    """A start such that the first 08:00 expiry comes within a run of `seconds` at `speed`."""
    lead_ns = min(max(EXPIRY_LEAD_NS_MIN, int(speed * seconds * EXPIRY_SHARE_OF_RUN) * NS), DAY_NS)
    return FIRST_DAY_NS + EXPIRY_OF_DAY_NS + DAY_NS - lead_ns


class SyntheticMarket:
    """A MarketSource from a seed. Each series is quoted from its listing on, around the forward of that moment."""

    def __init__(self, seed: int, start_ns: int, shock: Shock | None = None) -> None:
        self.start_ns = start_ns
        self.time_ns = start_ns
        self.underlyings = tuple(sorted(DYNAMICS))
        self._seed = seed
        self._shock = shock
        self._step = 0
        self._block: tuple[int, list[list[float]]] = (-1, [])
        self._state = {u: (d.index, d.long_variance) for u, d in DYNAMICS.items()}
        self._strikes: dict[tuple[Underlying, int], NDArray[np.int64]] = {}
        self._list_series(start_ns)

    def advance_to(self, market_time_ns: int) -> None:
        """Move along the grid; between grid points nothing changes but the time left to expiry."""
        self.time_ns = max(self.time_ns, market_time_ns)
        for step in range(self._step, (self.time_ns - self.start_ns) // GRID_NS):
            self._advance_one(step)

    def index(self, underlying: Underlying) -> float:
        """Spot in USD."""
        return self._state[underlying][0]

    def expiries(self, underlying: Underlying) -> tuple[int, ...]:
        """Expiries still ahead, ascending."""
        return tuple(e for u, e in sorted(self._strikes) if u == underlying and e > self.time_ns)

    def strikes(self, underlying: Underlying, expiry_ns: int) -> tuple[int, ...]:
        """Strikes in micro-USD, ascending."""
        return tuple(self._strikes[underlying, expiry_ns].tolist())

    def forwards(self, underlying: Underlying) -> tuple[tuple[int, float], ...]:
        """(expiry, forward in USD) of every unexpired expiry, ascending."""
        index, carry = self.index(underlying), DYNAMICS[underlying].carry
        return tuple(
            (expiry, index * exp(carry * years_between(self.time_ns, expiry)))
            for expiry in self.expiries(underlying)
        )

    def chain(self, underlying: Underlying) -> tuple[TrueChain, ...]:
        """One chain per unexpired expiry, ascending."""
        return tuple(self._chain(underlying, *pair) for pair in self.forwards(underlying))

    def _advance_one(self, step: int) -> None:
        """One grid step: full-truncation Euler for the variance, exact logarithm for the price."""
        draws = self._draws(step)
        years = GRID_NS / (NS * SECONDS_PER_YEAR)
        jump = 0.0
        if draws[4] < JUMPS_PER_YEAR * years:
            jump = JUMP_MEAN + JUMP_DEVIATION * draws[5]
        if self._shock is not None:
            before_ns = self.start_ns + step * GRID_NS
            jump += log(self._shock.factor(before_ns + GRID_NS) / self._shock.factor(before_ns))
        common = draws[0]
        for place, underlying in enumerate(self.underlyings):
            price, variance = self._state[underlying]
            dynamics = DYNAMICS[underlying]
            own = CORRELATION * common + sqrt(1 - CORRELATION**2) * draws[1] if place else common
            shaken = dynamics.leverage * own + sqrt(1 - dynamics.leverage**2) * draws[2 + place]
            spread = sqrt(variance * years)
            price *= exp(-0.5 * variance * years + spread * own + jump)
            variance += dynamics.reversion * (dynamics.long_variance - variance) * years
            variance += dynamics.vol_of_vol * spread * shaken
            # A jump of 5 % adds a quarter of the long variance.
            variance += dynamics.long_variance * 5 * abs(jump)
            self._state[underlying] = (price, max(variance, 0.04 * dynamics.long_variance))
        self._step = step + 1
        reached_ns = self.start_ns + self._step * GRID_NS
        if reached_ns % HOUR_NS == 0:
            self._list_series(reached_ns)

    def _list_series(self, now_ns: int) -> None:
        """What the schedule wants at a time; an expiry that is there already keeps its strikes beside the new ones."""
        for underlying in self.underlyings:
            for expiry_ns in scheduled_expiries(now_ns, SCHEDULE):
                ladder = self._ladder(underlying, expiry_ns, now_ns)
                held = self._strikes.get((underlying, expiry_ns), ladder)
                self._strikes[underlying, expiry_ns] = np.union1d(held, ladder)

    def _draws(self, step: int) -> list[float]:
        """Four normals, a uniform and a normal for this step."""
        block, row = divmod(step, BLOCK_STEPS)
        if self._block[0] != block:
            stream = random_stream(self._seed, "path", block)
            columns = [stream.standard_normal((BLOCK_STEPS, 4)), stream.random((BLOCK_STEPS, 1))]
            columns.append(stream.standard_normal((BLOCK_STEPS, 1)))
            self._block = (block, np.concatenate(columns, axis=1).tolist())
        return self._block[1][row]

    def _smile(self, underlying: Underlying, tau: float) -> tuple[float, float, float]:
        """(theta, rho, psi): expected mean variance to expiry, skew that steepens as variance rises."""
        dynamics = DYNAMICS[underlying]
        variance = self._state[underlying][1]
        fading = (1 - exp(-dynamics.reversion * tau)) / dynamics.reversion
        theta = dynamics.long_variance * tau + (variance - dynamics.long_variance) * fading
        excess = min(max(variance / dynamics.long_variance - 1, -1.0), 2.0)
        rho = -0.18 - 0.08 * excess
        return theta, rho, 0.4 * ssvi.psi_max(theta, rho)

    def _ladder(self, underlying: Underlying, expiry_ns: int, now_ns: int) -> NDArray[np.int64]:
        """The strikes of the chain's rule, and those in the middle between them."""
        tau = years_between(now_ns, expiry_ns)
        forward = self.index(underlying) * exp(DYNAMICS[underlying].carry * tau)
        theta_e12 = round(self._smile(underlying, tau)[0] * 1e12)
        strikes = strikes_around(round(forward * USD), theta_e12, SCHEDULE)
        step = strikes[1] - strikes[0]
        return np.arange(strikes[0], strikes[-1] + 1, step // 2, dtype=np.int64)

    def _chain(self, underlying: Underlying, expiry_ns: int, forward: float) -> TrueChain:
        dynamics = DYNAMICS[underlying]
        tau = years_between(self.time_ns, expiry_ns)
        ladder = self._strikes[underlying, expiry_ns]
        strikes = np.repeat(ladder, 2)
        log_moneyness = np.log(strikes / 1e6 / forward)
        vols = np.sqrt(ssvi.total_variance(*self._smile(underlying, tau), log_moneyness) / tau)
        # Real smiles are not quite SSVI: a fixed ripple of an eighth of a point along the strikes.
        vols += 0.00125 * np.sin(np.arange(len(strikes)) // 2 * 2.1 + expiry_ns % 7)
        kinds = np.tile(np.array([Kind.CALL, Kind.PUT], dtype=np.int64), len(ladder))
        mids, vegas = price_and_vega(forward, strikes / 1e6, tau, vols, kinds == Kind.CALL)
        sigmas = np.abs(log_moneyness) / (np.median(vols) * sqrt(tau))
        half_spreads = np.maximum(vegas * 0.006 * (1 + 0.5 * sigmas) + 0.0005 * mids, dynamics.tick)
        return TrueChain(underlying, expiry_ns, forward, strikes, kinds, vols, mids, vegas, half_spreads)
