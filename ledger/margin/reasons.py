"""Why the margin model refuses. Pure."""

from __future__ import annotations

from enum import StrEnum


class MarginReason(StrEnum):
    """Values are stable and used in metrics and replies."""

    BAD_PARAMETERS = "bad_margin_parameters"
    """A margin parameter outside its stated range."""
    POSITION_LIMIT = "position_limit"
    """An account's gross lots would pass what one account may hold."""
    CASH_LIMIT = "cash_limit"
    """An amount too large for exact 64-bit arithmetic."""
