"""Budgets per peer: token buckets in messages and bytes. Pure: the caller tells the time."""

from __future__ import annotations

from dataclasses import dataclass

from gossip.network import Lane
from primitives.amounts import NS, ceil_div


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much of something a peer may send."""

    per_second: int
    burst: int
    """The most that may come at once after a silence."""


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """The two allowances of one kind of traffic."""

    messages: Allowance
    bytes: Allowance


LANE_BUDGETS = {
    Lane.VOTE: BudgetLimits(Allowance(2_000, 8_000), Allowance(4 * 2**20, 16 * 2**20)),
    Lane.BULK: BudgetLimits(Allowance(4_000, 16_000), Allowance(64 * 2**20, 128 * 2**20)),
}
"""Per validator. Over it: vote frames are dropped, counted and blamed; bulk is read more slowly."""
RELAY_BUDGETS = {
    Lane.VOTE: BudgetLimits(Allowance(200_000, 400_000), Allowance(128 * 2**20, 256 * 2**20)),
    Lane.BULK: BudgetLimits(Allowance(200_000, 400_000), Allowance(256 * 2**20, 512 * 2**20)),
}
"""Between a validator and its own sentry, which has let through each other validator's own budget."""
TOPIC_BUDGET = BudgetLimits(Allowance(100, 400), Allowance(8 * 2**20, 16 * 2**20))
"""Per peer that passes topic messages on. Over it: ignored, counted and blamed."""
REQUEST_BUDGET = BudgetLimits(Allowance(20, 40), Allowance(512 * 2**10, 2 * 2**20))
"""Per peer that asks. Over it: answered later."""
FOLLOWER_TRANSACTIONS = Allowance(250, 1_000)
"""Transactions that one follower passes on for its clients. Over it: not taken, and passed on again by the follower."""
FOLLOWERS_TRANSACTIONS = Allowance(1_000, 2_000)
"""The same for all followers together: each may cost this node a signature check before it is refused."""
ANSWER_BUDGET = BudgetLimits(Allowance(100, 200), Allowance(16 * 2**20, 32 * 2**20))
"""For everybody who asks together: what serving may cost this node. Over it: answered later."""


class TokenBucket:
    """An allowance that refills with time. Levels are in token-nanoseconds, so nothing is rounded away."""

    def __init__(self, allowance: Allowance, now_ns: int) -> None:
        self._per_second = allowance.per_second
        self._level_max = allowance.burst * NS
        self._level = self._level_max
        self._filled_ns = now_ns

    def can_take(self, amount: int, now_ns: int) -> bool:
        """Whether `amount` tokens are there now."""
        self._refill(now_ns)
        return self._level >= amount * NS

    def take(self, amount: int) -> None:
        """Take tokens, into debt if need be."""
        self._level -= amount * NS

    def wait_ns(self, now_ns: int) -> int:
        """Nanoseconds until the debt is paid; 0 without debt."""
        self._refill(now_ns)
        return ceil_div(-self._level, self._per_second) if self._level < 0 else 0

    def _refill(self, now_ns: int) -> None:
        elapsed_ns = max(0, now_ns - self._filled_ns)
        self._filled_ns = max(now_ns, self._filled_ns)
        self._level = min(self._level_max, self._level + elapsed_ns * self._per_second)


class Budget:
    """Messages and bytes of one peer on one lane, topic or protocol."""

    def __init__(self, limits: BudgetLimits, now_ns: int) -> None:
        self._messages = TokenBucket(limits.messages, now_ns)
        self._bytes = TokenBucket(limits.bytes, now_ns)

    def spend(self, messages: int, size_bytes: int, now_ns: int) -> bool:
        """Take both or, when either is short, neither and return False."""
        if not (self._messages.can_take(messages, now_ns) and self._bytes.can_take(size_bytes, now_ns)):
            return False
        self._messages.take(messages)
        self._bytes.take(size_bytes)
        return True

    def pace_ns(self, messages: int, size_bytes: int, now_ns: int) -> int:
        """Take both whatever the level; returns how long to wait before reading on, 0 within the budget."""
        self._messages.take(messages)
        self._bytes.take(size_bytes)
        return max(self._messages.wait_ns(now_ns), self._bytes.wait_ns(now_ns))
