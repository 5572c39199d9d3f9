"""One numbered test (or a few) for each rule R0 to R9 of the consensus protocol, on one core alone."""

from __future__ import annotations

from consensus.effects import (
    BuildPayload,
    Conflict,
    DeliverFinal,
    EnteredView,
    Halt,
    OwnProposal,
    OwnVote,
    Persist,
    RaisedFloor,
    ReportEvidence,
    SetTimer,
)
from consensus.inputs import PayloadBuilt, TimerFired, TimerKind
from consensus.messages import (
    BlockRequest,
    CertificateMessage,
    CertificateRequest,
    Proposal,
    Status,
    StatusRequest,
)
from primitives.identifiers import NO_BLOCK
from tests.consensus.builders import (
    EPOCH,
    FINALIZE,
    NOTARIZE,
    NULLIFY,
    Alone,
    a_block,
    a_child,
    a_finalization,
    a_notarization,
    a_proposal,
    a_timeout,
    a_vote,
    name_of,
    of_type,
    sent,
    votes_in,
)

FIRST = a_block(1)
FIRST_HASH = name_of(FIRST)
LEADER = EPOCH.leaders.leader_of(1)
ME = 3
"""Follows in view 1; the builders' certificates are signed by 0, 1 and 2."""
LED = next(view for view in range(3, 20) if EPOCH.leaders.leader_of(view) == ME)
"""A view that we lead."""
OTHERS = [index for index in range(4) if index not in (LEADER, ME)]


def test_r0_nothing_is_signed_at_or_below_the_floor() -> None:
    core = Alone(ME, records=(RaisedFloor(0, 1),))
    assert votes_in(core.see(FIRST)) == []
    assert votes_in(core.give(TimerFired(TimerKind.VIEW, 1))) == []


def test_r1_any_certificate_of_our_view_or_beyond_moves_us_past_it() -> None:
    for certificate in (
        a_notarization(5, FIRST_HASH),
        a_finalization(5, FIRST_HASH),
        a_timeout(5),
        a_timeout(5, {0: FIRST_HASH, 1: FIRST_HASH, 2: NO_BLOCK}),
    ):
        core = Alone(ME)
        entered = of_type(core.hear_certificate(certificate), EnteredView)
        assert [(e.view, e.leader) for e in entered] == [(6, EPOCH.leaders.leader_of(6))]


def test_r1_the_certificate_goes_to_the_next_leader_at_once_and_later_to_those_who_seem_to_lack_it() -> None:
    core = Alone(ME)
    view = LED - 2
    at_once = sent(core.hear_certificate(a_timeout(view)), CertificateMessage)
    next_leader = EPOCH.leaders.leader_of(view + 1)
    assert [to for to, _ in at_once] == [next_leader]
    ahead = next(index for index in range(4) if index not in (ME, next_leader))
    core.hear_votes(a_vote(NULLIFY, view + 1, NO_BLOCK, ahead))
    later = sent(core.give(TimerFired(TimerKind.FORWARD, view + 1)), CertificateMessage)
    assert [to for to, _ in later] == [index for index in range(4) if index not in (ME, ahead)]


def test_r2_a_leader_builds_on_the_highest_certified_block_and_carries_the_skips() -> None:
    core = Alone(ME)
    core.see(FIRST)
    core.hear_certificate(a_notarization(1, FIRST_HASH))
    for view in range(2, LED):
        effects = core.hear_certificate(a_timeout(view))
    assert of_type(effects, BuildPayload) == [BuildPayload(FIRST_HASH, LED, 2)]
    effects = core.give(PayloadBuilt(FIRST_HASH, LED, (b"mine",), 7, bytes(32)))
    (proposal,) = [message for _, message in sent(effects, Proposal)]
    assert isinstance(proposal, Proposal)
    header, justification = proposal.block.header, proposal.block.justification
    assert (header.parent_hash, header.parent_view, header.view) == (FIRST_HASH, 1, LED)
    assert (justification.parent, len(justification.skips)) == (
        a_notarization(1, FIRST_HASH, range(4)),
        LED - 2,
    )


def test_r2_a_leader_never_proposes_twice_in_a_view_and_resends_the_same_bytes_after_a_restart() -> None:
    core = Alone(LEADER)
    first = core.give(PayloadBuilt(EPOCH.genesis, 1, (b"one",), 1, bytes(32)))
    assert sent(core.give(PayloadBuilt(EPOCH.genesis, 1, (b"two",), 2, bytes(32))), Proposal) == []
    again = core.restarted()
    assert sent(again.effects, Proposal) == sent(first, Proposal)
    assert of_type(again.effects, BuildPayload) == []


def test_r2_a_leader_without_a_candidate_asks_for_certificates_and_then_gives_up_its_view() -> None:
    core = Alone(ME)
    effects = core.hear_certificate(a_notarization(LED - 1, FIRST_HASH))
    assert sent(effects, CertificateRequest) == [(None, CertificateRequest(1, LED - 2))]
    assert [to is not None for to, _ in sent(effects, BlockRequest)] == [True]
    gave_up = core.give(TimerFired(TimerKind.PROPOSE, LED))
    assert votes_in(gave_up) == [("NULLIFY", LED, NO_BLOCK)]


def test_r3_a_valid_block_of_the_leader_is_notarized_once_after_the_journal() -> None:
    core = Alone(ME)
    effects = core.see(FIRST)
    assert votes_in(effects) == [("NOTARIZE", 1, FIRST_HASH)]
    kinds = [type(effect).__name__ for effect in effects]
    assert kinds.index("Persist") < kinds.index("Broadcast")
    assert votes_in(core.see(a_block(1, text=b"another"))) == []


def test_r3_a_late_proposal_is_notarized_but_never_after_nullifying() -> None:
    late = Alone(ME)
    late.hear_certificate(a_timeout(1))
    assert votes_in(late.see(FIRST)) == [("NOTARIZE", 1, FIRST_HASH)]

    nullified = Alone(ME)
    nullified.give(TimerFired(TimerKind.PROPOSAL, 1))
    assert votes_in(nullified.see(FIRST)) == []


def test_r4_the_report_is_what_we_notarized_also_after_a_restart() -> None:
    core = Alone(ME)
    core.see(FIRST)
    assert votes_in(core.restarted().give(TimerFired(TimerKind.VIEW, 1))) == [("NULLIFY", 1, FIRST_HASH)]
    assert votes_in(Alone(ME).give(TimerFired(TimerKind.VIEW, 1))) == [("NULLIFY", 1, NO_BLOCK)]


def test_r4a_the_proposal_timer_gives_up_only_while_nothing_is_notarized() -> None:
    core = Alone(ME)
    core.see(FIRST)
    assert votes_in(core.give(TimerFired(TimerKind.PROPOSAL, 1))) == []
    assert votes_in(Alone(ME).give(TimerFired(TimerKind.PROPOSAL, 1))) == [("NULLIFY", 1, NO_BLOCK)]


def test_r4c_an_invalid_block_or_two_blocks_of_the_leader_end_the_view() -> None:
    assert votes_in(Alone(ME).see(FIRST, ok=False)) == [("NULLIFY", 1, NO_BLOCK)]
    core = Alone(ME)
    said = core.hear_votes(a_vote(NOTARIZE, 1, b"a" * 32, LEADER), a_vote(NOTARIZE, 1, b"b" * 32, LEADER))
    assert votes_in(said) == [("NULLIFY", 1, NO_BLOCK)]


def test_r4d_a_leader_that_gives_up_takes_the_others_along() -> None:
    core = Alone(ME)
    assert votes_in(core.hear_votes(a_vote(NULLIFY, 1, NO_BLOCK, OTHERS[0]))) == []
    assert votes_in(core.hear_votes(a_vote(NULLIFY, 1, NO_BLOCK, LEADER))) == [("NULLIFY", 1, NO_BLOCK)]


def test_r4e_a_leader_unheard_of_for_n_views_gets_no_time() -> None:
    core = Alone(ME)
    view, absent = 1, OTHERS[0]
    present = [index for index in range(4) if index not in (absent, ME)]
    while not (view > 6 and EPOCH.leaders.leader_of(view) == absent):
        core.hear_votes(*[a_vote(NULLIFY, view, NO_BLOCK, i) for i in present])
        core.give(TimerFired(TimerKind.VIEW, view))
        view += 1
    nullified = [one for one in votes_in(core.effects) if one[1] == view]
    assert core.core.state.view == view
    assert nullified == [("NULLIFY", view, NO_BLOCK)]


def test_r5_a_notarized_block_that_we_accept_is_finalized_unless_we_gave_the_view_up() -> None:
    core = Alone(ME)
    core.see(FIRST)
    said = votes_in(core.hear_certificate(a_notarization(1, FIRST_HASH)))
    assert said == [("FINALIZE", 1, FIRST_HASH)]
    gave_up = Alone(ME)
    gave_up.see(FIRST)
    gave_up.give(TimerFired(TimerKind.VIEW, 1))
    assert votes_in(gave_up.hear_certificate(a_notarization(1, FIRST_HASH))) == []


def test_r5_never_nullifies_a_view_that_an_earlier_life_finalized() -> None:
    core = Alone(ME)
    core.see(FIRST)
    core.hear_certificate(a_notarization(1, FIRST_HASH))
    without_view = tuple(r for r in core.journal if isinstance(r, OwnVote) and r.kind == FINALIZE)
    again = Alone(ME, records=without_view)
    again.core.state.view = 1
    assert votes_in(again.give(TimerFired(TimerKind.VIEW, 1))) == []


def test_r6_a_finalization_or_all_four_notarize_votes_make_a_block_and_its_ancestors_final() -> None:
    second = a_child(FIRST)
    for proof in (
        a_finalization(2, name_of(second)),
        a_notarization(2, name_of(second), range(4)),
    ):
        observer = Alone(None)
        observer.see(FIRST)
        observer.see(second)
        assert of_type(observer.hear_certificate(proof), DeliverFinal) == [
            DeliverFinal((FIRST, second), proof)
        ]


def test_r6_three_notarize_votes_alone_are_not_final() -> None:
    observer = Alone(None)
    observer.see(FIRST)
    assert of_type(observer.hear_certificate(a_notarization(1, FIRST_HASH)), DeliverFinal) == []


def test_r7_a_stuck_validator_repeats_its_votes_its_certificate_and_asks_for_status() -> None:
    core = Alone(ME)
    core.hear_certificate(a_timeout(1))
    core.give(TimerFired(TimerKind.VIEW, 2))
    core.give(TimerFired(TimerKind.RETRY, 2))
    effects = core.give(TimerFired(TimerKind.RETRY, 2))
    assert ("NULLIFY", 2, NO_BLOCK) in votes_in(effects)
    assert len(sent(effects, StatusRequest)) == 1
    assert CertificateMessage(a_timeout(1)) in [m for _, m in sent(effects, CertificateMessage)]
    assert [e.kind for e in of_type(effects, SetTimer)] == [TimerKind.RETRY]


def test_r8_counting_goes_on_after_a_quorum_and_a_second_timeout_certificate_may_carry() -> None:
    observer = Alone(None)
    observer.see(FIRST)
    observer.hear_votes(
        a_vote(NULLIFY, 1, NO_BLOCK, 0),
        a_vote(NULLIFY, 1, FIRST_HASH, 1),
        a_vote(NULLIFY, 1, FIRST_HASH, 2),
    )
    kept = observer.core.state.certificates.of(1)
    assert (kept.skip, set(kept.carries)) == (None, {FIRST_HASH})
    observer.hear_votes(a_vote(NULLIFY, 1, NO_BLOCK, 3))
    assert observer.core.state.certificates.of(1).skip is not None


def test_r8_votes_far_ahead_are_dropped_but_certificates_are_not() -> None:
    observer = Alone(None)
    ahead = 1 + observer.core.state.parameters.lookahead_views + 1
    observer.hear_votes(*[a_vote(NULLIFY, ahead, NO_BLOCK, i) for i in range(3)])
    assert observer.core.state.view == 1
    observer.hear_certificate(a_timeout(ahead))
    assert observer.core.state.view == ahead + 1


def test_r9_two_finality_proofs_stop_the_validator_for_ever_but_it_still_answers() -> None:
    core = Alone(ME)
    core.see(FIRST)
    core.hear_certificate(a_finalization(1, FIRST_HASH))
    rival = a_finalization(1, b"x" * 32)
    effects = core.hear_certificate(rival)
    ours = a_finalization(1, FIRST_HASH)
    (persisted,) = of_type(effects, Persist)
    assert persisted.records[-1] == Conflict("conflicting_finality", ours, rival, None)
    assert [halt.reason for halt in of_type(effects, Halt)] == ["conflicting_finality"]
    for life in (core, core.restarted()):
        assert votes_in(life.give(TimerFired(TimerKind.VIEW, 2))) == []
        assert votes_in(life.see(a_child(FIRST))) == []
        assert len(sent(life.hear(StatusRequest(1, 0)), Status)) == 1


def test_r9_a_justified_block_that_skips_a_final_one_is_an_alarm() -> None:
    core = Alone(ME)
    core.see(FIRST)
    core.hear_certificate(a_finalization(1, FIRST_HASH))
    fork = a_block(2, None, None, skips=(a_timeout(1),))
    effects = core.hear(a_proposal(fork), fork.header.proposer)
    assert [halt.reason for halt in of_type(effects, Halt)] == ["final_block_skipped"]


def test_evidence_is_reported_once_per_offender_kind_and_view() -> None:
    core = Alone(ME)
    votes = [a_vote(NOTARIZE, 1, bytes([i]) * 32, OTHERS[0]) for i in (1, 2)]
    reports = of_type(core.hear_votes(*votes, *votes), ReportEvidence)
    assert [(r.kind, r.offender) for r in reports] == [("E1", OTHERS[0])]


def test_a_key_heard_elsewhere_stops_the_validator() -> None:
    core = Alone(ME)
    effects = core.hear_votes(a_vote(NOTARIZE, 1, b"z" * 32, ME))
    assert [halt.reason for halt in of_type(effects, Halt)] == ["own_key_elsewhere"]


def test_own_proposal_is_in_the_journal_before_it_is_sent() -> None:
    core = Alone(LEADER)
    effects = core.give(PayloadBuilt(EPOCH.genesis, 1, (b"one",), 1, bytes(32)))
    assert isinstance(effects[0], Persist)
    assert [type(record) for record in effects[0].records] == [OwnProposal, OwnVote]
