"""kill -9 at every effect boundary, again and again: no vote is contradicted, and whoever died votes again soon."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, takewhile

import pytest

from consensus.messages import ConsensusMessage, Votes
from testnet.sim.campaign import quiet
from testnet.sim.plan import Fault, FaultKind, Plan
from testnet.sim.simulation import Simulation
from testnet.sim.validator import SimulatedValidator

EVERY_MS = 2_000
DOWN_UNTIL_MS = 1_800
BOUNDARIES = 43
"""A validator dies after 0 to this less one effects, more than it performs for one block. No multiple of four, so that
each of the four dies at each of them."""
RETURN_NS = 10 * 10**9


class KillLoop(Simulation):
    """A simulation that notes when its validators died and when they voted again."""

    def __init__(self, seed: int, seconds: int) -> None:
        moments = takewhile(lambda at: at < seconds * 1_000, count(EVERY_MS, EVERY_MS))
        faults = tuple(
            Fault(
                kind=FaultKind.CRASH,
                at_ms=at_ms,
                until_ms=at_ms + DOWN_UNTIL_MS,
                nodes=(number % 4,),
                amount=number % BOUNDARIES,
            )
            for number, at_ms in enumerate(moments)
        )
        everybody = (0, 1, 2, 3)
        super().__init__(
            Plan(
                seed=seed,
                validators=4,
                hostile_ms=seconds * 1_000,
                faults=faults,
                torn_writes=True,
                healed=everybody,
            )
        )
        self.died_ns: dict[int, int] = {}
        self.deaths = 0
        self.returns_ns: list[int] = []

    def crashed_itself(self, validator: SimulatedValidator) -> None:
        self.died_ns[validator.index] = self.now_ns
        self.deaths += 1
        super().crashed_itself(validator)

    def send(self, sender: int, message: ConsensusMessage, receivers: Sequence[int]) -> None:
        if isinstance(message, Votes) and sender in self.died_ns:
            self.returns_ns.append(self.now_ns - self.died_ns.pop(sender))
        super().send(sender, message, receivers)


def looped(seed: int, seconds: int) -> KillLoop:
    """Run; every promise is checked at every event, two signatures for one (epoch, view, kind) among them."""
    quiet()
    loop = KillLoop(seed, seconds)
    loop.run()
    assert loop.died_ns == {}
    assert max(loop.returns_ns) < RETURN_NS
    assert loop.halts == []
    return loop


def test_a_minute_of_deaths_at_effect_boundaries() -> None:
    loop = looped(1, 60)
    assert loop.deaths > 20
    assert loop.sometimes["crash between two effects"] > 10


@pytest.mark.slow
def test_half_an_hour_of_deaths_at_effect_boundaries() -> None:
    loop = looped(2, 1_800)
    assert loop.deaths > 800
    assert loop.sometimes["crash inside a sync"] > 10
