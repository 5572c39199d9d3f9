"""What nodes say to each other: consensus messages, and the node's own bundles and oracle reports.

One tagged union, so that a frame's messages decode in one typed step; each message has one lane. Pure.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from consensus.messages import (
    Block,
    BlockRequest,
    BlockResponse,
    CertificateMessage,
    CertificateRequest,
    ConsensusMessage,
    EpochClosing,
    EpochRequest,
    EvidenceMessage,
    Proposal,
    QuorumCertificate,
    Status,
    StatusRequest,
    Votes,
)
from consensus.messages import Transaction as RawTransaction
from gossip.network import MESSAGE_BYTES_MAX, Lane
from ledger.transactions import SignedReport
from primitives.codec import Wire, decode

BUNDLE_TRANSACTIONS_MAX = 512
"""Transactions in one bundle; a fuller outbox goes out as several bundles."""


class TransactionBundle(Wire, tag=32):
    """Client transactions (encoded SignedTransactions) that the sender has admitted to its mempool."""

    transactions: Annotated[
        tuple[RawTransaction, ...], msgspec.Meta(min_length=1, max_length=BUNDLE_TRANSACTIONS_MAX)
    ]


class FinalBlockMessage(Wire, tag=34):
    """For followers: a final block and the proof that it is final."""

    block: Block
    proof: QuorumCertificate


class ReportMessage(Wire, tag=33):
    """One validator's newest oracle report."""

    report: SignedReport


NodeMessage = (
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
    | TransactionBundle
    | ReportMessage
)

_BULK = (
    Proposal,
    BlockRequest,
    BlockResponse,
    EvidenceMessage,
    EpochClosing,
    TransactionBundle,
    ReportMessage,
)
_VOTE_TYPES = Votes | CertificateMessage | Status | StatusRequest | CertificateRequest | EpochRequest
_BULK_TYPES = (
    Proposal
    | BlockRequest
    | BlockResponse
    | EvidenceMessage
    | EpochClosing
    | TransactionBundle
    | ReportMessage
)


def lane_of(message: ConsensusMessage | TransactionBundle | ReportMessage) -> Lane:
    """Small and urgent on the vote lane, everything that can be large on the bulk lane."""
    return Lane.BULK if isinstance(message, _BULK) else Lane.VOTE


def decode_message(lane: Lane, raw: bytes) -> NodeMessage:
    """Decode one message of a lane; a message on the wrong lane is malformed. Raises ProtocolViolation."""
    kinds = _BULK_TYPES if lane is Lane.BULK else _VOTE_TYPES
    message: NodeMessage = decode(kinds, raw, bytes_max=MESSAGE_BYTES_MAX[lane])  # type: ignore[arg-type]
    return message
