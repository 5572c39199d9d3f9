"""How far a home's consensus keys have signed: read, raised, and carried from home to home. Blocking file I/O.

The home must not be in use: callers hold its lock. A position says that nothing at or below it is ever signed again;
it can be raised and never lowered, so importing what is old does no harm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from consensus.effects import OwnVote, RaisedFloor
from node.safety_journal import SafetyMemory, journaled_position, recover
from node.storage.journal import NO_PLACE
from node.storage.watermark import START, Position, Watermark, append_signed
from primitives.codec import encode
from primitives.errors import OperatorError

FILE_BYTES_MAX = 65_536
"""A longer protection file is refused."""


class SignedUpTo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The highest place at which anything was signed."""

    epoch: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
    view: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class ProtectionFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The interchange form, as JSON (docs/operators.md)."""

    format: Literal["quorate-protection"] = "quorate-protection"
    version: Literal[1] = 1
    chain_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    consensus_keys: list[str]
    """Public keys, hexadecimal, oldest first: this record is about all of them together."""
    signed_up_to: SignedUpTo


def read_protection(path: Path) -> ProtectionFile:
    """Raises OperatorError for a file that cannot be read or is none."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            raise OperatorError(f"{path} is too large for a protection file")
        return msgspec.json.decode(raw, type=ProtectionFile)
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise OperatorError(f"{path} is no protection file: {error}") from None


def write_protection(path: Path, record: ProtectionFile) -> None:
    """Raises OperatorError; never overwrites."""
    try:
        with path.open("xb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    except FileExistsError:
        raise OperatorError(f"{path} exists already and is never overwritten") from None
    except OSError as error:
        raise OperatorError(f"cannot write {path}: {error.strerror}") from None


def signed_position(journal: Path, watermark: Path) -> Position:
    """The highest place that journal and watermark together know of.

    Raises:
        OperatorError: they do not fit each other, so nobody knows.
    """
    memory = recover(journal, watermark)
    try:
        return _position(memory)
    finally:
        _close(memory)


def raise_position(journal: Path, watermark: Path, position: Position) -> Position:
    """Sign nothing at or below `position` any more; returns what is in force then: the higher of old and new.

    A home that has never signed and lost its watermark, or never had one, gets one.

    Raises:
        OperatorError: journal and watermark do not fit each other, or the disk failed.
    """
    memory = recover(journal, watermark)
    try:
        if memory.watermark is None and not memory.records and not watermark.exists():
            Watermark.create(watermark)
            memory = SafetyMemory(memory.journal, Watermark.open(watermark), [], None)
        before = _position(memory)
        if position > before and memory.watermark is not None:
            append_signed(memory.journal, memory.watermark, [encode(RaisedFloor(*position))], position)
        return max(before, position)
    finally:
        _close(memory)


def copy_record(journal: Path, watermark: Path, to_journal: Path, to_watermark: Path) -> Position:
    """Begin a record elsewhere with all that this one knows; returns how far it reaches. Raises OperatorError."""
    memory = recover(journal, watermark)
    try:
        position = _position(memory)
        known = [one for one in memory.records if isinstance(one, OwnVote | RaisedFloor)]
    finally:
        _close(memory)
    Watermark.create(to_watermark)
    made = recover(to_journal, to_watermark)
    try:
        if position != START and made.watermark is not None and made.watermark.place == NO_PLACE:
            append_signed(made.journal, made.watermark, [encode(one) for one in known], position)
    finally:
        _close(made)
    return position


def _position(memory: SafetyMemory) -> Position:
    if memory.watermark is None or memory.observer_reason is not None:
        raise OperatorError(f"nobody knows how far this key has signed: {memory.observer_reason}")
    return max(memory.watermark.signed, journaled_position(memory.records))


def _close(memory: SafetyMemory) -> None:
    memory.journal.close()
    if memory.watermark is not None:
        memory.watermark.close()
