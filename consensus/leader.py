"""Who leads a view: every validator by its weight in each cycle, in an order drawn anew for each cycle. Pure.

Permuting per cycle keeps a fixed run of faulty leaders from repeating (consensus.md section 6). With equal
weights everybody leads once per cycle; with others a cycle is a smooth weighted round-robin list.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

from primitives.hashing import digest
from primitives.identifiers import ValidatorIndex

LEADER_LIST_MAX = 1_024
"""Views of one cycle. Weights whose reduced total is larger are rounded: a share below 1/1024 may never lead."""
VIEWS_CACHED = 1_024
"""Every vote asks who leads its view."""
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


def following_seed(boundary: bytes, epoch: int) -> bytes:
    """The seed of `epoch` from the last block of the epoch two before: known one epoch ahead."""
    return digest(b"quorate-leadseed", boundary + epoch.to_bytes(8, "big"))


def leader_list(weights: tuple[int, ...]) -> tuple[ValidatorIndex, ...]:
    """One cycle before it is permuted: smooth weighted round-robin over the validators that have weight."""
    members = [index for index, weight in enumerate(weights) if weight > 0]
    common = gcd(*weights)
    shares = {index: weights[index] // common for index in members}
    total = sum(shares.values())
    credit = dict.fromkeys(members, 0)
    cycle: list[ValidatorIndex] = []
    for _ in range(min(total, LEADER_LIST_MAX)):
        for index in members:
            credit[index] += shares[index]
        chosen = max(members, key=lambda index: (credit[index], -index))
        credit[chosen] -= total
        cycle.append(ValidatorIndex(chosen))
    return tuple(cycle)


class LeaderSchedule:
    """leader(v) = perm(seed, v // L)[v mod L] of the cycle's list, whose length L is n for equal weights."""

    def __init__(self, seed: bytes, count: int, weights: tuple[int, ...] | None = None) -> None:
        """`seed` is 32 bytes, `count` the number of validators, `weights` 1 each when not given."""
        self.seed = seed
        self._list = leader_list(weights if weights is not None else (1,) * count)
        self.count = len(self._list)
        self._cycle = lru_cache(maxsize=CYCLES_CACHED)(self._compute_cycle)
        self._leader = lru_cache(maxsize=VIEWS_CACHED)(self._compute_leader)

    def _compute_cycle(self, cycle: int) -> tuple[ValidatorIndex, ...]:
        order = permutation(self.seed, cycle, self.count)
        return tuple(self._list[place] for place in order)

    def leader_of(self, view: int) -> ValidatorIndex:
        """The validator whose block may be notarized in `view`."""
        return self._leader(view)

    def _compute_leader(self, view: int) -> ValidatorIndex:
        return self._cycle(view // self.count)[view % self.count]
