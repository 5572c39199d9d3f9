"""Blocks, votes, certificates, the messages that carry them, and the bytes that each vote signs. Pure.

Words and rules: consensus.md sections 2 and 3. Every type is the canonical wire form; sizes are bounded here
by type and again by the frame limit before decoding.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from primitives.codec import U8, U16, U32, U63, Bytes32, Bytes64, Wire, encode
from primitives.hashing import digest, merkle_root
from primitives.identifiers import BlockHash

VERSION_FIRST = 1
"""The protocol version of a chain whose genesis asks for no newer one."""
VERSION_MAX = 1
"""The newest protocol version that this build knows; it knows every earlier one too."""
VALIDATORS_MAX = 256
"""No epoch has more validators; bounds every signer list on the wire."""
SKIPS_MAX = 256
"""Skip certificates in one justification; longer runs of failed views wait for a lower parent or operators."""
TRANSACTIONS_MAX = 4_096
"""Transactions in one block, the oracle update included."""
TRANSACTION_BYTES_MAX = 262_144
"""The largest are oracle updates; a client's have a limit of their own."""
BLOCK_BYTES_MAX = 4 * 1024 * 1024
BLOCKS_PER_RESPONSE_MAX = 64
VOTES_PER_MESSAGE_MAX = 1_024
SUFFIX_HEADERS_MAX = 600
"""Headers in one epoch proof: more than a validator keeps above its final tip (TREE_HEIGHTS_MAX of block_tree.py)."""
SUFFIX_BYTES_MAX = 1024 * 1024
"""Justifications in one epoch proof; longer ones (of hundreds of views that failed in a row) are left out of it."""
EVIDENCE_BYTES_MAX = 64 * 1024
"""One piece of evidence; a larger one (an unjustified block with dozens of skips) is neither kept nor accepted."""
EVIDENCE_ITEMS_MAX = 16
"""Pieces of evidence in one block: reserved, clients' transactions cannot crowd them out; more wait for the next."""
EVIDENCE_BLOCK_BYTES_MAX = 128 * 1024
"""Bytes of evidence in one block: reserved in the same way."""


class VoteKind(IntEnum):
    """The three votes; the number is what the signature covers."""

    NOTARIZE = 1
    NULLIFY = 2
    FINALIZE = 3


class Flag(IntEnum):
    """Bits of a header's flags."""

    SUFFIX = 1


def sign_bytes(chain_id: bytes, kind: int, epoch: int, view: int, subject: bytes) -> bytes:
    """The 94 bytes that a vote's signature covers: fixed width, big-endian. Nothing else is signed with this key."""
    return b"".join(
        (
            b"QUORATE-BFT-1",
            kind.to_bytes(1, "big"),
            chain_id,
            epoch.to_bytes(8, "big"),
            view.to_bytes(8, "big"),
            subject,
        )
    )


class Vote(Wire):
    """`subject` is the block hash; for NULLIFY the report: what the signer notarized in the view, or NO_BLOCK."""

    kind: U8
    epoch: U32
    view: U63
    subject: Bytes32
    signer: U16
    signature: Bytes64


Signers = Annotated[tuple[U16, ...], msgspec.Meta(max_length=VALIDATORS_MAX)]
Signatures = Annotated[tuple[Bytes64, ...], msgspec.Meta(max_length=VALIDATORS_MAX)]


class QuorumCertificate(Wire, tag=1):
    """Votes of one kind (NOTARIZE or FINALIZE) for one block; signers strictly ascending, a signature each.

    A notarization from weight >= q, heavy from weight >= F_FINAL; a finalization from weight >= q.
    """

    kind: U8
    epoch: U32
    view: U63
    block: Bytes32
    signers: Signers
    signatures: Signatures


class ReportGroup(Wire):
    """The nullify votes of a timeout certificate that report the same block (or NO_BLOCK)."""

    report: Bytes32
    signers: Signers
    signatures: Signatures


class TimeoutCertificate(Wire, tag=2):
    """NULLIFY votes of weight >= q, grouped by report in ascending order of the report."""

    epoch: U32
    view: U63
    groups: Annotated[tuple[ReportGroup, ...], msgspec.Meta(max_length=VALIDATORS_MAX)]


Certificate = QuorumCertificate | TimeoutCertificate


class Justification(Wire):
    """Why a block may stand on its parent: the parent's certificate (None only for genesis) and each skipped view's."""

    parent: QuorumCertificate | TimeoutCertificate | None
    skips: Annotated[tuple[TimeoutCertificate, ...], msgspec.Meta(max_length=SKIPS_MAX)]


class Header(Wire):
    """What a block commits to. `hash_of(header)` names the block. The version comes first: the rest may follow it."""

    version: U16
    """The protocol version of its epoch, by whose rules the block is made and judged."""
    chain_id: Bytes32
    epoch: U32
    view: U63
    height: U63
    parent_hash: Bytes32
    parent_view: U63
    proposer: U16
    time_ns: U63
    transaction_root: Bytes32
    parent_state_root: Bytes32
    next_set_hash: Bytes32
    justification_root: Bytes32
    evidence_root: Bytes32
    flags: U8


Transaction = Annotated[bytes, msgspec.Meta(max_length=TRANSACTION_BYTES_MAX)]
Transactions = Annotated[tuple[Transaction, ...], msgspec.Meta(max_length=TRANSACTIONS_MAX)]


class PairEvidence(Wire, tag=1):
    """Two votes of one signer that no honest validator signs both of; in ascending order of their sign bytes."""

    vote_a: Vote
    vote_b: Vote


class BlockEvidence(Wire, tag=2):
    """E6: a vote that vouches for a block, and the part of the block's bytes that shows it is not justified.

    The justification is the one that the header commits to: with another one every block looks unjustified.
    """

    vote: Vote
    header: Header
    justification: Justification


Evidence = PairEvidence | BlockEvidence


class Block(Wire):
    """A header and what it commits to; transactions are opaque here (the first is the ledger's oracle update)."""

    header: Header
    transactions: Transactions
    evidence: Annotated[tuple[PairEvidence | BlockEvidence, ...], msgspec.Meta(max_length=EVIDENCE_ITEMS_MAX)]
    justification: Justification


def hash_of(header: Header) -> BlockHash:
    """The block's name: digest of the canonical header."""
    return BlockHash(digest(b"quorate-header", encode(header)))


def transaction_root(transactions: tuple[bytes, ...]) -> bytes:
    """Merkle root over the transactions in block order."""
    return merkle_root(transactions)


def justification_root(justification: Justification) -> bytes:
    """Digest of the canonical justification."""
    return digest(b"quorate-justif", encode(justification))


def evidence_root(evidence: tuple[Evidence, ...]) -> bytes:
    """Merkle root over the evidence in block order."""
    return merkle_root([encode(item) for item in evidence])


# --- messages between validators; tags 1..31 belong to consensus, 32.. to the node ---


class Proposal(Wire, tag=3):
    """A leader's block, authenticated by the leader's own NOTARIZE vote."""

    block: Block
    leader_vote: Vote


class Votes(Wire, tag=4):
    """One or more votes, coalesced."""

    votes: Annotated[tuple[Vote, ...], msgspec.Meta(min_length=1, max_length=VOTES_PER_MESSAGE_MAX)]


class CertificateMessage(Wire, tag=5):
    """A certificate on its own: admits a lagging peer to the next view, or proves finality."""

    certificate: Certificate


class Status(Wire, tag=6):
    """Where a validator stands: a hint for what to offer it, never a reason to believe anything."""

    epoch: U32
    final_height: U63
    final_view: U63
    view: U63


class StatusRequest(Wire, tag=7):
    """Ask a peer for its Status and, when we lag, its admitting certificate and finality proof."""

    view: U63
    final_height: U63


class BlockRequest(Wire, tag=8):
    """Ask for a block and its ancestors, downwards, as far as (not including) `height_above`."""

    block: Bytes32
    height_above: U63
    count_max: Annotated[int, msgspec.Meta(ge=1, le=BLOCKS_PER_RESPONSE_MAX)]


class BlockResponse(Wire, tag=9):
    """Blocks in descending height, the requested one first; may be fewer than asked (size), empty if unknown."""

    requested: Bytes32
    blocks: Annotated[tuple[Block, ...], msgspec.Meta(max_length=BLOCKS_PER_RESPONSE_MAX)]


class CertificateRequest(Wire, tag=10):
    """Ask for what certifies or skips the views first..last (inclusive), to be able to lead."""

    view_first: U63
    view_last: U63


class EvidenceMessage(Wire, tag=11):
    """One proved offence."""

    evidence: PairEvidence | BlockEvidence


class EpochProof(Wire):
    """That an epoch's last block is final: the block's header, those of suffix blocks upon it, and a finality proof.

    `headers` begins with the boundary; each further one is a suffix block on the one before. `certificate` is for the
    last of them.
    """

    headers: Annotated[tuple[Header, ...], msgspec.Meta(min_length=1, max_length=SUFFIX_HEADERS_MAX)]
    certificate: QuorumCertificate
    justifications: Annotated[tuple[Justification, ...], msgspec.Meta(max_length=SUFFIX_HEADERS_MAX)]
    """Of the suffix headers, so that a fork can be judged by this proof alone; none when they are too long to keep."""

    @property
    def suffix(self) -> tuple[Block, ...]:
        """The suffix blocks, as far as the justifications go: all of them or none."""
        pairs = zip(self.headers[1:], self.justifications, strict=False)
        return tuple(Block(header, (), (), justification) for header, justification in pairs)


class EpochRequest(Wire, tag=12):
    """Ask for the proof that this epoch is closed."""

    epoch: U32


class EpochClosing(Wire, tag=13):
    """The proof that an epoch is closed, for one who is still in it."""

    proof: EpochProof


ConsensusMessage = (
    Proposal
    | Votes
    | CertificateMessage
    | Status
    | StatusRequest
    | BlockRequest
    | BlockResponse
    | CertificateRequest
    | EvidenceMessage
    | EpochRequest
    | EpochClosing
)
