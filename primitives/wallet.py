"""secp256k1 keys as Ethereum wallets hold them: recoverable signatures under one strict rule set. Pure.

A signature is r, s and v, 65 bytes; s is at most half the group's order and v is 27 or 28, so that nobody can turn a
signature into another one for the same digest. The key itself is never sent: it is recovered, and its address compared.
"""

from __future__ import annotations

from typing import NoReturn

from coincurve import PrivateKey, PublicKey

from primitives.eip712 import keccak256
from primitives.errors import ProtocolViolation
from primitives.identifiers import Address
from primitives.reasons import CodecReason
from primitives.signing import is_valid

WALLET_SIGNATURE_BYTES = 65
ADDRESS_BYTES = 20
DIGEST_BYTES = 32
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of the group; SEC 2, section 2.4.1."""
_FIRST_V = 27


class WalletKey:
    """A secret secp256k1 key. Never printed, never pickled, never copied."""

    __slots__ = ("_secret", "address")

    def __init__(self, secret: bytes) -> None:
        """`secret`: 32 bytes, a number from 1 to the group's order - 1. Raises ProtocolViolation(BAD_KEY)."""
        if len(secret) != DIGEST_BYTES or not 0 < int.from_bytes(secret, "big") < ORDER:
            raise ProtocolViolation(CodecReason.BAD_KEY, "not a secret secp256k1 key")
        self._secret = PrivateKey(secret)
        self.address: Address = _address_of(self._secret.public_key)

    def sign(self, digest: bytes) -> bytes:
        """65 bytes over a 32-byte digest; the nonce is that of RFC 6979."""
        raw = self._secret.sign_recoverable(digest, hasher=None)
        return raw[:64] + bytes((raw[64] + _FIRST_V,))

    def __repr__(self) -> str:
        return f"WalletKey(address={self.address.hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not serialisable")


def recover_address(digest: bytes, signature: bytes) -> Address | None:
    """Whose signature over a 32-byte digest this is; None if it is nobody's or not in its one form."""
    if len(signature) != WALLET_SIGNATURE_BYTES or len(digest) != DIGEST_BYTES:
        return None
    recovery, s = signature[64] - _FIRST_V, int.from_bytes(signature[32:64], "big")
    if recovery not in (0, 1) or not 0 < s <= ORDER // 2:
        return None
    try:
        key = PublicKey.from_signature_and_message(signature[:64] + bytes((recovery,)), digest, hasher=None)
    except ValueError:
        return None
    return _address_of(key)


def is_valid_by_any(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature verifies: Ed25519 under a 32-byte key, a wallet's over a digest under its address.

    Both release the GIL while they verify. The lengths tell them apart; nothing else passes.
    """
    if len(key) == ADDRESS_BYTES:
        return recover_address(message, signature) == key
    return is_valid(key, message, signature)


def _address_of(key: PublicKey) -> Address:
    """The last 20 bytes of the digest of the uncompressed point, as Ethereum names accounts."""
    return Address(keccak256(key.format(compressed=False)[1:])[-ADDRESS_BYTES:])
