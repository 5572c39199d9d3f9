"""The few file operations that durability rests on, as one interface. `Disk` reads and writes the file system.

The simulator implements the same interface with torn writes, failed fsyncs and lost disks
(testnet/sim/files.py), so that journal and watermark meet them in their real code.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class File(Protocol):
    """An open file. Every method may raise OSError."""

    def append(self, raw: bytes) -> None:
        """Write all of `raw` behind what is there."""
        ...

    def write_at(self, offset: int, raw: bytes) -> None:
        """Overwrite at an offset."""
        ...

    def sync(self) -> None:
        """Make everything written durable. A failure must never be retried."""
        ...

    @property
    def size_bytes(self) -> int:
        """Current length."""
        ...

    def close(self) -> None:
        """Release the descriptor."""
        ...


class Files(Protocol):
    """A file system, as far as a node's safety needs one. Every method may raise OSError."""

    def names(self, directory: Path) -> list[str]:
        """File names in a directory, which is created where it is missing."""
        ...

    def read(self, path: Path) -> bytes:
        """The whole file."""
        ...

    def open(self, path: Path, *, append: bool) -> File:
        """An existing file, for appending or for writing at offsets."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file."""
        ...

    def truncate(self, path: Path, end: int) -> None:
        """Cut a file, durably."""
        ...

    def write_durably(self, path: Path, raw: bytes) -> None:
        """Create or replace a file so that a crash leaves the old bytes or the new, never a mixture."""
        ...

    def random_bytes(self, count: int) -> bytes:
        """Bytes that no earlier file can hold by chance."""
        ...


class DiskFile:
    """One descriptor of the operating system."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def append(self, raw: bytes) -> None:
        write_all(self._descriptor, raw)

    def write_at(self, offset: int, raw: bytes) -> None:
        os.pwrite(self._descriptor, raw, offset)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        os.close(self._descriptor)


class Disk:
    """The real file system."""

    def names(self, directory: Path) -> list[str]:
        directory.mkdir(parents=True, exist_ok=True)
        return [path.name for path in directory.iterdir()]

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def open(self, path: Path, *, append: bool) -> DiskFile:
        flags = os.O_WRONLY | os.O_APPEND if append else os.O_RDWR
        return DiskFile(os.open(path, flags | os.O_CLOEXEC))

    def remove(self, path: Path) -> None:
        path.unlink()

    def truncate(self, path: Path, end: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def write_durably(self, path: Path, raw: bytes) -> None:
        write_durably(path, raw)

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)


DISK = Disk()


def sync_directory(directory: Path) -> None:
    """Make renames and new names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, raw: bytes, mode: int = 0o600) -> None:
    """Create or replace a small file so that a crash leaves the old bytes or the new, never a mixture."""
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        write_all(descriptor, raw)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(new, path)
    sync_directory(path.parent)


def write_all(descriptor: int, raw: bytes) -> None:
    """Write every byte: the operating system may take fewer at once."""
    view = memoryview(raw)
    while view:
        view = view[os.write(descriptor, view) :]
