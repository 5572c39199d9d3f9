"""Token buckets: how much each identity may still ask for. Pure; the caller tells the time."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import NamedTuple

BURST_SECONDS = 10
"""A bucket holds what its rate gives in this time."""
IDENTITIES_MAX = 65_536
"""Buckets kept; beyond it the one that was used longest ago goes, and is full again when it is next needed."""


class Allowance(NamedTuple):
    """What is left after a request; `wait_seconds` above 0 refuses it until then."""

    limit: int
    remaining: int
    wait_seconds: int


NO_LIMIT = Allowance(0, 0, 0)


class Quotas:
    """Buckets of one kind of identity."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, identity: str, units: int, units_per_second: int, now_s: float) -> Allowance:
        """Take so many units (at most a full bucket), or none if there are too few. A rate of 0 is no limit."""
        if not units_per_second:
            return NO_LIMIT
        capacity = units_per_second * BURST_SECONDS
        level, at_s = self._buckets.get(identity, (float(capacity), now_s))
        level = min(capacity, level + max(0.0, now_s - at_s) * units_per_second)
        units = min(units, capacity)
        missing = units - level
        if missing <= 0:
            level -= units
        self._buckets[identity] = level, now_s
        self._buckets.move_to_end(identity)
        if len(self._buckets) > IDENTITIES_MAX:
            self._buckets.popitem(last=False)
        wait_seconds = math.ceil(missing / units_per_second) if missing > 0 else 0
        return Allowance(capacity, int(level), wait_seconds)
