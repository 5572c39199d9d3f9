"""One thing that was looked at, how it stands, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How bad a finding is."""

    GOOD = "good"
    NOTE = "note"
    """Worth knowing; nothing is wrong."""
    WARNING = "warning"
    """It works, but not as well or not as long as it should."""
    PROBLEM = "problem"
    """The node will not start, will not vote, or will be slow enough to matter."""


class Finding(msgspec.Struct, frozen=True):
    """`advice` is one sentence that says what to do; empty exactly when there is nothing to do."""

    name: str
    level: Level
    found: str
    advice: str = ""


def worst_of(findings: Sequence[Finding]) -> Level:
    """The worst level among them; GOOD for none."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.GOOD)


def graded(name: str, found: str, value: float, limits: tuple[float, float], advice: str) -> Finding:
    """A finding by two upper limits: above the first a WARNING, above the second a PROBLEM."""
    warning, problem = limits
    if value <= warning:
        return Finding(name, Level.GOOD, found)
    return Finding(name, Level.PROBLEM if value > problem else Level.WARNING, found, advice)
