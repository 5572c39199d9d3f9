"""Answers about trading phases and the drift of marks, from the store's leaves. Reads the block store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from ledger.breakers.phases import until_of
from ledger.breakers.state import (
    CALM,
    KEY_RESTART,
    NO_RESTART,
    Cause,
    Colour,
    Drift,
    Drifts,
    Phase,
    Restart,
    UnderlyingPhase,
    names_of,
    phase_key,
)
from ledger.instruments import Underlying
from node.rpc.answers import Form, form_of
from node.storage.block_store import BlockStore
from primitives.codec import U32, U63, decode_own

PhaseName = Literal["open", "auction", "post_only", "halted"]
CauseName = Literal["halt", "restart", "drift", "price", "latency"]
ColourName = Literal["green", "amber", "red"]


class PhaseForm(Form, frozen=True, kw_only=True):
    """What trading of one underlying allows, and why; `until_ns` is 0 when that depends on more than time.

    `moved_ppm`: how far the index usually moves between two blocks; `widening_ppm`: the factor on price bands.
    """

    underlying: str
    phase: PhaseName
    causes: tuple[CauseName, ...]
    until_ns: U63
    moved_ppm: U32
    widening_ppm: U32


class DriftForm(Form, frozen=True, kw_only=True):
    """One instrument's mark against the venues at its last judged epoch: epsilon, and the half-spread h."""

    name: str
    instrument: U32
    colour: ColourName
    external_uusd: U63
    epsilon_uusd: U63
    half_spread_uusd: U63
    red_epochs: U32
    green_epochs: U32
    is_paused: bool


class BreakersAnswer(Form, frozen=True, kw_only=True):
    """The phase of every underlying and the drift of everything that was judged."""

    judged_epochs: U63
    judged_ns: U63
    phases: tuple[PhaseForm, ...]
    drifts: tuple[DriftForm, ...]


def breakers_answer(
    store: BlockStore, underlyings: Sequence[int], name_of: Callable[[int], str]
) -> BreakersAnswer:
    """As of the newest final block; everything open before the first."""
    raw = store.leaf(KEY_RESTART)
    restart = NO_RESTART if raw is None else decode_own(Restart, raw)
    drifts = [
        item
        for _, leaf in store.leaves(b"yd")
        for item in decode_own(Drifts, leaf).drifts
        if name_of(item.instrument)
    ]
    return BreakersAnswer(
        judged_epochs=restart.judged_epochs,
        judged_ns=restart.judged_ns,
        phases=tuple(_phase_form(store, item, restart) for item in underlyings),
        drifts=tuple(
            _drift_form(item, name_of(item.instrument))
            for item in sorted(drifts, key=lambda one: one.instrument)
        ),
    )


def _phase_form(store: BlockStore, underlying: int, restart: Restart) -> PhaseForm:
    raw = store.leaf(phase_key(underlying))
    leaf = CALM if raw is None else decode_own(UnderlyingPhase, raw)
    phase, causes = Phase(leaf.phase), Cause(leaf.causes)
    return form_of(
        PhaseForm,
        leaf,
        underlying=Underlying(underlying).name,
        phase=phase.name.lower(),
        causes=names_of(causes),
        until_ns=until_of(phase, causes, leaf, restart),
    )


def _drift_form(drift: Drift, name: str) -> DriftForm:
    return form_of(DriftForm, drift, name=name, colour=Colour(drift.colour).name.lower())
