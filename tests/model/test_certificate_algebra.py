"""What certificates of one view can say together: every outcome for n <= 16, and any weights drawn at random.

An outcome is who notarized what, which of these nullified, and what the Byzantine validators add. With equal weights
only the numbers matter, so outcomes are counted as numbers: `a` honest validators notarized block B, groups of others
notarized other blocks, the rest nothing. What a timeout certificate decides is asked of the production code.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from consensus.certificates import assemble_timeout, check_timeout_certificate, resolve
from consensus.epoch import Epoch, first_epoch
from consensus.messages import TimeoutCertificate, Vote, VoteKind
from consensus.validator_set import ValidatorSet
from primitives.errors import ProtocolViolation
from primitives.identifiers import NO_BLOCK

B = b"B" * 32
Groups = tuple[int, ...]
"""Sizes of groups that stand for different blocks other than B, descending."""


@cache
def an_epoch(weights: Groups) -> Epoch:
    keys = tuple(bytes([index]) * 32 for index in range(len(weights)))
    return first_epoch(bytes(32), ValidatorSet(keys, weights))


def equal(n: int) -> Epoch:
    return an_epoch((1,) * n)


def a_timeout(reports: dict[int, bytes]) -> TimeoutCertificate:
    return assemble_timeout({i: Vote(VoteKind.NULLIFY, 0, 1, r, i, bytes(64)) for i, r in reports.items()})


def is_accepted(certificate: TimeoutCertificate, epoch: Epoch) -> bool:
    try:
        check_timeout_certificate(certificate, epoch)
    except ProtocolViolation:
        return False
    return True


# --- equal weights: everything ---


@cache
def leaves_b(n: int, for_b: int, others: Groups, nothing: int) -> bool:
    """Whether so many reports are a timeout certificate of n validators, and one that does not carry B."""
    subjects = [B] * for_b + [NO_BLOCK] * nothing
    for number, size in enumerate(others):
        subjects += [bytes([number + 1]) * 32] * size
    if not subjects:
        return False
    certificate, epoch = a_timeout(dict(enumerate(subjects))), equal(n)
    return is_accepted(certificate, epoch) and resolve(certificate, epoch.validators) != B


@cache
def partitions(total: int, largest: int) -> tuple[Groups, ...]:
    """Every way to split up to `total` validators into groups of at most `largest`."""
    found: list[Groups] = [()]
    for first in range(1, min(total, largest) + 1):
        found += [(first, *rest) for rest in partitions(total - first, first)]
    return tuple(found)


@cache
def parts_of(groups: Groups) -> frozenset[Groups]:
    """What can be left of groups of validators when any of them stay away."""
    if not groups:
        return frozenset({()})
    return frozenset(
        tuple(sorted((*rest, kept), reverse=True)) if kept else rest
        for rest in parts_of(groups[1:])
        for kept in range(groups[0] + 1)
    )


@cache
def joined_by(groups: Groups, liars: int) -> frozenset[tuple[Groups, int]]:
    """Groups after up to `liars` more joined them or founded new ones; and how many liars are left."""
    found = {(groups, liars)}
    if liars:
        for index in range(len(groups) + 1):
            grown = [*groups, 0]
            grown[index] += 1
            found |= joined_by(tuple(sorted(filter(None, grown), reverse=True)), liars - 1)
    return frozenset(found)


def can_leave_b(n: int, t: int, a: int, others: Groups) -> bool:
    """Whether t Byzantine validators can show a certificate that leaves B, which `a` honest ones notarized.

    Every honest validator may nullify or not, with what it notarized as its report; Byzantine ones report
    anything, or stay away.
    """
    quorum, nothing = equal(n).validators.quorum, n - t - a - sum(others)
    if others and max(others) + t >= quorum:
        return True  # another block is notarized
    for honest in parts_of(others):
        for groups, left in joined_by(honest, t):
            for for_b in range(a + left + 1):
                liars_for_b = max(0, for_b - a)
                for silent in range(nothing + left - liars_for_b + 1):
                    if leaves_b(n, for_b, groups, silent):
                        return True
    return False


def smallest_safe_weight(n: int, t: int) -> int:
    """One more than the largest number of notarize votes for B, t of them Byzantine, after which B can be left."""
    unsafe = [
        a
        for a in range(n - t + 1)
        if any(can_leave_b(n, t, a, others) for others in partitions(n - t - a, n - t - a))
    ]
    return max(unsafe, default=-1) + t + 1


EVERY_N = range(1, 17)
"""The protocol text asks for n <= 10; a few more cost nothing."""
EVERY_N_T = [(n, t) for n in EVERY_N for t in range(equal(n).validators.faulty + 1)]


@pytest.mark.parametrize(("n", "t"), EVERY_N_T)
def test_the_fast_quorum_is_exactly_as_large_as_it_must_be(n: int, t: int) -> None:
    """Safe at F(t) and unsafe at F(t) - 1, over every outcome of a view."""
    assert smallest_safe_weight(n, t) == equal(n).validators.fast_weight(t)


@pytest.mark.parametrize("n", EVERY_N)
def test_confirmed_is_the_inverse_of_the_fast_quorum(n: int) -> None:
    validators = equal(n).validators
    for t in range(validators.faulty + 1):
        weight = validators.fast_weight(t)
        assert (validators.tolerated_weight(weight), validators.tolerated_weight(weight - 1)) == (t, t - 1)


@pytest.mark.parametrize("n", EVERY_N)
def test_a_view_has_one_notarization_and_a_finalization_excludes_timeouts(n: int) -> None:
    """Honest validators vote for one block, and finalize or nullify; Byzantine ones, f of them, do both."""
    validators = equal(n).validators
    q, f = validators.quorum, validators.faulty
    for one in range(n - f + 1):
        for other in range(n - f - one + 1):
            assert not (one + f >= q and other + f >= q)


@pytest.mark.parametrize("n", EVERY_N)
def test_a_timeout_certificate_carries_what_more_than_half_of_it_report(n: int) -> None:
    epoch = equal(n)
    for size in range(1, n + 1):
        for for_b in range(size + 1):
            certificate = a_timeout({i: B if i < for_b else NO_BLOCK for i in range(size)})
            assert is_accepted(certificate, epoch) == (size >= epoch.validators.quorum)
            carries = resolve(certificate, epoch.validators) == B
            assert carries == (for_b > size - for_b)


def test_the_table_of_the_protocol_text() -> None:
    rows = {n: equal(n).validators for n in (4, 6, 7, 10, 21, 50, 99, 100)}
    assert {n: (v.faulty, v.quorum, v.final_weight) for n, v in rows.items()} == {
        4: (1, 3, 4),
        6: (1, 5, 5),
        7: (2, 5, 7),
        10: (3, 7, 10),
        21: (6, 15, 20),
        50: (16, 34, 50),
        99: (32, 67, 98),
        100: (33, 67, 100),
    }


# --- unequal weights ---
#
# F(t) is stated for weights in one direction only: weight F(t) is enough, whatever the weights are. It need not be the
# smallest such weight, for sums of given weights jump. It is the smallest that depends on W and t alone: with
# W validators of weight 1 one less is unsafe (above).

Weights = st.lists(st.integers(1, 12), min_size=1, max_size=8).map(tuple)


@st.composite
def views(draw: st.DrawFn) -> tuple[Groups, frozenset[int], dict[int, bytes], dict[int, bytes]]:
    """Weights, who is Byzantine (at most f by weight), honest notarize votes, and the reports of a certificate."""
    weights = draw(Weights)
    validators = an_epoch(weights).validators
    everybody = range(len(weights))

    def some(weight_max: int) -> frozenset[int]:
        """Any validators of at most this weight together."""
        chosen, left = set[int](), weight_max
        for index in draw(st.permutations(everybody)):
            if weights[index] <= left and draw(st.booleans()):
                chosen.add(index)
                left -= weights[index]
        return frozenset(chosen)

    byzantine = some(validators.faulty)
    blocks = st.sampled_from([B, B, B, b"C" * 32, NO_BLOCK])
    honest = {i: draw(blocks) for i in everybody if i not in byzantine}
    absent = some(validators.total - validators.quorum)
    reports = {i: honest[i] if i in honest else draw(blocks) for i in everybody if i not in absent}
    return weights, byzantine, honest, reports


@given(views())
@example(((1, 1, 1, 1), frozenset({3}), {0: B, 1: B, 2: B}, {0: B, 1: B, 3: NO_BLOCK}))
def test_what_fast_weight_notarized_is_carried_for_all_weights(
    view: tuple[Groups, frozenset[int], dict[int, bytes], dict[int, bytes]],
) -> None:
    weights, byzantine, honest, reports = view
    epoch = an_epoch(weights)
    t = epoch.validators.weight_of(byzantine)
    notarized = epoch.validators.weight_of([*(i for i, block in honest.items() if block == B), *byzantine])
    certificate = a_timeout(reports)
    assert is_accepted(certificate, epoch)
    assume(notarized >= epoch.validators.fast_weight(t))
    assert resolve(certificate, epoch.validators) == B
    others = epoch.validators.weight_of([*(i for i, block in honest.items() if block != B), *byzantine])
    assert others < epoch.validators.quorum  # so nothing else is notarized


@given(Weights)
def test_two_quorums_share_more_than_the_faulty_weight(weights: Groups) -> None:
    validators = an_epoch(weights).validators
    assert 2 * validators.quorum - validators.total > validators.faulty == (validators.total - 1) // 3
    assert max(validators.quorum, validators.fast_weight(0)) <= validators.final_weight <= validators.total


def subsets(weights: Groups) -> Iterator[frozenset[int]]:
    """Every set of validators but the empty one."""
    for bits in range(1, 2 ** len(weights)):
        yield frozenset(i for i in range(len(weights)) if bits >> i & 1)


def smallest_safe_weight_of(weights: Groups, byzantine: frozenset[int]) -> int:
    """Like smallest_safe_weight, for given weights: honest validators notarize B or nothing, liars report nothing."""
    epoch = an_epoch(weights)
    unsafe = [-1]
    for voters in subsets(weights):
        if byzantine <= voters:
            for members in subsets(weights):
                certificate = a_timeout({i: B if i in voters - byzantine else NO_BLOCK for i in members})
                if is_accepted(certificate, epoch) and resolve(certificate, epoch.validators) != B:
                    unsafe.append(epoch.validators.weight_of(voters))
                    break
    return max(unsafe) + 1


def test_for_some_weights_less_than_the_fast_quorum_would_do() -> None:
    """Why tightness is claimed for equal weights alone."""
    weights, byzantine = (1, 1, 3), frozenset({0})
    validators = an_epoch(weights).validators
    safe, q, fast = smallest_safe_weight_of(weights, byzantine), validators.quorum, validators.fast_weight(1)
    assert (safe, q, fast) == (3, 4, 5)
