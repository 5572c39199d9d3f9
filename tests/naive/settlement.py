"""The settlement average by walking all buckets from the first, each time. Pure."""

from __future__ import annotations

from ledger.settlement.expiry import SettlementWindow


class NaiveAverage:
    """Every observation of one expiry: (bucket, index), the first in each bucket."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def observe(self, bucket: int, index_uusd: int) -> None:
        """Keep the first index of a bucket; buckets never go back."""
        if not self.seen or bucket > max(self.seen):
            self.seen[bucket] = index_uusd

    def values(self, total: int, carry_max: int) -> list[int]:
        """What counts: observed buckets, gaps filled up to `carry_max`, and late ones while too few are there."""
        needed = -(-total * 9 // 10)
        counted: list[int] = []
        gap = 0
        for bucket in range(max(self.seen) + 1):
            if bucket in self.seen:
                if bucket < total or len(counted) < needed:
                    counted.append(self.seen[bucket])
                last, gap = self.seen[bucket], 0
            elif counted and bucket < total:
                gap += 1
                if gap <= carry_max:
                    counted.append(last)
        return counted

    def leaf(self, total: int, carry_max: int) -> SettlementWindow:
        """As the state keeps it."""
        counted, latest = self.values(total, carry_max), max(self.seen)
        return SettlementWindow(sum(counted), len(counted), latest + 1, self.seen[latest])

    def price_uusd(self, total: int, carry_max: int) -> int | None:
        """The mean, to the nearest, halves up; None before the expiry, or with a tenth of buckets missing."""
        counted = self.values(total, carry_max)
        if max(self.seen) < total or 10 * len(counted) < 9 * total:
            return None
        return (2 * sum(counted) + len(counted)) // (2 * len(counted))
