"""Where two final chains part, in which epoch, and who is guilty: forensics over all epochs. Pure.

Chains are compared by height, so that little of them is looked at: the lowest height at which they differ, and from
there up to the lowest block with a finality proof of its own. The epoch's validators are proved along the chain from
genesis, as for a light client: each epoch's last block is final, and names the next epoch's set. A last
block that is final through suffix blocks alone, which nobody stores, is proved by the proof that its epoch is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from consensus.certificates import check_epoch_proof, signatures_of_certificate
from consensus.effects import EpochSet
from consensus.epoch import Epoch
from consensus.forensics import Accusation, FinalChain, Verify, find_culprits, is_valid_check
from consensus.messages import Block, EpochProof, QuorumCertificate, hash_of
from consensus.reasons import ConsensusReason
from consensus.validator_set import ValidatorSet
from primitives.codec import Wire
from primitives.errors import InvariantViolation, ProtocolViolation


class EpochStep(Wire):
    """How a chain passed from one epoch to the next: why the one is closed, and who votes in the other."""

    closing: EpochProof
    validators: EpochSet


class ShownChain(Protocol):
    """What somebody holds of a final chain, without its suffix blocks. Nothing of it is believed."""

    def heights(self) -> tuple[int, int]:
        """The lowest and the highest height of its blocks."""
        ...

    def block(self, height: int) -> Block:
        """A block that it holds."""
        ...

    def proof_at(self, height: int) -> QuorumCertificate | None:
        """The finality proof of the very block of this height, if it holds one."""
        ...

    def step(self, epoch: int) -> EpochStep | None:
        """How it passed from `epoch` to the next."""
        ...


@dataclass(frozen=True, slots=True)
class Fork:
    """Two chains that part at `height`, the epoch that it belongs to, and the guilty."""

    height: int
    epoch: Epoch
    steps: tuple[EpochStep, ...]
    """From the first epoch to that one."""
    chains: tuple[FinalChain, FinalChain]
    """What of each was judged: from that height up to a proof."""
    accusations: list[Accusation]


def find_fork(
    one: ShownChain, other: ShownChain, first: Epoch, verify: Verify = is_valid_check
) -> Fork | None:
    """The fork of two chains of one genesis; None when one continues the other, as far as both are held.

    Args:
        first: epoch 0, from genesis.

    Raises:
        ProtocolViolation: a chain shows too little (UNPROVED), or something that is wrong.
    """
    height = _parting(one, other)
    if height is None:
        return None
    number = 0 if first.last_height is None else (height - 1) // first.last_height
    steps = tuple(_step(one, epoch) for epoch in range(number))
    epoch = epoch_after(first, steps, verify)
    chains = _part(one, height, epoch), _part(other, height, epoch)
    return Fork(height, epoch, steps, chains, find_culprits(*chains, epoch, verify))


def epoch_after(first: Epoch, steps: Sequence[EpochStep], verify: Verify = is_valid_check) -> Epoch:
    """The epoch to which `steps` lead from epoch 0, each proved by the validators of the one before.

    Raises:
        ProtocolViolation: a step does not lead on.
    """
    epoch = first
    for step in steps:
        boundary = step.closing.headers[0]
        epoch = replace(epoch, version=boundary.version)
        check_epoch_proof(step.closing, epoch)
        if not all(verify(check) for check in signatures_of_certificate(step.closing.certificate, epoch)):
            raise ProtocolViolation(ConsensusReason.NOT_CLOSED, "a signature of an epoch proof is not valid")
        members = _members(step.validators)
        if members.set_hash() != boundary.next_set_hash:
            raise ProtocolViolation(ConsensusReason.NOT_CLOSED, "the boundary names another next set")
        following = replace(epoch, next_validators=members)
        # The set after the next is not needed to judge the next epoch's blocks.
        epoch = following.following(hash_of(boundary), members, boundary.version)
    return epoch


def _members(given: EpochSet) -> ValidatorSet:
    try:
        return ValidatorSet(given.public_keys, given.weights, given.final_weight)
    except InvariantViolation as broken:
        raise ProtocolViolation(ConsensusReason.NOT_CLOSED, f"no validator set: {broken}") from None


def _step(chain: ShownChain, epoch: int) -> EpochStep:
    step = chain.step(epoch)
    if step is None:
        raise ProtocolViolation(ConsensusReason.UNPROVED, f"it is not shown why epoch {epoch} is closed")
    return step


def _parting(one: ShownChain, other: ShownChain) -> int | None:
    """The lowest height at which they differ; blocks are linked by hash, so they differ from there on."""
    (low_one, high_one), (low_other, high_other) = one.heights(), other.heights()
    low, high = max(low_one, low_other), min(high_one, high_other)
    if low > high:
        raise ProtocolViolation(ConsensusReason.UNPROVED, "they hold no height in common")

    def differ(height: int) -> bool:
        return one.block(height).header != other.block(height).header

    if not differ(high):
        return None
    if low > 1 and differ(low):
        raise ProtocolViolation(
            ConsensusReason.UNPROVED, f"they differ at {low} already, and hold nothing below"
        )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if differ(middle) else (middle + 1, high)
    return high


def _part(chain: ShownChain, height: int, epoch: Epoch) -> FinalChain:
    """From the height of the fork up to the lowest block of the epoch with a proof of its own, or up to its end."""
    last = chain.heights()[1]
    if epoch.last_height is not None:
        last = min(last, epoch.last_height)
    blocks: list[Block] = []
    for at in range(height, last + 1):
        block = chain.block(at)
        blocks.append(block)
        proof = chain.proof_at(at)
        if proof is not None and proof.block == hash_of(block.header):
            return FinalChain(tuple(blocks), proof)
    return _through_suffix(chain, blocks, epoch)


def _through_suffix(chain: ShownChain, blocks: list[Block], epoch: Epoch) -> FinalChain:
    """Up to the last suffix block, by the proof that the epoch is closed."""
    step, boundary = chain.step(epoch.number), blocks[-1].header
    if step is None or step.closing.headers[0] != boundary:
        raise ProtocolViolation(
            ConsensusReason.UNPROVED,
            f"from height {blocks[0].header.height} to {boundary.height} no block has a finality proof of its own",
        )
    suffix = step.closing.suffix
    if len(suffix) < len(step.closing.headers) - 1:
        raise ProtocolViolation(
            ConsensusReason.UNPROVED,
            f"why its suffix blocks are justified was not kept with epoch {epoch.number}",
        )
    return FinalChain((*blocks, *suffix), step.closing.certificate)
