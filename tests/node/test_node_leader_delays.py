"""Leader delay: measured from the entry of a view, in parts of T_prop; the last fifth is late."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from node.leader_delays import LeaderDelays

MS = 1_000_000


def a_view_of_100_ms(delays: LeaderDelays, view: int, leader: int) -> None:
    delays.on_entered(0, view, leader, 1_000 * MS)
    delays.on_allowed(100)


def test_a_delay_is_a_share_of_the_time_that_the_leader_had() -> None:
    delays = LeaderDelays(CollectorRegistry())
    a_view_of_100_ms(delays, 5, 2)
    assert delays.on_proposal(0, 5, 2, 1_025 * MS) == 250_000
    assert delays.on_proposal(0, 5, 2, 1_090 * MS) is None
    a_view_of_100_ms(delays, 6, 2)
    assert delays.on_proposal(0, 6, 2, 1_041 * MS) == 410_000
    assert delays.smoothed_ppm == {2: (250_000 * 15 + 410_000) // 16}


def test_the_last_fifth_is_late() -> None:
    registry = CollectorRegistry()
    delays = LeaderDelays(registry)
    for view, came_ms in ((5, 1_079), (6, 1_080), (7, 1_099)):
        a_view_of_100_ms(delays, view, 3)
        delays.on_proposal(0, view, 3, came_ms * MS)
    assert delays.late == {3: 2}
    assert b'quorate_leader_seen_late_total{validator="3"} 2.0' in generate_latest(registry)


def test_a_proposal_that_brings_us_into_its_view_kept_nobody_waiting_and_an_old_one_says_nothing() -> None:
    delays = LeaderDelays(CollectorRegistry())
    a_view_of_100_ms(delays, 5, 2)
    assert delays.on_proposal(0, 7, 1, 1_099 * MS) == 0
    assert delays.on_proposal(0, 4, 3, 1_099 * MS) is None
    delays.on_entered(0, 7, 1, 1_100 * MS)
    assert delays.on_proposal(0, 7, 1, 1_190 * MS) is None
    assert delays.smoothed_ppm == {1: 0}
    assert delays.on_proposal(1, 1, 0, 1_100 * MS) == 0
