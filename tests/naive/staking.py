"""Stake: pools with shares, what operators say, and stake on its way out. Pure.

`docs/spec/staking.md` by the letter: every sum is added up anew, every window looked through from the start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger import transactions as wire
from ledger.staking import events
from ledger.staking.addresses import parse_address
from ledger.staking.state import NO_TARGET, Announcement, EpochSet, SetMember, Unbonding
from primitives.errors import ProtocolViolation
from primitives.signing import check_public_key, is_valid
from tests.naive.account import AccountKey
from tests.naive.sent import Sent
from tests.naive.withdrawals import why_not_withdrawn

if TYPE_CHECKING:
    from ledger.staking.parameters import StakingParameters
    from tests.naive.ledger import NaiveLedger

REGISTRATIONS_MAX = 65_536


@dataclass
class NaiveValidator:
    """One validator; `missed`, `led`, `late` and `outside` are the heights at which each was counted."""

    number: int
    operator: bytes
    consensus_key: bytes
    oracle_key: bytes
    peer_id: str
    commission_ppm: int
    next_commission_ppm: int
    joined_epoch: int = 0
    is_ready: bool = False
    is_jailed: bool = False
    jailed_until_ns: int = 0
    is_tombstoned: bool = False
    stake_uusd: int = 0
    shares: dict[AccountKey, int] = field(default_factory=dict)
    counts: dict[str, list[int]] = field(default_factory=dict)
    delay_ppm: int = 0
    offences: dict[int, str] = field(default_factory=dict)
    offender_ppm: int = 0
    slashed_ppm: int = 0
    announced: Announcement | None = None

    @property
    def all_shares(self) -> int:
        """Of everybody."""
        return sum(self.shares.values())

    def value_uusd(self, key: AccountKey) -> int:
        """What an account's shares are worth, rounded down."""
        held = self.shares.get(key, 0)
        return held * self.stake_uusd // self.all_shares if held else 0

    def shares_for(self, amount: int) -> int:
        """What an amount buys, rounded down; a pool with shares and no stake takes none."""
        if not self.shares:
            return amount
        return amount * self.all_shares // self.stake_uusd if self.stake_uusd else 0

    def add(self, key: AccountKey, amount: int) -> int:
        """Stake in; the shares bought."""
        bought = self.shares_for(amount)
        self.shares[key] = self.shares.get(key, 0) + bought
        self.stake_uusd += amount
        return bought


@dataclass
class NaiveStaking:
    """All validators by number, sets by epoch, unbondings by (validator, account, target, epoch)."""

    rules: StakingParameters
    validators: list[NaiveValidator] = field(default_factory=list)
    sets: dict[int, EpochSet] = field(default_factory=dict)
    unbonding: dict[tuple[int, AccountKey, int, int], Unbonding] = field(default_factory=dict)
    rewards_uusd: int = 0
    keys: dict[bytes, int] = field(default_factory=dict)
    delays_height: int = 0
    reporters: list[tuple[int, bytes, int]] | None = None
    """None: genesis' reporters."""

    def find(self, number: int) -> NaiveValidator | None:
        """By number."""
        return self.validators[number] if number < len(self.validators) else None


def genesis_staking(ledger: NaiveLedger) -> NaiveStaking | None:
    """What genesis lists; None for a chain without staking."""
    rules, staking = ledger.genesis.staking, NaiveStaking(ledger.genesis.staking)
    members = []
    for number, entry in enumerate(rules.validators):
        commission = entry.commission_ppm
        item = NaiveValidator(
            number,
            entry.operator,
            entry.consensus_key,
            entry.oracle_key,
            entry.peer_id,
            commission,
            commission,
            is_ready=True,
        )
        item.add((entry.operator, 0), entry.stake_uusd)
        staking.validators.append(item)
        staking.keys[entry.consensus_key] = number
        weight = ledger.genesis.reporters[number].weight
        members.append(member_of(number, item, weight))
    version = ledger.genesis.protocol.version
    staking.sets = {epoch: EpochSet(epoch, tuple(members), 0, version) for epoch in (0, 1)}
    return staking if members else None


def member_of(place: int, item: NaiveValidator, weight: int) -> SetMember:
    """A validator as a member of a set."""
    return SetMember(place, item.number, item.consensus_key, weight, item.stake_uusd)


# --- actions ---

STAKING = (
    wire.RegisterValidator,
    wire.Delegate,
    wire.Unbond,
    wire.Redelegate,
    wire.SetCommission,
    wire.AttestReadiness,
    wire.LeaveValidatorSet,
    wire.RotateConsensusKey,
    wire.Unjail,
    wire.Announce,
)


def perform(ledger: NaiveLedger, sent: Sent, action: object) -> str | None:  # noqa: PLR0911
    """One staking action, or why it is refused."""
    staking, key = ledger.staking, sent.key
    if staking is None:
        return "no_staking"
    if isinstance(action, wire.RegisterValidator):
        return _register(ledger, staking, key, action)
    assert isinstance(action, STAKING)
    item = staking.find(action.validator)
    if isinstance(action, wire.Redelegate):
        target = staking.find(action.target)
        if action.target == action.validator:
            return "same_validator"
        if target is None:
            return "unknown_validator"
        if target.is_tombstoned:
            return "tombstoned"
    if item is None:
        return "unknown_validator"
    if isinstance(action, wire.Delegate):
        return _delegate(ledger, item, key, action.amount_uusd)
    if isinstance(action, wire.Unbond):
        return _take_out(ledger, staking, item, key, action.amount_uusd, NO_TARGET)
    if isinstance(action, wire.Redelegate):
        return _take_out(ledger, staking, item, key, action.amount_uusd, action.target)
    if item.operator != key[0]:
        return "not_operator"
    return _operate(ledger, staking, item, action)


def _register(
    ledger: NaiveLedger, staking: NaiveStaking, key: AccountKey, action: wire.RegisterValidator
) -> str | None:
    rules = staking.rules
    if action.stake_uusd < rules.min_stake_uusd:
        return "stake_too_small"
    if action.commission_ppm > rules.commission_ppm_max:
        return "commission_limit"
    if len(staking.validators) >= REGISTRATIONS_MAX:
        return "too_many_validators"
    if not _is_key(action.consensus_key):
        return "bad_validator_key"
    if action.consensus_key in staking.keys:
        return "key_in_use"
    if not _is_key(action.oracle_key):
        return "bad_validator_key"
    if reason := why_not_withdrawn(ledger, key, action.stake_uusd):
        return reason
    number = len(staking.validators)
    commission, epoch = action.commission_ppm, rules.epoch_of(ledger.height)
    keys = (action.consensus_key, action.oracle_key)
    item = NaiveValidator(number, key[0], *keys, action.peer_id, commission, commission, epoch)
    staking.validators.append(item)
    staking.keys[action.consensus_key] = number
    ledger.events.append(events.ValidatorRegistered(number, key[0], action.consensus_key))
    _bond(ledger, item, key, action.stake_uusd)
    return None


def _is_key(key: bytes) -> bool:
    try:
        check_public_key(key)
    except ProtocolViolation:
        return False
    return True


def _delegate(ledger: NaiveLedger, item: NaiveValidator, key: AccountKey, amount: int) -> str | None:
    if item.is_tombstoned:
        return "tombstoned"
    assert ledger.staking is not None
    if amount < ledger.staking.rules.min_delegation_uusd or not item.shares_for(amount):
        return "stake_too_small"
    if reason := why_not_withdrawn(ledger, key, amount):
        return reason
    _bond(ledger, item, key, amount)
    return None


def _bond(ledger: NaiveLedger, item: NaiveValidator, key: AccountKey, amount: int) -> None:
    ledger.move_cash(key, -amount, "bond")
    ledger.events.append(events.Bonded(item.number, *key, amount, item.add(key, amount)))


def _take_out(
    ledger: NaiveLedger,
    staking: NaiveStaking,
    item: NaiveValidator,
    key: AccountKey,
    amount: int,
    target: int,
) -> str | None:
    """Shares out of the pool, rounded up; all of them for the whole value. What a last share leaves: the fund's."""
    value = item.value_uusd(key)
    if amount > value:
        return "insufficient_stake"
    if amount < min(value, staking.rules.min_delegation_uusd):
        return "stake_too_small"
    sold = item.shares[key] if amount == value else -(-amount * item.all_shares // item.stake_uusd)
    item.shares[key] -= sold
    item.stake_uusd -= amount
    if not item.shares[key]:
        del item.shares[key]
    if not item.shares:
        ledger.supply["fund_uusd"] += item.stake_uusd
        item.stake_uusd = 0
    epoch = staking.rules.epoch_of(ledger.height)
    name = (item.number, key, target, epoch)
    old = staking.unbonding.get(name)
    if old is None:
        staking.unbonding[name] = Unbonding(item.number, *key, target, amount, epoch, ledger.time_ns)
    else:
        both = old.amount_uusd + amount
        staking.unbonding[name] = replace(old, amount_uusd=both, started_ns=ledger.time_ns)
    ledger.events.append(events.UnbondingStarted(item.number, *key, target, amount, sold))
    return None


def _operate(ledger: NaiveLedger, staking: NaiveStaking, item: NaiveValidator, action: object) -> str | None:
    """What only the operator asks."""
    epoch, number = staking.rules.epoch_of(ledger.height), item.number
    if isinstance(action, wire.SetCommission):
        highest = item.commission_ppm + staking.rules.commission_rise_ppm_max
        if action.commission_ppm > min(highest, staking.rules.commission_ppm_max):
            return "commission_limit"
        item.next_commission_ppm = action.commission_ppm
        ledger.events.append(events.CommissionSet(number, action.commission_ppm))
    elif isinstance(action, wire.AttestReadiness):
        if item.is_tombstoned:
            return "tombstoned"
        if item.is_ready:
            return "already_ready"
        if epoch <= item.joined_epoch:
            return "too_early_to_attest"
        item.is_ready = True
        ledger.events.append(events.ReadinessAttested(number, epoch))
    elif isinstance(action, wire.LeaveValidatorSet):
        if not item.is_ready:
            return "not_ready"
        item.is_ready, item.joined_epoch = False, epoch
        ledger.events.append(events.ValidatorLeft(number, epoch))
    elif isinstance(action, wire.RotateConsensusKey):
        return _rotate(ledger, staking, item, action.consensus_key)
    elif isinstance(action, wire.Unjail):
        return _unjail(ledger, staking, item)
    elif isinstance(action, wire.Announce):
        return _announce(ledger, item, action)
    return None


def _rotate(ledger: NaiveLedger, staking: NaiveStaking, item: NaiveValidator, key: bytes) -> str | None:
    if item.is_tombstoned:
        return "tombstoned"
    if not _is_key(key):
        return "bad_validator_key"
    if key in staking.keys:
        return "key_in_use"
    staking.keys[key] = item.number
    item.consensus_key = key
    ledger.events.append(events.KeyRotated(item.number, key))
    return None


def _unjail(ledger: NaiveLedger, staking: NaiveStaking, item: NaiveValidator) -> str | None:
    if not item.is_jailed:
        return "not_jailed"
    if item.is_tombstoned:
        return "tombstoned"
    if ledger.time_ns < item.jailed_until_ns:
        return "still_jailed"
    if item.stake_uusd < staking.rules.min_stake_uusd:
        return "stake_too_small"
    item.is_jailed, item.jailed_until_ns = False, 0
    ledger.events.append(events.Unjailed(item.number))
    return None


def _announce(ledger: NaiveLedger, item: NaiveValidator, action: wire.Announce) -> str | None:
    if not _is_key(action.peer_key):
        return "bad_validator_key"
    try:
        for address in action.addresses:
            parse_address(address)
    except ProtocolViolation:
        return "bad_peer_address"
    if len(set(action.addresses)) < len(action.addresses):
        return "bad_peer_address"
    words = b"QUORATE-PEER-1" + ledger.chain_id + item.operator + item.number.to_bytes(4, "big")
    if not is_valid(action.peer_key, words, action.proof):
        return "bad_peer_proof"
    item.announced = Announcement(action.peer_key, action.addresses)
    ledger.events.append(events.Announced(item.number, action.peer_key, action.addresses))
    return None
