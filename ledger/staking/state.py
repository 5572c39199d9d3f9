"""The leaves of staking, all under the letter k, and how they are read and written. Pure.

A validator is known by its number, given in order of registration and never again; consensus knows it by its
place. A validator's stake is a pool in which delegations hold shares: rewards and slashing
change what a share is worth, and touch no delegation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from ledger.matching.orders import AccountKey
from ledger.staking.parameters import WINDOW_BUCKETS, StakingParameters
from primitives.codec import U8, U16, U32, U63, Bytes20, Bytes32, Wire
from primitives.errors import ensure

if TYPE_CHECKING:
    from ledger.state import State

KEY_STAKING_PARAMETERS = b"kp"
KEY_STAKING_TOTALS = b"kt"
KEY_DELAYS_COUNTED = b"kh"
KEY_REPORTERS = b"kr"
NO_TARGET = 2**32 - 1
"""In place of a validator's number: the stake is paid out."""


class StakingTotals(Wire):
    """Money that staking holds, and the next validator's number."""

    staked_uusd: U63
    unbonding_uusd: U63
    rewards_uusd: U63
    """Fees of this epoch that are not distributed yet."""
    next_validator: U32


class Validator(Wire):
    """One validator's pool, keys and standing. Its stake at work is stake_uusd; unbonding stake is apart."""

    number: U32
    operator: Bytes20
    consensus_key: Bytes32
    oracle_key: Bytes32
    peer_id: str
    stake_uusd: U63
    shares: U63
    commission_ppm: U32
    next_commission_ppm: U32
    """Applies from the next epoch on."""
    joined_epoch: U63
    """When it registered, or last left."""
    is_ready: bool
    """Has attested that it is synchronised, and has not left since."""
    is_jailed: bool
    jailed_until_ns: U63
    is_tombstoned: bool


class Delegation(Wire):
    """Shares of one sub-account in one validator's pool (never 0)."""

    validator: U32
    owner: Bytes20
    subaccount: U8
    shares: U63


class Unbonding(Wire):
    """Stake on its way out: liable for offences up to SET_NOTICE_EPOCHS after `started_epoch`, earns nothing."""

    validator: U32
    owner: Bytes20
    subaccount: U8
    target: U32
    """The validator that it goes to, or NO_TARGET."""
    amount_uusd: U63
    started_epoch: U63
    started_ns: U63


class SetMember(Wire):
    """One validator in an epoch's set; the stake is what it had when the set was decided.

    `place` is what consensus calls its index: the same in every set that is kept, so that an index names one
    validator in all evidence. It is given anew only when no kept set has it any more.
    """

    place: U16
    validator: U32
    consensus_key: Bytes32
    weight: U32
    stake_uusd: U63


class EpochSet(Wire):
    """The validators of one epoch, by place; kept while evidence of the epoch is taken."""

    epoch: U63
    members: tuple[SetMember, ...]
    closed_ns: U63
    """Market time of the epoch's last block, 0 before."""
    version: U16
    """The protocol version of the epoch's blocks."""

    def member_at(self, place: int) -> SetMember | None:
        """Who has a place, or None."""
        return next((item for item in self.members if item.place == place), None)


class Punishment(Wire):
    """What a validator was punished for: epochs ascending, each once, with the worst kind seen."""

    offences: tuple[tuple[U63, str], ...]
    stake_ppm: U32
    """Its share of the set's stake in the epoch of its first offence, rounded up: what counts as offending."""
    slashed_ppm: U32
    """Taken so far, as a part of the stake before the first punishment."""


Tally = tuple[tuple[U63, U32], ...]
"""(bucket, count), ascending: a counter over a sliding window of blocks."""


class Activity(Wire):
    """What a validator did in the sliding window."""

    missed: Tally
    """Parent certificates without its vote."""
    led: Tally
    """Proposals of its own whose delay is known."""
    late: Tally
    """Those that came late."""
    outside: Tally
    """Oracle reports off the agreed median."""
    leader_delay_ppm: U32
    """Smoothed delay of its proposals in ppm of the view timer: 15 parts old, one part new, rounded down."""


class KeyOwner(Wire):
    """Whose consensus key it is or was; kept for good, so that no key ever names two validators."""

    validator: U32


class Announcement(Wire):
    """Where a validator says that it is reached; replaced by the next one."""

    peer_key: Bytes32
    """Of its libp2p identity, which has signed for this validator."""
    addresses: tuple[str, ...]


class DelaysCounted(Wire):
    """The highest height whose proposals' delays are counted: each is counted once."""

    height: U63


class Reporters(Wire):
    """The running epoch's validators as the oracle's reporters: (number, oracle key, weight), ascending."""

    reporters: tuple[tuple[U32, Bytes32, U32], ...]


NO_ACTIVITY = Activity((), (), (), (), 0)
LEAF_KINDS: dict[int, type[Wire]] = {
    ord("a"): Activity,
    ord("d"): Delegation,
    ord("e"): EpochSet,
    ord("h"): DelaysCounted,
    ord("k"): KeyOwner,
    ord("n"): Announcement,
    ord("o"): Punishment,
    ord("p"): StakingParameters,
    ord("r"): Reporters,
    ord("t"): StakingTotals,
    ord("u"): Unbonding,
    ord("v"): Validator,
}
"""By a key's second letter."""

T = TypeVar("T")


def validator_key(number: int) -> bytes:
    """b"kv", validator."""
    return b"kv" + number.to_bytes(4, "big")


def activity_key(number: int) -> bytes:
    """b"ka", validator."""
    return b"ka" + number.to_bytes(4, "big")


def punishment_key(number: int) -> bytes:
    """b"ko", validator."""
    return b"ko" + number.to_bytes(4, "big")


def epoch_key(epoch: int) -> bytes:
    """b"ke", epoch."""
    return b"ke" + epoch.to_bytes(8, "big")


def consensus_key_key(key: bytes) -> bytes:
    """b"kk", consensus key."""
    return b"kk" + key


def announcement_key(number: int) -> bytes:
    """b"kn", validator."""
    return b"kn" + number.to_bytes(4, "big")


def delegation_key(number: int, account: AccountKey) -> bytes:
    """b"kd", validator, owner, sub-account."""
    return b"kd" + number.to_bytes(4, "big") + account[0] + bytes((account[1],))


def unbonding_key(entry: Unbonding) -> bytes:
    """b"ku", validator, owner, sub-account, target, epoch of the start: equal ones are one entry."""
    return b"".join(
        (
            b"ku",
            entry.validator.to_bytes(4, "big"),
            entry.owner,
            bytes((entry.subaccount,)),
            entry.target.to_bytes(4, "big"),
            entry.started_epoch.to_bytes(8, "big"),
        )
    )


def is_staking(state: State) -> bool:
    """Whether this chain has staking at all."""
    return bool(state.genesis.staking.validators)


def get_staking(state: State) -> StakingParameters:
    """The numbers in force. What no vote can change (epochs, windows, unbonding, evidence) is as in genesis."""
    found: StakingParameters | None = state.leaves.get(KEY_STAKING_PARAMETERS)
    return state.genesis.staking if found is None else found


def get_totals(state: State) -> StakingTotals:
    """The sums; zeros on a chain without staking."""
    found: StakingTotals | None = state.leaves.get(KEY_STAKING_TOTALS)
    return StakingTotals(0, 0, 0, 0) if found is None else found


def get_validator(state: State, number: int) -> Validator | None:
    """By number, or None."""
    found: Validator | None = state.leaves.get(validator_key(number))
    return found


def existing_validator(state: State, number: int) -> Validator:
    """One that must exist."""
    found = get_validator(state, number)
    ensure(found is not None, "a validator with stake or duties has its leaf")
    assert found is not None
    return found


def get_delegation(state: State, number: int, account: AccountKey) -> Delegation | None:
    """A sub-account's shares in one pool, or None."""
    found: Delegation | None = state.leaves.get(delegation_key(number, account))
    return found


def get_epoch_set(state: State, epoch: int) -> EpochSet | None:
    """The set of an epoch that is decided and not forgotten, or None."""
    found: EpochSet | None = state.leaves.get(epoch_key(epoch))
    return found


def get_activity(state: State, number: int) -> Activity:
    """What a validator did lately."""
    found: Activity | None = state.leaves.get(activity_key(number))
    return NO_ACTIVITY if found is None else found


def get_announcement(state: State, number: int) -> Announcement | None:
    """Where a validator is reached, or None before it has announced it."""
    found: Announcement | None = state.leaves.get(announcement_key(number))
    return found


def get_punishment(state: State, number: int) -> Punishment | None:
    """What a validator was punished for, or None."""
    found: Punishment | None = state.leaves.get(punishment_key(number))
    return found


def scan(state: State, prefix: bytes) -> list[Any]:
    """Every leaf under a prefix, by key. Walks all keys of the state: for epoch ends, slashing and questions."""
    keys = sorted(key for key in state.leaves.values if key.startswith(prefix))
    return [state.leaves.values[key] for key in keys]


def change_totals(state: State, *, staked: int = 0, unbonding: int = 0, rewards: int = 0) -> None:
    """Move the sums (micro-USD, signed); the other side of the entry is the caller's."""
    totals = get_totals(state)
    changed = replace(
        totals,
        staked_uusd=totals.staked_uusd + staked,
        unbonding_uusd=totals.unbonding_uusd + unbonding,
        rewards_uusd=totals.rewards_uusd + rewards,
    )
    ensure(
        min(changed.staked_uusd, changed.unbonding_uusd, changed.rewards_uusd) >= 0,
        "staking never owes money",
    )
    state.put(KEY_STAKING_TOTALS, changed)


def count(tally: Tally, height: int, parameters: StakingParameters) -> Tally:
    """The tally with one more at a height; buckets that have left the window are dropped."""
    bucket = _bucket(height, parameters)
    kept = {number: times for number, times in tally if number > bucket - WINDOW_BUCKETS}
    kept[bucket] = kept.get(bucket, 0) + 1
    return tuple(sorted(kept.items()))


def counted(tally: Tally, height: int, parameters: StakingParameters) -> int:
    """How many were counted in the window that ends at a height."""
    first = _bucket(height, parameters) - WINDOW_BUCKETS + 1
    return sum(times for number, times in tally if number >= first)


def _bucket(height: int, parameters: StakingParameters) -> int:
    return height * WINDOW_BUCKETS // parameters.window_blocks
