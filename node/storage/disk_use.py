"""What a node's files take on disk, and what room is left. Reads the disk."""

from __future__ import annotations

import shutil
from pathlib import Path


def disk_use(data: Path) -> dict[str, int]:
    """Bytes by part of the data directory (blocks, journal, snapshots, ...), and `free` on its disk.

    What a part takes, holes left out: LMDB's file is sparse.
    """
    use = {path.name: _taken(path) for path in sorted(data.iterdir()) if path.is_dir()}
    return {**use, "free": shutil.disk_usage(data).free}


def _taken(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            # A snapshot or segment that was just replaced.
            continue
    return total
