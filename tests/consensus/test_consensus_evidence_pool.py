"""Evidence on its way to the chain: the pool's rules, block evidence, and what blocks may carry."""

from __future__ import annotations

import msgspec
import pytest

from consensus import admission
from consensus.certificates import assemble_timeout
from consensus.effects import Broadcast, Effect
from consensus.evidence import evidence_of_refusal, offences_of, pair, verify_evidence
from consensus.evidence_pool import ANY, UNJUSTIFIED, EvidencePool, evidence_id
from consensus.messages import (
    EVIDENCE_ITEMS_MAX,
    Block,
    BlockEvidence,
    Evidence,
    Justification,
    Proposal,
    TimeoutCertificate,
    evidence_root,
    hash_of,
    sign_bytes,
)
from consensus.reasons import ConsensusReason as Reason
from primitives.errors import ProtocolViolation
from primitives.identifiers import NO_BLOCK
from tests.consensus.builders import NOTARIZE, NULLIFY, a_block, a_proposal, a_vote, name_of
from tests.consensus.cluster import CHAIN_ID, Cluster
from tests.consensus.test_consensus_evidence import EPOCH, KEYS, a_real_vote
from tests.consensus.traitor import Traitor, signed, twin_of

A, B = b"A" * 32, b"B" * 32


def a_double_vote(offender: int, view: int = 5) -> Evidence:
    return pair(a_vote(NOTARIZE, view, A, offender), a_vote(NOTARIZE, view, B, offender))


def an_unjustified_vote(offender: int, view: int = 2) -> BlockEvidence:
    """View 1 is not skipped by the block of view 2."""
    gap = a_block(view, epoch=EPOCH)
    return BlockEvidence(a_real_vote(NOTARIZE, view, name_of(gap), offender), gap.header, gap.justification)


def with_evidence(block: Block, *evidence: Evidence) -> Block:
    header = msgspec.structs.replace(block.header, evidence_root=evidence_root(evidence))
    return msgspec.structs.replace(block, header=header, evidence=evidence)


def test_the_pool_keeps_one_record_of_an_offender_and_epoch_at_its_worst() -> None:
    pool = EvidencePool()
    added = [pool.add(one) for one in (a_double_vote(2), a_double_vote(2, 6), an_unjustified_vote(2))]
    assert (added, pool.open()) == ([True, False, True], [an_unjustified_vote(2)])


def test_what_the_chain_holds_is_not_offered_again_until_something_worse_is_known() -> None:
    pool = EvidencePool([a_double_vote(1), a_double_vote(3)])
    pool.settle(a_double_vote(1))
    assert pool.pick() == (a_double_vote(3),)
    assert pool.pick(already=[a_double_vote(3)]) == ()
    pool.add(an_unjustified_vote(1))
    assert pool.pick() == (an_unjustified_vote(1), a_double_vote(3))


def test_two_proofs_of_one_offence_have_one_id() -> None:
    other = pair(a_vote(NOTARIZE, 5, A, 1), a_vote(NOTARIZE, 5, b"C" * 32, 1))
    assert evidence_id(other) == evidence_id(a_double_vote(1)) != evidence_id(a_double_vote(1, 6))


def test_the_pool_knows_whom_it_need_not_hear_of_again() -> None:
    pool = EvidencePool([a_double_vote(1), an_unjustified_vote(2)])
    assert [pool.knows(offender, 0, UNJUSTIFIED) for offender in (1, 2, 3)] == [False, True, False]
    assert pool.knows(1, 0, ANY)


def test_evidence_of_an_old_epoch_is_forgotten() -> None:
    pool = EvidencePool([a_double_vote(1)])
    pool.expire(2)
    kept = len(pool)
    pool.expire(3)
    assert (kept, len(pool)) == (1, 0)


def test_a_block_has_room_for_so_many_pieces_and_no_more() -> None:
    pool = EvidencePool([a_double_vote(offender) for offender in range(EVIDENCE_ITEMS_MAX + 4)])
    assert len(pool.pick()) == EVIDENCE_ITEMS_MAX


def test_another_justification_than_the_headers_frames_nobody() -> None:
    """Every block looks unjustified beside a justification that it does not commit to."""
    justified = a_block(1, epoch=EPOCH)
    vote = a_real_vote(NOTARIZE, 1, name_of(justified), 1)
    other = Justification(None, (TimeoutCertificate(0, 1, ()),))
    with pytest.raises(ProtocolViolation) as caught:
        verify_evidence(BlockEvidence(vote, justified.header, other), EPOCH)
    assert caught.value.reason == Reason.NOT_AN_OFFENCE


def test_a_refused_proposal_is_evidence_against_its_leader_when_it_is_unjustified() -> None:
    gap, justified = a_block(2, epoch=EPOCH), a_block(1, epoch=EPOCH)
    leader = gap.header.proposer
    proposal = Proposal(gap, a_real_vote(NOTARIZE, 2, name_of(gap), leader))
    proved = evidence_of_refusal(proposal, EPOCH)
    assert proved is not None
    assert verify_evidence(proved, EPOCH) == "E6"
    honest = Proposal(justified, a_real_vote(NOTARIZE, 1, name_of(justified), justified.header.proposer))
    assert evidence_of_refusal(honest, EPOCH) is None
    forged = msgspec.structs.replace(proposal, leader_vote=a_vote(NOTARIZE, 2, name_of(gap), leader))
    assert evidence_of_refusal(forged, EPOCH) is None


def test_a_false_signature_inside_a_committed_justification_is_evidence_too() -> None:
    skip_votes = {
        s: msgspec.structs.replace(a_real_vote(NULLIFY, 1, NO_BLOCK, s), signature=bytes(64))
        for s in range(3)
    }
    block = a_block(2, skips=(assemble_timeout(skip_votes),), epoch=EPOCH)
    vote = KEYS[1].sign(sign_bytes(CHAIN_ID, NOTARIZE, 0, 2, name_of(block)))
    proposal = a_proposal(block)
    leader_vote = msgspec.structs.replace(proposal.leader_vote, signer=1, signature=vote)
    assert evidence_of_refusal(Proposal(block, leader_vote), EPOCH) is not None


def test_a_block_may_not_name_an_offender_twice_or_carry_what_proves_nothing() -> None:
    block = a_block(1, epoch=EPOCH)
    honest = pair(a_vote(NOTARIZE, 5, A, 1), a_vote(NULLIFY, 5, A, 1))
    for evidence, reason in (
        ((a_double_vote(1), a_double_vote(1, 6)), Reason.TOO_MUCH_EVIDENCE),
        ((honest,), Reason.NOT_AN_OFFENCE),
    ):
        with pytest.raises(ProtocolViolation) as caught:
            admission.check_block(with_evidence(block, *evidence), EPOCH)
        assert caught.value.reason == reason
    good = with_evidence(block, a_double_vote(1), a_double_vote(3))
    admission.check_block(good, EPOCH)
    assert offences_of(good.evidence) == ((1, 0, "E1", 5), (3, 0, "E1", 5))


class Equivocator(Traitor):
    """Sends one block to some and its twin to the others, and is honest otherwise."""

    def __call__(self, sender: int, effect: Effect) -> list[Effect]:
        if sender != self.index or not isinstance(effect, Broadcast):
            return [effect]
        if not isinstance(effect.message, Proposal):
            return [effect]
        proposal = effect.message
        view = proposal.leader_vote.view
        twin = twin_of(proposal.block)
        other = Proposal(twin, signed(self.index, NOTARIZE, view, hash_of(twin.header)))
        return [Broadcast(proposal), Broadcast(other)]


def test_an_equivocator_is_named_in_a_final_block_once() -> None:
    """Each view that it leads proves another offence; the chain is told once in the epoch."""
    cluster = Cluster(4, byzantine=frozenset({2}), tamper=Equivocator(2, 4, 1))
    cluster.run(2_000)
    assert cluster.live_height() > 20
    named = [offence for block, _ in cluster.processes[0].store for offence in offences_of(block.evidence)]
    assert [(offender, kind) for offender, _, kind, _ in named] == [(2, "E1")]


def test_kept_evidence_is_told_again_at_the_start_until_it_is_on_chain() -> None:
    cluster = Cluster(4, byzantine=frozenset({3}))
    cluster.processes[1].kept = [a_double_vote(3, 9)]
    cluster.run(1_000)
    for process in cluster.processes:
        assert [one for block, _ in process.store for one in block.evidence] == [a_double_vote(3, 9)]
