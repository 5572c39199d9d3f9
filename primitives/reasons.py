"""Why the primitives refuse bytes. Pure."""

from __future__ import annotations

from enum import StrEnum


class CodecReason(StrEnum):
    """Refusals of the codec and of signatures; values are stable and used in metrics and replies."""

    TOO_LARGE = "too_large"
    """More bytes than this kind of message may have."""
    MALFORMED = "malformed"
    """Not the typed msgpack shape this message has."""
    NOT_CANONICAL = "not_canonical"
    """Decodes, but is not the one byte form of its value."""
    OUT_OF_RANGE = "out_of_range"
    """A number or a length outside its stated range."""
    BAD_SIGNATURE = "bad_signature"
    """The signature does not verify under the claimed key."""
    BAD_KEY = "bad_key"
    """Not a valid Ed25519 public key, or no secret secp256k1 key."""
