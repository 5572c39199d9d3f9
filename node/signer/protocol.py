"""What a node and its remote signer say to each other. Pure.

A frame is a 4-byte big-endian length and one msgpack message. The node says Hello and is told what was signed, or why
it is refused; then it asks, one question at a time, and each has one answer.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from consensus.effects import OwnVote
from node.rpc.protocol import LENGTH_BYTES
from primitives.codec import U16, Bytes32, Bytes64, Wire, decode, encode

PROTOCOL_VERSION = 1
CALL_BYTES_MAX = 1_024
"""A longer frame from a node ends its connection."""
ANSWER_BYTES_MAX = 64 * 1024
"""A longer frame from a signer ends the connection."""
TOLD_VIEWS_MAX = 64
"""Newest views whose votes a signer tells in its Welcome: those that a node may have lost in a crash."""
KEYS_MAX = 64
"""Consensus keys of one signer: rotations in a validator's life."""

Text = Annotated[str, msgspec.Meta(max_length=255)]


class Hello(Wire, tag=1):
    """A node wants the signer: for which chain, and how it calls itself in the signer's log."""

    version: U16
    chain_id: Bytes32
    name: Text


class SignVote(Wire, tag=2):
    """Sign the bytes of one vote with this key."""

    public_key: Bytes32
    message: Annotated[bytes, msgspec.Meta(max_length=256)]


class Ping(Wire, tag=3):
    """The node is still here; answered by Pong."""


class Welcome(Wire, tag=32):
    """The signer is the node's until the connection ends. Its keys, oldest first, and what it signed last."""

    public_keys: Annotated[tuple[Bytes32, ...], msgspec.Meta(max_length=KEYS_MAX)]
    votes: Annotated[tuple[OwnVote, ...], msgspec.Meta(max_length=3 * TOLD_VIEWS_MAX)]


class Signature(Wire, tag=33):
    """The record of this vote is on the signer's disk."""

    signature: Bytes64


class Refusal(Wire, tag=34):
    """Nothing was signed; the code is a SignerReason."""

    reason: Text
    detail: Annotated[str, msgspec.Meta(max_length=1_024)]


class Pong(Wire, tag=35):
    """Answer to Ping."""


SignerCall = Hello | SignVote | Ping
SignerAnswer = Welcome | Signature | Refusal | Pong


def frame(message: SignerCall | SignerAnswer) -> bytes:
    """Length and message."""
    body = encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_signer_call(body: bytes) -> SignerCall:
    """One message of a node. Raises ProtocolViolation."""
    return decode(SignerCall, body, bytes_max=CALL_BYTES_MAX)  # type: ignore[arg-type]


def decode_signer_answer(body: bytes) -> SignerAnswer:
    """One message of a signer. Raises ProtocolViolation."""
    return decode(SignerAnswer, body, bytes_max=ANSWER_BYTES_MAX)  # type: ignore[arg-type]
