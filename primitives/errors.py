"""The three families of error, and nothing else. Pure."""

from __future__ import annotations

from enum import StrEnum


class ProtocolViolation(Exception):
    """Somebody else is wrong: a peer, a client, a block.

    Raised in pure code before the first change of state and caught once at the edge.
    `reason` is a member of a package's reasons enum; `detail` is one clear sentence for a person.
    """

    def __init__(self, reason: StrEnum, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail


class OperatorError(Exception):
    """The operator can fix it: ends the process with one clear line and no traceback."""


class InvariantViolation(Exception):
    """We are wrong. Never caught: a stopped validator is safe, a wrong one is not."""


def ensure(condition: bool, promise: str) -> None:
    """Stop the process when one of our own promises does not hold (unlike assert, also under -O)."""
    if not condition:
        raise InvariantViolation(promise)
