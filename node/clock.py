"""The node's clocks: monotonic time for timers, market time for reports. Reads the operating system's clocks."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MarketClock:
    """Market time as a function of a clock of this machine.

    A production node runs at speed 1 from the system's wall clock; a testnet's processes share CLOCK_MONOTONIC and a
    speed, so that an expiry can fall into a run of a minute.
    """

    start_market_ns: int
    start_monotonic_ns: int
    speed: int

    @classmethod
    def wall(cls) -> MarketClock:
        """The system's UTC clock, as of now."""
        return cls(time.time_ns(), time.monotonic_ns(), 1)

    def now_ns(self) -> int:
        """Market nanoseconds since 1970."""
        return self.start_market_ns + (time.monotonic_ns() - self.start_monotonic_ns) * self.speed
