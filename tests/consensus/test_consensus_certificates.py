"""What makes a certificate valid, what a timeout certificate decides, when a block is justified."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from consensus import admission
from consensus.certificates import (
    check_certificate,
    check_justified,
    finality_proof,
    resolve,
    votes_of,
)
from consensus.messages import Block, BlockResponse, Certificate, Votes
from consensus.reasons import ConsensusReason as Reason
from primitives.errors import ProtocolViolation
from primitives.identifiers import NO_BLOCK
from tests.consensus.builders import (
    EPOCH,
    FINALIZE,
    NOTARIZE,
    a_block,
    a_child,
    a_finalization,
    a_notarization,
    a_proposal,
    a_timeout,
    a_vote,
    name_of,
)

A, B = b"A" * 32, b"B" * 32
replace = msgspec.structs.replace


def refusal(check: Callable[[], object]) -> object:
    with pytest.raises(ProtocolViolation) as caught:
        check()
    return caught.value.reason


NC = a_notarization(3, A)
TC = a_timeout(3, {0: A, 1: B, 2: NO_BLOCK})
FLAWED: list[tuple[Certificate, Reason]] = [
    (replace(NC, kind=2), Reason.WRONG_KIND),
    (replace(NC, epoch=1), Reason.WRONG_EPOCH),
    (replace(NC, view=0), Reason.WRONG_VIEW),
    (replace(NC, view=2**62), Reason.WRONG_VIEW),
    (replace(NC, block=NO_BLOCK), Reason.WRONG_SUBJECT),
    (replace(NC, signers=(0, 1, 1)), Reason.UNORDERED_SIGNERS),
    (replace(NC, signers=(0, 2, 1)), Reason.UNORDERED_SIGNERS),
    (replace(NC, signatures=NC.signatures[:2]), Reason.UNORDERED_SIGNERS),
    (replace(NC, signers=(0, 1, 4)), Reason.UNKNOWN_SIGNER),
    (a_notarization(3, A, (0, 1)), Reason.BELOW_QUORUM),
    (a_timeout(3, {0: A, 1: A}), Reason.BELOW_QUORUM),
    (replace(TC, epoch=1), Reason.WRONG_EPOCH),
    (replace(TC, groups=()), Reason.BELOW_QUORUM),
    (replace(TC, groups=TC.groups[::-1]), Reason.UNORDERED_REPORTS),
    (replace(TC, groups=(TC.groups[0], *TC.groups)), Reason.UNORDERED_REPORTS),
    (replace(TC, groups=(*TC.groups[:2], replace(TC.groups[2], signers=(2,)))), Reason.UNORDERED_SIGNERS),
]


@pytest.mark.parametrize(("certificate", "reason"), FLAWED)
def test_a_flawed_certificate_is_refused_with_its_reason(certificate: Certificate, reason: Reason) -> None:
    assert refusal(lambda: check_certificate(certificate, EPOCH)) == reason


def test_sound_certificates_have_their_weight() -> None:
    assert [check_certificate(c, EPOCH) for c in (NC, TC, a_finalization(3, A, range(4)))] == [3, 3, 4]


@pytest.mark.parametrize(
    ("reports", "carried"),
    [
        ((NO_BLOCK, NO_BLOCK, NO_BLOCK), NO_BLOCK),
        ((A, A, NO_BLOCK), A),
        ((A, NO_BLOCK, NO_BLOCK), NO_BLOCK),
        ((A, A, B, B), NO_BLOCK),
        ((A, A, NO_BLOCK, NO_BLOCK), NO_BLOCK),
        ((A, A, A, B), A),
    ],
)
def test_a_block_is_carried_by_strictly_more_than_half_of_the_certificate(
    reports: tuple[bytes, ...], carried: bytes
) -> None:
    assert resolve(a_timeout(3, dict(enumerate(reports))), EPOCH.validators) == carried


def test_finality_takes_a_finalization_or_a_heavy_notarization() -> None:
    heavy = a_notarization(3, A, range(4))
    judged = [finality_proof(c, EPOCH.validators) for c in (NC, heavy, a_finalization(3, A), TC)]
    assert judged == [None, heavy, a_finalization(3, A), None]


def test_the_votes_inside_a_certificate_are_those_it_was_made_of() -> None:
    assert list(votes_of(NC)) == [a_vote(NOTARIZE, 3, A, signer) for signer in (0, 1, 2)]
    assert sorted((v.signer, v.subject) for v in votes_of(TC)) == [(0, A), (1, B), (2, NO_BLOCK)]


FIRST = a_block(1)
PARENT = name_of(FIRST)
GOOD = [
    FIRST,
    a_child(FIRST),
    a_block(2, FIRST, a_finalization(1, PARENT)),
    a_block(2, FIRST, a_timeout(1, {0: PARENT, 1: PARENT, 2: NO_BLOCK})),
    a_block(4, FIRST, a_notarization(1, PARENT), (a_timeout(2), a_timeout(3))),
    a_block(3, None, None, (a_timeout(1), a_timeout(2))),
]


@pytest.mark.parametrize("block", GOOD)
def test_blocks_on_every_kind_of_parent_certificate_are_justified(block: Block) -> None:
    check_justified(block, EPOCH)


NEXT = a_child(FIRST)
UNJUSTIFIED: list[tuple[Block, Reason]] = [
    (replace(NEXT, header=replace(NEXT.header, chain_id=A)), Reason.WRONG_CHAIN),
    (replace(NEXT, header=replace(NEXT.header, epoch=1)), Reason.WRONG_EPOCH),
    (
        replace(NEXT, header=replace(NEXT.header, proposer=(NEXT.header.proposer + 1) % 4)),
        Reason.WRONG_LEADER,
    ),
    (replace(NEXT, header=replace(NEXT.header, parent_view=2)), Reason.WRONG_PARENT),
    (replace(NEXT, header=replace(NEXT.header, justification_root=A)), Reason.WRONG_ROOT),
    (a_block(2, FIRST, None), Reason.WRONG_PARENT),
    (a_block(2, FIRST, a_notarization(1, A)), Reason.WRONG_PARENT),
    (a_block(3, FIRST, a_notarization(2, PARENT), (a_timeout(2),)), Reason.WRONG_PARENT),
    (a_block(2, FIRST, a_timeout(1)), Reason.WRONG_PARENT),
    (a_block(2, FIRST, a_notarization(1, PARENT, (0, 1))), Reason.BELOW_QUORUM),
    (a_block(3, FIRST, a_notarization(1, PARENT)), Reason.WRONG_SKIPS),
    (a_block(2, FIRST, a_notarization(1, PARENT), (a_timeout(2),)), Reason.WRONG_SKIPS),
    (a_block(4, FIRST, a_notarization(1, PARENT), (a_timeout(3), a_timeout(2))), Reason.WRONG_SKIPS),
    (a_block(2, None, None, (a_timeout(1, {0: A, 1: A, 2: A}),)), Reason.WRONG_SKIPS),
]


@pytest.mark.parametrize(("block", "reason"), UNJUSTIFIED)
def test_an_unjustified_block_is_refused_with_its_reason(block: Block, reason: Reason) -> None:
    assert refusal(lambda: check_justified(block, EPOCH)) == reason


def test_admission_wants_the_leaders_vote_for_this_very_block() -> None:
    proposal = a_proposal(NEXT)
    leader = NEXT.header.proposer
    admission.check(proposal, EPOCH)
    flawed = [
        (replace(proposal, leader_vote=a_vote(FINALIZE, 2, name_of(NEXT), leader)), Reason.WRONG_LEADER),
        (replace(proposal, leader_vote=a_vote(NOTARIZE, 3, name_of(NEXT), leader)), Reason.WRONG_LEADER),
        (
            replace(proposal, leader_vote=a_vote(NOTARIZE, 2, name_of(NEXT), (leader + 1) % 4)),
            Reason.WRONG_LEADER,
        ),
        (replace(proposal, leader_vote=a_vote(NOTARIZE, 2, A, leader)), Reason.WRONG_SUBJECT),
        (replace(proposal, block=replace(NEXT, transactions=(b"other",))), Reason.WRONG_ROOT),
    ]
    for message, reason in flawed:
        assert refusal(lambda m=message: admission.check(m, EPOCH)) == reason


def test_admission_of_votes_checks_signer_epoch_view_kind_and_subject() -> None:
    vote = a_vote(NOTARIZE, 1, A, 0)
    flawed = [
        (replace(vote, signer=4), Reason.UNKNOWN_SIGNER),
        (replace(vote, epoch=1), Reason.WRONG_EPOCH),
        (replace(vote, view=0), Reason.WRONG_VIEW),
        (replace(vote, kind=4), Reason.WRONG_KIND),
        (replace(vote, kind=0), Reason.WRONG_KIND),
        (replace(vote, subject=NO_BLOCK), Reason.WRONG_SUBJECT),
    ]
    for bad, reason in flawed:
        assert refusal(lambda v=bad: admission.check(Votes((v,)), EPOCH)) == reason


def test_a_proposal_asks_for_every_embedded_signature() -> None:
    block = a_block(4, FIRST, a_notarization(1, PARENT), (a_timeout(2), a_timeout(3)))
    checks = admission.signatures_of(a_proposal(block), EPOCH)
    assert len(checks) == len(set(checks)) == 1 + 3 + 3 + 3


def test_a_response_must_be_linked_from_the_requested_block() -> None:
    admission.check(BlockResponse(name_of(NEXT), (NEXT, FIRST)), EPOCH)
    assert (
        refusal(lambda: admission.check(BlockResponse(name_of(NEXT), (FIRST,)), EPOCH)) == Reason.NOT_LINKED
    )
