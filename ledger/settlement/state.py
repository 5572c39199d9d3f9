"""The waterfall's own leaves, under "x" and a second letter. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.matching.orders import AccountKey
from ledger.settlement.parameters import ProtectionParameters, ProtocolParameters
from primitives.codec import I64, U8, U32, U63, Bytes20, Wire
from primitives.hashing import digest

if TYPE_CHECKING:
    from ledger.state import State

KEY_EXPOSURE = b"xe"
KEY_GOVERNANCE = b"xg"
KEY_PROTECTION = b"xp"
KEY_PROTOCOL = b"xv"
KEY_SCHEDULE = b"xn"
VAULT_KEY: AccountKey = (digest(b"quorate-account", b"backstop vault")[:20], 0)
"""The protocol's own account; nobody has its key."""


class Liquidation(Wire):
    """An account below maintenance: since when, and its auction (0: none yet) with what its bids paid in."""

    owner: Bytes20
    subaccount: U8
    since_ns: U63
    auction_ns: U63
    is_insolvent: bool
    is_fee_paid: bool
    reserved_uusd: U63


class Funding(Wire):
    """What a long contract of a perpetual has paid since genesis (1e-6 micro-USD), and the rate from now on."""

    instrument: U32
    cumulative_e6: I64
    premium_ppm: I64
    time_ns: U63


class ExpiryExposure(Wire):
    """Greeks of one expiry's open interest (a perpetual's: expiry 0).

    Delta and gamma per 1 % move in 1e-6 contracts, vega in micro-USD per volatility point, theta per day,
    rho per percentage point of the rate in the discount.
    """

    underlying: U8
    expiry_ns: U63
    delta_ppm: I64
    gamma_1pct_ppm: I64
    vega_uusd: I64
    theta_uusd: I64
    rho_uusd: I64


class NetExposure(Wire):
    """The protocol's own: vault and accounts in liquidation. Delta is its value at the index, both micro-USD."""

    underlying: U8
    delta_uusd: I64
    vega_uusd: I64


class Exposure(Wire):
    """One leaf: every scenario's stress shortfall, the worst one's place, and what follows from it."""

    shortfalls_uusd: tuple[U63, ...]
    worst_scenario: U32
    im_extra_ppm: U32
    is_stressed: bool
    since_ns: U63
    expiries: tuple[ExpiryExposure, ...]
    net: tuple[NetExposure, ...]
    is_within_limits: bool


class Ballot(Wire):
    """Validators (ascending) whose operators want one value of one number."""

    name: str
    value: I64
    voters: tuple[U32, ...]


class DecidedChange(Wire):
    """A value that two thirds wanted, and the block time from which it holds."""

    name: str
    value: I64
    effective_ns: U63


class Governance(Wire):
    """Open ballots by (name, value), and decided changes in order of decision; no leaf while nobody voted."""

    ballots: tuple[Ballot, ...]
    decided: tuple[DecidedChange, ...]


class Schedule(Wire):
    """The id that the next new instrument gets."""

    next_id: U32


LEAF_KINDS: dict[int, type[Wire]] = {
    ord("e"): Exposure,
    ord("f"): Funding,
    ord("g"): Governance,
    ord("l"): Liquidation,
    ord("n"): Schedule,
    ord("p"): ProtectionParameters,
    ord("v"): ProtocolParameters,
}


def liquidation_key(key: AccountKey) -> bytes:
    """b"xl", owner, sub-account."""
    return b"xl" + key[0] + bytes((key[1],))


def funding_key(instrument: int) -> bytes:
    """b"xf", instrument id."""
    return b"xf" + instrument.to_bytes(4, "big")


def get_liquidation(state: State, key: AccountKey) -> Liquidation | None:
    """An account's liquidation, None while it is above maintenance."""
    found: Liquidation | None = state.leaves.get(liquidation_key(key))
    return found


def get_exposure(state: State) -> Exposure | None:
    """The last block's exposure; None before the first."""
    found: Exposure | None = state.leaves.get(KEY_EXPOSURE)
    return found


def get_protocol(state: State) -> ProtocolParameters:
    """The version that sets decided from now on carry; no leaf until a vote has changed it."""
    found: ProtocolParameters | None = state.leaves.get(KEY_PROTOCOL)
    return found or state.genesis.protocol


def get_governance(state: State) -> Governance:
    """Ballots and decided changes."""
    found: Governance | None = state.leaves.get(KEY_GOVERNANCE)
    return found or Governance((), ())


def get_protection(state: State) -> ProtectionParameters:
    """The waterfall's numbers."""
    found: ProtectionParameters = state.leaves.values[KEY_PROTECTION]
    return found
