"""Peer ids agree with libp2p's, and need none of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gossip.peer_id import peer_id_of, peer_id_of_seed
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason


def test_the_peer_id_of_a_known_seed() -> None:
    # Computed with libp2p 0.8.1: ID.from_pubkey(create_new_key_pair(seed).public_key).to_base58()
    assert peer_id_of_seed(b"\7" * 32) == "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7"


@pytest.mark.parametrize("public_key", [b"", b"\1" * 31, b"\0" * 32, b"\xff" * 32])
def test_bytes_that_are_no_key(public_key: bytes) -> None:
    with pytest.raises(ProtocolViolation) as refusal:
        peer_id_of(public_key)
    assert refusal.value.reason == CodecReason.BAD_KEY


def test_nothing_of_the_package_loads_libp2p_before_the_network_runs() -> None:
    code = "import sys, gossip.service, gossip.peer_id; sys.exit('libp2p' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
