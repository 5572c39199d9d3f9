"""Why a breaker refuses an action. Pure."""

from __future__ import annotations

from enum import StrEnum


class BreakerReason(StrEnum):
    """Stable codes: used in events, replies and metrics, never renamed."""

    TRADING_HALTED = "trading_halted"
    """After a halt, until prices are fresh: only cancels and deposits."""
    ONLY_RESTING = "only_resting"
    """While orders are collected for an auction only good-till-cancelled orders are taken."""
    MATCHING_PAUSED = "matching_paused"
    """Packages do not change hands while the matching of one of their underlyings pauses."""
    LIQUIDATIONS_PAUSED = "liquidations_paused"
    """Nothing of this account is sold while the marks of what it holds are in doubt."""
