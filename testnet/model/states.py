"""Model states, their steps, and the one representative of all states that differ in names alone. Pure.

A state is what was signed and who is in which view; messages need no place in it. The adversary delivers any part of
what was signed to anybody at any time, so a step is possible as soon as the votes for it exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from itertools import permutations, product
from typing import NamedTuple

from testnet.model.blocks import GENESIS, LABELS, BlockTable, ModelBlock
from testnet.model.rules import EMPTY_COLUMN, HONEST, UNSIGNED, Column, Provable, Record, Rules


class Local(NamedTuple):
    """One honest validator: the view it is in, and its records of the views 1, 2, ..."""

    view: int
    records: tuple[Record, ...]


State = tuple[Local, ...]
"""The honest validators, in order."""


_Plain = tuple[tuple[int, tuple[tuple[int, ...], ...]], ...]
"""A state without names, to compare."""


class StepKind(StrEnum):
    """What an honest validator does in one step."""

    NOTARIZE = "notarizes"
    NULLIFY = "nullifies"
    FINALIZE = "finalizes"
    ENTER = "enters"


class Step(NamedTuple):
    """One validator's step; for ENTER `view` is the new view, and `block` is 0 where the step names none."""

    kind: StepKind
    validator: int
    view: int
    block: int = 0


def initial_state(views: int) -> State:
    """Nobody has signed anything; everybody is in view 1."""
    return (Local(1, tuple(column[0] for column in (EMPTY_COLUMN,) * views)),) * len(HONEST)


def column_of(state: State, view: int) -> Column:
    """The records of one view."""
    return tuple(local.records[view - 1] for local in state)


def acceptable_parents(rules: Rules, view: int, columns: tuple[Column, ...]) -> tuple[int, ...]:
    """The blocks on which the adversary can put an acceptable block of `view`, given the votes of all views below."""
    parents = rules.table.parents_of_view(view)
    return tuple(parent for parent in parents if rules.may_stand_on(view, parent, columns) is not None)


def candidate_blocks(
    table: BlockTable, view: int, parents: tuple[int, ...], column: Column
) -> tuple[int, ...]:
    """Acceptable blocks of a view that an honest validator may meet: those known, and one more on each parent.

    Two blocks that nobody has voted for yet differ in name only, so the first of them stands for all.
    """
    known = {block for record in column for block in (record.notarized, record.finalized) if block}
    found: list[int] = []
    for parent in parents:
        for label in range(LABELS):
            block = table.numbers[ModelBlock(view, parent, label)]
            found.append(block)
            if block not in known:
                break
    return tuple(found)


class Steps:
    """Every step that some honest validator can take, and the state after it."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.views = rules.table.views
        self._parents = cache(lambda columns: acceptable_parents(rules, len(columns) + 1, columns))
        self._candidates = cache(
            lambda view, parents, column: candidate_blocks(rules.table, view, parents, column)
        )

    def of(self, state: State) -> Iterator[tuple[Step, State]]:
        """Steps in a fixed order."""
        columns = tuple(column_of(state, view) for view in range(1, self.views + 1))
        provable = [self.rules.provable(view, column) for view, column in enumerate(columns, 1)]
        blocks = [
            self._candidates(view, self._parents(columns[: view - 1]), column)
            for view, column in enumerate(columns, 1)
        ]
        for validator, local in enumerate(state):
            before, after = state[:validator], state[validator + 1 :]
            for step, following in self._of_one(validator, local, provable, blocks):
                yield step, (*before, following, *after)

    def _of_one(
        self, validator: int, local: Local, provable: list[Provable], blocks: list[tuple[int, ...]]
    ) -> Iterator[tuple[Step, Local]]:
        for view, record in enumerate(local.records, 1):
            for step, changed in record_steps(
                self.rules, validator, record, view, local.view, blocks[view - 1], provable[view - 1]
            ):
                yield step, Local(local.view, (*local.records[: view - 1], changed, *local.records[view:]))
        # R1: any certificate of the current view or a later one admits to the view after it. Being in the view
        # after the last one modelled would only forbid things, so nobody goes there.
        for view in range(local.view, self.views):
            proof = provable[view - 1]
            if proof.has_timeout or proof.certified:
                yield Step(StepKind.ENTER, validator, view + 1), Local(view + 1, local.records)


def record_steps(
    rules: Rules,
    validator: int,
    record: Record,
    view: int,
    current_view: int,
    blocks: tuple[int, ...],
    provable: Provable,
) -> Iterator[tuple[Step, Record]]:
    """R3, R4 and R5 for one validator and one view; production decides about each."""
    if view <= current_view:  # R3 allows late votes
        for block in blocks:
            changed = rules.notarize(view, record, block)
            if changed is not None:
                yield Step(StepKind.NOTARIZE, validator, view, block), changed
    if view == current_view:  # R4; that its trigger is a timer means: at any time
        changed = rules.nullify(view, record)
        if changed is not None:
            yield Step(StepKind.NULLIFY, validator, view), changed
    for block in sorted(provable.notarized):  # R5, in any view
        changed = rules.finalize(view, record, block)
        if changed is not None:
            yield Step(StepKind.FINALIZE, validator, view, block), changed


class Symmetry:
    """Picks one state of each class of states that are equal up to the names of validators and of sibling blocks.

    Sound because no rule compares validators or hashes otherwise than for equality, all weights are 1, and
    whether a validator leads makes no difference (the Byzantine one leads).
    """

    def __init__(self, table: BlockTable, named_views: int = 0) -> None:
        """Blocks of views up to `named_views` keep their names."""
        self._table = table
        self._named = table.parents_of_view(named_views + 1)
        self._known: dict[State, State] = {}

    def canonical(self, state: State) -> State:
        """The representative."""
        found = self._known.get(state)
        if found is None:
            least = min(self._renamed(order) for order in _orders(state))
            found = tuple(Local(view, tuple(map(Record._make, records))) for view, records in least)
            self._known[state] = found
        return found

    def _renamed(self, order: State) -> _Plain:
        """Sibling blocks numbered in the order in which they occur."""
        names, used = {GENESIS: GENESIS, UNSIGNED: UNSIGNED}, dict[tuple[int, int], int]()
        locals_renamed = []
        for view, records in order:
            for record in records:
                for number in record:
                    if number not in names:
                        self._name(number, names, used)
            locals_renamed.append((view, tuple([(names[n], names[x], names[z]) for n, x, z in records])))
        return tuple(locals_renamed)

    def _name(self, number: int, names: dict[int, int], used: dict[tuple[int, int], int]) -> int:
        if number in names:
            return names[number]
        if number in self._named:
            names[number] = number
            return number
        view, parent, _ = self._table.blocks[number]
        siblings = (view, self._name(parent, names, used))
        label = used.get(siblings, 0)
        used[siblings] = label + 1
        names[number] = self._table.numbers[ModelBlock(*siblings, label)]
        return names[number]


@cache
def _shape(local: Local) -> tuple[int, ...]:
    """What can be said about a validator without naming a block."""
    votes = ((n > 0, (x > 0) - (x == UNSIGNED), z > 0) for n, x, z in local.records)
    return (local.view, *(part for vote in votes for part in vote))


def _orders(state: State) -> Iterator[State]:
    """The orders of validators to try: by shape, and every order among those of equal shape."""
    by_shape: dict[tuple[int, ...], list[Local]] = {}
    for local in state:
        by_shape.setdefault(_shape(local), []).append(local)
    if len(by_shape) == len(state):
        yield tuple(by_shape[shape][0] for shape in sorted(by_shape))
        return
    groups = [sorted(set(permutations(by_shape[shape]))) for shape in sorted(by_shape)]
    for chosen in product(*groups):
        yield tuple(local for group in chosen for local in group)
