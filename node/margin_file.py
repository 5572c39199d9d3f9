"""A venue's margin parameters in a file: the readable form of MarginParameters. Reads files.

Everything the model does is in these numbers, so another venue's published set is loaded, not programmed;
configs/margin.*.json are examples. Shocks are numbered as ledger.margin.parameters.Shock numbers them.
"""

from __future__ import annotations

from pathlib import Path

from ledger.margin.parameters import MarginParameters
from node.named_form import format_named, from_named, parse_named, to_named
from primitives.errors import OperatorError

FILE_BYTES_MAX = 1024 * 1024
"""A longer file is refused."""


def load_margin_parameters(path: Path) -> MarginParameters:
    """Read and check. Raises OperatorError that names the file and the field."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise OperatorError(f"cannot read the margin parameters {path}: {error.strerror}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise OperatorError(f"the margin parameters {path} are larger than {FILE_BYTES_MAX} bytes")
    try:
        return from_named(MarginParameters, parse_named(raw.decode()))
    except (ValueError, RecursionError) as error:
        raise OperatorError(f"the margin parameters {path} are not readable JSON: {error}") from None
    except OperatorError as error:
        raise OperatorError(f"the margin parameters {path}: {error}") from None


def format_margin_parameters(parameters: MarginParameters) -> str:
    """The text that `load_margin_parameters` reads back."""
    return format_named(to_named(parameters))
