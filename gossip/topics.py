"""Gossipsub topic names, which carry the chain, and what identifies a publication. Pure."""

from __future__ import annotations

from gossip.network import Topic
from primitives.hashing import digest
from primitives.identifiers import ChainId


def topic_name(chain_id: ChainId, topic: Topic) -> str:
    """The name on the wire. Another chain's nodes subscribe to other names and so never hear us."""
    return f"/quorate/{chain_id.hex()[:32]}/{topic.value}/1"


def publication_id(name: str, data: bytes) -> bytes:
    """Identity of a publication: its topic and bytes, whoever publishes it, so that copies are one
    message."""
    return digest(b"quorate-gossip", name.encode() + b"\0" + data)
