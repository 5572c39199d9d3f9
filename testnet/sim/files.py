"""A simulated disk under the real journal and watermark: page cache, torn and reordered writes, failures. No I/O."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

SECTOR_BYTES = 512
"""Disks write a sector as a whole or not at all."""


class PowerCut(BaseException):
    """The process died inside a write. Not an Exception: nothing may catch it on the way."""


class SimulatedFile:
    """Bytes as the process sees them, and what the platter does not have yet."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.data = bytearray()
        self.pending: list[tuple[int, int, bytes, bytes]] = []
        """(length before, offset, bytes before, bytes after) of writes since the last sync, oldest first."""
        self._disk = disk

    def append(self, raw: bytes) -> None:
        """Write at the end; a full disk takes the first half."""
        self.write_at(len(self.data), raw)

    def write_at(self, offset: int, raw: bytes) -> None:
        """Overwrite or extend at an offset."""
        if self._disk.is_full:
            raw = raw[: len(raw) // 2] if offset == len(self.data) else b""
        self.pending.append(
            (len(self.data), offset, bytes(self.data[offset : offset + len(raw)]), bytes(raw))
        )
        self.put(offset, raw)
        if self._disk.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def put(self, offset: int, raw: bytes) -> None:
        """Bytes at an offset; a hole before them reads as zeros."""
        self.data.extend(bytes(max(0, offset - len(self.data))))
        self.data[offset : offset + len(raw)] = raw

    def sync(self) -> None:
        """Make everything durable, unless this is the sync that fails or the moment of the power cut."""
        disk = self._disk
        if disk.cut_at_sync:
            disk.cut_at_sync = False
            raise PowerCut
        if disk.fail_sync:
            disk.fail_sync = False
            # Linux marks the pages clean: what was written is lost, and a second fsync would succeed.
            disk.lose(self, "nothing")
            raise OSError(errno.EIO, "Input/output error")
        self.pending.clear()

    @property
    def size_bytes(self) -> int:
        """Length as the process sees it."""
        return len(self.data)

    def close(self) -> None:
        """Nothing to release."""


class SimulatedDisk:
    """One validator's files. What survives a crash is drawn from the disk's own stream."""

    def __init__(self, rng: Random, torn_writes: bool) -> None:
        self._rng = rng
        self._torn = torn_writes
        self._files: dict[str, SimulatedFile] = {}
        self.latency_ns = 0
        self.is_full = False
        self.fail_sync = False
        self.cut_at_sync = False

    # --- node.storage.files.Files ---

    def names(self, directory: Path) -> list[str]:
        """In order of creation."""
        prefix = f"{directory}/"
        return [path[len(prefix) :] for path in self._files if path.startswith(prefix)]

    def read(self, path: Path) -> bytes:
        """The bytes that a process sees."""
        return bytes(self._found(path).data)

    def open(self, path: Path, *, append: bool) -> SimulatedFile:
        """The file itself: descriptors have no state."""
        return self._found(path)

    def remove(self, path: Path) -> None:
        """At once and durable."""
        self._found(path)
        del self._files[str(path)]

    def truncate(self, path: Path, end: int) -> None:
        """At once and durable."""
        file = self._found(path)
        del file.data[end:]
        file.pending.clear()

    def write_durably(self, path: Path, raw: bytes) -> None:
        """All or nothing, as rename after fsync promises."""
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.fail_sync:
            self.fail_sync = False
            raise OSError(errno.EIO, "Input/output error")
        if self.cut_at_sync:
            self.cut_at_sync = False
            raise PowerCut
        file = SimulatedFile(self)
        file.data[:] = raw
        self._files[str(path)] = file

    def random_bytes(self, count: int) -> bytes:
        """From the disk's stream: the same in every run of the plan."""
        return self._rng.randbytes(count)

    # --- faults ---

    def crash(self) -> None:
        """The process is killed: its writes stay in the page cache. Or the power goes: some of them are lost."""
        pending = [file for file in self._files.values() if file.pending]
        if not pending or self._rng.random() < 0.3:
            return
        for file in pending:
            self.lose(file, self._rng.choice(["nothing", "all", "torn" if self._torn else "all"]))

    @property
    def is_synced(self) -> bool:
        """Whether the platter has all that the journal holds."""
        return not any(file.pending for path, file in self._files.items() if path.endswith(".journal"))

    def lose(self, file: SimulatedFile, kept: str) -> None:
        """Undo pending writes, then redo what reached the platter: nothing, all, or torn parts in any order."""
        if kept == "all":
            file.pending.clear()
            return
        pending, file.pending = file.pending, []
        for length, offset, before, after in reversed(pending):
            file.data[offset : offset + len(after)] = before
            del file.data[length:]
        if kept == "torn":
            for _, offset, _, after in pending:
                if self._rng.random() < 0.7:
                    file.put(offset, after[: self._torn_length(offset, len(after))])

    def _torn_length(self, offset: int, length: int) -> int:
        """A write ends at a sector's border, or whole."""
        first = SECTOR_BYTES - offset % SECTOR_BYTES
        lengths: list[int] = [0, *range(first, length, SECTOR_BYTES), length]
        return self._rng.choice(lengths)

    def wipe(self, what: int) -> None:
        """Lose everything (0), the journal (1) or the watermark (2), or a bit of the journal's first half flips (3).

        A flip in the last frame looks like a torn tail, whose votes were never sent: a disk that lies so is Byzantine.
        """
        wanted = {0: "", 1: ".journal", 2: "watermark", 3: ".journal"}[what]
        for path in [path for path in self._files if path.endswith(wanted)]:
            if what == 3:
                data = self._files[path].data
                data[self._rng.randrange(max(1, len(data) // 2))] ^= 1 << self._rng.randrange(8)
            else:
                del self._files[path]

    def _found(self, path: Path) -> SimulatedFile:
        try:
            return self._files[str(path)]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path)) from None
