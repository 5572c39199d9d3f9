"""Offences that votes prove: two votes no honest validator signs both of, or a vote for an unjustified block. Pure.

Kinds and reasons: consensus.md section 9. Extraction of culprits from a fork builds on these predicates.
"""

from __future__ import annotations

from enum import StrEnum

from consensus.certificates import is_justified, signature_of_vote
from consensus.epoch import Epoch
from consensus.messages import Block, PairEvidence, Vote, VoteKind, hash_of
from consensus.reasons import ConsensusReason
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


def verify_pair(evidence: PairEvidence, epoch: Epoch) -> Offence:
    """Like check_pair, with membership, epoch and both signatures: for evidence from anywhere.

    Raises:
        ProtocolViolation: UNKNOWN_SIGNER, WRONG_EPOCH or NOT_AN_OFFENCE.
    """
    offence = check_pair(evidence)
    for vote in (evidence.vote_a, evidence.vote_b):
        _verify_vote(vote, epoch)
    return offence


def verify_unjustified(vote: Vote, block: Block, epoch: Epoch) -> Offence:
    """E6: a vote that vouches for `block` (notarize, or nullify reporting it), which is not justified.

    Only justification counts: a block that is merely invalid for the application is not an offence.

    Raises:
        ProtocolViolation: UNKNOWN_SIGNER, WRONG_EPOCH, or NOT_AN_OFFENCE when the vote does not vouch or may.
    """
    _verify_vote(vote, epoch)
    if vote.kind == VoteKind.FINALIZE or vote.subject != hash_of(block.header):
        raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, "the vote does not vouch for this block")
    if block.header.view == vote.view and is_justified(block, epoch):
        raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, "the block is justified")
    return Offence.UNJUSTIFIED


def _verify_vote(vote: Vote, epoch: Epoch) -> None:
    if vote.signer >= epoch.validators.count:
        raise ProtocolViolation(ConsensusReason.UNKNOWN_SIGNER, f"validator {vote.signer}")
    if vote.epoch != epoch.number:
        raise ProtocolViolation(ConsensusReason.WRONG_EPOCH, f"epoch {vote.epoch}, ours is {epoch.number}")
    if not is_valid(*signature_of_vote(vote, epoch)):
        raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, "a signature does not verify")
