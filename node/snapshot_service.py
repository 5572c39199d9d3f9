"""Has a snapshot of the ledger written every so many final blocks, by a process beside the node. Trio, a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

from node.storage.block_store import BlockStore
from node.storage.snapshots import SnapshotFiles

PROVING_BLOCKS = 2
"""Blocks above a snapshot that are waited for: the first holds its root, and by the second that one is proved."""
_PACKAGE_ROOT = Path(__file__).resolve().parents[1]

log = structlog.get_logger()


class SnapshotService:
    """Keeps the newest snapshots, and tells the store from where on it must keep its blocks."""

    def __init__(
        self,
        store: BlockStore,
        store_path: Path,
        files: SnapshotFiles,
        wait_final: Callable[[int], Awaitable[None]],
        final_height: Callable[[], int],
        *,
        every_blocks: int,
        keep: int,
    ) -> None:
        self._store = store
        self._store_path = store_path
        self._files = files
        self._wait_final = wait_final
        self._final_height = final_height
        self._every_blocks = every_blocks
        self._keep = keep
        self._hold_blocks()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            height = (self._final_height() // self._every_blocks + 1) * self._every_blocks
            await self._wait_final(height + PROVING_BLOCKS)
            await self._write(height)

    async def _write(self, height: int) -> None:
        began = trio.current_time()
        arguments = [self._store_path, self._files.directory, height, self._keep]
        done = await trio.run_process(
            [sys.executable, "-m", "node.storage.snapshot_writer", *map(str, arguments)],
            capture_stderr=True,
            stdout=subprocess.DEVNULL,
            check=False,
            cwd=_PACKAGE_ROOT,
        )
        seconds = round(trio.current_time() - began, 3)
        if done.returncode:
            # In a catch-up the state may be gone before it is read: the next height will do.
            log.warning("snapshot_not_written", height=height, why=done.stderr.decode()[-300:].strip())
        else:
            log.info("snapshot_written", height=height, seconds=seconds, bytes=self._files.size_bytes)
        self._hold_blocks()

    def _hold_blocks(self) -> None:
        """A restart from the newest snapshot replays the blocks above it."""
        self._store.keep_from = self._files.newest() or 0
