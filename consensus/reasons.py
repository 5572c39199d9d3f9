"""Why consensus refuses a message. Pure."""

from __future__ import annotations

from enum import StrEnum


class ConsensusReason(StrEnum):
    """Refusals of admission and of certificate checks; values are stable and used in metrics."""

    WRONG_CHAIN = "wrong_chain"
    """The header names another chain."""
    WRONG_EPOCH = "wrong_epoch"
    """Signed in another epoch than the one we run."""
    WRONG_VIEW = "wrong_view"
    """View 0, beyond the last usable one, or not the view that the context asks for."""
    WRONG_KIND = "wrong_kind"
    """Not a vote of the three kinds, or not a kind that this certificate may hold."""
    WRONG_SUBJECT = "wrong_subject"
    """A notarize or finalize vote for no block, or a certificate for another block than the context asks for."""
    UNKNOWN_SIGNER = "unknown_signer"
    """An index outside the validator set."""
    UNORDERED_SIGNERS = "unordered_signers"
    """Signers not strictly ascending, repeated, or not one signature each."""
    UNORDERED_REPORTS = "unordered_reports"
    """Report groups not strictly ascending, or one is empty."""
    BELOW_QUORUM = "below_quorum"
    """Less weight than a certificate needs."""
    WRONG_LEADER = "wrong_leader"
    """The proposer does not lead that view, or the proposal lacks its leader's vote."""
    WRONG_PARENT = "wrong_parent"
    """The parent's view is not below the block's, or its certificate is not for exactly that parent."""
    WRONG_SKIPS = "wrong_skips"
    """The skip certificates are not exactly the missing views in order, or one of them carries a block."""
    WRONG_ROOT = "wrong_root"
    """A root in the header does not match the body."""
    NOT_LINKED = "not_linked"
    """Blocks of a response that are not each other's parents, starting from the requested one."""
    NOT_AN_OFFENCE = "not_an_offence"
    """Evidence whose votes an honest validator may sign, or in the wrong order."""
    TOO_MUCH_EVIDENCE = "too_much_evidence"
    """A block with more evidence than its reserved space, or with two pieces about one offender and epoch."""
    WRONG_RANGE = "wrong_range"
    """A request for an empty, inverted or too long range."""
