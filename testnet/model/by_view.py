"""Exploration of one view after the other, for more views than all interleavings would allow. Pure.

Two facts make the order of views irrelevant to what can be signed. What a validator may sign in a view depends on its
records of that view alone (the guard of R1 and R4 that it must be in the view is dropped here, which only allows more).
And a later view sees of an earlier one nothing but its certificates, of which more only allow more. So whatever can be
signed in some interleaving can be signed with all votes of view 1 first, then all of view 2, and so on. Of a view that
is done, one representative is kept for each set of certificates that can be assembled from it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from testnet.model.explorer import Exploration, Judge, Violation, every_claim
from testnet.model.rules import EMPTY_COLUMN, Column, Provable, Rules
from testnet.model.states import Local, State, Step, Symmetry, candidate_blocks, record_steps

History = tuple[Column, ...]


def explore_by_view(rules: Rules, judge: Judge = every_claim) -> Exploration:
    """Visit every column of votes that each view can reach on top of everything that the views before it can prove.

    `depth` is that of the deepest single view; a violation has no steps, only the state.
    """
    return _Search(rules, judge).run()


class _Search:
    def __init__(self, rules: Rules, judge: Judge) -> None:
        self.rules = rules
        self.judge = judge
        self.states = 0
        self.transitions = 0
        self.depth = 0

    def run(self) -> Exploration:
        histories: list[History] = [()]
        for view in range(1, self.rules.table.views + 1):
            symmetry = Symmetry(self.rules.table, named_views=view - 1)
            kept: dict[Hashable, History] = {}
            for history in histories:
                for column in self._columns(view, history, symmetry):
                    reached = (*history, column)
                    provable = [self.rules.provable(v, one) for v, one in enumerate(reached, 1)]
                    sentence = self.judge(self.rules.table, provable)
                    if sentence is not None:
                        return self._result(Violation(sentence, (), _state_of(reached)))
                    kept.setdefault(tuple(_meaning(proof) for proof in provable), reached)
            histories = list(kept.values())
        return self._result(None)

    def _result(self, violation: Violation | None) -> Exploration:
        return Exploration(self.states, self.transitions, self.depth, violation)

    def _columns(self, view: int, history: History, symmetry: Symmetry) -> Iterator[Column]:
        """Every column of `view`, up to symmetry, on top of `history`; breadth first."""
        frontier, depth = [EMPTY_COLUMN], 0
        seen = {EMPTY_COLUMN}
        while frontier:
            self.states += len(frontier)
            self.depth = max(self.depth, depth)
            yield from frontier
            following: list[Column] = []
            for column in frontier:
                for _, raw in self._steps(view, history, column):
                    self.transitions += 1
                    reached = _canonical(symmetry, view, raw)
                    if reached not in seen:
                        seen.add(reached)
                        following.append(reached)
            frontier, depth = following, depth + 1

    def _steps(self, view: int, history: History, column: Column) -> Iterator[tuple[Step, Column]]:
        blocks = tuple(candidate_blocks(self.rules, view, history, column))
        provable = self.rules.provable(view, column)
        for validator, record in enumerate(column):
            for step, changed in record_steps(self.rules, validator, record, view, view, blocks, provable):
                yield step, (*column[:validator], changed, *column[validator + 1 :])


def _canonical(symmetry: Symmetry, view: int, column: Column) -> Column:
    state = symmetry.canonical(tuple(Local(view, (record,)) for record in column))
    return tuple(local.records[0] for local in state)


def _state_of(history: History) -> State:
    return tuple(Local(len(history), records) for records in zip(*history, strict=True))


def _meaning(proof: Provable) -> Hashable:
    """All that a later view, or a claim about it, can see of a view."""
    sets = (proof.notarized, proof.final, proof.finalized, proof.certified, proof.carried)
    return (*sets, proof.has_timeout, proof.skips)
