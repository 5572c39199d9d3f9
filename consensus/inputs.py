"""Everything that can happen to the core: its input alphabet. Pure.

The driver has already checked shape, bounds and signatures of every message (consensus/admission.py says
which).
"""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

from consensus.messages import VERSION_FIRST, Block, ConsensusMessage, Evidence, QuorumCertificate
from consensus.validator_set import ValidatorSet
from primitives.identifiers import BlockHash, ValidatorIndex


class TimerKind(IntEnum):
    """Each timer of the core; it is re-armed by setting it again."""

    PROPOSAL = 1
    """T_prop: the leader's block should have come."""
    VIEW = 2
    """T_view: the view should have ended."""
    FORWARD = 3
    """T_fwd: pass the admitting certificate on to peers that seem not to have it."""
    RETRY = 4
    """T_retry: resend, ask for status, refetch."""
    PROPOSE = 5
    """A leader without a candidate parent gives up (T_prop / 2)."""
    EVIDENCE = 6
    """Tell the others again of offences that are not on chain yet."""


class Started(Struct, frozen=True, gc=False):
    """The driver is ready; enter the first view. Given once, after restore."""


class MessageReceived(Struct, frozen=True, gc=False):
    """A verified message from a validator (never from ourselves)."""

    peer: ValidatorIndex
    message: ConsensusMessage


class TimerFired(Struct, frozen=True, gc=False):
    """A timer set by SetTimer ran out. `view` is the view it was set in; stale ones are ignored."""

    kind: TimerKind
    view: int


class PayloadBuilt(Struct, frozen=True, gc=False):
    """Answer to BuildPayload: what to put into our block."""

    parent: BlockHash
    view: int
    transactions: tuple[bytes, ...]
    time_ns: int
    parent_state_root: bytes
    evidence: tuple[Evidence, ...] | None = None
    """Which of BuildPayload's evidence the chain still lacks; None: all of it. The rest is not offered again."""


class Validated(Struct, frozen=True, gc=False):
    """Answer to ValidatePayload: whether the block is valid on its parent's state."""

    block: BlockHash
    ok: bool


class NextSetDecided(Struct, frozen=True, gc=False):
    """Answer to EpochClosed(epoch): the ledger has executed the boundary; set and protocol version of epoch + 2."""

    epoch: int
    validators: ValidatorSet
    version: int = VERSION_FIRST


class OtherEpochHeard(Struct, frozen=True, gc=False):
    """An unchecked message of another epoch than ours (admission.other_epoch): nothing in it is believed."""

    peer: ValidatorIndex
    epoch: int
    message: ConsensusMessage


class BlocksProved(Struct, frozen=True, gc=False):
    """Consecutive final blocks that the driver fetched and checked (final_range.check_range), signatures included.

    Those at or below our final tip are passed over; a range that begins above it, or is of another epoch, is dropped.
    """

    blocks: tuple[Block, ...]
    proof: QuorumCertificate
    """Of the last block, or of a descendant of it."""


Input = (
    Started
    | MessageReceived
    | TimerFired
    | PayloadBuilt
    | Validated
    | NextSetDecided
    | OtherEpochHeard
    | BlocksProved
)
