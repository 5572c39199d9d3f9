"""Who leads a view: every validator once per cycle, in an order drawn anew for each cycle. Pure.

Permuting per cycle keeps a fixed run of faulty leaders from repeating (consensus.md section 6). Weights do
not matter yet: a validator of any weight leads once per cycle.
"""

from __future__ import annotations

from functools import lru_cache

from primitives.hashing import digest
from primitives.identifiers import ValidatorIndex

CYCLES_CACHED = 8
"""Recent and coming cycles; older ones are computed again."""


def genesis_seed(chain_id: bytes, epoch: int) -> bytes:
    """The seed of an epoch that has no earlier epoch to take one from."""
    return digest(b"quorate-leadseed", chain_id + epoch.to_bytes(8, "big"))


def permutation(seed: bytes, cycle: int, count: int) -> tuple[ValidatorIndex, ...]:
    """Fisher-Yates over 0..count-1 with one 32-byte draw per step; the modulo bias is below 2^-240."""
    order = [ValidatorIndex(index) for index in range(count)]
    for last in range(count - 1, 0, -1):
        draw = digest(b"quorate-leader", seed + cycle.to_bytes(8, "big") + last.to_bytes(4, "big"))
        other = int.from_bytes(draw, "big") % (last + 1)
        order[last], order[other] = order[other], order[last]
    return tuple(order)


class LeaderSchedule:
    """leader(v) = perm(seed, v // n)[v mod n]."""

    def __init__(self, seed: bytes, count: int) -> None:
        """`seed` is 32 bytes, `count` the number of validators."""
        self.seed = seed
        self.count = count
        self._cycle = lru_cache(maxsize=CYCLES_CACHED)(self._compute_cycle)

    def _compute_cycle(self, cycle: int) -> tuple[ValidatorIndex, ...]:
        return permutation(self.seed, cycle, self.count)

    def leader_of(self, view: int) -> ValidatorIndex:
        """The validator whose block may be notarized in `view`."""
        return self._cycle(view // self.count)[view % self.count]
