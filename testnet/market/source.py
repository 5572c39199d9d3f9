"""What every market kind offers, and the instruments that a testnet lists on it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ledger.instruments import LOTS_PER_CONTRACT, Instrument, Kind, Underlying
from primitives.amounts import NS, PPM, SECONDS_PER_YEAR

DAY_NS = 86_400 * NS
EXPIRY_OF_DAY_NS = 8 * 3_600 * NS
"""Options expire at 08:00:00 UTC."""
EXPIRY_SHARE_OF_RUN = 0.6
"""A run is placed so that the first expiry comes after this share of it."""
EXPIRY_LEAD_NS_MIN = 2_000 * NS
"""And never sooner than this: its whole settlement window of 1,800 s is to be seen."""
SIGMAS_LISTED = 2.5
"""Strikes are listed within this many standard deviations of the forward."""


@dataclass(frozen=True, slots=True)
class Shock:
    """A scripted jump of every underlying at a market time; -60_000 ppm is -6 %. Volatility jumps with it."""

    at_ns: int
    size_ppm: int

    def factor(self, time_ns: int) -> float:
        """What it has multiplied prices by at a time."""
        return 1 + self.size_ppm / PPM if time_ns >= self.at_ns else 1.0


def random_stream(seed: int, *names: object) -> np.random.Generator:
    """The stream of random numbers that belongs to a seed and a name."""
    material = "|".join(map(str, (seed, *names)))
    return np.random.Generator(np.random.PCG64(int.from_bytes(sha256(material.encode()).digest(), "big")))


@dataclass(frozen=True, slots=True)
class TrueChain:
    """One expiry as it really is: forward and noiseless option values.

    Arrays are aligned and ascending by (strike, kind). Floats are USD; `vegas` are per 1.00 of volatility.
    """

    underlying: Underlying
    expiry_ns: int
    forward: float
    strikes_uusd: NDArray[np.int64]
    kinds: NDArray[np.int64]
    vols: NDArray[np.float64]
    mids: NDArray[np.float64]
    vegas: NDArray[np.float64]
    half_spreads: NDArray[np.float64]


class MarketSource(Protocol):
    """A market that moves with market time. Asking does not change it; only `advance_to` does."""

    @property
    def time_ns(self) -> int:
        """Market time reached so far."""

    @property
    def start_ns(self) -> int:
        """Market time at which it began."""

    @property
    def underlyings(self) -> tuple[Underlying, ...]:
        """What it quotes, ascending."""

    def advance_to(self, market_time_ns: int) -> None:
        """Move on; a time in the past changes nothing."""

    def index(self, underlying: Underlying) -> float:
        """Spot in USD."""

    def expiries(self, underlying: Underlying) -> tuple[int, ...]:
        """Expiries in nanoseconds, ascending, expired ones left out."""

    def strikes(self, underlying: Underlying, expiry_ns: int) -> tuple[int, ...]:
        """Strikes in micro-USD, ascending."""

    def forwards(self, underlying: Underlying) -> tuple[tuple[int, float], ...]:
        """(expiry, forward in USD) of every unexpired expiry, ascending."""

    def chain(self, underlying: Underlying) -> tuple[TrueChain, ...]:
        """One chain per unexpired expiry, ascending."""


def years_between(from_ns: int, to_ns: int) -> float:
    """Time to expiry in years of 365 days."""
    return (to_ns - from_ns) / (NS * SECONDS_PER_YEAR)


def listing(source: MarketSource, expiries_max: int = 4, strikes_max: int = 8) -> list[Instrument]:
    """The instruments a testnet begins with, ids ascending: perpetuals first, then options.

    Options are sorted by (underlying, expiry, strike, kind). Of each underlying `expiries_max` expiries and
    `strikes_max` strikes each at most, the ones nearest to evenly spread moneyness within SIGMAS_LISTED.
    """
    keys = [(underlying, 0, 0, Kind.PERPETUAL) for underlying in source.underlyings]
    for underlying in source.underlyings:
        for chain in source.chain(underlying)[:expiries_max]:
            for strike in _spread_strikes(chain, source.time_ns, strikes_max):
                keys += [(underlying, chain.expiry_ns, strike, kind) for kind in (Kind.CALL, Kind.PUT)]
    return [
        Instrument(number, int(underlying), int(kind), expiry_ns, strike, LOTS_PER_CONTRACT[underlying])
        for number, (underlying, expiry_ns, strike, kind) in enumerate(keys)
    ]


def _spread_strikes(chain: TrueChain, now_ns: int, strikes_max: int) -> list[int]:
    """Nearest to evenly spread moneyness; where that gives too few, the nearest to the forward as well."""
    strikes = np.unique(chain.strikes_uusd)
    deviation = float(np.median(chain.vols)) * years_between(now_ns, chain.expiry_ns) ** 0.5
    wanted = chain.forward * np.exp(deviation * np.linspace(-SIGMAS_LISTED, SIGMAS_LISTED, strikes_max)) * 1e6
    chosen = {int(strikes[np.abs(strikes - price).argmin()]) for price in wanted}
    for strike in strikes[np.abs(strikes - chain.forward * 1e6).argsort()].tolist():
        if len(chosen) >= strikes_max:
            break
        chosen.add(strike)
    return sorted(chosen)
