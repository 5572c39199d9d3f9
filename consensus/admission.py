"""What a message must satisfy before the core sees it, and the signatures that must verify. Pure.

The driver calls `check`, then verifies `signatures_of` (in batches, off the loop, each only once), and only
then gives the message to `Core.step`. Everything here is a function of bytes and the epoch.
"""

from __future__ import annotations

from consensus.certificates import (
    SignatureCheck,
    certificates_of,
    check_body,
    check_certificate,
    check_epoch_proof,
    check_justified,
    check_place,
    check_vote,
    signature_of_vote,
    signatures_of_certificate,
)
from consensus.epoch import Epoch
from consensus.evidence import check_evidence, signatures_of_evidence, vote_of
from consensus.messages import (
    EVIDENCE_BLOCK_BYTES_MAX,
    Block,
    BlockResponse,
    CertificateMessage,
    CertificateRequest,
    ConsensusMessage,
    EpochClosing,
    Evidence,
    EvidenceMessage,
    Proposal,
    VoteKind,
    Votes,
    hash_of,
)
from consensus.reasons import ConsensusReason
from primitives.codec import encode
from primitives.errors import ProtocolViolation

CERTIFICATE_REQUEST_VIEWS_MAX = 256
"""Views in one CertificateRequest: as many as one justification may skip."""


def other_epoch(message: ConsensusMessage, epoch: Epoch) -> int | None:
    """The epoch to which a message belongs, if it cannot be checked under `epoch`; None if it can.

    Such a message is no offence: its sender is ahead of us or behind.
    """
    number = _epoch_of(message)
    if isinstance(message, EvidenceMessage):
        return None if epoch.at(vote_of(message.evidence).epoch) is not None else number
    return None if number == epoch.number else number


def _epoch_of(message: ConsensusMessage) -> int | None:
    """The epoch of what a message carries; None for a question or a status, which are for any."""
    match message:
        case Proposal(block=block):
            return block.header.epoch
        case Votes(votes=votes):
            return votes[0].epoch
        case CertificateMessage(certificate=certificate):
            return certificate.epoch
        case BlockResponse(blocks=blocks):
            return blocks[0].header.epoch if blocks else None
        case EpochClosing(proof=proof):
            return proof.headers[0].epoch
        case EvidenceMessage(evidence=evidence):
            return vote_of(evidence).epoch
        case _:
            return None


def check(message: ConsensusMessage, epoch: Epoch) -> None:
    """Structure, bounds, epoch, weights and roots of a decoded message; signatures apart.

    Raises:
        ProtocolViolation: the first reason found.
    """
    match message:
        case Proposal():
            _check_proposal(message, epoch)
        case CertificateMessage(certificate=certificate):
            check_certificate(certificate, epoch)
        case BlockResponse():
            _check_response(message, epoch)
        case EpochClosing(proof=proof):
            check_epoch_proof(proof, epoch)
        case CertificateRequest(view_first=first, view_last=last):
            if not first <= last < first + CERTIFICATE_REQUEST_VIEWS_MAX:
                raise ProtocolViolation(ConsensusReason.WRONG_RANGE, f"views {first} to {last}")
        case EvidenceMessage(evidence=evidence):
            check_evidence(evidence, _epoch_of_offence(evidence, epoch))
        case Votes(votes=votes):
            for vote in votes:
                check_vote(vote, epoch)
        case _:
            pass  # Status and the other requests are bounded by their types.


def _check_proposal(proposal: Proposal, epoch: Epoch) -> None:
    vote, header = proposal.leader_vote, proposal.block.header
    check_vote(vote, epoch)
    check_block(proposal.block, epoch)
    if vote.kind != VoteKind.NOTARIZE or (vote.signer, vote.view) != (header.proposer, header.view):
        raise ProtocolViolation(ConsensusReason.WRONG_LEADER, "not the leader's notarize vote of the view")
    if vote.subject != hash_of(header):
        raise ProtocolViolation(ConsensusReason.WRONG_SUBJECT, "the leader's vote is for another block")


def check_block(block: Block, epoch: Epoch) -> None:
    """A block is justified and whole: every root matches, every embedded certificate has its weight.

    Raises:
        ProtocolViolation: the first reason found.
    """
    check_justified(block, epoch)
    check_body(block)
    check_place(block, epoch)
    _check_block_evidence(block.evidence, epoch)


def _check_block_evidence(evidence: tuple[Evidence, ...], epoch: Epoch) -> None:
    """Each piece proves an offence, no two are about the same (offender, epoch), and they keep to their space."""
    if sum(len(encode(one)) for one in evidence) > EVIDENCE_BLOCK_BYTES_MAX:
        raise ProtocolViolation(ConsensusReason.TOO_MUCH_EVIDENCE, "more evidence than a block may carry")
    about = {(vote_of(one).signer, vote_of(one).epoch) for one in evidence}
    if len(about) != len(evidence):
        raise ProtocolViolation(ConsensusReason.TOO_MUCH_EVIDENCE, "an offender is named twice")
    for one in evidence:
        check_evidence(one, _epoch_of_offence(one, epoch))


def _epoch_of_offence(evidence: Evidence, epoch: Epoch) -> Epoch:
    """The epoch that evidence is judged by: this one or one of the few before."""
    found = epoch.at(vote_of(evidence).epoch)
    if found is None:
        raise ProtocolViolation(
            ConsensusReason.WRONG_EPOCH,
            f"evidence of epoch {vote_of(evidence).epoch} in epoch {epoch.number}",
        )
    return found


def _check_response(response: BlockResponse, epoch: Epoch) -> None:
    expected = response.requested
    for block in response.blocks:
        if hash_of(block.header) != expected:
            raise ProtocolViolation(ConsensusReason.NOT_LINKED, "a block is not the next one's parent")
        check_block(block, epoch)
        expected = block.header.parent_hash


def signatures_of(message: ConsensusMessage, epoch: Epoch) -> list[SignatureCheck]:
    """Every signature in a checked message, embedded certificates included; the same one may occur twice."""
    match message:
        case Proposal(block=block, leader_vote=vote):
            return [signature_of_vote(vote, epoch), *_signatures_of_block(block, epoch)]
        case Votes(votes=votes):
            return [signature_of_vote(vote, epoch) for vote in votes]
        case CertificateMessage(certificate=certificate):
            return signatures_of_certificate(certificate, epoch)
        case BlockResponse(blocks=blocks):
            return [check for block in blocks for check in _signatures_of_block(block, epoch)]
        case EpochClosing(proof=proof):
            return signatures_of_certificate(proof.certificate, epoch)
        case EvidenceMessage(evidence=evidence):
            return signatures_of_evidence(evidence, _epoch_of_offence(evidence, epoch))
        case _:
            return []


def _signatures_of_block(block: Block, epoch: Epoch) -> list[SignatureCheck]:
    checks = [check for one in certificates_of(block) for check in signatures_of_certificate(one, epoch)]
    for evidence in block.evidence:
        checks += signatures_of_evidence(evidence, _epoch_of_offence(evidence, epoch))
    return checks
