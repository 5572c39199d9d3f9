"""Answers about trading phases and the drift of marks, from the store's leaves. Reads the block store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from node.rpc.answers import BreakersAnswer, DriftForm, PhaseForm, form_of
from node.storage.block_store import BlockStore
from primitives.codec import decode_own


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
