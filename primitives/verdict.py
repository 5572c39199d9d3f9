"""What admission says about one message. Pure."""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """ACCEPT passes it on, IGNORE drops it without blame, REJECT drops it and blames the sender."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"
