"""`quorate` in a process that kills itself (SIGKILL) at one moment of a snapshot import; the rest is the real thing.

Arguments: the moment, then those of `quorate`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from node.storage import snapshots
from node.storage.block_store import BlockStore
from node.storage.snapshots import SnapshotImport
from node.sync import bootstrap


def die() -> NoReturn:
    """As `kill -9` does: nothing is flushed, nothing is closed."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process does not go on")


def before(place: Any, name: str, is_time: Callable[..., bool] = lambda *_: True) -> None:
    """Die when a function is called, if it is time."""
    real = getattr(place, name)

    def dying(*arguments: Any, **options: Any) -> Any:
        if is_time(*arguments):
            die()
        return real(*arguments, **options)

    setattr(place, name, dying)


def after(place: Any, name: str, is_time: Callable[..., bool] = lambda *_: True) -> None:
    """Die when a function has done its work, if it is time."""
    real = getattr(place, name)

    def dying(*arguments: Any, **options: Any) -> Any:
        real(*arguments, **options)
        if is_time(*arguments):
            die()

    setattr(place, name, dying)


def is_half_there(incoming: SnapshotImport, *_: Any) -> bool:
    """Half of the chunks are on disk."""
    return len(incoming.missing()) <= len(incoming.head.manifest.parts) // 2


def is_chunk(_: Any, path: Any) -> bool:
    """What gets its name is a chunk, and not the first that came: they come from several peers, in any order."""
    return str(path).endswith(".chunk") and any(Path(path).parent.glob("*.chunk"))


MOMENTS: dict[str, Callable[[], None]] = {
    "before the first chunk": lambda: before(SnapshotImport, "put"),
    "half of a chunk written": lambda: before(snapshots.os, "replace", is_chunk),
    "half of the chunks there": lambda: after(SnapshotImport, "put", is_half_there),
    "all chunks there": lambda: before(SnapshotImport, "finish"),
    "before the switch": lambda: before(bootstrap, "install"),
    "inside the switch": lambda: after(BlockStore, "_put_block"),
    "after the switch": lambda: after(bootstrap, "install"),
}

if __name__ == "__main__":
    from node.__main__ import main

    MOMENTS[sys.argv[1]]()
    main(sys.argv[2:])
