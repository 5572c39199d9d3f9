"""Offences that votes prove: two votes no honest validator signs both of, or a vote for an unjustified block. Pure.

Kinds and reasons: consensus.md section 9. Extraction of culprits from a fork builds on these predicates.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from consensus.certificates import SignatureCheck, check_vote, is_justified, signature_of_vote
from consensus.epoch import Epoch
from consensus.messages import (
    EVIDENCE_BYTES_MAX,
    Block,
    BlockEvidence,
    Evidence,
    PairEvidence,
    Proposal,
    Vote,
    VoteKind,
    hash_of,
    justification_root,
)
from consensus.reasons import ConsensusReason
from primitives.codec import encode
from primitives.errors import ProtocolViolation
from primitives.signing import is_valid


class Offence(StrEnum):
    """What a piece of evidence proves."""

    TWO_NOTARIZATIONS = "E1"
    FALSE_REPORT = "E2"
    """Notarized b, but nullified with another report."""
    FINALIZED_AND_NULLIFIED = "E3"
    TWO_FINALIZATIONS = "E4"
    FINALIZED_ANOTHER = "E5"
    """Finalized b, but notarized b'."""
    UNJUSTIFIED = "E6"
    """Voted for a block that is not justified."""
    TWO_REPORTS = "E6'"


_SAME_KIND = {
    VoteKind.NOTARIZE: Offence.TWO_NOTARIZATIONS,
    VoteKind.NULLIFY: Offence.TWO_REPORTS,
    VoteKind.FINALIZE: Offence.TWO_FINALIZATIONS,
}


def offence_of(vote_a: Vote, vote_b: Vote) -> Offence | None:
    """What two votes prove, in either order; None when an honest validator may sign both."""
    if (vote_a.signer, vote_a.epoch, vote_a.view) != (vote_b.signer, vote_b.epoch, vote_b.view):
        return None
    if vote_a.kind > vote_b.kind:
        vote_a, vote_b = vote_b, vote_a
    if vote_a.kind == VoteKind.NULLIFY and vote_b.kind == VoteKind.FINALIZE:
        return Offence.FINALIZED_AND_NULLIFIED
    if vote_a.subject == vote_b.subject:
        return None
    if vote_a.kind == vote_b.kind:
        return _SAME_KIND[VoteKind(vote_a.kind)]
    return Offence.FALSE_REPORT if vote_b.kind == VoteKind.NULLIFY else Offence.FINALIZED_ANOTHER


def pair(vote_a: Vote, vote_b: Vote) -> PairEvidence:
    """Two offending votes in canonical order: ascending sign bytes, that is by kind, then subject."""
    if (vote_a.kind, vote_a.subject) > (vote_b.kind, vote_b.subject):
        vote_a, vote_b = vote_b, vote_a
    return PairEvidence(vote_a, vote_b)


def check_pair(evidence: PairEvidence) -> Offence:
    """The offence that a pair proves (signatures apart).

    Raises:
        ProtocolViolation: NOT_AN_OFFENCE, also for a pair in the wrong order.
    """
    offence = offence_of(evidence.vote_a, evidence.vote_b)
    if offence is None or pair(evidence.vote_a, evidence.vote_b) != evidence:
        raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, "these two votes prove nothing in this order")
    return offence


def vote_of(evidence: Evidence) -> Vote:
    """A vote of the offender, in the epoch and view of the offence."""
    return evidence.vote_a if isinstance(evidence, PairEvidence) else evidence.vote


def offence_in(evidence: Evidence) -> Offence:
    """What checked evidence proves. Raises ProtocolViolation(NOT_AN_OFFENCE) for a pair that proves nothing."""
    return check_pair(evidence) if isinstance(evidence, PairEvidence) else Offence.UNJUSTIFIED


def offences_of(evidence: Iterable[Evidence]) -> tuple[tuple[int, int, str, int], ...]:
    """What a block's evidence proves, for the ledger: (offender, epoch, kind, view) in block order."""
    votes = [(vote_of(one), offence_in(one)) for one in evidence]
    return tuple((vote.signer, vote.epoch, offence.value, vote.view) for vote, offence in votes)


def check_evidence(evidence: Evidence, epoch: Epoch) -> Offence:
    """The offence that evidence proves under `epoch`; for a pair signatures apart, for a block only the vote's.

    The signatures inside an unjustified block are verified here, for a false one may be what is wrong with it.

    Raises:
        ProtocolViolation: NOT_AN_OFFENCE, UNKNOWN_SIGNER, WRONG_EPOCH, or what is wrong with a vote.
    """
    if isinstance(evidence, PairEvidence):
        check_vote(evidence.vote_a, epoch)
        check_vote(evidence.vote_b, epoch)
        return check_pair(evidence)
    check_vote(evidence.vote, epoch)
    if len(encode(evidence)) > EVIDENCE_BYTES_MAX:
        raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, "the evidence is too large")
    _check_vouches(evidence, epoch)
    return Offence.UNJUSTIFIED


def signatures_of_evidence(evidence: Evidence, epoch: Epoch) -> list[SignatureCheck]:
    """The offender's signatures: those that must verify."""
    votes = (evidence.vote_a, evidence.vote_b) if isinstance(evidence, PairEvidence) else (evidence.vote,)
    return [signature_of_vote(vote, epoch) for vote in votes]


def verify_evidence(evidence: Evidence, epoch: Epoch) -> Offence:
    """Like check_evidence, with every signature: for evidence from anywhere, under the epoch of the offence.

    Raises:
        ProtocolViolation: as check_evidence; NOT_AN_OFFENCE also for a signature that does not verify.
    """
    offence = check_evidence(evidence, epoch)
    if not all(is_valid(*check) for check in signatures_of_evidence(evidence, epoch)):
        raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, "a signature does not verify")
    return offence


def verify_pair(evidence: PairEvidence, epoch: Epoch) -> Offence:
    """verify_evidence for two votes."""
    return verify_evidence(evidence, epoch)


def verify_unjustified(vote: Vote, block: Block, epoch: Epoch) -> Offence:
    """E6: a vote that vouches for `block` (notarize, or nullify reporting it), which is not justified.

    Only justification counts: a block that is merely invalid for the application is not an offence.

    Raises:
        ProtocolViolation: UNKNOWN_SIGNER, WRONG_EPOCH, or NOT_AN_OFFENCE when the vote does not vouch or may.
    """
    return verify_evidence(BlockEvidence(vote, block.header, block.justification), epoch)


def evidence_of_refusal(proposal: Proposal, epoch: Epoch) -> BlockEvidence | None:
    """What a refused proposal proves against whoever signed for it; None when it proves nothing."""
    evidence = BlockEvidence(proposal.leader_vote, proposal.block.header, proposal.block.justification)
    try:
        verify_evidence(evidence, epoch)
    except ProtocolViolation:
        return None
    return evidence


def _check_vouches(evidence: BlockEvidence, epoch: Epoch) -> None:
    vote, header = evidence.vote, evidence.header
    if vote.kind == VoteKind.FINALIZE or vote.subject != hash_of(header):
        raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, "the vote does not vouch for this block")
    if header.justification_root != justification_root(evidence.justification):
        raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, "the justification is not the header's")
    if header.view == vote.view and is_justified(evidence, epoch):
        raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, "the block is justified")
