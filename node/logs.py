"""One event with key-value pairs per line, as JSON. Writes a file or standard error."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import structlog

from primitives.errors import OperatorError

LEVELS = ("debug", "info", "warning", "error", "critical")
_ENCODER = msgspec.json.Encoder(enc_hook=repr)


def configure_logs(level: str, path: Path | None, **context: Any) -> None:
    """Send every later log line of this process to `path` (appended), or to standard error when it is None.

    Args:
        level: one of LEVELS; lines below it are dropped.
        context: pairs that every line carries, such as the node's name.

    Raises:
        OperatorError: the file cannot be opened.
    """
    stream = sys.stderr.buffer if path is None else _open(path)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_serialize),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.BytesLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**context)


def _open(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise OperatorError(f"cannot write the log file {path}: {error.strerror}") from None


def _serialize(event: Any, **_: Any) -> bytes:
    return _ENCODER.encode(event)
