"""Why an answer to one who catches up is refused. Pure."""

from __future__ import annotations

from enum import StrEnum


class SyncReason(StrEnum):
    """Lies in answers: whoever gave one is dropped, blamed and named. Values are stable and used in metrics."""

    WRONG_PLACE = "sync_wrong_place"
    """Blocks of other heights, or more of them, than were asked for."""
    UNPROVED = "sync_unproved"
    """Blocks or a tip without a certificate."""
    WRONG_EPOCH = "sync_wrong_epoch"
    """An epoch that does not follow from the one before, or is not proved over."""
    WRONG_SNAPSHOT = "sync_wrong_snapshot"
    """A snapshot whose head or state is not of the epoch that the trusted validators lead to."""
    BAD_SIGNATURE = "sync_bad_signature"
    """A certificate with a signature that does not verify."""
