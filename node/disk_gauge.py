"""What the node's files take on disk, looked up now and then. Trio; reads the disk on a worker thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import trio

from node.storage.disk_use import disk_use

LOOK_SECONDS = 15.0
"""Between two looks: there may be thousands of files."""


class DiskGauge:
    """Holds the newest figures."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._newest = disk_use(data)

    def __call__(self) -> Mapping[str, int]:
        """Bytes by part of the data directory, and what is free."""
        return self._newest

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            self._newest = await trio.to_thread.run_sync(disk_use, self._data)
