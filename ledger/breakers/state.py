"""The breakers' own leaves, under "y" and a second letter. Pure."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from operator import is_
from typing import TYPE_CHECKING, NamedTuple

from ledger.breakers.parameters import BreakerParameters
from primitives.amounts import PPM
from primitives.codec import U8, U32, U63, Wire

if TYPE_CHECKING:
    from ledger.state import State

KEY_BREAKERS = b"yp"
KEY_RESTART = b"yr"


class Phase(IntEnum):
    """What trading of an underlying allows, from everything to least; the strictest of all causes holds.

    Orders match in OPEN and CAUTIOUS only. CAUTIOUS is never stored: it follows from an expiry's confidence.
    """

    OPEN = 0
    CAUTIOUS = 1
    """Post-only and reduce-only orders."""
    AUCTION = 2
    """Good-till-cancelled orders are collected; they meet in one call when it ends."""
    POST_ONLY = 3
    """Post-only orders."""
    HALTED = 4
    """No orders and no money out; no liquidation, settlement or funding."""

    @property
    def is_matching(self) -> bool:
        """Whether this block's call runs."""
        return self <= Phase.CAUTIOUS


class Cause(IntFlag):
    """Why a phase is not OPEN, as bits."""

    HALT = 1
    """Blocks with prices had a gap, and prices are not fresh yet; afterwards RESTART."""
    RESTART = 2
    DRIFT = 4
    PRICE = 8
    LATENCY = 16


def names_of(causes: Cause) -> tuple[str, ...]:
    """Words for the bits."""
    return tuple(item.name.lower() for item in Cause if item & causes and item.name)


class Colour(IntEnum):
    """How far the chain's mark is from the venues', measured in half-spreads."""

    GREEN = 0
    AMBER = 1
    RED = 2


class Drift(Wire):
    """One instrument's epsilon at its last judged epoch, and the half-spread h it was judged by.

    `spreads_uusd` are the last agreed half-spreads, newest last.
    """

    instrument: U32
    external_uusd: U63
    epsilon_uusd: U63
    half_spread_uusd: U63
    colour: U8
    red_epochs: U32
    """In a row."""
    green_epochs: U32
    """In a row."""
    is_paused: bool
    spreads_uusd: tuple[U63, ...]


class Drifts(Wire):
    """All of one expiry (a perpetual's: 0) of one underlying, by instrument; a leaf for each."""

    drifts: tuple[Drift, ...]


class Bucket(Wire):
    """The lowest and the highest index agreed in one part of a monitor's window."""

    number: U63
    low_uusd: U63
    high_uusd: U63


class UnderlyingPhase(Wire):
    """One leaf per underlying: the phase, its causes, and what they are judged by."""

    phase: U8
    causes: U8
    auction_until_ns: U63
    """Of an auction that drift or a price move began."""
    auction_causes: U8
    is_drifting: bool
    red_epochs: U32
    green_epochs: U32
    moved_ppm: U32
    """sigma sqrt(tau): the usual move of the index between two blocks."""
    widening_ppm: U32
    """Factor on price bands, at least 1."""
    is_late: bool
    """Matching pauses until finality is faster or the index calmer."""
    windows: tuple[tuple[Bucket, ...], ...]
    """Each monitor's, in their order."""


class Restart(Wire):
    """Where the market as a whole stands: its clock, and the way out of a halt."""

    priced_ns: U63
    """Time of the last block with prices, 0 before the first."""
    intervals_ns: tuple[U63, ...]
    """The last times between blocks with prices, newest last."""
    judged_ns: U63
    """When drift was last judged."""
    judged_epochs: U63
    fresh_left: U32
    """Oracle epochs still to be agreed on before the halt is over; 0: there is none."""
    fresh_ns: U63
    post_only_until_ns: U63
    auction_until_ns: U63
    auction_ns: U63
    """Length of the auction that ends it."""


CALM = UnderlyingPhase(0, 0, 0, 0, False, 0, 0, 0, PPM, False, ())
NO_RESTART = Restart(0, (), 0, 0, 0, 0, 0, 0, 0)

LEAF_KINDS: dict[int, type[Wire]] = {
    ord("d"): Drifts,
    ord("p"): BreakerParameters,
    ord("r"): Restart,
    ord("u"): UnderlyingPhase,
}


def drift_key(underlying: int, expiry_ns: int) -> bytes:
    """b"yd", underlying, expiry (0: the perpetual)."""
    return b"yd" + bytes((underlying,)) + expiry_ns.to_bytes(8, "big")


def phase_key(underlying: int) -> bytes:
    """b"yu", underlying."""
    return b"yu" + bytes((underlying,))


def get_breakers(state: State) -> BreakerParameters:
    """The numbers."""
    found: BreakerParameters = state.leaves.values[KEY_BREAKERS]
    return found


def get_restart(state: State) -> Restart:
    """Where the market as a whole stands."""
    found: Restart | None = state.leaves.get(KEY_RESTART)
    return NO_RESTART if found is None else found


def get_phase(state: State, underlying: int) -> UnderlyingPhase:
    """One underlying's leaf; calm before the first block with prices."""
    found: UnderlyingPhase | None = state.leaves.get(phase_key(underlying))
    return CALM if found is None else found


def get_drifts(state: State, underlying: int, expiry_ns: int) -> tuple[Drift, ...]:
    """What was judged of one expiry."""
    found: Drifts | None = state.leaves.get(drift_key(underlying, expiry_ns))
    return () if found is None else found.drifts


class DriftTable(NamedTuple):
    """All drifts of live expiries, as the phases of a block look things up."""

    drifts: dict[int, Drift]
    doubtful: tuple[int, ...]
    """Instruments that are amber or red, by id."""
    paused: frozenset[int]


def get_drift_table(state: State) -> DriftTable:
    """What was judged of every live instrument; kept until one of its leaves is another one."""
    leaves = [
        state.leaves.get(drift_key(item.underlying, expiry_ns))
        for item in state.genesis.underlyings
        for expiry_ns in (0, *(agreed.slice.expiry_ns for agreed in state.oracle(item.underlying).slices))
    ]
    held: tuple[list[Drifts | None], DriftTable] | None = state.caches.get("drifts")
    if held is not None and len(held[0]) == len(leaves) and all(map(is_, held[0], leaves)):
        return held[1]
    drifts = {item.instrument: item for leaf in leaves if leaf is not None for item in leaf.drifts}
    doubtful = tuple(item for item in sorted(drifts) if drifts[item].colour != Colour.GREEN)
    table = DriftTable(drifts, doubtful, frozenset(item for item in drifts if drifts[item].is_paused))
    state.caches["drifts"] = leaves, table
    return table
