"""The gateway's bearer tokens and what each may do. Reads the token file."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from primitives.errors import OperatorError

TOKEN_CHARACTERS_MIN = 16


class Right(StrEnum):
    """What a token may do; each includes those before it."""

    READ = "read"
    TRADE = "trade"
    ADMIN = "admin"


class TokenEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the token file; the table's name names the token in logs."""

    token: Annotated[str, msgspec.Meta(min_length=TOKEN_CHARACTERS_MIN, max_length=256)]
    right: Right = Right.TRADE
    units_per_second: Annotated[int, msgspec.Meta(ge=0, le=2**31)] | None = None
    """Its quota; None: the configuration's."""


def read_tokens(path: Path) -> dict[str, TokenEntry]:
    """Named tokens of a file: TOML tables, or one bare token that may do everything. Raises OperatorError."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise OperatorError(f"cannot read the gateway's token file {path}") from None
    try:
        tables = {"token": {"token": text, "right": "admin"}} if "=" not in text else tomllib.loads(text)
        tokens = msgspec.convert(tables, dict[str, TokenEntry])
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise OperatorError(
            f"the token file {path} is not right: {error}; a token has at least {TOKEN_CHARACTERS_MIN} characters"
        ) from None
    if len({entry.token for entry in tokens.values()}) != len(tokens):
        raise OperatorError(f"the token file {path} has one token under two names")
    return tokens
