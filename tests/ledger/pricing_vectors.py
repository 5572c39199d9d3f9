"""Published vectors where present; tests that need them are skipped with the reason where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

_FILE = Path(__file__).resolve().parents[3] / "shared" / "data" / "test_vectors.json"

needs_vectors = pytest.mark.skipif(not _FILE.exists(), reason=f"no vectors at {_FILE}")


def vectors(name: str) -> Any:
    """One section of the vectors file; empty where the file is absent, so that collection works."""
    return json.loads(_FILE.read_text())[name] if _FILE.exists() else {}


def micro(usd: float) -> int:
    """USD of a vector as whole micro-USD."""
    return round(usd * 1_000_000)
