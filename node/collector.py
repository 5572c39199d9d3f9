"""How often a process that executes blocks looks for garbage in cycles. Sets Python's collector."""

from __future__ import annotations

import gc

NEW_OBJECTS = 50_000
"""So many more new containers than freed ones, before the youngest are looked through. Python's own 700 come up
a hundred times in a block of a thousand orders, and what a block leaves behind is in no cycle: 5 % of its time."""


def look_seldom() -> None:
    """From now on."""
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
