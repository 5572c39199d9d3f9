"""One lane for each message, and a message on the other lane is malformed."""

from __future__ import annotations

import pytest

from consensus.evidence import pair
from consensus.messages import (
    BlockRequest,
    BlockResponse,
    CertificateMessage,
    CertificateRequest,
    EpochClosing,
    EpochProof,
    EpochRequest,
    EvidenceMessage,
    Proposal,
    Status,
    StatusRequest,
    Votes,
)
from gossip.network import MESSAGE_BYTES_MAX, Lane
from ledger.transactions import SignedReport
from node.messages import BUNDLE_TRANSACTIONS_MAX, ReportMessage, TransactionBundle, decode_message, lane_of
from primitives.codec import encode
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason
from tests.consensus.builders import a_block, a_notarization, a_proposal, a_vote

VOTE_LANE = [
    Votes((a_vote(1, 1, bytes(32), 0),)),
    CertificateMessage(a_notarization(1, bytes(32))),
    Status(0, 1, 1, 2),
    StatusRequest(1, 0),
    CertificateRequest(1, 2),
    EpochRequest(3),
]
BULK_LANE = [
    a_proposal(a_block(1)),
    BlockRequest(bytes(32), 0, 1),
    BlockResponse(bytes(32), (a_block(1),)),
    EvidenceMessage(pair(a_vote(1, 1, bytes(32), 0), a_vote(1, 1, b"A" * 32, 0))),
    EpochClosing(EpochProof((a_block(1).header,), a_notarization(1, bytes(32)), ())),
    TransactionBundle((b"raw",)),
    ReportMessage(SignedReport(b"payload", 0, bytes(64))),
]


def reason_of(lane: Lane, raw: bytes) -> str:
    with pytest.raises(ProtocolViolation) as refused:
        decode_message(lane, raw)
    return refused.value.reason


@pytest.mark.parametrize("message", VOTE_LANE + BULK_LANE, ids=lambda message: type(message).__name__)
def test_a_message_is_read_on_its_own_lane_and_malformed_on_the_other(message: Proposal) -> None:
    lane = Lane.VOTE if message in VOTE_LANE else Lane.BULK
    assert lane_of(message) is lane
    assert decode_message(lane, encode(message)) == message
    assert reason_of(Lane(1 - lane), encode(message)) == CodecReason.MALFORMED


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x00", b"\xff" * 9, b"\x91\xcd\xff\xff", b"[" * 5_000, encode(TransactionBundle(()))],
    ids=["empty", "a number", "garbage", "unknown tag", "nesting", "empty bundle"],
)
@pytest.mark.parametrize("lane", list(Lane))
def test_garbage_is_malformed_and_never_an_exception_beyond(lane: Lane, raw: bytes) -> None:
    assert reason_of(lane, raw) == CodecReason.MALFORMED


@pytest.mark.parametrize("message", VOTE_LANE + BULK_LANE, ids=lambda message: type(message).__name__)
def test_a_message_cut_short_or_with_something_behind_is_refused(message: Proposal) -> None:
    raw, lane = encode(message), lane_of(message)
    assert {reason_of(lane, raw[:cut]) for cut in range(0, len(raw), max(1, len(raw) // 50))} == {
        CodecReason.MALFORMED
    }
    assert reason_of(lane, raw + b"\x00") in (CodecReason.MALFORMED, CodecReason.NOT_CANONICAL)


@pytest.mark.parametrize("lane", list(Lane))
def test_too_long_is_refused_before_it_is_decoded(lane: Lane) -> None:
    assert reason_of(lane, bytes(MESSAGE_BYTES_MAX[lane] + 1)) == CodecReason.TOO_LARGE


def test_a_bundle_beyond_its_limit_is_malformed() -> None:
    full = TransactionBundle((b"raw",) * BUNDLE_TRANSACTIONS_MAX)
    assert decode_message(Lane.BULK, encode(full)) == full
    over = encode(TransactionBundle((b"raw",) * (BUNDLE_TRANSACTIONS_MAX + 1)))
    assert reason_of(Lane.BULK, over) == CodecReason.MALFORMED


def test_another_form_of_the_same_message_is_not_canonical() -> None:
    raw = encode(StatusRequest(1, 0))
    assert raw[-2:] == b"\x01\x00"
    assert reason_of(Lane.VOTE, raw[:-2] + b"\xcc\x01\x00") == CodecReason.NOT_CANONICAL
