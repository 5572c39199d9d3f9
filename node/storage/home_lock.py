"""One process per home directory. Holds an flock on a file in it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from primitives.errors import OperatorError

LOCK_FILE = "lock"


class HomeLock:
    """Exclusive use of a home directory, until `release` or the end of the process."""

    def __init__(self, home: Path) -> None:
        """Raises OperatorError if another process holds the home, or it cannot be written."""
        path = home / LOCK_FILE
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OperatorError(f"cannot use the home directory {home}: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise OperatorError(
                f"another node (process {holder}) is running with the home directory {home}"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another process have the home."""
        os.close(self._descriptor)
