"""Questions of nodes that catch up, and their answers: one of each on a stream of its own. Pure.

Nothing in an answer is believed for who sent it: each carries, or is checked against, a certificate.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from consensus.effects import OpenedEpoch
from consensus.messages import (
    BLOCK_BYTES_MAX,
    SUFFIX_HEADERS_MAX,
    EpochProof,
    Header,
    QuorumCertificate,
)
from gossip.network import BULK_MESSAGE_BYTES_MAX
from gossip.request_response import REQUEST_BYTES_MAX
from node.messages import TransactionBundle
from primitives.codec import U16, U32, U63, Bytes32, Wire, decode

RANGE_BLOCKS_MAX = 64
"""Blocks in one range: enough that its one certificate costs little, few enough that a lie costs little."""
RANGE_BYTES_MAX = 2 * 1024 * 1024
"""Bytes of blocks in one range, unless its first block alone is longer."""


OFFERS_MAX = 2
"""Snapshots in one answer."""


class TipRequest(Wire, tag=40):
    """How far the chain is, for one who is in `epoch`."""

    epoch: U32


class Tip(Wire, tag=41):
    """The newest final block of that epoch with its proof; or, when the epoch is over, why."""

    header: Header | None
    proof: QuorumCertificate | None
    closing: EpochProof | None


class RangeRequest(Wire, tag=42):
    """Final blocks of one epoch, upwards."""

    height_first: U63
    count_max: Annotated[int, msgspec.Meta(ge=1, le=RANGE_BLOCKS_MAX)]


class Range(Wire, tag=43):
    """Encoded blocks, as many as were asked for or fewer; none when this node has them not, or not proved.

    `headers` lead from the last block up to the one that `proof` is for.
    """

    blocks: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=BLOCK_BYTES_MAX)], ...],
        msgspec.Meta(max_length=RANGE_BLOCKS_MAX),
    ]
    headers: Annotated[tuple[Header, ...], msgspec.Meta(max_length=SUFFIX_HEADERS_MAX)]
    proof: QuorumCertificate | None


class Taken(Wire, tag=44):
    """A TransactionBundle has arrived; what becomes of its transactions the blocks will say."""

    count: U16


T = TypeVar("T", bound=Wire)


class SnapshotRequest(Wire, tag=45):
    """The newest snapshots of the ledger that a node has whole."""


class SnapshotOffers(Wire, tag=46):
    """Encoded `SnapshotHead`s, the newest first: what each is of, its chunks' digests, and why it is believed."""

    heads: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=OFFERS_MAX)]


class ChunkRequest(Wire, tag=47):
    """One chunk of the snapshot with this name."""

    name: Bytes32
    index: U32


class Chunk(Wire, tag=48):
    """The chunk's bytes; empty when this node has not that snapshot."""

    raw: bytes


class EpochFileRequest(Wire, tag=49):
    """How an epoch began."""

    epoch: U32


class EpochLink(Wire, tag=50):
    """The epoch, and the proof that the one before is over; None for one that has not begun here."""

    opened: OpenedEpoch | None
    proof: EpochProof | None


Question = TipRequest | RangeRequest | TransactionBundle | SnapshotRequest | ChunkRequest | EpochFileRequest
Reply = Tip | Range | Taken | SnapshotOffers | Chunk | EpochLink


def decode_question(raw: bytes) -> Question:
    """Raises ProtocolViolation for anything but one canonical question."""
    question: Question = decode(Question, raw, bytes_max=REQUEST_BYTES_MAX)  # type: ignore[arg-type]
    return question


def decode_reply(kind: type[T], raw: bytes) -> T:
    """The answer that was asked for. Raises ProtocolViolation for any other."""
    return decode(kind, raw, bytes_max=BULK_MESSAGE_BYTES_MAX)
