"""Everything one may ask of a testnet, checked. Looks whether named directories exist."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

from cyclopts import Parameter

from primitives.errors import OperatorError

VALIDATORS_MAX = 64
"""Processes on one machine; more would only measure the machine."""
TRADERS_MIN = 4
"""One of each role."""
TRADERS_MAX = 1_000
"""One process runs them all."""
RETURN_SECONDS = 10.0
"""A killed validator votes again within this time after its restart: a promise, and so the space between its deaths."""
DOWN_SECONDS_MAX = 2.0
"""How long --kill-every leaves a validator down, at most."""
MIN_BLOCK_MS_MAX = 60_000
"""What genesis allows."""
SPEED_MAX = 600
"""Above it, a settlement window's four-second buckets pass between two blocks faster than they may be carried."""


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL validator `index` at `at_seconds` and start it again `down_seconds` later."""

    index: int
    at_seconds: float
    down_seconds: float


def _help(text: str) -> Parameter:
    return Parameter(help=text)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run, as asked for on the command line."""

    validators: Annotated[int, _help("Number of validator processes.")] = 4
    seconds: Annotated[float, _help("Length of the run, from the first final block.")] = 60.0
    blocks: Annotated[int, _help("End earlier, at this height (0: never).")] = 0
    market: Annotated[str, _help("'synthetic', or a directory with real option chains to replay.")] = (
        "synthetic"
    )
    speed: Annotated[
        int, _help("Market seconds per real second, so that an expiry falls into a short run.")
    ] = 60
    traders: Annotated[int, _help("Trading programs: makers, takers, a hedger, one who risks too much.")] = 6
    orders_per_second: Annotated[float, _help("New quotes that all makers together send, about.")] = 50.0
    seed: Annotated[int, _help("Of everything random: the market, the traders' choices, the keys.")] = 1
    view: Annotated[bool, _help("Show a live view; without a terminal, a line every few seconds.")] = True
    report: Annotated[Path | None, _help("Where to write the JSON report (default: in the home).")] = None
    home: Annotated[
        Path | None, _help("Keep everything in this new directory (default: a temporary one).")
    ] = None
    kill: Annotated[
        tuple[str, ...],
        _help("INDEX@SECONDS[+DOWN]: SIGKILL a validator, start it again DOWN (3) seconds later."),
    ] = ()
    kill_every: Annotated[
        float,
        _help("SIGKILL a validator about every so many seconds, in rounds over all of them (0: never)."),
    ] = 0.0
    min_block_ms: Annotated[int, _help("Least time between two blocks.")] = 200

    @property
    def kills(self) -> tuple[Kill, ...]:
        """What `kill` and `kill_every` ask for. Raises OperatorError."""
        return (*(parse_kill(text) for text in self.kill), *self._drawn_kills())

    def _drawn_kills(self) -> Iterator[Kill]:
        """All in turn, in an order of the seed's: each has had time to vote before it dies again."""
        if not self.kill_every:
            return
        random = Random(self.seed)
        order = random.sample(range(self.validators), self.validators)
        count = int((self.seconds - RETURN_SECONDS) / self.kill_every) - 1
        for number in range(count):
            at_seconds = (number + random.uniform(0.75, 1.25)) * self.kill_every
            down_seconds = random.uniform(0.0, min(DOWN_SECONDS_MAX, self.kill_every))
            yield Kill(order[number % self.validators], at_seconds, down_seconds)

    @property
    def is_synthetic(self) -> bool:
        """Whether the market is made up rather than replayed."""
        return self.market == "synthetic"


def check_plan(plan: Plan) -> Plan:
    """The plan itself. Raises OperatorError with one clear sentence when it cannot be run."""
    if not 1 <= plan.validators <= VALIDATORS_MAX:
        raise OperatorError(f"--validators must be 1 to {VALIDATORS_MAX}, not {plan.validators}.")
    if not 0 < plan.seconds < math.inf:
        raise OperatorError(f"--seconds must be positive, not {plan.seconds}.")
    if not 1 <= plan.speed <= SPEED_MAX:
        raise OperatorError(f"--speed must be 1 to {SPEED_MAX}, not {plan.speed}.")
    if plan.blocks < 0:
        raise OperatorError(f"--blocks must not be negative, not {plan.blocks}.")
    if not 0 <= plan.min_block_ms <= MIN_BLOCK_MS_MAX:
        raise OperatorError(f"--min-block-ms must be 0 to {MIN_BLOCK_MS_MAX}, not {plan.min_block_ms}.")
    if not TRADERS_MIN <= plan.traders <= TRADERS_MAX:
        raise OperatorError(
            f"--traders must be {TRADERS_MIN} (one of each role) to {TRADERS_MAX}, not {plan.traders}."
        )
    if not 0 < plan.orders_per_second < math.inf:
        raise OperatorError(f"--orders-per-second must be positive, not {plan.orders_per_second}.")
    shortest = plan.kill_every * (plan.validators - 0.5) - DOWN_SECONDS_MAX
    if plan.kill_every and shortest < RETURN_SECONDS:
        raise OperatorError(
            f"--kill-every {plan.kill_every:g} would kill each of {plan.validators} validators again before the "
            f"{RETURN_SECONDS:g} s are over in which it has to vote."
        )
    if not plan.is_synthetic and not Path(plan.market).is_dir():
        raise OperatorError(f"--market {plan.market} is neither 'synthetic' nor a directory.")
    _check_kills(plan)
    _check_report(plan)
    return plan


def _check_kills(plan: Plan) -> None:
    back_at: dict[int, float] = {}
    for kill in sorted(plan.kills, key=lambda item: item.at_seconds):
        if kill.index >= plan.validators:
            raise OperatorError(f"--kill names validator {kill.index}, there are {plan.validators}.")
        if kill.at_seconds + kill.down_seconds >= plan.seconds:
            raise OperatorError(
                f"--kill {kill.index} would restart it {kill.at_seconds + kill.down_seconds:g} s into a run of "
                f"{plan.seconds:g} s: nothing could be seen of its return."
            )
        if kill.at_seconds <= back_at.get(kill.index, -1.0):
            raise OperatorError(
                f"--kill wants to kill validator {kill.index} at {kill.at_seconds:g} s, while it is down."
            )
        back_at[kill.index] = kill.at_seconds + kill.down_seconds


def _check_report(plan: Plan) -> None:
    """Found out before the run, not after it."""
    if plan.report is None:
        return
    if plan.report.is_dir():
        raise OperatorError(f"--report {plan.report} is a directory.")
    if not plan.report.parent.is_dir():
        raise OperatorError(f"--report {plan.report}: there is no directory {plan.report.parent}.")


def parse_kill(text: str) -> Kill:
    """'2@20' or '2@20+5': kill validator 2 at second 20, start it again 3 (or 5) seconds later."""
    match = re.fullmatch(r"(\d+)@(\d+(?:\.\d+)?)(?:\+(\d+(?:\.\d+)?))?", text)
    if match is None:
        raise OperatorError(
            f"--kill wants INDEX@SECONDS or INDEX@SECONDS+DOWN, such as 2@20+5, not {text!r}."
        )
    return Kill(int(match[1]), float(match[2]), float(match[3] or 3))
