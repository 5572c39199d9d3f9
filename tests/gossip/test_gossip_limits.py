"""Budgets: a burst passes, a flood does not, and time refills exactly."""

from __future__ import annotations

from gossip.limits import Allowance, Budget, BudgetLimits, TokenBucket
from primitives.amounts import NS

START_NS = 5 * NS


def test_a_bucket_starts_full_and_then_is_empty() -> None:
    bucket = TokenBucket(Allowance(per_second=10, burst=3), START_NS)
    assert bucket.can_take(3, START_NS)
    bucket.take(3)
    assert not bucket.can_take(1, START_NS)


def test_a_bucket_refills_to_the_nanosecond() -> None:
    bucket = TokenBucket(Allowance(per_second=10, burst=3), START_NS)
    bucket.take(3)
    assert not bucket.can_take(1, START_NS + NS // 10 - 1)
    assert bucket.can_take(1, START_NS + NS // 10)


def test_many_small_refills_are_worth_one_large_one() -> None:
    bucket = TokenBucket(Allowance(per_second=7, burst=7), START_NS)
    bucket.take(7)
    for step in range(1, 1001):
        bucket.can_take(1, START_NS + step * NS // 1000)
    assert bucket.can_take(7, START_NS + NS)


def test_a_long_silence_earns_no_more_than_the_burst() -> None:
    bucket = TokenBucket(Allowance(per_second=10, burst=3), START_NS)
    assert not bucket.can_take(4, START_NS + 1000 * NS)


def test_a_clock_that_steps_back_takes_nothing_away_and_gives_nothing() -> None:
    bucket = TokenBucket(Allowance(per_second=10, burst=3), START_NS)
    bucket.take(3)
    assert not bucket.can_take(1, START_NS - NS)
    assert not bucket.can_take(1, START_NS)


def test_a_budget_short_of_one_kind_takes_neither() -> None:
    budget = Budget(BudgetLimits(Allowance(1, 2), Allowance(1, 100)), START_NS)
    assert not budget.spend(1, 101, START_NS)
    assert budget.spend(2, 100, START_NS)
    assert not budget.spend(1, 0, START_NS)
    assert not budget.spend(0, 1, START_NS)


def test_a_paced_budget_lends_and_tells_how_long_to_wait() -> None:
    budget = Budget(BudgetLimits(Allowance(1000, 1000), Allowance(100, 50)), START_NS)
    assert budget.pace_ns(1, 50, START_NS) == 0
    assert budget.pace_ns(1, 100, START_NS) == NS
    assert budget.pace_ns(1, 0, START_NS + NS) == 0
