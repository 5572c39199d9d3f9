"""Who is guilty of a fork: from two conflicting final chains alone, the names and the proof for each. Pure.

consensus.md section 9, "Extraction from a fork". At most f Byzantine validators cannot fork the chain; when more do,
every fork names weight f+1 or more, and never anybody honest. Each accusation stands on its own: two votes that no
honest validator signs both of, or one vote and the bytes of the unjustified block that it vouches for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from consensus.certificates import (
    SignatureCheck,
    certificates_of,
    check_certificate,
    check_justified,
    check_vote,
    finality_proof,
    signature_of_vote,
    signatures_of_certificate,
    votes_of,
)
from consensus.epoch import Epoch
from consensus.evidence import Offence, check_pair, offence_of, pair
from consensus.messages import (
    Block,
    BlockEvidence,
    Certificate,
    Evidence,
    PairEvidence,
    QuorumCertificate,
    Vote,
    hash_of,
    justification_root,
)
from consensus.reasons import ConsensusReason
from primitives.codec import Wire
from primitives.errors import ProtocolViolation
from primitives.signing import is_valid

Verify = Callable[[SignatureCheck], bool]


class FinalChain(Wire):
    """Final blocks in ascending height, each the parent of the next, and a proof that the last is final."""

    blocks: tuple[Block, ...]
    proof: QuorumCertificate


@dataclass(frozen=True, slots=True)
class Accusation:
    """One validator, what it did, and the proof."""

    offender: int
    offence: Offence
    proof: Evidence


def is_valid_check(check: SignatureCheck) -> bool:
    """Ed25519, the chain's own rule set."""
    return is_valid(*check)


def find_culprits(
    one: FinalChain, other: FinalChain, epoch: Epoch, verify: Verify = is_valid_check
) -> list[Accusation]:
    """One accusation for each guilty validator, by index; none when the chains do not conflict.

    Args:
        one, other: chains that reach below the view in which they part (or to their common genesis).

    Raises:
        ProtocolViolation: a chain is not linked, or its proof does not prove its last block final.
    """
    for chain in (one, other):
        _check_chain(chain, epoch, verify)
    low, high = sorted((one, other), key=lambda chain: chain.proof.view)
    final, view = low.proof.block, low.proof.view
    above = [block for block in high.blocks if block.header.view >= view]
    if not above or any(hash_of(block.header) == final for block in above):
        return []
    accusations = _unjustified(above, high.proof, epoch, verify)
    if not accusations:
        accusations = list(_contradictions(low.proof, _witness_of(above, high.proof, view)))
    first: dict[int, Accusation] = {}
    for accusation in accusations:
        first.setdefault(accusation.offender, accusation)
    return [first[offender] for offender in sorted(first)]


def _check_chain(chain: FinalChain, epoch: Epoch, verify: Verify) -> None:
    if not chain.blocks or hash_of(chain.blocks[-1].header) != chain.proof.block:
        raise ProtocolViolation(ConsensusReason.NOT_LINKED, "the proof is not the last block's")
    for lower, upper in zip(chain.blocks, chain.blocks[1:], strict=False):
        if upper.header.parent_hash != hash_of(lower.header):
            raise ProtocolViolation(ConsensusReason.NOT_LINKED, "a block is not the next one's parent")
    for block in chain.blocks:
        # Another justification than the header's would make an honest block look unjustified.
        if block.header.justification_root != justification_root(block.justification):
            raise ProtocolViolation(ConsensusReason.WRONG_ROOT, "a justification is not its header's")
    check_certificate(chain.proof, epoch)
    if finality_proof(chain.proof, epoch.validators) is None or not _is_signed(chain.proof, epoch, verify):
        raise ProtocolViolation(ConsensusReason.BELOW_QUORUM, "the proof does not make its block final")


def _unjustified(
    above: Sequence[Block], proof: QuorumCertificate, epoch: Epoch, verify: Verify
) -> list[Accusation]:
    """Step 1: from the top down, the first block that is not justified; whoever certified it is guilty of E6."""
    certificate: Certificate = proof
    for block in reversed(above):
        if not _is_justified(block, epoch, verify):
            named = hash_of(block.header)
            return [
                Accusation(vote.signer, Offence.UNJUSTIFIED, _block_evidence(vote, block))
                for vote in votes_of(certificate)
                if vote.subject == named
            ]
        parent = block.justification.parent
        if parent is None:
            break
        certificate = parent
    return []


def _witness_of(above: Sequence[Block], proof: QuorumCertificate, view: int) -> Certificate:
    """Steps 2 and 3: what the high chain's signers said of `view`: they certified another block, or skipped it."""
    lowest = above[0]
    if lowest.header.view > view:
        return next(skip for skip in lowest.justification.skips if skip.view == view)
    child = above[1].justification.parent if len(above) > 1 else proof
    return child if child is not None else proof


def _contradictions(proof: QuorumCertificate, witness: Certificate) -> Iterator[Accusation]:
    """Whoever stands in both, with votes that no honest validator signs both of."""
    said = {vote.signer: vote for vote in votes_of(proof)}
    for vote in votes_of(witness):
        own = said.get(vote.signer)
        offence = offence_of(own, vote) if own is not None else None
        if own is not None and offence is not None:
            yield Accusation(vote.signer, offence, pair(own, vote))


def _block_evidence(vote: Vote, block: Block) -> BlockEvidence:
    return BlockEvidence(vote, block.header, block.justification)


def _is_justified(block: Block | BlockEvidence, epoch: Epoch, verify: Verify) -> bool:
    try:
        check_justified(block, epoch)
    except ProtocolViolation:
        return False
    return all(_is_signed(certificate, epoch, verify) for certificate in certificates_of(block))


def _is_signed(certificate: Certificate, epoch: Epoch, verify: Verify) -> bool:
    return all(verify(check) for check in signatures_of_certificate(certificate, epoch))


def check_accusation(accusation: Accusation, epoch: Epoch, verify: Verify = is_valid_check) -> None:
    """Whether the proof stands without the chains that it came from.

    Raises:
        ProtocolViolation: it proves nothing against this validator.
    """
    proof = accusation.proof
    votes = (proof.vote_a, proof.vote_b) if isinstance(proof, PairEvidence) else (proof.vote,)
    for vote in votes:
        check_vote(vote, epoch)
        if vote.signer != accusation.offender:
            raise ProtocolViolation(ConsensusReason.UNKNOWN_SIGNER, f"a vote is signed by {vote.signer}")
        if not verify(signature_of_vote(vote, epoch)):
            raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, "a signature does not verify")
    if isinstance(proof, PairEvidence):
        offence = check_pair(proof)
    else:
        _check_vouches(proof, epoch, verify)
        offence = Offence.UNJUSTIFIED
    if offence is not accusation.offence:
        raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, f"the votes prove {offence.value}")


def _check_vouches(proof: BlockEvidence, epoch: Epoch, verify: Verify) -> None:
    """As evidence in blocks, but a finalize vote vouches too: R5 asks for a block that its signer accepted."""
    vote, header = proof.vote, proof.header
    if vote.subject != hash_of(header) or header.justification_root != justification_root(
        proof.justification
    ):
        raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, "the vote does not vouch for this block")
    if header.view == vote.view and _is_justified(proof, epoch, verify):
        raise ProtocolViolation(ConsensusReason.NOT_AN_OFFENCE, "the block is justified")


def weight_named(accusations: Sequence[Accusation], epoch: Epoch) -> int:
    """Weight of the accused."""
    return epoch.validators.weight_of({accusation.offender for accusation in accusations})
