"""Quorum arithmetic, and the exhaustive algebra of one view: F is safe, and one less is not."""

from __future__ import annotations

from itertools import product

import pytest

from consensus.certificates import resolve
from consensus.validator_set import ValidatorSet
from primitives.errors import InvariantViolation
from primitives.identifiers import NO_BLOCK
from tests.consensus.builders import a_timeout
from tests.consensus.cluster import a_validator_set

A, B = b"A" * 32, b"B" * 32


@pytest.mark.parametrize(
    ("count", "faulty", "quorum", "final"),
    [
        (1, 0, 1, 1),
        (4, 1, 3, 4),
        (6, 1, 5, 5),
        (7, 2, 5, 7),
        (10, 3, 7, 10),
        (21, 6, 15, 20),
        (50, 16, 34, 50),
        (99, 32, 67, 98),
        (100, 33, 67, 100),
    ],
)
def test_the_table_of_the_design(count: int, faulty: int, quorum: int, final: int) -> None:
    validators = a_validator_set(count)
    assert (validators.faulty, validators.quorum, validators.final_weight) == (faulty, quorum, final)


def test_tolerated_weight_inverts_fast_weight() -> None:
    validators = a_validator_set(100)
    assert [validators.tolerated_weight(m) for m in (95, 90, 80, 60)] == [28, 23, 13, -7]
    assert all(validators.tolerated_weight(validators.fast_weight(t)) == t for t in range(34))


def test_a_set_refuses_what_breaks_its_arithmetic() -> None:
    keys = a_validator_set(4).public_keys
    for weights, final in (
        ((1, 1, 1), None),
        ((1, 1, 1, -1), None),
        ((0, 0, 0, 0), None),
        (None, 2),
        (None, 5),
    ):
        with pytest.raises(InvariantViolation):
            ValidatorSet(keys, weights, final)
    with pytest.raises(InvariantViolation):
        ValidatorSet((keys[0], keys[0]))


def fork_is_possible(count: int, fast_weight: int) -> bool:
    """Whether some single view makes A final by `fast_weight` votes and still lets a chain leave A.

    The leader is Byzantine: honest validators notarized A, B or nothing in any mix; Byzantine ones vote for
    everything and report anything. Every mix of q or more nullify voters is tried, with real certificates.
    """
    validators = a_validator_set(count)
    faulty, quorum = validators.faulty, validators.quorum
    honest = count - faulty
    for for_a in range(max(0, fast_weight - faulty), honest + 1):
        for for_b in range(honest - for_a + 1):
            if for_b + faulty >= quorum:
                return True
            mixes = product(range(for_a + 1), range(for_b + 1), range(honest - for_a - for_b + 1))
            if any(sum(mix) + faulty >= quorum and escapes(validators, *mix) for mix in mixes):
                return True
    return False


def escapes(validators: ValidatorSet, of_a: int, of_b: int, of_none: int) -> bool:
    """Whether the lies of the Byzantine make this timeout certificate not carry A."""
    for lie in (B, NO_BLOCK):
        reports = [A] * of_a + [B] * of_b + [NO_BLOCK] * of_none + [lie] * validators.faulty
        if resolve(a_timeout(1, dict(enumerate(reports))), validators) != A:
            return True
    return False


@pytest.mark.parametrize(
    "count", [4, 5, 6, 7, *(pytest.param(n, marks=pytest.mark.slow) for n in (8, 9, 10))]
)
def test_fast_finality_is_safe_at_f_and_unsafe_one_below(count: int) -> None:
    validators = a_validator_set(count)
    assert not fork_is_possible(count, validators.final_weight)
    below = validators.final_weight - 1
    assert below < validators.quorum or fork_is_possible(count, below)
