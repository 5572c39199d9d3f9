"""What consensus knows of a block, in the ledger's terms: offences, signers, places in an epoch's set. Pure.

Consensus gives every validator one place for ever, its number in the ledger; the ledger's observations count
among the members of an epoch's set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from consensus.certificates import votes_of
from consensus.evidence import offences_of
from consensus.messages import Block, Evidence
from consensus.validator_set import ValidatorSet
from ledger.apply import BlockContext
from ledger.staking.observations import Observations, Offence
from ledger.staking.penalties import CORRELATED_KINDS, check_observations
from ledger.staking.state import get_epoch_set, get_punishment, is_staking
from ledger.state import State
from primitives.errors import ProtocolViolation

ValidatorsOf = Callable[[int], ValidatorSet | None]
"""The validator set of a recent epoch; None when it is not known, and then places are taken as they are."""


def context_of(block: Block, validators_of: ValidatorsOf) -> BlockContext:
    """What the ledger is told with a block: its header's numbers, its evidence, who signed for its parent."""
    header, parent = block.header, block.justification.parent
    signers = sorted({vote.signer for vote in votes_of(parent)}) if parent is not None else []
    return BlockContext(
        header.height,
        header.time_ns,
        tuple(_in_places(block.evidence, validators_of)),
        tuple(_place(signer, header.epoch, validators_of) for signer in signers),
    )


def wanted_evidence(
    state: State, height: int, time_ns: int, evidence: Sequence[Evidence], validators_of: ValidatorsOf
) -> tuple[Evidence, ...]:
    """What a block on this state may carry of `evidence`, and the chain does not hold already."""
    offences = _in_places(evidence, validators_of)
    pairs = zip(evidence, offences, strict=True)
    return tuple(one for one, offence in pairs if _is_wanted(state, height, time_ns, offence))


def _is_wanted(state: State, height: int, time_ns: int, offence: Offence) -> bool:
    if not is_staking(state):
        return True
    try:
        check_observations(state, height, time_ns, Observations((offence,), (), ()))
    except ProtocolViolation:
        return False
    epoch_set = get_epoch_set(state, offence.epoch)
    member = epoch_set.member_at(offence.offender) if epoch_set is not None else None
    before = get_punishment(state, member.validator) if member is not None else None
    known = dict(before.offences).get(offence.epoch) if before is not None else None
    return known is None or (offence.kind in CORRELATED_KINDS and known not in CORRELATED_KINDS)


def _in_places(evidence: Sequence[Evidence], validators_of: ValidatorsOf) -> list[Offence]:
    return [
        Offence(_place(signer, epoch, validators_of), epoch, kind, view)
        for signer, epoch, kind, view in offences_of(evidence)
    ]


def _place(index: int, epoch: int, validators_of: ValidatorsOf) -> int:
    validators = validators_of(epoch)
    return index if validators is None else validators.member_place(index)
