"""Where a bench keeps its files: a directory that was named, or one that is gone afterwards. Disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def kept_in(home: Path | None) -> Iterator[Path]:
    """`home` made absolute; without one a temporary directory, removed at the end, however much is left in it."""
    directory = Path(tempfile.mkdtemp(prefix="quorate-")) if home is None else home.absolute()
    try:
        yield directory
    finally:
        if home is None:
            shutil.rmtree(directory, ignore_errors=True)
