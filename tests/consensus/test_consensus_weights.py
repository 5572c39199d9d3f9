"""Unequal weights: who leads how often, places without weight, and sets that follow each other."""

from __future__ import annotations

from collections import Counter

import pytest

from consensus.certificates import check_certificate, check_vote
from consensus.epoch import first_epoch
from consensus.leader import LEADER_LIST_MAX, LeaderSchedule, leader_list
from consensus.reasons import ConsensusReason as Reason
from primitives.errors import ProtocolViolation
from tests.consensus.builders import NOTARIZE, a_notarization, a_vote
from tests.consensus.cluster import CHAIN_ID, a_validator_set

A = b"A" * 32
WITHOUT_2 = first_epoch(CHAIN_ID, a_validator_set(4, (1, 1, 0, 1)))


def test_the_list_is_smooth_weighted_round_robin() -> None:
    assert leader_list((5, 1, 1)) == (0, 0, 1, 0, 2, 0, 0)
    assert leader_list((10, 2, 2)) == leader_list((5, 1, 1))
    assert leader_list((7, 7, 7)) == (0, 1, 2)
    assert leader_list((0, 1, 0, 1)) == (1, 3)


def test_everybody_leads_by_its_weight_in_every_cycle() -> None:
    weights = tuple(range(1, 11))
    schedule = LeaderSchedule(b"s" * 32, 10, weights)
    for cycle in range(3):
        led = Counter(schedule.leader_of(view) for view in range(cycle * 55, cycle * 55 + 55))
        assert led == dict(enumerate(weights))


def test_large_weights_are_rounded_to_the_length_of_the_list() -> None:
    led = Counter(leader_list((2**40, 2**39, 2**39 + 1)))
    assert sum(led.values()) == LEADER_LIST_MAX
    assert [round(led[index] / 256) for index in range(3)] == [2, 1, 1]


def test_equal_weights_lead_as_without_weights() -> None:
    plain, weighted = LeaderSchedule(b"s" * 32, 7), LeaderSchedule(b"s" * 32, 7, (3,) * 7)
    assert [plain.leader_of(v) for v in range(50)] == [weighted.leader_of(v) for v in range(50)]


def test_a_place_without_weight_neither_votes_nor_counts() -> None:
    check_vote(a_vote(NOTARIZE, 5, A, 1), WITHOUT_2)
    for check in (
        lambda: check_vote(a_vote(NOTARIZE, 5, A, 2), WITHOUT_2),
        lambda: check_certificate(a_notarization(5, A, (0, 1, 2, 3)), WITHOUT_2),
    ):
        with pytest.raises(ProtocolViolation) as caught:
            check()
        assert caught.value.reason == Reason.UNKNOWN_SIGNER
    check_certificate(a_notarization(5, A, (0, 1, 3)), WITHOUT_2)


def test_places_never_change_when_a_set_is_followed_by_another() -> None:
    known = a_validator_set(3)
    new = a_validator_set(6).public_keys[5]
    after = known.following([(0, known.public_keys[0], 4), (5, new, 2)])
    assert after.weights == (4, 0, 0, 0, 0, 2)
    assert after.public_keys[:3] == known.public_keys
    again = after.following([(1, known.public_keys[1], 1), (5, new, 1)])
    assert (again.public_keys, again.weights) == (after.public_keys, (0, 1, 0, 0, 0, 1))


def test_a_validator_that_comes_back_at_another_place_leaves_the_old_one_to_nobody() -> None:
    known = a_validator_set(3)
    key = known.public_keys[1]
    after = known.following([(0, known.public_keys[0], 1), (3, key, 1)])
    assert (after.public_keys[3], after.weights) == (key, (1, 0, 0, 1))
    assert key not in after.public_keys[:3]
