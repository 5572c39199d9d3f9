"""Certificates: what makes one valid, what a timeout certificate decides, when a block is justified. Pure.

Structure and weight are checked here and are a function of bytes and the validator set alone. Signatures are
listed by `signatures_of_certificate` so that the driver can verify many at once, each only once
(consensus.md sections 3 and 14).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from consensus.epoch import Epoch
from consensus.messages import (
    SKIPS_MAX,
    SUFFIX_BYTES_MAX,
    Block,
    BlockEvidence,
    Certificate,
    EpochProof,
    Flag,
    Header,
    QuorumCertificate,
    ReportGroup,
    TimeoutCertificate,
    Vote,
    VoteKind,
    evidence_root,
    hash_of,
    justification_root,
    sign_bytes,
    transaction_root,
)
from consensus.reasons import ConsensusReason
from consensus.validator_set import ValidatorSet
from primitives.codec import encode
from primitives.errors import ProtocolViolation
from primitives.identifiers import NO_BLOCK, BlockHash
from primitives.signing import is_valid

VIEW_MAX = 2**62
"""No chain gets here; larger views are refused so that view arithmetic stays inside the wire's 63 bits."""


SUFFIX_CONTENT = ((), (), 0, bytes(32))
"""Transactions, evidence, time and parent state root of a suffix block."""


class SignatureCheck(NamedTuple):
    """One signature to verify; equal checks need verifying only once."""

    public_key: bytes
    sign_bytes: bytes
    signature: bytes


def _refuse(reason: ConsensusReason, detail: str) -> ProtocolViolation:
    return ProtocolViolation(reason, detail)


def check_view(view: int) -> None:
    """Raises ProtocolViolation(WRONG_VIEW) for a view that nobody can vote in."""
    if not 1 <= view < VIEW_MAX:
        raise _refuse(ConsensusReason.WRONG_VIEW, f"view {view} is not between 1 and {VIEW_MAX}")


def check_vote(vote: Vote, epoch: Epoch) -> None:
    """One vote: signer in the set, this epoch, a usable view, a subject where the kind needs one.

    Raises:
        ProtocolViolation: UNKNOWN_SIGNER, WRONG_EPOCH, WRONG_VIEW, WRONG_KIND or WRONG_SUBJECT.
    """
    if not epoch.validators.is_member(vote.signer):
        raise _refuse(ConsensusReason.UNKNOWN_SIGNER, f"validator {vote.signer}")
    if vote.epoch != epoch.number:
        raise _refuse(ConsensusReason.WRONG_EPOCH, f"epoch {vote.epoch}, ours is {epoch.number}")
    check_view(vote.view)
    if not VoteKind.NOTARIZE <= vote.kind <= VoteKind.FINALIZE:
        raise _refuse(ConsensusReason.WRONG_KIND, f"vote kind {vote.kind}")
    if vote.kind != VoteKind.NULLIFY and vote.subject == NO_BLOCK:
        raise _refuse(ConsensusReason.WRONG_SUBJECT, "a vote for no block")


def _check_signers(signers: tuple[int, ...], signatures: tuple[bytes, ...], validators: ValidatorSet) -> None:
    if len(signers) != len(signatures):
        raise _refuse(ConsensusReason.UNORDERED_SIGNERS, "not one signature per signer")
    previous = -1
    for signer in signers:
        if signer <= previous:
            raise _refuse(ConsensusReason.UNORDERED_SIGNERS, "signers are not strictly ascending")
        previous = signer
    if not all(validators.is_member(signer) for signer in signers):
        raise _refuse(ConsensusReason.UNKNOWN_SIGNER, "a signer is not in the validator set")


def check_quorum_certificate(certificate: QuorumCertificate, epoch: Epoch) -> int:
    """Weight of a notarization or finalization whose structure is right (signatures apart).

    Raises:
        ProtocolViolation: wrong kind, epoch, view, subject or signers, or less weight than q.
    """
    if certificate.kind not in (VoteKind.NOTARIZE, VoteKind.FINALIZE):
        raise _refuse(ConsensusReason.WRONG_KIND, f"a quorum certificate of kind {certificate.kind}")
    if certificate.epoch != epoch.number:
        raise _refuse(ConsensusReason.WRONG_EPOCH, f"epoch {certificate.epoch}, ours is {epoch.number}")
    check_view(certificate.view)
    if certificate.block == NO_BLOCK:
        raise _refuse(ConsensusReason.WRONG_SUBJECT, "a quorum certificate for no block")
    _check_signers(certificate.signers, certificate.signatures, epoch.validators)
    weight = epoch.validators.weight_of(certificate.signers)
    if weight < epoch.validators.quorum:
        raise _refuse(ConsensusReason.BELOW_QUORUM, f"weight {weight} of {epoch.validators.quorum}")
    return weight


def check_timeout_certificate(certificate: TimeoutCertificate, epoch: Epoch) -> int:
    """Weight of a timeout certificate whose structure is right (signatures apart).

    Raises:
        ProtocolViolation: wrong epoch, view, groups or signers, or less weight than q.
    """
    if certificate.epoch != epoch.number:
        raise _refuse(ConsensusReason.WRONG_EPOCH, f"epoch {certificate.epoch}, ours is {epoch.number}")
    check_view(certificate.view)
    previous: bytes | None = None
    seen: set[int] = set()
    members = 0
    for group in certificate.groups:
        if not group.signers or (previous is not None and group.report <= previous):
            raise _refuse(ConsensusReason.UNORDERED_REPORTS, "report groups are empty or not ascending")
        previous = group.report
        _check_signers(group.signers, group.signatures, epoch.validators)
        seen.update(group.signers)
        members += len(group.signers)
    if len(seen) != members:
        raise _refuse(ConsensusReason.UNORDERED_SIGNERS, "a signer appears under two reports")
    weight = epoch.validators.weight_of(seen)
    if weight < epoch.validators.quorum:
        raise _refuse(ConsensusReason.BELOW_QUORUM, f"weight {weight} of {epoch.validators.quorum}")
    return weight


def check_certificate(certificate: Certificate, epoch: Epoch) -> int:
    """Weight of a certificate of either type; raises like the two above."""
    if isinstance(certificate, QuorumCertificate):
        return check_quorum_certificate(certificate, epoch)
    return check_timeout_certificate(certificate, epoch)


def resolve(certificate: TimeoutCertificate, validators: ValidatorSet) -> BlockHash:
    """The block that this timeout certificate carries, or NO_BLOCK when it skips its view."""
    # Threshold: strictly more than half of the certificate's own weight, not of q; so at most one block qualifies.
    weights = [validators.weight_of(group.signers) for group in certificate.groups]
    total = sum(weights)
    for group, weight in zip(certificate.groups, weights, strict=True):
        if group.report != NO_BLOCK and 2 * weight > total:
            return BlockHash(group.report)
    return NO_BLOCK


def certified_block(certificate: Certificate, validators: ValidatorSet) -> BlockHash:
    """The block for which this is a parent certificate, or NO_BLOCK for a timeout certificate that skips."""
    if isinstance(certificate, QuorumCertificate):
        return BlockHash(certificate.block)
    return resolve(certificate, validators)


def finality_proof(certificate: Certificate, validators: ValidatorSet) -> QuorumCertificate | None:
    """The certificate, if it alone proves finality: a finalization, or a notarization of weight >= F_FINAL (R6)."""
    if not isinstance(certificate, QuorumCertificate):
        return None
    heavy = validators.weight_of(certificate.signers) >= validators.final_weight
    return certificate if heavy or certificate.kind == VoteKind.FINALIZE else None


def check_justified(block: Block | BlockEvidence, epoch: Epoch) -> None:
    """A block is justified by its own bytes, or not at all: section 3 (signatures apart).

    Raises:
        ProtocolViolation: the first reason why it is not.
    """
    header = block.header
    if header.chain_id != epoch.chain_id:
        raise _refuse(ConsensusReason.WRONG_CHAIN, "the header names another chain")
    if header.epoch != epoch.number:
        raise _refuse(ConsensusReason.WRONG_EPOCH, f"epoch {header.epoch}, ours is {epoch.number}")
    check_view(header.view)
    if header.proposer != epoch.leaders.leader_of(header.view):
        raise _refuse(
            ConsensusReason.WRONG_LEADER, f"validator {header.proposer} does not lead {header.view}"
        )
    if header.parent_view >= header.view:
        raise _refuse(ConsensusReason.WRONG_PARENT, "the parent's view is not below the block's")
    if header.justification_root != justification_root(block.justification):
        raise _refuse(ConsensusReason.WRONG_ROOT, "the justification is not the header's")
    _check_parent(header, block.justification.parent, epoch)
    _check_skips(header, block.justification.skips, epoch)


def check_body(block: Block) -> None:
    """Raises ProtocolViolation(WRONG_ROOT) unless transactions and evidence are the header's."""
    if block.header.transaction_root != transaction_root(block.transactions):
        raise _refuse(ConsensusReason.WRONG_ROOT, "the transactions are not the header's")
    if block.header.evidence_root != evidence_root(block.evidence):
        raise _refuse(ConsensusReason.WRONG_ROOT, "the evidence is not the header's")


def _check_parent(header: Header, parent: Certificate | None, epoch: Epoch) -> None:
    if parent is None:
        if header.parent_view != 0 or header.parent_hash != epoch.genesis:
            raise _refuse(
                ConsensusReason.WRONG_PARENT, "no parent certificate, and the parent is not genesis"
            )
        return
    check_certificate(parent, epoch)
    if parent.view != header.parent_view:
        raise _refuse(ConsensusReason.WRONG_PARENT, "the parent certificate is for another view")
    if certified_block(parent, epoch.validators) != header.parent_hash:
        raise _refuse(ConsensusReason.WRONG_PARENT, "the parent certificate is for another block")


def _check_skips(header: Header, skips: tuple[TimeoutCertificate, ...], epoch: Epoch) -> None:
    missing = header.view - header.parent_view - 1
    if missing > SKIPS_MAX or len(skips) != missing:
        raise _refuse(ConsensusReason.WRONG_SKIPS, f"{len(skips)} skip certificates for {missing} views")
    for offset, skip in enumerate(skips):
        if skip.view != header.parent_view + 1 + offset:
            raise _refuse(ConsensusReason.WRONG_SKIPS, "a skip certificate is for another view")
        check_timeout_certificate(skip, epoch)
        if resolve(skip, epoch.validators) != NO_BLOCK:
            raise _refuse(ConsensusReason.WRONG_SKIPS, f"the certificate of view {skip.view} carries a block")


def check_place(block: Block, epoch: Epoch) -> None:
    """What a block may be at its height: inside the epoch, and above the boundary an empty suffix block (section 7).

    Raises:
        ProtocolViolation: WRONG_VERSION, WRONG_PLACE.
    """
    header = block.header
    suffix = epoch.is_suffix(header.height)
    if header.version != epoch.version:
        raise _refuse(
            ConsensusReason.WRONG_VERSION, f"protocol version {header.version}, ours is {epoch.version}"
        )
    if header.height <= epoch.first_height:
        raise _refuse(ConsensusReason.WRONG_PLACE, f"height {header.height} is below epoch {epoch.number}")
    if header.flags != (Flag.SUFFIX if suffix else 0):
        raise _refuse(ConsensusReason.WRONG_PLACE, f"flags {header.flags} at height {header.height}")
    if header.next_set_hash != epoch.next_set.set_hash():
        raise _refuse(ConsensusReason.WRONG_PLACE, "the header commits to another next validator set")
    content = (block.transactions, block.evidence, header.time_ns, header.parent_state_root)
    if suffix and content != SUFFIX_CONTENT:
        raise _refuse(ConsensusReason.WRONG_PLACE, "a suffix block is not empty")


def epoch_proof_of(tail: Sequence[Block], certificate: QuorumCertificate) -> EpochProof:
    """Of the first in `tail`, an epoch's last block; the others are suffix blocks, and the last one is certified."""
    justifications = tuple(block.justification for block in tail[1:])
    if len(encode(justifications)) > SUFFIX_BYTES_MAX:
        justifications = ()
    return EpochProof(tuple(block.header for block in tail), certificate, justifications)


def check_epoch_proof(proof: EpochProof, epoch: Epoch) -> None:
    """That the boundary of `epoch` is final, directly or through suffix blocks (signatures apart).

    Raises:
        ProtocolViolation: NOT_CLOSED, or what is wrong with the certificate.
    """
    check_certificate(proof.certificate, epoch)
    parent: BlockHash | None = None
    for offset, header in enumerate(proof.headers):
        here = (header.version, header.chain_id, header.epoch, header.height)
        linked = parent is None or (header.parent_hash == parent and header.flags == Flag.SUFFIX)
        place = (epoch.version, epoch.chain_id, epoch.number, (epoch.last_height or 0) + offset)
        if here != place or not linked:
            raise _refuse(ConsensusReason.NOT_CLOSED, "the headers do not lead up from the boundary")
        parent = hash_of(header)
    roots = [justification_root(one) for one in proof.justifications]
    if roots and roots != [header.justification_root for header in proof.headers[1:]]:
        raise _refuse(ConsensusReason.NOT_CLOSED, "the justifications are not the headers'")
    if epoch.last_height is None or proof.certificate.block != parent:
        raise _refuse(ConsensusReason.NOT_CLOSED, "the certificate is for another block")
    if finality_proof(proof.certificate, epoch.validators) is None:
        raise _refuse(ConsensusReason.NOT_CLOSED, "the certificate does not prove finality")


def certificates_of(block: Block | BlockEvidence) -> tuple[Certificate, ...]:
    """The certificates inside a block, in ascending view."""
    justification = block.justification
    if justification.parent is None:
        return justification.skips
    return (justification.parent, *justification.skips)


def votes_of(certificate: Certificate) -> Iterator[Vote]:
    """The single votes that a certificate is made of."""
    epoch, view = certificate.epoch, certificate.view
    if isinstance(certificate, QuorumCertificate):
        for signer, signature in zip(certificate.signers, certificate.signatures, strict=True):
            yield Vote(certificate.kind, epoch, view, certificate.block, signer, signature)
        return
    for group in certificate.groups:
        for signer, signature in zip(group.signers, group.signatures, strict=True):
            yield Vote(VoteKind.NULLIFY, epoch, view, group.report, signer, signature)


def signature_of_vote(vote: Vote, epoch: Epoch) -> SignatureCheck:
    """The signature inside one vote, whose signer is inside the set."""
    message = sign_bytes(epoch.chain_id, vote.kind, vote.epoch, vote.view, vote.subject)
    return SignatureCheck(epoch.validators.public_keys[vote.signer], message, vote.signature)


def signatures_of_certificate(certificate: Certificate, epoch: Epoch) -> list[SignatureCheck]:
    """Every signature of a certificate whose structure is right; the sign bytes are built once per subject."""
    keys = epoch.validators.public_keys
    groups: Iterable[tuple[int, bytes, tuple[int, ...], tuple[bytes, ...]]]
    if isinstance(certificate, QuorumCertificate):
        groups = ((certificate.kind, certificate.block, certificate.signers, certificate.signatures),)
    else:
        groups = ((VoteKind.NULLIFY, g.report, g.signers, g.signatures) for g in certificate.groups)
    checks: list[SignatureCheck] = []
    for kind, subject, signers, signatures in groups:
        message = sign_bytes(epoch.chain_id, kind, certificate.epoch, certificate.view, subject)
        checks += [
            SignatureCheck(keys[signer], message, signature)
            for signer, signature in zip(signers, signatures, strict=True)
        ]
    return checks


def is_justified(block: Block | BlockEvidence, epoch: Epoch) -> bool:
    """Whether a block is justified, signatures included: the predicate of block evidence (E6)."""
    try:
        check_justified(block, epoch)
    except ProtocolViolation:
        return False
    checks = [c for one in certificates_of(block) for c in signatures_of_certificate(one, epoch)]
    return all(is_valid(*check) for check in checks)


def assemble_quorum(votes: Mapping[int, Vote]) -> QuorumCertificate:
    """A certificate from votes of one kind, view and subject, by signer."""
    signers = tuple(sorted(votes))
    first = votes[signers[0]]
    return QuorumCertificate(
        kind=first.kind,
        epoch=first.epoch,
        view=first.view,
        block=first.subject,
        signers=signers,
        signatures=tuple(votes[signer].signature for signer in signers),
    )


def assemble_timeout(votes: Mapping[int, Vote]) -> TimeoutCertificate:
    """A timeout certificate from nullify votes of one view, by signer."""
    groups: dict[bytes, list[int]] = {}
    for signer in sorted(votes):
        groups.setdefault(votes[signer].subject, []).append(signer)
    first = next(iter(votes.values()))
    return TimeoutCertificate(
        epoch=first.epoch,
        view=first.view,
        groups=tuple(
            ReportGroup(report, tuple(signers), tuple(votes[signer].signature for signer in signers))
            for report, signers in sorted(groups.items())
        ),
    )
