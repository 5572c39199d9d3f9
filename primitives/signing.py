"""Ed25519 through libsodium, under one strict rule set everywhere. Pure.

libsodium refuses a non-canonical S and small-order or non-canonical keys, so validity depends on bytes alone;
evidence depends on that.
"""

from __future__ import annotations

from typing import NoReturn

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_seed_keypair,
)
from nacl.bindings import crypto_sign_open as _open
from nacl.exceptions import BadSignatureError

from primitives.errors import ProtocolViolation
from primitives.hashing import digest
from primitives.identifiers import Address
from primitives.reasons import CodecReason

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32
SEED_BYTES = 32


class SigningKey:
    """A secret key. Never printed, never pickled, never copied."""

    __slots__ = ("_secret", "public_key")

    def __init__(self, seed: bytes) -> None:
        """`seed` is 32 secret bytes."""
        self.public_key, self._secret = crypto_sign_seed_keypair(seed)

    def sign(self, message: bytes) -> bytes:
        """64-byte signature over `message`; the caller puts the domain into the message."""
        signed: bytes = crypto_sign(message, self._secret)
        return signed[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"SigningKey(public_key={self.public_key.hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not serialisable")


def is_valid(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is `public_key`'s over `message`. Releases the GIL while it verifies."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    try:
        _open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Raises ProtocolViolation(BAD_SIGNATURE) unless the signature is valid."""
    if not is_valid(public_key, message, signature):
        raise ProtocolViolation(CodecReason.BAD_SIGNATURE, "the signature does not verify")


def check_public_key(public_key: bytes) -> None:
    """Raises ProtocolViolation(BAD_KEY) unless the bytes are a key of the prime-order group."""
    if len(public_key) != PUBLIC_KEY_BYTES or not crypto_core_ed25519_is_valid_point(public_key):
        raise ProtocolViolation(CodecReason.BAD_KEY, "not a valid Ed25519 public key")


def address_of(public_key: bytes) -> Address:
    """The owner address of a public key: the first 20 bytes of its digest."""
    return Address(digest(b"quorate-address", public_key)[:20])
