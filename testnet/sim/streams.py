"""Randomness for the simulator: one independent stream per concern, from one seed. No I/O."""

from __future__ import annotations

from hashlib import sha256
from random import Random


def stream(seed: int, name: str) -> Random:
    """The stream of one concern. Drawing more from one leaves every other as it was."""
    return Random(int.from_bytes(sha256(f"{seed}|{name}".encode()).digest(), "big"))
