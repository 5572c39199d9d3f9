"""Whole clusters of real cores: what they agree on, under which faults. The cluster itself asserts safety."""

from __future__ import annotations

from functools import partial

import pytest

from consensus.certificates import resolve
from consensus.effects import Broadcast, Effect, Send
from consensus.messages import (
    BlockResponse,
    ConsensusMessage,
    Proposal,
    TimeoutCertificate,
    VoteKind,
    Votes,
    hash_of,
)
from primitives.identifiers import ValidatorIndex
from primitives.signing import SigningKey
from tests.consensus.builders import EPOCH, an_epoch
from tests.consensus.campaign import crash_if_alive
from tests.consensus.cluster import (
    DELTA_MS,
    Cluster,
    Delays,
    Link,
    final_hashes,
    hostile_link,
    steady_link,
    view_and_kind,
)
from tests.consensus.traitor import signed, twin_of

FIRST_LEADER = EPOCH.leaders.leader_of(1)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_when_all_answer_every_block_is_final_by_the_fast_path(count: int) -> None:
    cluster = Cluster(count, link=steady_link)
    cluster.run(3_000)
    assert cluster.live_height() >= 40
    assert set(cluster.observed.proofs.values()) == {VoteKind.NOTARIZE}
    assert cluster.observed.evidence == []


@pytest.mark.parametrize(("count", "silent"), [(4, {1}), (7, {2, 5})])
def test_with_f_silent_blocks_are_final_by_the_slow_path(count: int, silent: set[int]) -> None:
    cluster = Cluster(count, link=steady_link, silent=frozenset(silent))
    cluster.run(6_000)
    assert cluster.live_height() >= 40
    assert set(cluster.observed.proofs.values()) == {VoteKind.FINALIZE}
    skipped = [s for block, _ in cluster.processes[0].store for s in block.justification.skips]
    assert {an_epoch(count).leaders.leader_of(skip.view) for skip in skipped} == silent


def test_every_signature_on_the_wire_is_a_valid_ed25519_signature() -> None:
    keys = [SigningKey(bytes([index]) * 32) for index in range(4)]
    cluster = Cluster(4, seed=9, keys=keys, silent=frozenset({2}))
    cluster.run(2_000, until=lambda: cluster.live_height() >= 8)
    assert cluster.live_height() >= 8 and cluster.verified is not None and len(cluster.verified) > 50


def test_without_a_quorum_nothing_becomes_final_and_memory_does_not_grow() -> None:
    cluster = Cluster(4, link=steady_link, silent=frozenset({1, 2}))
    cluster.run(60_000)
    assert cluster.heights() == [0, 0, 0, 0]
    state = cluster.processes[0].core.state  # type: ignore[union-attr]
    assert state.view == 1 and len(state.tree.nodes()) <= 1


def test_an_equivocating_leader_is_proved_guilty_and_one_chain_goes_on() -> None:
    def equivocate(sender: int, effect: Effect) -> list[Effect]:
        if (
            sender != FIRST_LEADER
            or not isinstance(effect, Broadcast)
            or not isinstance(effect.message, Proposal)
        ):
            return [effect]
        twin = twin_of(effect.message.block)
        vote = signed(sender, VoteKind.NOTARIZE, twin.header.view, hash_of(twin.header))
        others = [ValidatorIndex(i) for i in range(4) if i != sender]
        told = [effect.message, Proposal(twin, vote), Proposal(twin, vote)]
        return [Send(to, message) for to, message in zip(others, told, strict=True)]

    cluster = Cluster(4, link=steady_link, byzantine=frozenset({FIRST_LEADER}), tamper=equivocate)
    cluster.run(5_000)
    assert cluster.live_height() >= 20
    assert set(cluster.observed.evidence) == {("E1", FIRST_LEADER)}


def test_lost_messages_are_repeated() -> None:
    cluster = Cluster(
        4, seed=5, link=lambda *_: [] if cluster.rng.random() < 0.25 else [cluster.rng.randint(5, 30)]
    )
    cluster.run(30_000, until=lambda: cluster.live_height() >= 30)
    assert cluster.live_height() >= 30


@pytest.mark.parametrize("boundary", range(1, 240, 6))
def test_a_crash_after_any_effect_never_leads_to_a_second_signature(boundary: int) -> None:
    cluster = Cluster(4, seed=boundary)
    victim = cluster.processes[FIRST_LEADER]
    victim.crash_at = boundary
    cluster.run(20_000, until=lambda: victim.life == 2 and cluster.live_height() >= 15)
    assert (victim.life, cluster.live_height() >= 15, cluster.observed.halts) == (2, True, [])


@pytest.mark.parametrize("seed", range(8))
def test_repeated_power_loss_of_everybody_loses_no_final_block(seed: int) -> None:
    cluster = Cluster(4, seed=seed, link=hostile_link(seed, 2_000, 4))
    for at_ms in range(100, 3_000, 300):
        for process in cluster.processes:
            cluster.after(at_ms, partial(crash_if_alive, cluster, process))
    cluster.run(3_100)
    goal = max(cluster.heights()) + 5
    cluster.run(20_000, until=lambda: cluster.live_height() >= goal)
    assert cluster.live_height() >= goal


def test_a_restarted_validator_votes_again_within_two_seconds() -> None:
    cluster = Cluster(4, link=steady_link)
    cluster.run(1_000)
    victim = cluster.processes[2]
    cluster.crash(victim, restart_ms=400)
    cluster.run(1_400)
    before = max(view for signer, _, view in cluster.observed.votes if signer == 2)
    cluster.run(
        3_400, until=lambda: len([1 for s, _, v in cluster.observed.votes if s == 2 and v > before]) > 3
    )
    assert cluster.now < 3_400


def cut_off(index: int, until_ms: int) -> Link:
    def link(now: int, sender: int, receiver: int, message: ConsensusMessage) -> Delays:
        return [] if now < until_ms and index in (sender, receiver) else [10]

    return link


@pytest.mark.parametrize(("away_ms", "blocks"), [(2_000, 20), (40_000, 600)])
def test_a_validator_that_was_away_catches_up_by_blocks_from_one_finality_proof(
    away_ms: int, blocks: int
) -> None:
    """The longer absence spans more heights than the tree holds: it walks down once and comes back in pieces."""
    cluster = Cluster(4, link=cut_off(3, away_ms))
    cluster.run(away_ms)
    goal = max(cluster.heights())
    assert len(cluster.processes[3].store) == 0 and goal > blocks
    cluster.run(away_ms + 3_000, until=lambda: cluster.live_height() > goal)
    assert cluster.live_height() > goal
    assert final_hashes(cluster.processes[3])[:goal] == final_hashes(cluster.processes[0])[:goal]


def test_catch_up_goes_on_with_another_peer_when_one_answers_nothing() -> None:
    def link(now: int, sender: int, receiver: int, message: ConsensusMessage) -> Delays:
        if now < 2_000 and 3 in (sender, receiver):
            return []
        return [] if isinstance(message, BlockResponse) and sender in (0, 1) else [10]

    cluster = Cluster(4, link=link)
    cluster.run(2_000)
    goal = max(cluster.heights())
    cluster.run(8_000, until=lambda: cluster.live_height() > goal)
    assert cluster.live_height() > goal


def test_a_block_that_one_validator_saw_final_by_the_fast_path_is_carried_by_the_others() -> None:
    """All four notarize in view 1, one hears it, the others time out and report: the chain must keep the block."""
    observer = (FIRST_LEADER + 1) % 4

    def link(now: int, sender: int, receiver: int, message: ConsensusMessage) -> Delays:
        early = view_and_kind(message) in ((1, VoteKind.NOTARIZE), (1, VoteKind.FINALIZE), (1, 4))
        if early and receiver != observer and now < 600:
            return []
        return [10] if receiver != observer or now > 600 or not is_nullify(message) else []

    def is_nullify(message: ConsensusMessage) -> bool:
        return isinstance(message, Votes) and message.votes[0].kind == VoteKind.NULLIFY

    def isolate(now: int, sender: int, receiver: int, message: ConsensusMessage) -> Delays:
        if sender == observer and 40 < now < 1_500:
            return []
        return link(now, sender, receiver, message)

    cluster = Cluster(4, link=isolate)
    cluster.run(100)
    assert cluster.heights()[observer] == 1 and sum(cluster.heights()) == 1
    cluster.run(6_000, until=lambda: cluster.live_height() >= 5)
    second = cluster.processes[observer].store[1][0]
    certificate = second.justification.parent
    assert isinstance(certificate, TimeoutCertificate)
    assert resolve(certificate, cluster.validators) == second.header.parent_hash
    assert cluster.live_height() >= 5


def test_an_invalid_block_is_nullified_at_once_and_skipped() -> None:
    cluster = Cluster(4, link=steady_link, bad_transactions=frozenset({b"view 5"}))
    cluster.run(2_000)
    views = [block.header.view for block, _ in cluster.processes[0].store]
    assert 5 not in views and 6 in views
    entered_6 = next(
        block.header.time_ns for block, _ in cluster.processes[0].store if block.header.view == 6
    )
    entered_4 = next(
        block.header.time_ns for block, _ in cluster.processes[0].store if block.header.view == 4
    )
    assert (entered_6 - entered_4) // 1_000_000 < DELTA_MS, "no timer was waited for"


def test_a_withheld_block_is_fetched_from_those_who_have_it() -> None:
    deprived = (FIRST_LEADER + 1) % 4

    def link(now: int, sender: int, receiver: int, message: ConsensusMessage) -> Delays:
        return (
            [] if isinstance(message, Proposal) and sender == FIRST_LEADER and receiver == deprived else [10]
        )

    cluster = Cluster(4, link=link)
    cluster.run(4_000)
    assert cluster.live_height() >= 30


def test_one_seed_gives_one_trace() -> None:
    logs = []
    for _ in range(2):
        cluster = Cluster(4, seed=11, link=hostile_link(11, 1_000, 4), narrate=True)
        cluster.run(1_500)
        logs.append(cluster.observed.log)
    assert logs[0] == logs[1] and len(logs[0]) > 500


def test_a_rewritten_journal_restores_the_same_promises() -> None:
    cluster = Cluster(4, seed=3, link=hostile_link(3, 2_000, 4))
    cluster.run(1_500)
    process = cluster.processes[0]
    assert process.core is not None
    process.journal = list(process.core.journal_records())
    before = process.core.state
    cluster.crash(process, restart_ms=1)
    cluster.run(1_502)
    after = process.core.state
    assert after.view == before.view
    assert list(after.own.records()) == list(before.own.records())
    goal = max(cluster.heights()) + 5
    cluster.run(20_000, until=lambda: cluster.live_height() >= goal)
    assert cluster.live_height() >= goal
