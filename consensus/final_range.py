"""Consecutive final blocks with one proof for all: what catch-up fetches, checked before anything is believed. Pure.

A finality proof names a block, its header names its parent and its content, and so on down: nothing between needs
a certificate of its own (consensus.md section 8). So a range can be checked without what lies below it, and ranges
can come from several peers at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.certificates import (
    SignatureCheck,
    check_body,
    check_certificate,
    check_epoch_proof,
    finality_proof,
    signatures_of_certificate,
)
from consensus.epoch import Epoch
from consensus.messages import Block, EpochProof, Header, QuorumCertificate, hash_of, justification_root
from consensus.reasons import ConsensusReason
from primitives.errors import ProtocolViolation
from primitives.identifiers import BlockHash


def check_final_header(header: Header, proof: QuorumCertificate, epoch: Epoch) -> list[SignatureCheck]:
    """That `proof` makes the block of `header` final in `epoch`, once the signatures returned are valid.

    Raises:
        ProtocolViolation: UNPROVED, WRONG_CHAIN, WRONG_EPOCH, or what is wrong with the certificate.
    """
    _check_chain(header, epoch)
    check_certificate(proof, epoch)
    if proof.block != hash_of(header) or finality_proof(proof, epoch.validators) is None:
        raise ProtocolViolation(
            ConsensusReason.UNPROVED, f"height {header.height} is claimed without a proof for it"
        )
    return signatures_of_certificate(proof, epoch)


def check_closing(proof: EpochProof, epoch: Epoch) -> list[SignatureCheck]:
    """That `epoch` is over, once the signatures returned are valid. Raises as `check_epoch_proof`."""
    check_epoch_proof(proof, epoch)
    return signatures_of_certificate(proof.certificate, epoch)


def check_range(
    blocks: Sequence[Block],
    headers: Sequence[Header],
    proof: QuorumCertificate,
    height_first: int,
    epoch: Epoch,
) -> list[SignatureCheck]:
    """That `blocks` are the final ones from `height_first` on, once the signatures returned are valid.

    Args:
        headers: those above the last block, up to the one that `proof` is for; usually none.

    Raises:
        ProtocolViolation: UNPROVED, NOT_LINKED, WRONG_HEIGHT, WRONG_ROOT, WRONG_CHAIN, WRONG_EPOCH, or what is
        wrong with the certificate.
    """
    chain = [*(block.header for block in blocks), *headers]
    if not blocks:
        raise ProtocolViolation(ConsensusReason.UNPROVED, "a range without blocks")
    checks = check_final_header(chain[-1], proof, epoch)
    parent: BlockHash | None = None
    for height, header in enumerate(chain, height_first):
        _check_chain(header, epoch)
        if header.height != height or (parent is not None and header.parent_hash != parent):
            raise ProtocolViolation(ConsensusReason.NOT_LINKED, f"height {height} is not on the one below")
        parent = hash_of(header)
    for block in blocks:
        check_body(block)
        if block.header.justification_root != justification_root(block.justification):
            raise ProtocolViolation(ConsensusReason.WRONG_ROOT, "the justification is not the header's")
        if epoch.is_suffix(block.header.height):
            raise ProtocolViolation(ConsensusReason.WRONG_PLACE, "a suffix block is nobody's to fetch")
    return checks


def _check_chain(header: Header, epoch: Epoch) -> None:
    if header.chain_id != epoch.chain_id:
        raise ProtocolViolation(ConsensusReason.WRONG_CHAIN, "the header names another chain")
    if header.epoch != epoch.number:
        raise ProtocolViolation(
            ConsensusReason.WRONG_EPOCH, f"epoch {header.epoch}, the range is of {epoch.number}"
        )
    if header.version != epoch.version:
        raise ProtocolViolation(
            ConsensusReason.WRONG_VERSION,
            f"protocol version {header.version}, the epoch's is {epoch.version}",
        )
