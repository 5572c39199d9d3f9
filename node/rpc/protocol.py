"""What the gateway (or any local client) and the node say over the Unix socket. Pure.

A frame is a 4-byte big-endian length and one msgpack message. The client sends Calls; the node sends
Answers, each with its call's id, and, after Subscribe, Notices. Frames are capped before decoding, types are
bounded; nothing here trusts the other side.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from primitives.codec import I64, U32, U63, Bytes32, Wire, decode, encode
from primitives.errors import ProtocolViolation

CALL_BYTES_MAX = 4 * 1024 * 1024
"""A longer frame from a client closes its connection."""
ANSWER_BYTES_MAX = 64 * 1024 * 1024
"""A longer frame from the node closes the connection; a final block's events stay far below."""
LENGTH_BYTES = 4
RAWS_MAX = 256
"""Transactions in one call."""
RAW_BYTES_MAX = 65_536
"""One encoded SignedTransaction; a longer one is malformed."""


class RpcReason(StrEnum):
    """Why the node's socket refuses a call or ends a connection; values are stable."""

    TOO_LARGE = "too_large"
    """A frame above its limit; what follows cannot be found, so the connection ends."""
    MALFORMED = "malformed"
    """Not one of the messages; the connection ends."""
    TOO_MANY_CLIENTS = "too_many_clients"
    """Every connection slot is taken."""
    SLOW_CONSUMER = "slow_consumer"
    """The client did not read its notices fast enough; the connection ends, nothing was skipped before."""
    INTERNAL = "internal"
    """The node failed to answer; it has logged why."""


# --- calls ---


class SubmitTransactions(Wire, tag=1):
    """Encoded SignedTransactions, to be admitted and spread; answered by SubmitReplies."""

    raws: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=RAW_BYTES_MAX)], ...],
        msgspec.Meta(max_length=RAWS_MAX),
    ]


class GetStatus(Wire, tag=2):
    """Answered by StatusReply."""


class GetMetrics(Wire, tag=3):
    """Answered by MetricsReply."""


class Subscribe(Wire, tag=4):
    """From the answer (Subscribed) on, every notice is sent to this connection."""


class Call(Wire):
    """`id` is the client's choice and comes back in the Answer."""

    id: U32
    body: SubmitTransactions | GetStatus | GetMetrics | Subscribe


# --- answers ---


class SubmitReply(Wire):
    """Whether one transaction is waiting for a block now; `reason` is a stable code, empty when accepted."""

    transaction_id: Bytes32
    accepted: bool
    reason: str
    detail: str


class SubmitReplies(Wire, tag=1):
    """One reply for each raw transaction, in order."""

    replies: tuple[SubmitReply, ...]


class PeerStatus(Wire):
    """One other validator as this node sees it; `rtt_us` is -1 before the first heartbeat."""

    index: U32
    connected: bool
    rtt_us: I64


class StatusReply(Wire, tag=2):
    """Where the node stands. Quantities not known yet are 0 or empty; `index` is -1 for a follower."""

    name: str
    index: I64
    chain_id: Bytes32
    validators: U32
    height: U63
    """The highest block executed; `final_height` is the highest decided for good."""
    view: U63
    final_height: U63
    final_hash: Bytes32
    state_root: Bytes32
    """Root after executing `final_height`."""
    block_time_ns: U63
    market_time_ns: U63
    halted: str
    """Why the node has stopped signing; empty while it works."""
    observer: str
    """Why the node only observes; empty for a voting validator."""
    peers: tuple[PeerStatus, ...]
    finality_us_p50: U63
    finality_us_p99: U63
    finality_count: U63
    fast_share_ppm: U63
    mempool_size: U63
    rss_bytes: U63
    cpu_ms: U63
    epsilon_ppm_p50: U63
    counters: tuple[tuple[str, I64], ...]
    """Any further number by name, sorted."""


class MetricsReply(Wire, tag=3):
    """Prometheus text format."""

    text: bytes


class Subscribed(Wire, tag=4):
    """Notices begin after `final_height`."""

    final_height: U63


class Refused(Wire, tag=5):
    """The call failed; `reason` is an RpcReason."""

    reason: str
    detail: str


AnswerBody = SubmitReplies | StatusReply | MetricsReply | Subscribed | Refused


class Answer(Wire, tag=101):
    """To the call with this id; 0 when the connection as a whole is meant."""

    id: U32
    body: AnswerBody


# --- notices ---


class FinalBlockNotice(Wire, tag=102):
    """A block is final and stored. `events` is the encoded list of its ledger events."""

    height: U63
    block_hash: Bytes32
    state_root: Bytes32
    time_ns: U63
    """Block time (market nanoseconds)."""
    market_time_ns: U63
    """The node's market clock when it sent this."""
    events: bytes


class TransactionStage(StrEnum):
    """How far a transaction has come before its block is final."""

    NOTARIZED = "notarized"
    """Its block has a notarization: final unless more than the stated faults occur."""


class TransactionStatus(Wire, tag=103):
    """Transactions of one block reached a stage."""

    stage: str
    height: U63
    transaction_ids: tuple[Bytes32, ...]


class BlockTiming(Wire, tag=104):
    """How a block became final here; for measuring. Clocks are this machine's monotonic one.

    `proposed_ns`: when this node had built the block, 0 when another node did. `signers`: who signed the
    proof.
    """

    height: U63
    block_hash: Bytes32
    proposer: U32
    proposed_ns: U63
    final_ns: U63
    is_fast: bool
    signers: tuple[U32, ...]


Notice = FinalBlockNotice | TransactionStatus | BlockTiming
FromNode = Answer | FinalBlockNotice | TransactionStatus | BlockTiming


def frame(message: Wire) -> bytes:
    """The length-prefixed bytes of one message."""
    body = encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_call(body: bytes) -> Call:
    """Raises ProtocolViolation for anything but one canonical Call."""
    return decode(Call, body, bytes_max=CALL_BYTES_MAX)


def decode_from_node(body: bytes) -> FromNode:
    """Raises ProtocolViolation for anything but one canonical message of the node."""
    message: FromNode = decode(FromNode, body, bytes_max=ANSWER_BYTES_MAX)  # type: ignore[arg-type]
    return message


class FrameBuffer:
    """Cuts a byte stream into frames; holds at most one unfinished frame."""

    def __init__(self, body_bytes_max: int) -> None:
        """`body_bytes_max`: a longer claimed length raises before anything is kept for it."""
        self._body_bytes_max = body_bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray) -> list[bytes]:
        """The bodies completed by these bytes, in order. Raises ProtocolViolation(TOO_LARGE)."""
        self._buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= LENGTH_BYTES:
            length = int.from_bytes(self._buffer[start : start + LENGTH_BYTES], "big")
            if length > self._body_bytes_max:
                raise ProtocolViolation(
                    RpcReason.TOO_LARGE, f"a frame of {length} bytes, the limit is {self._body_bytes_max}"
                )
            end = start + LENGTH_BYTES + length
            if end > len(self._buffer):
                break
            bodies.append(bytes(self._buffer[start + LENGTH_BYTES : end]))
            start = end
        del self._buffer[:start]
        return bodies
