"""What operators and delegators ask: register, bond, unbond, leave, and return from jail. Pure.

Every check comes before the first change. Stake is the ledger's own cash, one for one: bonding is a transfer
from a sub-account to a pool, so conservation covers it and margin stops counting it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

from msgspec.structs import replace

from ledger.events import CashMoved
from ledger.staking.addresses import parse_address
from ledger.staking.events import (
    Announced,
    Bonded,
    CommissionSet,
    KeyRotated,
    ReadinessAttested,
    UnbondingStarted,
    Unjailed,
    ValidatorLeft,
    ValidatorRegistered,
)
from ledger.staking.pools import add_stake, remove_stake, shares_for, value_of
from ledger.staking.reasons import StakingReason
from ledger.staking.state import (
    KEY_STAKING_TOTALS,
    NO_TARGET,
    Announcement,
    KeyOwner,
    Validator,
    announcement_key,
    consensus_key_key,
    get_delegation,
    get_staking,
    get_totals,
    get_validator,
    is_staking,
    validator_key,
)
from ledger.transactions import (
    Announce,
    AttestReadiness,
    Delegate,
    LeaveValidatorSet,
    Redelegate,
    RegisterValidator,
    RotateConsensusKey,
    SetCommission,
    StakingAction,
    Unbond,
    Unjail,
    peer_proof_bytes,
)
from primitives.errors import ProtocolViolation
from primitives.signing import check_public_key, is_valid

if TYPE_CHECKING:
    from ledger.workspace import OpenAccount, Workspace

STAKING_ACTIONS: tuple[type, ...] = get_args(StakingAction)
REGISTRATIONS_MAX = 65_536
"""Validators ever registered; numbers are not given twice. One more is refused."""


class StakingDesk:
    """Performs the staking actions of one block, one by one."""

    def __init__(self, workspace: Workspace, check_withdrawal: Callable[[OpenAccount, int], None]) -> None:
        """`check_withdrawal` raises when the account's margin would not hold without the amount."""
        self._workspace = workspace
        self._state = workspace.state
        self._parameters = get_staking(workspace.state)
        self._check_withdrawal = check_withdrawal
        self._epoch = self._parameters.epoch_of(workspace.height)

    def perform(self, account: OpenAccount, action: object) -> None:
        """Do what was asked. Raises ProtocolViolation with the reason; then nothing has changed."""
        if not is_staking(self._state):
            raise ProtocolViolation(StakingReason.NO_STAKING, "this chain has no staking")
        match action:
            case RegisterValidator():
                self._register(account, action)
            case Delegate():
                self._delegate(account, action)
            case Unbond():
                self._take_out(account, action, NO_TARGET)
            case Redelegate():
                self._redelegate(account, action)
            case SetCommission():
                self._set_commission(account, action)
            case AttestReadiness():
                self._attest(account, action)
            case LeaveValidatorSet():
                self._leave(account, action)
            case RotateConsensusKey():
                self._rotate(account, action)
            case Unjail():
                self._unjail(account, action)
            case Announce():
                self._announce(account, action)

    # --- stake ---

    def _register(self, account: OpenAccount, action: RegisterValidator) -> None:
        """Raises KEY_IN_USE, BAD_VALIDATOR_KEY, STAKE_TOO_SMALL, COMMISSION_LIMIT and those of a withdrawal."""
        totals, owner = get_totals(self._state), account.key[0]
        if action.stake_uusd < self._parameters.min_stake_uusd:
            raise _too_small(self._parameters.min_stake_uusd)
        if action.commission_ppm > self._parameters.commission_ppm_max:
            raise ProtocolViolation(StakingReason.COMMISSION_LIMIT, "above the highest commission")
        if totals.next_validator >= REGISTRATIONS_MAX:
            raise ProtocolViolation(StakingReason.TOO_MANY_VALIDATORS, f"{REGISTRATIONS_MAX} registrations")
        self._check_new_key(action.consensus_key)
        _check_key(action.oracle_key)
        self._check_withdrawal(account, action.stake_uusd)
        number = totals.next_validator
        self._state.put(KEY_STAKING_TOTALS, replace(totals, next_validator=number + 1))
        self._state.put(consensus_key_key(action.consensus_key), KeyOwner(number))
        self._put(
            Validator(
                number=number,
                operator=owner,
                consensus_key=action.consensus_key,
                oracle_key=action.oracle_key,
                peer_id=action.peer_id,
                stake_uusd=0,
                shares=0,
                commission_ppm=action.commission_ppm,
                next_commission_ppm=action.commission_ppm,
                joined_epoch=self._epoch,
                is_ready=False,
                is_jailed=False,
                jailed_until_ns=0,
                is_tombstoned=False,
            )
        )
        self._workspace.events.append(ValidatorRegistered(number, owner, action.consensus_key))
        self._bond(account, number, action.stake_uusd)

    def _delegate(self, account: OpenAccount, action: Delegate) -> None:
        """Raises UNKNOWN_VALIDATOR, TOMBSTONED, STAKE_TOO_SMALL and those of a withdrawal."""
        validator = self._standing(action.validator)
        if action.amount_uusd < self._parameters.min_delegation_uusd or not shares_for(
            validator, action.amount_uusd
        ):
            raise _too_small(self._parameters.min_delegation_uusd)
        self._check_withdrawal(account, action.amount_uusd)
        self._bond(account, action.validator, action.amount_uusd)

    def _bond(self, account: OpenAccount, number: int, amount_uusd: int) -> None:
        self._workspace.add_cash(account, -amount_uusd)
        self._workspace.events.append(CashMoved(*account.key, -amount_uusd, "bond"))
        shares = add_stake(self._state, number, account.key, amount_uusd)
        self._workspace.events.append(Bonded(number, *account.key, amount_uusd, shares))

    def _redelegate(self, account: OpenAccount, action: Redelegate) -> None:
        """Raises SAME_VALIDATOR, those of _standing for the target, and those of _take_out."""
        if action.target == action.validator:
            raise ProtocolViolation(StakingReason.SAME_VALIDATOR, "the stake is there already")
        self._standing(action.target)
        self._take_out(account, action, action.target)

    def _take_out(self, account: OpenAccount, action: Unbond | Redelegate, target: int) -> None:
        """Raises UNKNOWN_VALIDATOR, INSUFFICIENT_STAKE, STAKE_TOO_SMALL."""
        validator = self._validator(action.validator)
        delegation = get_delegation(self._state, action.validator, account.key)
        value_uusd = 0 if delegation is None else value_of(validator, delegation.shares)
        if action.amount_uusd > value_uusd:
            raise ProtocolViolation(
                StakingReason.INSUFFICIENT_STAKE, f"{value_uusd} micro-USD are bonded here"
            )
        if action.amount_uusd < min(value_uusd, self._parameters.min_delegation_uusd):
            raise _too_small(self._parameters.min_delegation_uusd)
        shares, residue_uusd = remove_stake(
            self._workspace, action.validator, account.key, action.amount_uusd, target
        )
        self._workspace.supply["fund_uusd"] += residue_uusd
        self._workspace.events.append(
            UnbondingStarted(action.validator, *account.key, target, action.amount_uusd, shares)
        )

    # --- what operators say ---

    def _set_commission(self, account: OpenAccount, action: SetCommission) -> None:
        """Raises COMMISSION_LIMIT and those of _operated."""
        validator = self._operated(account, action.validator)
        highest = min(
            self._parameters.commission_ppm_max,
            validator.commission_ppm + self._parameters.commission_rise_ppm_max,
        )
        if action.commission_ppm > highest:
            raise ProtocolViolation(StakingReason.COMMISSION_LIMIT, f"at most {highest} ppm for now")
        self._put(replace(validator, next_commission_ppm=action.commission_ppm))
        self._workspace.events.append(CommissionSet(action.validator, action.commission_ppm))

    def _attest(self, account: OpenAccount, action: AttestReadiness) -> None:
        """Raises ALREADY_READY, TOO_EARLY_TO_ATTEST, TOMBSTONED and those of _operated."""
        validator = self._operated(account, action.validator)
        _check_standing(validator)
        if validator.is_ready:
            raise ProtocolViolation(StakingReason.ALREADY_READY, "readiness was attested before")
        if self._epoch <= validator.joined_epoch:
            raise ProtocolViolation(
                StakingReason.TOO_EARLY_TO_ATTEST, f"in an epoch after {validator.joined_epoch}"
            )
        self._put(replace(validator, is_ready=True))
        self._workspace.events.append(ReadinessAttested(action.validator, self._epoch))

    def _leave(self, account: OpenAccount, action: LeaveValidatorSet) -> None:
        """Raises NOT_READY and those of _operated."""
        validator = self._operated(account, action.validator)
        if not validator.is_ready:
            raise ProtocolViolation(StakingReason.NOT_READY, "the validator is in no coming set")
        self._put(replace(validator, is_ready=False, joined_epoch=self._epoch))
        self._workspace.events.append(ValidatorLeft(action.validator, self._epoch))

    def _rotate(self, account: OpenAccount, action: RotateConsensusKey) -> None:
        """Raises KEY_IN_USE, BAD_VALIDATOR_KEY, TOMBSTONED and those of _operated."""
        validator = self._operated(account, action.validator)
        _check_standing(validator)
        self._check_new_key(action.consensus_key)
        self._state.put(consensus_key_key(action.consensus_key), KeyOwner(action.validator))
        self._put(replace(validator, consensus_key=action.consensus_key))
        self._workspace.events.append(KeyRotated(action.validator, action.consensus_key))

    def _unjail(self, account: OpenAccount, action: Unjail) -> None:
        """Raises NOT_JAILED, TOMBSTONED, STILL_JAILED, STAKE_TOO_SMALL and those of _operated."""
        validator = self._operated(account, action.validator)
        if not validator.is_jailed:
            raise ProtocolViolation(StakingReason.NOT_JAILED, "the validator is not in jail")
        _check_standing(validator)
        if self._workspace.time_ns < validator.jailed_until_ns:
            raise ProtocolViolation(StakingReason.STILL_JAILED, f"until {validator.jailed_until_ns}")
        if validator.stake_uusd < self._parameters.min_stake_uusd:
            raise _too_small(self._parameters.min_stake_uusd)
        self._put(replace(validator, is_jailed=False, jailed_until_ns=0))
        self._workspace.events.append(Unjailed(action.validator))

    def _announce(self, account: OpenAccount, action: Announce) -> None:
        """Raises BAD_VALIDATOR_KEY, BAD_PEER_ADDRESS, BAD_PEER_PROOF and those of _operated."""
        self._operated(account, action.validator)
        _check_key(action.peer_key)
        if len(set(action.addresses)) != len(action.addresses):
            raise ProtocolViolation(StakingReason.BAD_PEER_ADDRESS, "an address is there twice")
        for address in action.addresses:
            parse_address(address)
        proved = peer_proof_bytes(self._state.chain_id, account.key[0], action.validator)
        if not is_valid(action.peer_key, proved, action.proof):
            raise ProtocolViolation(
                StakingReason.BAD_PEER_PROOF, "the network key has not signed for this validator"
            )
        self._state.put(announcement_key(action.validator), Announcement(action.peer_key, action.addresses))
        self._workspace.events.append(Announced(action.validator, action.peer_key, action.addresses))

    # --- checks ---

    def _put(self, validator: Validator) -> None:
        self._state.put(validator_key(validator.number), validator)

    def _validator(self, number: int) -> Validator:
        found = get_validator(self._state, number)
        if found is None:
            raise ProtocolViolation(StakingReason.UNKNOWN_VALIDATOR, f"no validator {number}")
        return found

    def _standing(self, number: int) -> Validator:
        """One that may take stake. Raises UNKNOWN_VALIDATOR, TOMBSTONED."""
        validator = self._validator(number)
        _check_standing(validator)
        return validator

    def _operated(self, account: OpenAccount, number: int) -> Validator:
        """One's own. Raises UNKNOWN_VALIDATOR, NOT_OPERATOR."""
        validator = self._validator(number)
        if validator.operator != account.key[0]:
            raise ProtocolViolation(StakingReason.NOT_OPERATOR, f"validator {number} has another operator")
        return validator

    def _check_new_key(self, key: bytes) -> None:
        _check_key(key)
        if self._state.leaves.get(consensus_key_key(key)) is not None:
            raise ProtocolViolation(StakingReason.KEY_IN_USE, "the key is or was some validator's")


def _check_standing(validator: Validator) -> None:
    if validator.is_tombstoned:
        raise ProtocolViolation(StakingReason.TOMBSTONED, f"validator {validator.number} is out for good")


def _check_key(key: bytes) -> None:
    try:
        check_public_key(key)
    except ProtocolViolation as violation:
        raise ProtocolViolation(StakingReason.BAD_VALIDATOR_KEY, violation.detail) from None


def _too_small(least_uusd: int) -> ProtocolViolation:
    return ProtocolViolation(StakingReason.STAKE_TOO_SMALL, f"at least {least_uusd} micro-USD")
