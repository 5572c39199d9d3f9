"""Price monitors: how far the index went within a window, from a dozen lows and highs of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.breakers.parameters import PriceMonitor
from ledger.breakers.state import Bucket
from primitives.amounts import PPM

BUCKETS = 12
"""Parts of a window; what is older than the window less one part may be forgotten."""

Windows = tuple[tuple[Bucket, ...], ...]


def observed(
    buckets: Sequence[Bucket], monitor: PriceMonitor, index_uusd: int, now_ns: int
) -> tuple[Bucket, ...]:
    """A monitor's window after an index agreed now: at most BUCKETS parts, the newest last."""
    number = now_ns // max(1, monitor.window_ns // BUCKETS)
    kept = [item for item in buckets if number - BUCKETS < item.number < number]
    current = next(
        (item for item in buckets if item.number == number), Bucket(number, index_uusd, index_uusd)
    )
    low_uusd, high_uusd = min(current.low_uusd, index_uusd), max(current.high_uusd, index_uusd)
    return (*kept, Bucket(number, low_uusd, high_uusd))


def is_moved(buckets: Sequence[Bucket], monitor: PriceMonitor, index_uusd: int) -> bool:
    """Whether the index is as far from the window's lowest or highest as the monitor allows, or further."""
    low_uusd = min(item.low_uusd for item in buckets)
    high_uusd = max(item.high_uusd for item in buckets)
    return index_uusd * PPM >= low_uusd * (PPM + monitor.move_ppm) or index_uusd * PPM <= high_uusd * (
        PPM - monitor.move_ppm
    )


def watch(
    windows: Windows, monitors: Sequence[PriceMonitor], index_uusd: int, now_ns: int
) -> tuple[Windows, int]:
    """(the windows after this index, length of the auction that it starts, 0 for none).

    A monitor that trips begins anew from this index, and so do those of shorter windows: one move starts one auction.
    """
    padded = windows if len(windows) == len(monitors) else ((),) * len(monitors)
    after = [
        observed(buckets, monitor, index_uusd, now_ns)
        for buckets, monitor in zip(padded, monitors, strict=True)
    ]
    tripped = [place for place, item in enumerate(monitors) if is_moved(after[place], item, index_uusd)]
    for place in range(max(tripped, default=-1) + 1):
        after[place] = observed((), monitors[place], index_uusd, now_ns)
    return tuple(after), max((monitors[place].auction_ns for place in tripped), default=0)
