"""What every test finds as it was, whatever the one before it did to its process."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """Commands and campaigns configure logs, and campaigns the garbage collector, of the process they run in."""
    thresholds = gc.get_threshold()
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    gc.set_threshold(*thresholds)
