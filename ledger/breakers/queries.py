"""Drift and phases for people: views, gateways and metrics. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.breakers.phases import until_of
from ledger.breakers.state import (
    Cause,
    Colour,
    Drift,
    Phase,
    UnderlyingPhase,
    get_drift_table,
    get_phase,
    get_restart,
    names_of,
)
from primitives.amounts import PPM

if TYPE_CHECKING:
    from ledger.instruments import Instrument
    from ledger.state import State


class PhaseView(NamedTuple):
    """One underlying's phase; `until_ns` 0 when it does not depend on time alone; `colours` counts its instruments."""

    underlying: int
    phase: str
    causes: tuple[str, ...]
    until_ns: int
    moved_ppm: int
    widening_ppm: int
    colours: tuple[int, int, int]
    """Green, amber, red, of what was judged."""


class DriftView(NamedTuple):
    """One instrument's last judged epoch; both in ppm of the index as well."""

    instrument: Instrument
    colour: str
    epsilon_uusd: int
    half_spread_uusd: int
    epsilon_ppm: int
    half_spread_ppm: int
    external_uusd: int
    is_paused: bool


class BreakersView(NamedTuple):
    """Everything, by underlying and by instrument; `epochs` were judged so far, the last at `judged_ns`."""

    epochs: int
    judged_ns: int
    phases: tuple[PhaseView, ...]
    drifts: tuple[DriftView, ...]


def get_breakers_view(state: State) -> BreakersView:
    """As of the state."""
    restart, table = get_restart(state), get_drift_table(state)
    drifts = tuple(
        _drift_view(state, found, table.drifts[item])
        for item in sorted(table.drifts)
        if (found := state.instruments.get(item)) is not None
    )
    phases = tuple(_phase_view(state, item.underlying, drifts) for item in state.genesis.underlyings)
    return BreakersView(restart.judged_epochs, restart.judged_ns, phases, drifts)


def _phase_view(state: State, underlying: int, drifts: tuple[DriftView, ...]) -> PhaseView:
    leaf: UnderlyingPhase = get_phase(state, underlying)
    phase, causes = Phase(leaf.phase), Cause(leaf.causes)
    own = [item.colour for item in drifts if item.instrument.underlying == underlying]
    green, amber, red = (own.count(colour.name.lower()) for colour in Colour)
    return PhaseView(
        underlying,
        phase.name.lower(),
        names_of(causes),
        until_of(phase, causes, leaf, get_restart(state)),
        leaf.moved_ppm,
        leaf.widening_ppm,
        (green, amber, red),
    )


def _drift_view(state: State, instrument: Instrument, drift: Drift) -> DriftView:
    index_uusd = state.oracle(instrument.underlying).index_uusd
    return DriftView(
        instrument,
        Colour(drift.colour).name.lower(),
        drift.epsilon_uusd,
        drift.half_spread_uusd,
        drift.epsilon_uusd * PPM // index_uusd,
        drift.half_spread_uusd * PPM // index_uusd,
        drift.external_uusd,
        drift.is_paused,
    )
