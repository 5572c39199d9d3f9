"""A bounded set of what was seen, oldest forgotten first. Pure."""

from __future__ import annotations


class SeenSet:
    """Remembers the last `capacity` keys. When full, the oldest is forgotten and could pass once more."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._keys: dict[bytes, None] = {}

    def add(self, key: bytes) -> bool:
        """Remember `key`; False when it was here already (its age does not change)."""
        if key in self._keys:
            return False
        if len(self._keys) >= self._capacity:
            del self._keys[next(iter(self._keys))]
        self._keys[key] = None
        return True

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)
