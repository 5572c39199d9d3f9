"""What certificates and blocks of one epoch are judged by: chain, validators, leaders, first parent. Pure.

Epochs have a fixed number of blocks (consensus.md section 7): epoch e ends with the block of height
(e + 1) * epoch_blocks, its boundary. Above it, until the boundary is final, only empty suffix blocks are valid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from consensus.leader import LeaderSchedule, following_seed, genesis_seed
from consensus.messages import (
    VERSION_FIRST,
    Block,
    Header,
    Justification,
    evidence_root,
    hash_of,
    justification_root,
    transaction_root,
)
from consensus.validator_set import ValidatorSet
from primitives.errors import InvariantViolation
from primitives.identifiers import NO_BLOCK, BlockHash

EVIDENCE_AGE_EPOCHS_MAX = 2
"""Evidence of an older epoch is neither taken nor valid in a block: its stake may have been unbonded."""
GENESIS_JUSTIFICATION = Justification(parent=None, skips=())


@dataclass(frozen=True, slots=True)
class Epoch:
    """One run of views from 1, under one validator set, on top of `genesis` (consensus.md section 7)."""

    chain_id: bytes
    number: int
    validators: ValidatorSet
    leaders: LeaderSchedule
    genesis: BlockHash
    next_validators: ValidatorSet | None = None
    """The next epoch's set, which every header commits to; None: the same set."""
    first_height: int = 0
    """Height of `genesis`: the epoch's blocks lie above it."""
    last_height: int | None = None
    """Height of the boundary; None: the epoch never ends."""
    previous: Epoch | None = None
    """The epoch before, as far back as evidence reaches."""
    version: int = VERSION_FIRST
    """The protocol version of all its blocks: an upgrade is in force from an epoch's first height on."""
    next_version: int = VERSION_FIRST
    """That of the next epoch, decided together with its set."""

    @property
    def next_set(self) -> ValidatorSet:
        """The validators of the next epoch."""
        return self.next_validators or self.validators

    def is_suffix(self, height: int) -> bool:
        """Whether a block of this height lies above the boundary."""
        return self.last_height is not None and height > self.last_height

    def at(self, number: int) -> Epoch | None:
        """This epoch or one shortly before; None for one to come, or too old for evidence."""
        epoch: Epoch | None = self
        while epoch is not None and epoch.number > number:
            epoch = epoch.previous
        return epoch if epoch is not None and epoch.number == number else None

    def following(self, boundary: BlockHash, validators: ValidatorSet, version: int) -> Epoch:
        """The next epoch, on top of this one's boundary; `validators` and `version` are those of the epoch after it.

        Its leaders are drawn from the boundary before this epoch, known since before its validators were voting.
        """
        if self.last_height is None:
            raise InvariantViolation("an endless epoch is followed by none")
        number, members = self.number + 1, self.next_set
        return Epoch(
            chain_id=self.chain_id,
            number=number,
            validators=members,
            leaders=_leaders(following_seed(self.genesis, number), members),
            genesis=boundary,
            next_validators=validators,
            first_height=self.last_height,
            last_height=2 * self.last_height - self.first_height,
            previous=self.trimmed(EVIDENCE_AGE_EPOCHS_MAX),
            version=self.next_version,
            next_version=version,
        )

    def trimmed(self, count: int) -> Epoch:
        """This epoch with at most count - 1 epochs before it."""
        before = self.previous if count > 1 else None
        return replace(self, previous=before.trimmed(count - 1) if before is not None else None)


def _leaders(seed: bytes, validators: ValidatorSet) -> LeaderSchedule:
    return LeaderSchedule(seed, validators.count, validators.weights)


def genesis_block(chain_id: bytes) -> Block:
    """The block of height 0 and view 0 that every chain starts from; it commits to the chain id alone."""
    header = Header(
        version=0,
        chain_id=chain_id,
        epoch=0,
        view=0,
        height=0,
        parent_hash=NO_BLOCK,
        parent_view=0,
        proposer=0,
        time_ns=0,
        transaction_root=transaction_root(()),
        parent_state_root=bytes(32),
        next_set_hash=bytes(32),
        justification_root=justification_root(GENESIS_JUSTIFICATION),
        evidence_root=evidence_root(()),
        flags=0,
    )
    return Block(header=header, transactions=(), evidence=(), justification=GENESIS_JUSTIFICATION)


def first_epoch(
    chain_id: bytes, validators: ValidatorSet, epoch_blocks: int = 0, version: int = VERSION_FIRST
) -> Epoch:
    """Epoch 0: its leaders are drawn from the chain id. `epoch_blocks` 0: one endless epoch."""
    return Epoch(
        chain_id=chain_id,
        number=0,
        validators=validators,
        leaders=_leaders(genesis_seed(chain_id, 0), validators),
        genesis=hash_of(genesis_block(chain_id).header),
        next_validators=validators,
        last_height=epoch_blocks or None,
        version=version,
        next_version=version,
    )
