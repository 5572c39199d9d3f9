"""Digests under a domain tag, and the Merkle tree of a list. Pure.

blake2b-256 with `person=` as the domain tag (at most 16 bytes), so that bytes hashed for one purpose never
collide with bytes hashed for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

DIGEST_BYTES = 32
EMPTY_ROOT = bytes(DIGEST_BYTES)
"""Root of a list without leaves."""


@lru_cache(maxsize=64)
def _prepared(domain: bytes) -> blake2b:
    return blake2b(digest_size=DIGEST_BYTES, person=domain)


def digest(domain: bytes, data: bytes) -> bytes:
    """32-byte digest of `data` under `domain` (at most 16 bytes)."""
    state = _prepared(domain).copy()
    state.update(data)
    return state.digest()


def leaf_digest(data: bytes) -> bytes:
    """Digest of one Merkle leaf."""
    return digest(b"quorate-leaf", data)


def node_digest(left: bytes, right: bytes) -> bytes:
    """Digest of an inner Merkle node."""
    return digest(b"quorate-node", left + right)


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Root over leaf data, in order; an odd node moves up unchanged. EMPTY_ROOT for no leaves."""
    if not leaves:
        return EMPTY_ROOT
    level = [leaf_digest(leaf) for leaf in leaves]
    while len(level) > 1:
        above = [node_digest(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]
