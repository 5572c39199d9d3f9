"""Follows transactions through the stages of one node, as debug lines of its log. Writes the log.

Every line carries the first half of each id under `transactions`; `quorate trace` puts the lines of several nodes
together. At any level above debug this costs two microseconds a call.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import structlog

SHOWN_BYTES = 16
"""Of an id of 32: enough to be unique, short enough to read."""
STAGES = ("submitted", "received", "refused", "proposed", "notarized", "final")
"""From our own client; from another validator; by admission; into a block of ours; a quorum voted; for good."""

log = structlog.get_logger()


def trace(stage: str, transaction_ids: Iterable[bytes], **pairs: object) -> None:
    """Say that these transactions have reached one of STAGES; `pairs` such as height come along."""
    if log.is_enabled_for(logging.DEBUG):
        shown = [item[:SHOWN_BYTES].hex() for item in transaction_ids]
        if shown:
            log.debug("trace", stage=stage, transactions=shown, **pairs)
