"""What consensus knows of a block, in the ledger's terms: offences, and who signed for the parent. Pure.

Both sides call a validator by its place, which the ledger keeps the same in all sets that evidence can name.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.certificates import votes_of
from consensus.evidence import offences_of
from consensus.messages import Block, Evidence
from ledger.apply import BlockContext
from ledger.staking.observations import Observations, Offence
from ledger.staking.penalties import CORRELATED_KINDS, check_observations
from ledger.staking.state import get_epoch_set, get_punishment, is_staking
from ledger.state import State
from primitives.errors import ProtocolViolation


def context_of(block: Block) -> BlockContext:
    """What the ledger is told with a block: its header's numbers, its evidence, who signed for its parent."""
    header, parent = block.header, block.justification.parent
    signers = sorted({vote.signer for vote in votes_of(parent)}) if parent is not None else []
    return BlockContext(header.height, header.time_ns, offences_of(block.evidence), tuple(signers))


def wanted_evidence(
    state: State, height: int, time_ns: int, evidence: Sequence[Evidence]
) -> tuple[Evidence, ...]:
    """What a block on this state may carry of `evidence`, and the chain does not hold already."""
    pairs = zip(evidence, offences_of(evidence), strict=True)
    return tuple(one for one, offence in pairs if _is_wanted(state, height, time_ns, Offence(*offence)))


def _is_wanted(state: State, height: int, time_ns: int, offence: Offence) -> bool:
    if not is_staking(state):
        return True
    try:
        check_observations(state, height, time_ns, Observations((offence,), ()))
    except ProtocolViolation:
        return False
    epoch_set = get_epoch_set(state, offence.epoch)
    member = epoch_set.member_at(offence.offender) if epoch_set is not None else None
    before = get_punishment(state, member.validator) if member is not None else None
    known = dict(before.offences).get(offence.epoch) if before is not None else None
    return known is None or (offence.kind in CORRELATED_KINDS and known not in CORRELATED_KINDS)
