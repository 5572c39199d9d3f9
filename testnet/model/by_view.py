"""Exploration of one view after the other, for more views than all interleavings would allow. Pure.

Two facts make the order of views irrelevant to what can be signed. What a validator may sign in a view depends on its
records of that view alone (the guard of R1 and R4 that it must be in the view is dropped here, which only allows more).
And a later view sees of an earlier one nothing but its certificates, of which more only allow more. So whatever can be
signed in some interleaving can be signed with all votes of view 1 first, then all of view 2, and so on. Of a view that
is done, one representative is kept for each set of things that can be proved about it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cache, partial

from testnet.model.blocks import GENESIS, BlockTable, ModelBlock
from testnet.model.explorer import Exploration, Judge, Violation, every_claim
from testnet.model.rules import EMPTY_COLUMN, UNSIGNED, Column, Provable, Record, Rules
from testnet.model.states import Local, State, Symmetry, acceptable_parents, candidate_blocks, record_steps

History = tuple[Column, ...]


def explore_by_view(rules: Rules, judge: Judge = every_claim) -> Exploration:
    """Visit every column of votes that each view can reach on top of everything that the views before it can prove.

    `depth` is that of the deepest single view; a violation has no steps, only the state.
    """
    return _Search(rules, judge).run()


@dataclass(frozen=True, slots=True)
class _Explored:
    """What one view can come to on so many acceptable parents: one column for each thing it can prove."""

    columns: tuple[Column, ...]
    states: int
    transitions: int
    depth: int


class _Search:
    def __init__(self, rules: Rules, judge: Judge) -> None:
        self.rules = rules
        self.judge = judge

    def run(self) -> Exploration:
        views = self.rules.table.views
        histories: list[History] = [()]
        states = transitions = depth = 0
        for view in range(1, views + 1):
            explore = cache(partial(self._explore, view))
            kept: dict[Hashable, History] = {}
            for history in histories:
                parents = acceptable_parents(self.rules, view, history)
                found = explore(len(parents))
                states, transitions = states + found.states, transitions + found.transitions
                depth = max(depth, found.depth)
                below = [self.rules.provable(v, column) for v, column in enumerate(history, 1)]
                for placeholder in found.columns:
                    column = _on_parents(self.rules.table, view, placeholder, parents)
                    provable = [*below, self.rules.provable(view, column)]
                    sentence = self.judge(self.rules.table, provable)
                    if sentence is not None:
                        violation = Violation(sentence, (), _state_of((*history, column)))
                        return Exploration(states, transitions, depth, violation)
                    if view < views:
                        kept.setdefault(tuple(map(_meaning, provable)), (*history, column))
            histories = list(kept.values())
        return Exploration(states, transitions, depth, None)

    def _explore(self, view: int, parent_count: int) -> _Explored:
        """Every column of `view`, up to symmetry, on the first so many parents; breadth first.

        Which parents they are makes no difference, for rules compare hashes for equality only.
        """
        parents = tuple(self.rules.table.parents_of_view(view)[:parent_count])
        symmetry = Symmetry(self.rules.table, named_views=view - 1)
        frontier, depth, transitions = [EMPTY_COLUMN], 0, 0
        seen = {EMPTY_COLUMN}
        by_meaning: dict[Hashable, Column] = {}
        while frontier:
            following: list[Column] = []
            for column in frontier:
                by_meaning.setdefault(_meaning(self.rules.provable(view, column)), column)
                for raw in self._after(view, parents, column):
                    transitions += 1
                    reached = _canonical(symmetry, view, raw)
                    if reached not in seen:
                        seen.add(reached)
                        following.append(reached)
            frontier, depth = following, depth + bool(following)
        return _Explored(tuple(by_meaning.values()), len(seen), transitions, depth)

    def _after(self, view: int, parents: tuple[int, ...], column: Column) -> Iterator[Column]:
        """The columns that one more vote makes."""
        blocks = candidate_blocks(self.rules.table, view, parents, column)
        provable = self.rules.provable(view, column)
        for validator, record in enumerate(column):
            for _, changed in record_steps(self.rules, validator, record, view, view, blocks, provable):
                yield (*column[:validator], changed, *column[validator + 1 :])


def _on_parents(table: BlockTable, view: int, column: Column, parents: tuple[int, ...]) -> Column:
    """The same votes for blocks on other parents: `parents` in place of the first ones of the table."""

    def moved(number: int) -> int:
        if number in (GENESIS, UNSIGNED):
            return number
        _, parent, label = table.blocks[number]
        return table.numbers[ModelBlock(view, parents[parent], label)]

    return tuple(Record(*map(moved, record)) for record in column)


def _canonical(symmetry: Symmetry, view: int, column: Column) -> Column:
    state = symmetry.canonical(tuple(Local(view, (record,)) for record in column))
    return tuple(local.records[0] for local in state)


def _state_of(history: History) -> State:
    return tuple(Local(len(history), records) for records in zip(*history, strict=True))


def _meaning(proof: Provable) -> Hashable:
    """All that a later view, or a claim about it, can see of a view."""
    sets = (proof.notarized, proof.final, proof.finalized, proof.certified, proof.carried)
    return (*sets, proof.has_timeout, proof.skips)
