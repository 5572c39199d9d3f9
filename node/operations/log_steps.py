"""One transaction's steps in the logs of several nodes (node/tracing.py writes them). Reads files."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from node.tracing import SHOWN_BYTES
from primitives.errors import OperatorError

PREFIX_DIGITS_MIN = 8


class _Line(msgspec.Struct, frozen=True):
    """The part of a log line that tells a step; other lines lack something of it."""

    event: str
    timestamp: datetime
    stage: str
    transactions: list[str]
    node: str = ""
    height: int | None = None
    reason: str | None = None


class Step(msgspec.Struct, frozen=True, order=True):
    """One stage reached at one node; `rest` is what else its line says."""

    time: datetime
    node: str
    stage: str
    rest: str


def read_steps(transaction: str, logs: Iterable[Path]) -> list[Step]:
    """Every step of one transaction, oldest first.

    Raises:
        OperatorError: too short or no hexadecimal id, or a log that cannot be read.
    """
    prefix = transaction.lower().removeprefix("0x")[: 2 * SHOWN_BYTES]
    if len(prefix) < PREFIX_DIGITS_MIN or set(prefix) - set("0123456789abcdef"):
        raise OperatorError(
            f"{transaction!r} is no transaction id: give at least {PREFIX_DIGITS_MIN} hexadecimal digits"
        )
    decoder = msgspec.json.Decoder(_Line)
    steps = []
    for path in logs:
        try:
            with path.open("rb") as file:
                lines = [line for line in file if b'"trace"' in line and prefix.encode() in line]
        except OSError as error:
            raise OperatorError(f"cannot read the log {path}: {error.strerror}") from None
        for raw in lines:
            try:
                line = decoder.decode(raw)
            except msgspec.MsgspecError:
                continue  # torn by a crash, or a line that only mentions the digits
            if line.event == "trace" and any(item.startswith(prefix) for item in line.transactions):
                rest = [f"height {line.height}"] if line.height is not None else []
                steps.append(
                    Step(line.timestamp, line.node, line.stage, " ".join([*rest, line.reason or ""]).strip())
                )
    return sorted(steps)
