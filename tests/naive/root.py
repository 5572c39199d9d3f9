"""The state root from nothing but the leaves: no tree is kept, every digest is computed anew. Pure."""

from __future__ import annotations

from hashlib import blake2b


def naive_root(leaves: dict[bytes, bytes]) -> bytes:
    """The root that docs/spec/state.md defines, by splitting all leaves at the first bit where they differ."""
    items = [(_bits(_digest(b"quorate-st-key", key)), value) for key, value in leaves.items()]
    top = _node(items) if items else bytes(32)
    return _digest(b"quorate-st-root", len(items).to_bytes(8, "big") + top)


def _node(items: list[tuple[str, bytes]]) -> bytes:
    if len(items) == 1:
        path, value = items[0]
        raw_path = int(path, 2).to_bytes(32, "big")
        return _digest(b"quorate-st-leaf", raw_path + _digest(b"quorate-st-value", value))
    bit = next(at for at in range(256) if len({path[at] for path, _ in items}) == 2)
    left = [item for item in items if item[0][bit] == "0"]
    right = [item for item in items if item[0][bit] == "1"]
    return _digest(b"quorate-st-node", bytes((bit,)) + _node(left) + _node(right))


def _bits(path: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in path)


def _digest(domain: bytes, data: bytes) -> bytes:
    return blake2b(data, digest_size=32, person=domain).digest()
