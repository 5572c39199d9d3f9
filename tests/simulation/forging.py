"""Votes, certificates, blocks and chains of four known keys, for forks made by hand."""

from __future__ import annotations

from consensus.certificates import assemble_quorum, assemble_timeout, epoch_proof_of
from consensus.effects import EpochSet
from consensus.epoch import Epoch, first_epoch
from consensus.fork import EpochStep
from consensus.messages import (
    Block,
    Certificate,
    EpochProof,
    Flag,
    Header,
    Justification,
    QuorumCertificate,
    TimeoutCertificate,
    Vote,
    VoteKind,
    evidence_root,
    hash_of,
    justification_root,
    sign_bytes,
    transaction_root,
)
from consensus.validator_set import ValidatorSet
from primitives.identifiers import NO_BLOCK
from primitives.signing import SigningKey

CHAIN_ID = bytes(range(32))
KEYS = [SigningKey(bytes([200 + index]) * 32) for index in range(4)]
EPOCH: Epoch = first_epoch(CHAIN_ID, ValidatorSet(tuple(key.public_key for key in KEYS)))
NOTARIZE, NULLIFY, FINALIZE = VoteKind


def a_vote(kind: int, view: int, subject: bytes, signer: int, epoch: Epoch = EPOCH) -> Vote:
    signature = KEYS[signer].sign(sign_bytes(epoch.chain_id, kind, epoch.number, view, subject))
    return Vote(kind, epoch.number, view, subject, signer, signature)


def a_quorum(kind: int, block: Block, signers: tuple[int, ...], epoch: Epoch = EPOCH) -> QuorumCertificate:
    view, name = block.header.view, hash_of(block.header)
    return assemble_quorum({s: a_vote(kind, view, name, s, epoch) for s in signers})


def a_timeout(view: int, reports: dict[int, bytes], epoch: Epoch = EPOCH) -> TimeoutCertificate:
    return assemble_timeout({s: a_vote(NULLIFY, view, report, s, epoch) for s, report in reports.items()})


def a_block(
    view: int,
    parent: Block | None = None,
    certificate: Certificate | None = None,
    skips: tuple[TimeoutCertificate, ...] = (),
    text: bytes = b"one",
    epoch: Epoch = EPOCH,
) -> Block:
    """On `parent`, or on the epoch's genesis; above the epoch's last height a suffix block."""
    justification = Justification(certificate, skips)
    height = epoch.first_height + 1 if parent is None else parent.header.height + 1
    is_suffix = epoch.is_suffix(height)
    transactions = () if is_suffix else (text,)
    header = Header(
        version=epoch.version,
        chain_id=epoch.chain_id,
        epoch=epoch.number,
        view=view,
        height=height,
        parent_hash=epoch.genesis if parent is None else hash_of(parent.header),
        parent_view=0 if parent is None else parent.header.view,
        proposer=epoch.leaders.leader_of(view),
        time_ns=0 if is_suffix else view,
        transaction_root=transaction_root(transactions),
        parent_state_root=bytes(32),
        next_set_hash=epoch.next_set.set_hash(),
        justification_root=justification_root(justification),
        evidence_root=evidence_root(()),
        flags=Flag.SUFFIX if is_suffix else 0,
    )
    return Block(header, transactions, (), justification)


class Shown:
    """One block and what proves it."""

    def __init__(
        self, block: Block, proof: QuorumCertificate | None, closing: EpochProof, epoch: Epoch
    ) -> None:
        self._block, self._proof, self.closing = block, proof, closing
        members = epoch.next_set
        following = EpochSet(members.public_keys, members.weights, members.final_weight)
        self._step = EpochStep(closing, following)

    def heights(self) -> tuple[int, int]:
        return 1, 1

    def block(self, height: int) -> Block:
        return self._block

    def proof_at(self, height: int) -> QuorumCertificate | None:
        return self._proof

    def step(self, epoch: int) -> EpochStep | None:
        return self._step if epoch == 0 else None


def skips(first: int, end: int, signers: tuple[int, ...], epoch: Epoch) -> tuple[TimeoutCertificate, ...]:
    """Of the views from `first` on, `end` not among them."""
    return tuple(a_timeout(view, dict.fromkeys(signers, NO_BLOCK), epoch) for view in range(first, end))


def directly(view: int, epoch: Epoch) -> Shown:
    """Its block is final in its own view, by validators 0, 1 and 2; every view below is skipped."""
    block = a_block(view, skips=skips(1, view, (0, 1, 2), epoch), text=b"other", epoch=epoch)
    proof = a_quorum(FINALIZE, block, (0, 1, 2), epoch)
    return Shown(block, proof, epoch_proof_of([block], proof), epoch)


def through_suffix(view: int, suffix_view: int, epoch: Epoch) -> Shown:
    """Its block is notarized by 0, 1 and 3, who then skip views and finalize a suffix block upon it."""
    who = (0, 1, 3)
    block = a_block(view, skips=skips(1, view, who, epoch), epoch=epoch)
    notarized = a_quorum(NOTARIZE, block, who, epoch)
    suffix = a_block(suffix_view, block, notarized, skips(view + 1, suffix_view, who, epoch), epoch=epoch)
    closing = epoch_proof_of([block, suffix], a_quorum(FINALIZE, suffix, who, epoch))
    return Shown(block, None, closing, epoch)
