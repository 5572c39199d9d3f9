"""From genesis to the newest epoch, link by link: what a new node must know before it can believe a snapshot. Pure.

Each link is checked under the epoch before it: the proof that this one is over, by its own validators, and what the
new epoch is. What a link says about the epoch after the new one is bound by the headers of the new epoch, and in the
end by the state.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.certificates import SignatureCheck
from consensus.effects import EpochOpened, OpenedEpoch
from consensus.epoch import Epoch, first_epoch
from consensus.epochs import opened
from consensus.final_range import check_closing
from consensus.messages import Header, hash_of
from consensus.validator_set import ValidatorSet
from node.genesis import GenesisDocument, chain_id_of
from node.sync.messages import EpochLink
from node.sync.reasons import SyncReason
from primitives.errors import InvariantViolation, ProtocolViolation


@dataclass(frozen=True, slots=True)
class Link:
    """A checked step: the epoch it leads to, what to keep of it, and the signatures that it stands on."""

    epoch: Epoch
    kept: EpochOpened
    checks: list[SignatureCheck]


def follow(link: EpochLink, epoch: Epoch) -> Link:
    """The epoch after `epoch`, once the signatures returned are valid.

    Raises:
        ProtocolViolation: WRONG_EPOCH, or what is wrong with the proof.
    """
    if link.opened is None or link.proof is None:
        raise ProtocolViolation(SyncReason.WRONG_EPOCH, f"no proof that epoch {epoch.number} is over")
    checks = check_closing(link.proof, epoch)
    boundary = link.proof.headers[0]
    check_next_set(boundary, epoch)
    following = epoch.following(hash_of(boundary), _claimed_set(link.opened), link.opened.next_version)
    if opened(following) != link.opened:
        raise ProtocolViolation(
            SyncReason.WRONG_EPOCH,
            f"epoch {link.opened.number} is not what follows from epoch {epoch.number}",
        )
    return Link(following, EpochOpened(link.opened, link.proof), checks)


def _claimed_set(kept: OpenedEpoch) -> ValidatorSet:
    claimed = kept.next_validators
    try:
        return ValidatorSet(claimed.public_keys, claimed.weights, claimed.final_weight)
    except InvariantViolation as broken:
        raise ProtocolViolation(SyncReason.WRONG_EPOCH, f"no validator set: {broken}") from None


def genesis_epoch(genesis: GenesisDocument) -> Epoch:
    """Epoch 0: what a node believes before anybody has told it anything."""
    staking = genesis.ledger.staking
    members = ValidatorSet(
        tuple(entry.consensus_key for entry in genesis.validators),
        tuple(entry.weight for entry in genesis.validators),
        genesis.consensus.final_weight or None,
    )
    epoch_blocks = staking.epoch_blocks if staking.validators else 0
    return first_epoch(chain_id_of(genesis), members, epoch_blocks, genesis.ledger.protocol.version)


def check_next_set(header: Header, epoch: Epoch) -> None:
    """That a header of `epoch` commits to the next set which a link claimed. Raises ProtocolViolation(WRONG_EPOCH)."""
    if header.epoch != epoch.number or header.next_set_hash != epoch.next_set.set_hash():
        raise ProtocolViolation(
            SyncReason.WRONG_EPOCH, f"epoch {epoch.number} was said to be followed by other validators"
        )
