"""The rules as they are admit no fork at n = 4 with one Byzantine validator; each planted mistake does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from testnet.model.blocks import GENESIS, BlockTable
from testnet.model.by_view import explore_by_view
from testnet.model.claims import broken_claims
from testnet.model.commands import app
from testnet.model.explorer import Exploration, Judge, every_claim, explore, forks_only
from testnet.model.narrate import narrate
from testnet.model.planted import MUTATIONS, SURVIVORS, Mutation, planted
from testnet.model.rules import UNSIGNED, Column, Provable, Record, Rules
from testnet.model.states import Local, Symmetry
from tests.model.shortest_forks import SHORTEST_FORKS

A1, B1, C1 = 1, 2, 3
"""Blocks of view 1, all on genesis."""


def rules(views: int = 2) -> Rules:
    return Rules(BlockTable(views))


def test_no_three_views_one_after_the_other_break_a_claim() -> None:
    found = explore_by_view(rules(views=3))
    assert (found.violation, found.states, found.transitions) == (None, 265_756, 719_016)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_mistake_forks_the_chain(name: str) -> None:
    with planted(MUTATIONS[name]):
        broken = rules()
        found = explore(broken, forks_only)
        assert found.violation is not None
        story = narrate(broken, found.violation)
    assert (found.depth, len(found.violation.steps)) == (SHORTEST_FORKS[name],) * 2
    assert len([line for line in story if "is final by" in line]) == 2
    assert story[-1] == "  => two final blocks are not on one chain"


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_mistake_breaks_a_claim_before_agreement(name: str) -> None:
    with planted(MUTATIONS[name]):
        assert explore(rules(), every_claim).depth < SHORTEST_FORKS[name]
        assert explore_by_view(rules()).violation is not None


@pytest.mark.parametrize("mutation", SURVIVORS.values(), ids=SURVIVORS)
def test_what_agreement_does_not_need(mutation: Mutation) -> None:
    """If one of these starts to fork, the documentation is wrong about why the rule is there."""
    with planted(mutation):
        assert explore_by_view(rules()).violation is None


def test_a_mutation_is_gone_when_the_with_block_ends() -> None:
    mutation = MUTATIONS["report-dropped"]
    before = getattr(mutation.owner, mutation.attribute)
    with planted(mutation):
        assert getattr(mutation.owner, mutation.attribute) is mutation.replacement
    assert getattr(mutation.owner, mutation.attribute) is before


Outcome = tuple[object, ...]


def outcome_of(table: BlockTable, provable: Sequence[Provable]) -> Outcome:
    """What can be proved in each view, blocks told apart only by what is proved of them and of their parents."""

    def kind(block: int) -> Outcome:
        view, parent, _ = table.blocks[block]
        sets = (provable[view - 1].final, provable[view - 1].notarized, provable[view - 1].carried)
        return (view, *(block in some for some in sets), kind(parent) if parent != GENESIS else ())

    return tuple(
        (
            proof.skips,
            proof.has_timeout,
            tuple(sorted(kind(block) for block in proof.certified | proof.final)),
        )
        for proof in provable
    )


def explored(search: Callable[[Rules, Judge], Exploration]) -> tuple[Exploration, set[Outcome]]:
    """An exploration of two views that checks every claim and also notes what it came across."""
    found: set[Outcome] = set()

    def note(table: BlockTable, provable: Sequence[Provable]) -> str | None:
        found.add(outcome_of(table, provable))
        return every_claim(table, provable)

    return search(rules(), note), found


def test_no_interleaving_of_two_views_breaks_a_claim_and_view_by_view_misses_none() -> None:
    (whole, interleaved), (_, by_view) = explored(explore), explored(explore_by_view)
    # The counts tell that the exploration was whole: a guard that became stricter would lower them unnoticed.
    assert (whole.violation, whole.states, whole.transitions, whole.depth) == (None, 20_717, 78_049, 15)
    assert interleaved - by_view == set()
    # What is left over needs a quorum to give up view 2 before any certificate of view 1 let it in (R1).
    closed, given_up = (False, False, ()), (True, True, ())
    assert {outcome for outcome in by_view - interleaved if len(outcome) == 2} == {(closed, given_up)}


def test_a_timeout_certificate_with_a_minority_report_skips() -> None:
    column: Column = (Record(A1, A1), Record(0, 0), Record())
    proof = rules(1).provable(1, column)
    assert (proof.skips, proof.carried) == (True, {A1})  # it depends on what the Byzantine validator reports


def test_the_adversary_notarizes_and_finalizes_everything() -> None:
    column: Column = (Record(A1, UNSIGNED, A1), Record(A1, UNSIGNED, A1), Record(B1, UNSIGNED, A1))
    proof = rules(1).provable(1, column)
    assert (proof.notarized, proof.finalized, proof.final, proof.skips) == ({A1}, {A1}, {A1}, False)


def test_claims_name_what_is_broken() -> None:
    nothing: frozenset[int] = frozenset()
    proof = Provable(
        (), frozenset({A1, B1}), frozenset({A1}), frozenset({A1}), frozenset({A1}), nothing, True, True
    )
    assert list(broken_claims(BlockTable(1), [proof])) == [
        "view 1 has two notarizations",
        "view 1 has a finalization and a timeout certificate",
        "view 1 has a final block, and a timeout certificate that does not carry it",
    ]


def test_states_that_differ_in_names_are_one() -> None:
    table = BlockTable(1)
    symmetry = Symmetry(table)
    one = (Local(1, (Record(A1),)), Local(1, (Record(B1, B1),)), Local(1, (Record(),)))
    other = (Local(1, (Record(),)), Local(1, (Record(C1),)), Local(1, (Record(A1, A1),)))
    third = (Local(1, (Record(A1),)), Local(1, (Record(A1, A1),)), Local(1, (Record(),)))
    assert symmetry.canonical(one) == symmetry.canonical(other) != symmetry.canonical(third)


def test_the_command_prints_the_fork(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        app(["--plant", "fast-quorum-one-too-low"])
    assert stopped.value.code == 1
    assert capsys.readouterr().out.splitlines()[2:] == [
        "  1. view 1: validator 0 notarizes A1, on genesis",
        "  2. view 1: validator 1 notarizes A1",
        "  3. view 1: validator 2 nullifies and reports nothing",
        "  4. view 2: validator 2 enters on the notarization of A1 by 0, 1, 3*",
        "  5. view 1: validator 0 nullifies and reports A1",
        "  6. view 2: validator 1 enters on the notarization of A1 by 0, 1, 3*",
        "  7. view 2: validator 2 notarizes B2, on genesis; shown a timeout certificate "
        "(0 reports A1, 2 reports nothing, 3* reports nothing) that skips view 1",
        "  8. view 2: validator 1 notarizes B2",
        "  => A1 (view 1, on genesis) is final by the notarization of A1 by 0, 1, 3*",
        "  => B2 (view 2, on genesis) is final by the notarization of B2 by 1, 2, 3*",
        "  => two final blocks are not on one chain",
    ]


def test_the_command_ends_with_zero_when_nothing_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        app(["--views", "1", "--deep-views", "2"])
    assert stopped.value.code == 0
    assert [line.rsplit(": ", 1)[1] for line in capsys.readouterr().out.splitlines()] == ["no violation"] * 2
