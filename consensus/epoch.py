"""What certificates and blocks of one epoch are judged by: chain, validators, leaders, first parent. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.leader import LeaderSchedule, genesis_seed
from consensus.messages import (
    Block,
    Header,
    Justification,
    evidence_root,
    hash_of,
    justification_root,
    transaction_root,
)
from consensus.validator_set import ValidatorSet
from primitives.identifiers import NO_BLOCK, BlockHash

GENESIS_JUSTIFICATION = Justification(parent=None, skips=())


@dataclass(frozen=True, slots=True)
class Epoch:
    """One run of views from 1, under one validator set, on top of `genesis` (consensus.md section 7)."""

    chain_id: bytes
    number: int
    validators: ValidatorSet
    leaders: LeaderSchedule
    genesis: BlockHash


def genesis_block(chain_id: bytes) -> Block:
    """The block of height 0 and view 0 that every chain starts from; it commits to the chain id alone."""
    header = Header(
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


def first_epoch(chain_id: bytes, validators: ValidatorSet) -> Epoch:
    """Epoch 0: its leaders are drawn from the chain id."""
    leaders = LeaderSchedule(genesis_seed(chain_id, 0), validators.count)
    return Epoch(chain_id, 0, validators, leaders, hash_of(genesis_block(chain_id).header))
