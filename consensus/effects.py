"""Everything the core can ask of its driver: its output alphabet. Pure.

Effects of one step are performed in order. `Persist` is a barrier: it is durable (fsync) before any later effect of the
same step is performed; a failed Persist stops the process.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.inputs import TimerKind
from consensus.messages import Block, ConsensusMessage, PairEvidence, QuorumCertificate
from primitives.codec import U8, U32, U63, Bytes32, Wire
from primitives.identifiers import BlockHash, ValidatorIndex

# --- records of the safety journal ---


class OwnVote(Wire, tag=1):
    """We are about to sign this: kind, view and subject (consensus.md section 4, own[e,v])."""

    kind: U8
    epoch: U32
    view: U63
    subject: Bytes32


class OwnProposal(Wire, tag=2):
    """The block we are about to propose; after a restart the same bytes or nothing."""

    block: Block


class HeldBlock(Wire, tag=3):
    """A block whose body we hold because we vote for it."""

    block: Block


class RaisedFloor(Wire, tag=4):
    """Sign nothing at or below this view."""

    epoch: U32
    view: U63


class Admitted(Wire, tag=5):
    """The certificate that admitted us to a view; replayed so that a restart does not regress."""

    view: U63


JournalRecord = OwnVote | OwnProposal | HeldBlock | RaisedFloor | Admitted

# --- effects ---


@dataclass(frozen=True, slots=True)
class Persist:
    """Append these records to the journal and fsync: the barrier before every send that depends on them."""

    records: tuple[JournalRecord, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """To one validator."""

    to: ValidatorIndex
    message: ConsensusMessage


@dataclass(frozen=True, slots=True)
class Broadcast:
    """To every other validator."""

    message: ConsensusMessage


@dataclass(frozen=True, slots=True)
class SetTimer:
    """(Re)arm a timer; the view comes back in TimerFired."""

    kind: TimerKind
    view: int
    delay_ms: int


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Disarm a timer."""

    kind: TimerKind


@dataclass(frozen=True, slots=True)
class BuildPayload:
    """We lead `view`: fill a block on `parent` (at `height`); answer with PayloadBuilt."""

    parent: BlockHash
    view: int
    height: int


@dataclass(frozen=True, slots=True)
class ValidatePayload:
    """Check a justified block whose parent is acceptable on its parent's state; answer with Validated."""

    block_hash: BlockHash
    block: Block


@dataclass(frozen=True, slots=True)
class DeliverFinal:
    """Blocks decided for good, in height order, with the proof of the last; at least once each."""

    blocks: tuple[Block, ...]
    proof: QuorumCertificate


@dataclass(frozen=True, slots=True)
class ReportNotarized:
    """A block has a notarization (crash-final): for clients and metrics."""

    block_hash: BlockHash
    height: int
    view: int


@dataclass(frozen=True, slots=True)
class EnteredView:
    """For metrics and logs: the view now is `view`, led by `leader`."""

    view: int
    leader: ValidatorIndex
    admitted_by: str


@dataclass(frozen=True, slots=True)
class ReportEvidence:
    """A pair of votes that proves an offence; to be kept for ever."""

    kind: str
    offender: ValidatorIndex
    evidence: PairEvidence


@dataclass(frozen=True, slots=True)
class Halt:
    """R9: stop signing, keep both sides, tell the operator. Never resumed by the program."""

    reason: str
    detail: str


Effect = (
    Persist
    | Send
    | Broadcast
    | SetTimer
    | CancelTimer
    | BuildPayload
    | ValidatePayload
    | DeliverFinal
    | ReportNotarized
    | EnteredView
    | ReportEvidence
    | Halt
)
