"""What the market process is told: kind of market, clock, venues, shock. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from primitives.amounts import PPM

TRUTH = "truth"
"""Name of the noiseless stream beside the venues."""


class MarketKind(StrEnum):
    """Where prices come from."""

    SYNTHETIC = "synthetic"
    REPLAY = "replay"


class VenueSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One simulated venue. An honest one has only noise, latency and spread; the rest is how it lies."""

    name: str
    latency_ms: int = 20
    index_noise_ppm: int = 60
    """Standard deviation of its index and forward errors."""
    vol_noise_points: float = 0.25
    """Standard deviation of its volatility errors, in points, independent per option."""
    spread_factor_ppm: int = PPM
    index_bias_ppm: int = 0
    """A lie: its index and forwards are off by this much."""
    vol_factor_ppm: int = PPM
    """A lie: its options are priced at this multiple of the true volatility."""
    is_frozen: bool = False
    """A lie: it repeats its first quotes for ever, first stamp included."""

    @property
    def lies(self) -> bool:
        """Whether this venue is dishonest on purpose."""
        return self.index_bias_ppm != 0 or self.vol_factor_ppm != PPM or self.is_frozen


def default_venues() -> tuple[VenueSpec, ...]:
    """Four honest venues of different quality and one that lies: index +3 %, volatilities x 1.5."""
    return (
        VenueSpec("north"),
        VenueSpec("south", latency_ms=40, index_noise_ppm=90, spread_factor_ppm=1_300_000),
        VenueSpec("east", latency_ms=10, index_noise_ppm=50, vol_noise_points=0.35),
        VenueSpec("west", latency_ms=60, index_noise_ppm=80, spread_factor_ppm=800_000),
        VenueSpec("mirage", index_bias_ppm=30_000, vol_factor_ppm=1_500_000),
    )


class MarketConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything the market process needs; passed to it as a JSON file.

    Market time = start_market_ns + (monotonic now - start_monotonic_ns) * speed, on the machine's one
    monotonic clock.
    """

    kind: MarketKind
    seed: int
    speed: float
    start_market_ns: int
    start_monotonic_ns: int
    socket_dir: str
    venues: tuple[VenueSpec, ...]
    path: str = ""
    """REPLAY only: the directory of the data."""
    expiries_max: int = 4
    """REPLAY only: how many of the data's expiries are quoted."""
    shock_at_ns: int = 0
    """Market time of a scripted jump of every underlying; 0 for none."""
    shock_size_ppm: int = 0
    index_interval_ms: int = 200
    chain_interval_ms: int = 1_000


def market_time_ns(config: MarketConfig, monotonic_ns: int) -> int:
    """Market time at a reading of the monotonic clock."""
    return config.start_market_ns + int((monotonic_ns - config.start_monotonic_ns) * config.speed)


def venue_address(socket_dir: str, venue: str) -> str:
    """Where a venue listens; the name TRUTH is the noiseless stream."""
    return f"unix:{socket_dir}/{venue}.sock"
