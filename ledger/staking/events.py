"""What happened to stake and validators in a block. Pure."""

from __future__ import annotations

from primitives.codec import U8, U16, U32, U63, Bytes20, Bytes32, Wire


class ValidatorRegistered(Wire, tag=50):
    """A new validator; it votes once it is ready and its set begins."""

    validator: U32
    operator: Bytes20
    consensus_key: Bytes32


class Bonded(Wire, tag=51):
    """Cash became stake (or arrived by redelegation), for so many shares."""

    validator: U32
    owner: Bytes20
    subaccount: U8
    amount_uusd: U63
    shares: U63


class UnbondingStarted(Wire, tag=52):
    """Stake began its way out: to cash, or to another validator (`target`; 2^32-1 for cash)."""

    validator: U32
    owner: Bytes20
    subaccount: U8
    target: U32
    amount_uusd: U63
    shares: U63


class Unbonded(Wire, tag=53):
    """Stake was paid out as cash."""

    validator: U32
    owner: Bytes20
    subaccount: U8
    amount_uusd: U63


class CommissionSet(Wire, tag=54):
    """From the next epoch on."""

    validator: U32
    commission_ppm: U32


class ReadinessAttested(Wire, tag=55):
    """The validator may be in the sets decided from the end of this epoch on."""

    validator: U32
    epoch: U63


class ValidatorLeft(Wire, tag=56):
    """The validator is in no set decided from the end of this epoch on."""

    validator: U32
    epoch: U63


class KeyRotated(Wire, tag=57):
    """Sets decided from the end of this epoch on have the new consensus key."""

    validator: U32
    consensus_key: Bytes32


class Jailed(Wire, tag=58):
    """Left out of sets and rewards; `reason` is downtime or offence."""

    validator: U32
    reason: str
    until_ns: U63


class Unjailed(Wire, tag=59):
    """May be in sets again."""

    validator: U32


class Slashed(Wire, tag=60):
    """Stake went to the insurance fund; `slashed_ppm` is the whole so far, of the stake before."""

    validator: U32
    epoch: U63
    kind: str
    bonded_uusd: U63
    unbonding_uusd: U63
    slashed_ppm: U32


class Rewarded(Wire, tag=61):
    """One validator's part of an epoch's fees; `withheld` says why it went to the fund instead, "" if not."""

    validator: U32
    epoch: U63
    stake_uusd: U63
    commission_uusd: U63
    withheld: str


class EpochRewarded(Wire, tag=62):
    """The whole of an epoch's fees: to stake, to commissions, and withheld or left over to the fund."""

    epoch: U63
    stake_uusd: U63
    commission_uusd: U63
    fund_uusd: U63


class ValidatorSetChanged(Wire, tag=63):
    """The set of a coming epoch, when it is not that of the epoch before: (place, validator, key, weight)."""

    epoch: U63
    members: tuple[tuple[U16, U32, Bytes32, U32], ...]


class Announced(Wire, tag=64):
    """The validator is reached under this libp2p key and at these addresses from now on."""

    validator: U32
    peer_key: Bytes32
    addresses: tuple[str, ...]


StakingEvent = (
    ValidatorRegistered
    | Bonded
    | UnbondingStarted
    | Unbonded
    | CommissionSet
    | ReadinessAttested
    | ValidatorLeft
    | KeyRotated
    | Jailed
    | Unjailed
    | Slashed
    | Rewarded
    | EpochRewarded
    | ValidatorSetChanged
    | Announced
)
