"""What happened to phases and marks. Pure."""

from __future__ import annotations

from primitives.codec import U8, U32, U63, Wire


class PhaseChanged(Wire, tag=81):
    """An underlying's phase or its causes changed; `until_ns` 0: until the cause is gone."""

    underlying: U8
    phase: str
    causes: tuple[str, ...]
    until_ns: U63


class DriftJudged(Wire, tag=82):
    """An epoch's epsilons of one underlying: how many instruments got each colour."""

    underlying: U8
    green: U32
    amber: U32
    red: U32


class InstrumentPaused(Wire, tag=83):
    """An instrument's mark was red for too long, or (is_paused false) is green for long enough again."""

    instrument: U32
    is_paused: bool
    epsilon_uusd: U63
    half_spread_uusd: U63


BreakerEvent = PhaseChanged | DriftJudged | InstrumentPaused
