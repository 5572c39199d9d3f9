"""Everything one may ask of a testnet, checked. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from primitives.errors import OperatorError

VALIDATORS_MAX = 64
"""Processes on one machine; more would only measure the machine."""
TRADERS_MIN = 4
"""One of each role."""
SPEED_MAX = 600
"""Above it, a settlement window's four-second buckets pass between two blocks faster than they may be carried."""


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL validator `index` at `at_seconds` and start it again `down_seconds` later."""

    index: int
    at_seconds: float
    down_seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. `seconds` counts from the first final block; `blocks` ends it earlier when reached (0: never)."""

    validators: int
    seconds: float
    blocks: int
    market: str
    speed: int
    traders: int
    orders_per_second: float
    seed: int
    view: bool
    report: Path | None
    home: Path | None
    kills: tuple[Kill, ...]
    min_block_ms: int

    @property
    def is_synthetic(self) -> bool:
        """Whether the market is made up rather than replayed."""
        return self.market == "synthetic"


def check_plan(plan: Plan) -> Plan:
    """The plan itself. Raises OperatorError with one clear sentence when it cannot be run."""
    if not 1 <= plan.validators <= VALIDATORS_MAX:
        raise OperatorError(f"--validators must be 1 to {VALIDATORS_MAX}, not {plan.validators}.")
    if plan.seconds <= 0:
        raise OperatorError(f"--seconds must be positive, not {plan.seconds}.")
    if not 1 <= plan.speed <= SPEED_MAX:
        raise OperatorError(f"--speed must be 1 to {SPEED_MAX}, not {plan.speed}.")
    if plan.traders < TRADERS_MIN:
        raise OperatorError(
            f"--traders must be at least {TRADERS_MIN}, one of each role, not {plan.traders}."
        )
    if plan.orders_per_second <= 0:
        raise OperatorError(f"--orders-per-second must be positive, not {plan.orders_per_second}.")
    if not plan.is_synthetic and not Path(plan.market).is_dir():
        raise OperatorError(f"--market {plan.market} is neither 'synthetic' nor a directory.")
    for kill in plan.kills:
        if kill.index >= plan.validators:
            raise OperatorError(f"--kill names validator {kill.index}, there are {plan.validators}.")
        if kill.at_seconds + kill.down_seconds >= plan.seconds:
            raise OperatorError(
                f"--kill {kill.index} would restart it {kill.at_seconds + kill.down_seconds:g} s into a run of "
                f"{plan.seconds:g} s: nothing could be seen of its return."
            )
    return plan


def parse_kill(text: str) -> Kill:
    """'2@20' or '2@20+5': kill validator 2 at second 20, start it again 3 (or 5) seconds later."""
    match = re.fullmatch(r"(\d+)@(\d+(?:\.\d+)?)(?:\+(\d+(?:\.\d+)?))?", text)
    if match is None:
        raise OperatorError(
            f"--kill wants INDEX@SECONDS or INDEX@SECONDS+DOWN, such as 2@20+5, not {text!r}."
        )
    return Kill(int(match[1]), float(match[2]), float(match[3] or 3))
