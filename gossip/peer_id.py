"""The libp2p peer id of an Ed25519 key, without libp2p. Pure.

A peer id is the identity multihash of the protobuf public key, in base58btc.
Source: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
"""

from __future__ import annotations

from primitives.signing import SigningKey, check_public_key

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# Multihash: identity (0), 36 bytes follow. Protobuf: field 1 (key type) = 1 (Ed25519), field 2 = 32 bytes.
_ED25519_PREFIX = bytes.fromhex("002408011220")


def peer_id_of(public_key: bytes) -> str:
    """Peer id ("12D3KooW...") of a 32-byte Ed25519 public key. Raises ProtocolViolation(BAD_KEY)."""
    check_public_key(public_key)
    return _base58(_ED25519_PREFIX + public_key)


def peer_id_of_seed(seed: bytes) -> str:
    """Peer id of the node whose libp2p identity has this 32-byte secret seed."""
    return peer_id_of(SigningKey(seed).public_key)


def _base58(raw: bytes) -> str:
    number = int.from_bytes(raw, "big")
    digits = ""
    while number:
        number, remainder = divmod(number, 58)
        digits = _ALPHABET[remainder] + digits
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return "1" * zeros + digits
