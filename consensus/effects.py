"""Everything the core can ask of its driver: its output alphabet. Pure.

Effects of one step are performed in order. `Persist` is a barrier: it is durable (fsync) before any later
effect of the same step is performed; a failed Persist stops the process.
"""

from __future__ import annotations

from msgspec import Struct

from consensus.inputs import TimerKind
from consensus.messages import (
    Block,
    BlockRequest,
    Certificate,
    ConsensusMessage,
    EpochProof,
    Evidence,
    QuorumCertificate,
    VoteKind,
)
from primitives.codec import U8, U16, U32, U63, Bytes32, Wire
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


class EpochSet(Wire):
    """A validator set as stored: keys, weights, F_FINAL."""

    public_keys: tuple[Bytes32, ...]
    weights: tuple[U63, ...]
    final_weight: U63


class OpenedEpoch(Wire):
    """All that an epoch needs beside the chain id and its boundary's block; kept for ever by the driver."""

    number: U32
    genesis: Bytes32
    seed: Bytes32
    first_height: U63
    last_height: U63
    validators: EpochSet
    next_validators: EpochSet
    version: U16
    next_version: U16


class RaisedFloor(Wire, tag=4):
    """Sign nothing at or below this view."""

    epoch: U32
    view: U63


class Admitted(Wire, tag=5):
    """The certificate that admitted us to a view; replayed so that a restart does not regress.

    It rides along with the first vote in the view, so that after a power loss of all validators the
    certificates which justify the next block are still held by every voter.
    """

    view: U63
    certificate: Certificate


class ClosedEpoch(Wire, tag=7):
    """Our epoch is over: nothing is signed in it any more, and this is why. Kept until the next one has begun."""

    proof: EpochProof


class Conflict(Wire, tag=6):
    """R9: both sides of a broken promise. A core restored with one of these stays halted."""

    reason: str
    ours: QuorumCertificate | None
    theirs: QuorumCertificate | None
    block: Block | None


JournalRecord = OwnVote | OwnProposal | HeldBlock | RaisedFloor | Admitted | Conflict | ClosedEpoch

# --- effects ---


class Persist(Struct, frozen=True, gc=False):
    """Append these records to the journal and fsync: the barrier before every send that depends on them."""

    records: tuple[JournalRecord, ...]


class Send(Struct, frozen=True, gc=False):
    """To one validator."""

    to: ValidatorIndex
    message: ConsensusMessage


class Broadcast(Struct, frozen=True, gc=False):
    """To every other validator."""

    message: ConsensusMessage


class SetTimer(Struct, frozen=True, gc=False):
    """(Re)arm a timer; the view comes back in TimerFired."""

    kind: TimerKind
    view: int
    delay_ms: int


class CancelTimer(Struct, frozen=True, gc=False):
    """Disarm a timer."""

    kind: TimerKind


class BuildPayload(Struct, frozen=True, gc=False):
    """We lead `view`: fill a block on `parent` (at `height`); answer with PayloadBuilt.

    `evidence` goes into the block, unless the chain at `parent` holds as bad an offence of the same validator
    and epoch: the answer says which pieces it lacks.
    """

    parent: BlockHash
    view: int
    height: int
    evidence: tuple[Evidence, ...] = ()


class ValidatePayload(Struct, frozen=True, gc=False):
    """Check a justified block whose parent is acceptable on its parent's state; answer with Validated."""

    block_hash: BlockHash
    block: Block


class DeliverFinal(Struct, frozen=True, gc=False):
    """Blocks decided for good, in height order, with the proof of the last; at least once each.

    During a long catch-up the proof may be that of a descendant of the last block (`proof.block` says which).
    """

    blocks: tuple[Block, ...]
    proof: QuorumCertificate

    @property
    def is_fast(self) -> bool:
        """Whether the proof is a heavy notarization (two delays) rather than a finalization (three)."""
        return self.proof.kind == VoteKind.NOTARIZE


class ServeBlocks(Struct, frozen=True, gc=False):
    """A peer asks for blocks that the core no longer holds: answer it with a BlockResponse from storage.

    Empty when the hash is unknown; at most `request.count_max` blocks and what one frame may carry.
    """

    to: ValidatorIndex
    request: BlockRequest


class ReportNotarized(Struct, frozen=True, gc=False):
    """A block has a notarization (crash-final): for clients and metrics."""

    block_hash: BlockHash
    height: int
    view: int


class EnteredView(Struct, frozen=True, gc=False):
    """For metrics and logs: the view now is `view`, led by `leader`."""

    view: int
    leader: ValidatorIndex
    admitted_by: str


class ReportEvidence(Struct, frozen=True, gc=False):
    """Proof of an offence; to be kept for ever, and given to the next core's EvidencePool."""

    kind: str
    offender: ValidatorIndex
    evidence: Evidence


class EpochClosed(Struct, frozen=True, gc=False):
    """The boundary block is final and delivered (at least once): decide the set of the epoch after the next.

    When the ledger has executed the boundary, answer with NextSetDecided.
    """

    epoch: int
    boundary: Block
    proof: EpochProof


class EpochOpened(Struct, frozen=True, gc=False):
    """The next epoch has begun. Keep `opened` and `proof` for ever, durably, before anything later is sent."""

    opened: OpenedEpoch
    proof: EpochProof


class UpgradeRequired(Struct, frozen=True, gc=False):
    """The epoch that would begin at `height` is of a protocol version that this build does not know: stop the process.

    Nothing of it was signed. Questions are still answered.
    """

    version: int
    height: int


class ServeEpochProof(Struct, frozen=True, gc=False):
    """A peer is still in an epoch that we have closed: answer it with EpochClosing from what EpochOpened gave."""

    to: ValidatorIndex
    epoch: int


class WatchEnded(Struct, frozen=True, gc=False):
    """We watched long enough and sign again, from this epoch on."""

    epoch: int


class Readmit(Struct, frozen=True, gc=False):
    """A message that came before its epoch had begun here: check it now as if it had just arrived."""

    peer: ValidatorIndex
    message: ConsensusMessage


class Halt(Struct, frozen=True, gc=False):
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
    | ServeBlocks
    | ReportNotarized
    | EnteredView
    | ReportEvidence
    | EpochClosed
    | EpochOpened
    | UpgradeRequired
    | ServeEpochProof
    | Readmit
    | WatchEnded
    | Halt
)
