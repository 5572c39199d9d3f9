"""Breadth-first exploration of every interleaving, and the shortest way to a state that must not be. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from testnet.model.blocks import BlockTable
from testnet.model.claims import broken_claims, conflicting_final_blocks
from testnet.model.rules import Provable, Rules
from testnet.model.states import State, Step, Steps, Symmetry, column_of, initial_state

Judge = Callable[[BlockTable, Sequence[Provable]], str | None]


@dataclass(frozen=True, slots=True)
class Violation:
    """A state that must not be, and a shortest sequence of steps that leads there."""

    sentence: str
    steps: tuple[Step, ...]
    state: State


@dataclass(frozen=True, slots=True)
class Exploration:
    """How much was looked at, and the first violation, if any: then nothing beyond its depth was looked at."""

    states: int
    transitions: int
    depth: int
    violation: Violation | None


def every_claim(table: BlockTable, provable: Sequence[Provable]) -> str | None:
    """The first claim that does not hold."""
    return next(broken_claims(table, provable), None)


def forks_only(table: BlockTable, provable: Sequence[Provable]) -> str | None:
    """Agreement alone: waits for two conflicting final blocks where a claim may break earlier."""
    if conflicting_final_blocks(table, provable) is None:
        return None
    return "two final blocks are not on one chain"


def explore(rules: Rules, judge: Judge = every_claim) -> Exploration:
    """Visit every state that honest validators and the adversary can reach, up to symmetry."""
    return _Search(rules, judge).run()


class _Search:
    def __init__(self, rules: Rules, judge: Judge) -> None:
        self.rules = rules
        self.judge = judge
        self.steps = Steps(rules)
        self.symmetry = Symmetry(rules.table)
        self.judged: dict[tuple[object, ...], str | None] = {}

    def run(self) -> Exploration:
        start = self.symmetry.canonical(initial_state(self.rules.table.views))
        came_from: dict[State, State | None] = {start: None}
        frontier, transitions, depth = [start], 0, 0
        while frontier:
            following: list[State] = []
            for state in frontier:
                for _, raw in self.steps.of(state):
                    transitions += 1
                    reached = self.symmetry.canonical(raw)
                    if reached in came_from:
                        continue
                    came_from[reached] = state
                    sentence = self._verdict(reached)
                    if sentence is not None:
                        violation = self._violation(sentence, came_from, reached)
                        return Exploration(len(came_from), transitions, depth + 1, violation)
                    following.append(reached)
            frontier, depth = following, depth + bool(following)
        return Exploration(len(came_from), transitions, depth, None)

    def _verdict(self, state: State) -> str | None:
        columns = tuple(column_of(state, view) for view in range(1, self.rules.table.views + 1))
        if columns not in self.judged:
            provable = [self.rules.provable(view, column) for view, column in enumerate(columns, 1)]
            self.judged[columns] = self.judge(self.rules.table, provable)
        return self.judged[columns]

    def _violation(self, sentence: str, came_from: dict[State, State | None], reached: State) -> Violation:
        """Walk back through representatives, then forward with the real names of validators and blocks."""
        path: list[State] = []
        state: State | None = reached
        while state is not None:
            path.append(state)
            state = came_from[state]
        concrete, steps = initial_state(self.rules.table.views), list[Step]()
        for wanted in reversed(path[:-1]):
            step, concrete = next(
                (step, raw) for step, raw in self.steps.of(concrete) if self.symmetry.canonical(raw) == wanted
            )
            steps.append(step)
        return Violation(sentence, tuple(steps), concrete)
