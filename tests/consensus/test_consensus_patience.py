"""A laggard that has caught up is as patient as everybody else."""

from __future__ import annotations

from consensus.effects import SetTimer
from consensus.inputs import TimerKind
from consensus.pacemaker import Pacemaker
from tests.consensus.builders import (
    EPOCH,
    Alone,
    a_block,
    a_finalization,
    a_follower,
    a_timeout,
    name_of,
    of_type,
)

PACE = Pacemaker(delta_ms=100, min_block_ms=0)


def test_finality_that_comes_late_shortens_the_waits_of_the_view_at_once() -> None:
    """Found by simulation: one restarted validator made three others wait for 64 times T_view."""
    alone = Alone(3)  # The timeout certificates are by 0, 1 and 2.
    alone.hear_certificate(a_timeout(30))
    assert SetTimer(TimerKind.VIEW, 31, PACE.view_ms(31, 0)) in alone.effects
    late = next(view for view in (28, 29) if EPOCH.leaders.leader_of(view) != 3)
    block = a_block(late, skips=[a_timeout(view) for view in range(1, late)])
    alone.see(block)
    effects = alone.hear_certificate(a_finalization(late, name_of(block)))
    assert alone.core.final_height == 1
    assert [one for one in of_type(effects, SetTimer) if one.view == 31] == [  # type: ignore[attr-defined]
        SetTimer(TimerKind.PROPOSAL, 31, PACE.proposal_ms(31, late)),
        SetTimer(TimerKind.VIEW, 31, PACE.view_ms(31, late)),
    ]


def test_finality_in_good_time_leaves_the_timers_alone() -> None:
    alone = Alone(a_follower(1))
    block = a_block(1)
    alone.see(block)
    effects = alone.hear_certificate(a_finalization(1, name_of(block)))
    assert [one for one in of_type(effects, SetTimer) if one.view == 1] == []  # type: ignore[attr-defined]
