"""How long each leader let us wait for its block, as a share of the time it had. Arithmetic on given clock readings.

The time that a leader has is T_prop: a block that comes later gets no vote. Whoever often comes in the last
fifth of it delays on purpose, or is too slow to lead. What is measured is ours alone: the network's part in it
is the same for every leader. Reports tell it to the ledger, which takes the median of all validators.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from ledger.staking.penalties import DELAY_PPM_MAX
from ledger.transactions import DELAYS_MAX, SeenDelay

PPM = 1_000_000
LATE_FROM_PPM = 800_000
"""From here on, in ppm of T_prop, a proposal counts as late."""
MEMORY = 16
"""A leader's delay is smoothed: one part in so many is the newest."""


class LeaderDelays:
    """Fed by the consensus service; shown as metrics by validator."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._delay = Gauge(
            "quorate_leader_seen_delay_ppm",
            "Smoothed delay of a leader's proposals, in ppm of T_prop, as seen here",
            ["validator"],
            registry=registry,
        )
        self._late = Counter(
            "quorate_leader_seen_late",
            "Proposals that came in the last fifth of T_prop, as seen here",
            ["validator"],
            registry=registry,
        )
        self.smoothed_ppm: dict[int, int] = {}
        self._seen: dict[tuple[int, int], int] = {}
        self.late: dict[int, int] = {}
        self._place = (0, 0)
        self._leader: int | None = None
        self._entered_ns = 0
        self._allowed_ms = 0

    def on_entered(self, epoch: int, view: int, leader: int, now_ns: int) -> None:
        """We entered a view: its leader's time begins."""
        if (epoch, view) != self._place:
            self._place, self._leader, self._entered_ns, self._allowed_ms = (epoch, view), leader, now_ns, 0

    def on_allowed(self, allowed_ms: int) -> None:
        """T_prop of the view that we just entered."""
        self._allowed_ms = allowed_ms

    def on_proposal(self, epoch: int, view: int, leader: int, now_ns: int) -> int | None:
        """A valid proposal came; its delay in ppm of T_prop, or None when the view is over or it came before.

        One that itself brings us into its view has kept nobody waiting: 0.
        """
        if (epoch, view) < self._place or ((epoch, view) == self._place and self._leader is None):
            return None
        delay_ppm = 0
        if (epoch, view) == self._place and self._allowed_ms:
            delay_ppm = (now_ns - self._entered_ns) * PPM // (self._allowed_ms * 1_000_000)
        self._place, self._leader = (epoch, view), None
        self._note(leader, delay_ppm)
        return delay_ppm

    def keep(self, height: int, leader: int, delay_ppm: int) -> None:
        """Remember a measured delay for our next reports; the oldest of more than DELAYS_MAX is forgotten."""
        self._seen[height, leader] = min(delay_ppm, DELAY_PPM_MAX)
        while len(self._seen) > DELAYS_MAX:
            self._seen.pop(next(iter(self._seen)))

    def seen(self) -> tuple[SeenDelay, ...]:
        """What our reports tell the ledger, in their order."""
        return tuple(SeenDelay(*key, self._seen[key]) for key in sorted(self._seen))

    def _note(self, leader: int, delay_ppm: int) -> None:
        before = self.smoothed_ppm.get(leader, delay_ppm)
        smoothed = self.smoothed_ppm[leader] = (before * (MEMORY - 1) + delay_ppm) // MEMORY
        self._delay.labels(leader).set(smoothed)
        if delay_ppm >= LATE_FROM_PPM:
            self.late[leader] = self.late.get(leader, 0) + 1
            self._late.labels(leader).inc()
