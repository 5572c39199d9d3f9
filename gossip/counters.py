"""Plain counters by reason and lane, read by whoever exports metrics. Pure."""

from __future__ import annotations

from enum import StrEnum


class Counters:
    """Counts events under (name, label).

    Names and labels come from enums of ours, never from a peer, so the table cannot grow without end.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, name: StrEnum, label: str = "", amount: int = 1) -> None:
        """Count `amount` more events of `name`; `label` is a lane, a topic or nothing."""
        key = (name.value, label)
        self._counts[key] = self._counts.get(key, 0) + amount

    def get(self, name: StrEnum, label: str | None = None) -> int:
        """The count under one label, or under all labels of the name."""
        if label is not None:
            return self._counts.get((name.value, label), 0)
        return sum(count for (counted, _), count in self._counts.items() if counted == name.value)

    def snapshot(self) -> dict[tuple[str, str], int]:
        """A copy: (name, label) -> count, sorted."""
        return dict(sorted(self._counts.items()))
