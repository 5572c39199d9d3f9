"""The small parts: leaders, pacemaker, vote keeper, own votes, block tree, catch-up targets."""

from __future__ import annotations

import pytest

from consensus.block_tree import BlockTree, Standing
from consensus.catch_up import FETCHES_MAX, Fetcher, FinalTargets
from consensus.effects import OwnVote, RaisedFloor
from consensus.epoch import genesis_block
from consensus.evidence import pair
from consensus.leader import LeaderSchedule
from consensus.pacemaker import FACTOR_MILLI, Pacemaker
from consensus.safety import OwnVotes, restore
from consensus.vote_keeper import Counted, VoteKeeper
from primitives.errors import InvariantViolation
from primitives.identifiers import NO_BLOCK, BlockHash
from tests.consensus.builders import (
    EPOCH,
    FINALIZE,
    NOTARIZE,
    NULLIFY,
    a_block,
    a_child,
    a_finalization,
    a_notarization,
    a_timeout,
    a_vote,
    name_of,
)
from tests.consensus.cluster import CHAIN_ID, ModelSigner

A, B = BlockHash(b"A" * 32), BlockHash(b"B" * 32)


def test_every_validator_leads_once_per_cycle_in_changing_order() -> None:
    schedule = LeaderSchedule(b"s" * 32, 7)
    cycles = [tuple(schedule.leader_of(view) for view in range(c * 7, c * 7 + 7)) for c in range(20)]
    assert all(sorted(cycle) == list(range(7)) for cycle in cycles)
    assert len(set(cycles)) > 15


def test_waits_grow_by_half_after_three_views_without_finality_up_to_64_times() -> None:
    pace = Pacemaker(delta_ms=100, min_block_ms=50)
    assert [pace.proposal_ms(view, 10) for view in (11, 13, 14, 15)] == [270, 270, 380, 545]
    assert [pace.view_ms(view, 10) for view in (11, 14, 10_000)] == [370, 530, 20_530]
    assert FACTOR_MILLI[:3] == (1_000, 1_500, 2_250) and FACTOR_MILLI[-1] == 64_000
    assert (pace.retry_ms(), pace.forward_ms()) == (250, 25)


def test_the_third_of_four_votes_completes_a_notarization_and_the_fourth_makes_it_heavy() -> None:
    keeper = VoteKeeper(EPOCH.validators)
    results = [keeper.add(a_vote(NOTARIZE, 7, A, voter)) for voter in (3, 1, 0, 0, 2)]
    assert results == [
        Counted(None, ()),
        Counted(None, ()),
        Counted(a_notarization(7, A, (0, 1, 3)), ()),
        None,
        Counted(a_notarization(7, A, range(4)), ()),
    ]


def test_a_contradicting_vote_is_evidence_and_still_counts_for_its_block() -> None:
    keeper = VoteKeeper(EPOCH.validators)
    keeper.add(a_vote(NOTARIZE, 7, B, 2))
    keeper.add(a_vote(NOTARIZE, 7, A, 0))
    keeper.add(a_vote(NOTARIZE, 7, A, 1))
    contradiction = a_vote(NOTARIZE, 7, A, 2)
    proof = pair(a_vote(NOTARIZE, 7, B, 2), contradiction)
    assert keeper.add(contradiction) == Counted(a_notarization(7, A), (proof,))
    assert keeper.add(a_vote(NOTARIZE, 7, b"C" * 32, 2)) is None


def test_a_timeout_certificate_groups_reports_and_old_views_are_forgotten() -> None:
    keeper = VoteKeeper(EPOCH.validators)
    votes = [a_vote(NULLIFY, 7, report, signer) for signer, report in enumerate((A, NO_BLOCK, B))]
    assert [keeper.add(vote) for vote in votes][-1] == Counted(a_timeout(7, {0: A, 1: NO_BLOCK, 2: B}), ())
    keeper.prune(8)
    assert [keeper.add(vote) for vote in votes] == [None, None, None]


def own_votes() -> OwnVotes:
    return OwnVotes(CHAIN_ID, 0, 1, ModelSigner(1).sign)


def test_own_votes_allow_exactly_what_the_rules_allow() -> None:
    own = own_votes()
    assert own.notarize(5, A)[0] == a_vote(NOTARIZE, 5, A, 1)
    assert not own.may_notarize(5, A) and not own.may_notarize(5, B)
    assert not own.may_finalize(5, B) and own.may_finalize(5, A)
    assert own.nullify(5)[0] == a_vote(NULLIFY, 5, A, 1)
    assert not own.may_finalize(5, A) and not own.may_nullify(5)
    own.finalize(6, B)
    assert not own.may_nullify(6) and not own.may_notarize(6, A) and own.may_notarize(6, B)
    with pytest.raises(InvariantViolation):
        own.nullify(6)


def test_own_votes_survive_a_restart_and_are_signed_again_to_the_same_bytes() -> None:
    own = own_votes()
    records = [own.notarize(5, A)[1], own.nullify(5)[1], own.finalize(6, B)[1]]
    again = own_votes()
    restored = restore(again, records)
    assert restored.view == 7
    assert [*again.votes_in(5), *again.votes_in(6)] == [*own.votes_in(5), *own.votes_in(6)]
    assert list(again.records()) == [RaisedFloor(0, 0), *records]
    with pytest.raises(InvariantViolation):
        restore(again, [OwnVote(FINALIZE, 0, 6, A)])


def test_a_raised_floor_forgets_and_forbids() -> None:
    own = own_votes()
    own.notarize(5, A)
    own.raise_floor(5)
    assert not own.may_notarize(5, A) and not own.may_nullify(5) and own.may_nullify(6)
    assert list(own.records()) == [RaisedFloor(0, 5)]


def a_tree() -> BlockTree:
    return BlockTree(genesis_block(CHAIN_ID), EPOCH.genesis, 1024)


def test_blocks_are_ready_when_their_parent_is_acceptable_and_fit_on_it() -> None:
    tree, first = a_tree(), a_block(1)
    second = a_child(first)
    late = tree.add(second, name_of(second))
    assert tree.ready() == [] and tree.orphans() == [name_of(first)]
    node = tree.add(first, name_of(first))
    assert tree.ready() == [node]
    node.standing = Standing.ACCEPTABLE
    assert tree.ready() == [late]
    node.standing = Standing.UNACCEPTABLE
    assert (tree.ready(), late.standing) == ([], Standing.UNACCEPTABLE)


def test_finality_drops_other_branches_and_knows_what_conflicts() -> None:
    tree, first, rival = a_tree(), a_block(1), a_block(1, text=b"rival")
    blocks = [first, a_child(first), rival, a_child(rival)]
    nodes = [tree.add(block, name_of(block)) for block in blocks]
    tree.finalize(nodes[:1])
    assert tree.root is nodes[0] and tree.nodes() == [nodes[1]]
    assert tree.final_at(1) == name_of(first) and tree.final_at(2) is None
    again = tree.add(blocks[3], name_of(blocks[3]))
    assert tree.conflicts(again.hash) and not tree.conflicts(nodes[1].hash)
    assert tree.skips_final(blocks[3]) and not tree.skips_final(blocks[1])


def test_a_path_names_the_block_to_fetch_next() -> None:
    tree, first = a_tree(), a_block(1)
    second = a_child(first)
    third = a_child(second)
    assert tree.path(name_of(third)) == name_of(third)
    tree.add(third, name_of(third))
    assert tree.path(name_of(third)) == tree.missing_ancestor(name_of(third)) == name_of(second)
    nodes = [tree.add(first, name_of(first)), tree.add(second, name_of(second))]
    assert tree.path(name_of(second)) == nodes


def test_a_fetcher_asks_each_block_once_per_retry_and_peers_in_turn() -> None:
    fetcher = Fetcher(4, own_index=1)
    asked = [fetcher.ask(BlockHash(bytes([i]) * 32), 0) for i in range(FETCHES_MAX + 1)]
    assert {one[0] for one in asked if one is not None} == {0, 2, 3} and asked[-1] is None
    assert fetcher.ask(BlockHash(bytes(32)), 0) is None
    assert fetcher.answered(BlockHash(bytes(32))) and not fetcher.answered(BlockHash(bytes(32)))
    fetcher.retry()
    assert fetcher.ask(A, 3, hint=None) is not None


def test_targets_descend_to_the_final_tip_and_come_back_up() -> None:
    targets = FinalTargets()
    targets.prove(a_finalization(9, A))
    targets.descend(B)
    targets.prove(a_finalization(8, b"x" * 32))
    assert (targets.lowest(), targets.proof) == (B, a_finalization(9, A))
    higher = BlockHash(b"H" * 32)
    targets.prove(a_finalization(10, higher))
    targets.reached()
    assert (targets.lowest(), bool(targets)) == (higher, True)
    targets.reached()
    assert not targets
