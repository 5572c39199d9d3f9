"""Why the ledger refuses a staking action, or a block's evidence. Pure."""

from __future__ import annotations

from enum import StrEnum


class StakingReason(StrEnum):
    """Stable codes: used in events, replies and metrics, never renamed."""

    NO_STAKING = "no_staking"
    """This chain's genesis has no staking."""
    UNKNOWN_VALIDATOR = "unknown_validator"
    NOT_OPERATOR = "not_operator"
    """Only the owner that registered the validator may do this."""
    KEY_IN_USE = "key_in_use"
    """The consensus key is, or was, some validator's: evidence must name one."""
    BAD_VALIDATOR_KEY = "bad_validator_key"
    STAKE_TOO_SMALL = "stake_too_small"
    """Below the minimum of a registration, of a delegation, or of a set member."""
    INSUFFICIENT_STAKE = "insufficient_stake"
    """The account has less bonded with this validator."""
    COMMISSION_LIMIT = "commission_limit"
    """Above the highest commission, or raised by more than one epoch allows."""
    TOMBSTONED = "tombstoned"
    """The validator was punished for a proved offence: for good."""
    NOT_JAILED = "not_jailed"
    STILL_JAILED = "still_jailed"
    TOO_EARLY_TO_ATTEST = "too_early_to_attest"
    """Readiness is attested in an epoch after the one of the registration."""
    ALREADY_READY = "already_ready"
    NOT_READY = "not_ready"
    SAME_VALIDATOR = "same_validator"
    """A redelegation to where the stake already is."""
    TOO_MANY_VALIDATORS = "too_many_validators"
    BAD_PEER_ADDRESS = "bad_peer_address"
    """An announced address is none, or is there twice."""
    BAD_PEER_PROOF = "bad_peer_proof"
    """The announced network key has not signed for this validator."""

    # A block that may not be voted for.
    UNKNOWN_OFFENDER = "unknown_offender"
    """Evidence of an epoch to come, or of a validator that its epoch's set does not have."""
    EVIDENCE_TOO_OLD = "evidence_too_old"
    BAD_OBSERVATION = "bad_observation"
    """Signers that the set of the parent's epoch does not have, or out of order."""
