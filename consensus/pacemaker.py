"""How long to wait in a view: a function of state alone, so it cannot drift. Pure.

Delta (`delta_ms`) is the assumed bound on a message delay, fsync and validation included (consensus.md
section 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from primitives.errors import ensure

PATIENT_VIEWS = 3
"""Views after the last final one that run at the base pace."""
FACTOR_MILLI_MAX = 64_000
"""Waiting grows by 1.5 per further view, up to 64 times."""


def _factors() -> tuple[int, ...]:
    factors = [1_000]
    while factors[-1] < FACTOR_MILLI_MAX:
        exponent = len(factors)
        factors.append(min(FACTOR_MILLI_MAX, 1_000 * 3**exponent // 2**exponent))
    return tuple(factors)


FACTOR_MILLI = _factors()
"""1.5^i in thousandths, rounded down, until it reaches the cap."""


@dataclass(frozen=True, slots=True)
class Pacemaker:
    """The waits of one chain; `min_block_ms` is how far apart leaders keep their blocks."""

    delta_ms: int
    min_block_ms: int

    def __post_init__(self) -> None:
        ensure(self.delta_ms > 0 and self.min_block_ms >= 0, "waits are positive")

    def factor_milli(self, view: int, final_view: int) -> int:
        """k in thousandths: 1.5^max(0, view - final_view - 3), at most 64."""
        steps = max(0, view - final_view - PATIENT_VIEWS)
        return FACTOR_MILLI[min(steps, len(FACTOR_MILLI) - 1)]

    def proposal_ms(self, view: int, final_view: int) -> int:
        """T_prop: 2.2 Delta k, and the pause between blocks."""
        return 22 * self.delta_ms * self.factor_milli(view, final_view) // 10_000 + self.min_block_ms

    def view_ms(self, view: int, final_view: int) -> int:
        """T_view: 3.2 Delta k, and the pause between blocks."""
        return 32 * self.delta_ms * self.factor_milli(view, final_view) // 10_000 + self.min_block_ms

    def retry_ms(self) -> int:
        """T_retry: 2 Delta, and the pause between blocks, so that a healthy view never counts as stuck."""
        return 2 * self.delta_ms + self.min_block_ms

    def forward_ms(self) -> int:
        """T_fwd: Delta / 4, at least 1."""
        return max(1, self.delta_ms // 4)
