"""Epochs in a cluster: boundaries final only through suffixes, sets that change, stragglers, restarts, traitors.

The cluster itself asserts, at every event: one chain, no suffix block delivered, journal before wire, one signature
per rule and epoch, nobody honest accused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from consensus.effects import OwnVote
from consensus.evidence import offences_of, pair
from consensus.messages import (
    ConsensusMessage,
    EvidenceMessage,
    Flag,
    Proposal,
    Vote,
    VoteKind,
    Votes,
    hash_of,
)
from consensus.validator_set import ValidatorSet
from tests.consensus.campaign import run_power_loss, run_seed
from tests.consensus.cluster import Cluster, Delays, Process, a_validator_set, final_hashes
from tests.consensus.traitor import signed

A, B = b"A" * 32, b"B" * 32


class NoFinalityWithoutSuffix:
    """A link that loses finalize votes, and proofs of finality with them, except for suffix blocks."""

    def __init__(self) -> None:
        self.suffix: set[bytes] = set()

    def __call__(self, now: int, sender: int, receiver: int, message: ConsensusMessage) -> Delays:
        if isinstance(message, Proposal) and message.block.header.flags & Flag.SUFFIX:
            self.suffix.add(hash_of(message.block.header))
        if isinstance(message, Votes) and any(self._is_lost(vote) for vote in message.votes):
            return []
        return [10]

    def _is_lost(self, vote: Vote) -> bool:
        return vote.kind == VoteKind.FINALIZE and vote.subject not in self.suffix


def a_suffix_cluster() -> Cluster:
    """Three of four run, so nothing is heavy: the boundary can be final through a suffix block alone."""
    return Cluster(4, link=NoFinalityWithoutSuffix(), silent=frozenset({0}), epoch_blocks=3)


def epochs_of(cluster: Cluster) -> list[int]:
    return [p.core.epoch.number if p.core is not None else -1 for p in cluster.processes]


def until_epoch(cluster: Cluster, number: int, who: tuple[int, ...], limit_ms: int = 20_000) -> None:
    cluster.run(limit_ms, until=lambda: min(epochs_of(cluster)[index] for index in who) >= number)
    assert min(epochs_of(cluster)[index] for index in who) >= number, epochs_of(cluster)


def signers_of(process: Process, epoch: int) -> set[int]:
    """Whoever signed a proof of finality in an epoch."""
    return {s for block, proof in process.store if block.header.epoch == epoch for s in proof.signers}


def test_epochs_follow_each_other_and_deliver_one_chain_without_gaps() -> None:
    cluster = Cluster(4, epoch_blocks=5)
    cluster.run(1_000)
    blocks = [block.header for block, _ in cluster.processes[0].store]
    assert len(blocks) > 30
    assert [header.epoch for header in blocks] == [(header.height - 1) // 5 for header in blocks]
    assert {header.view for header in blocks if header.height % 5 == 1} == {1}


def test_a_boundary_that_is_final_only_through_its_suffix_closes_the_epoch() -> None:
    cluster = a_suffix_cluster()
    until_epoch(cluster, 2, (1, 2, 3))
    store = cluster.processes[1].store
    for _, proof in cluster.processes[1].opened:
        assert len(proof.headers) > 1
        assert all(header.flags == Flag.SUFFIX for header in proof.headers[1:])
    assert [block.header.height for block, _ in store] == list(range(1, len(store) + 1))


def test_the_same_seed_elects_other_leaders_in_each_epoch() -> None:
    cluster = Cluster(7, epoch_blocks=2)
    until_epoch(cluster, 5, (0,))
    epoch = cluster.processes[0].core.epoch  # type: ignore[union-attr]
    orders = set()
    for one in (epoch, epoch.previous, epoch.previous.previous):  # type: ignore[union-attr]
        assert one is not None
        orders.add(tuple(one.leaders.leader_of(view) for view in range(14)))
    assert len(orders) == 3


def weights_after(changes: dict[int, tuple[int, ...]]) -> Callable[[int, ValidatorSet], ValidatorSet]:
    """The set decided at the end of an epoch: that of the epoch after the next."""

    def decide(epoch: int, known: ValidatorSet) -> ValidatorSet:
        chosen = changes.get(epoch)
        if chosen is None:
            return known
        keys = known.public_keys
        return known.following((i, keys[i], weight) for i, weight in enumerate(chosen) if weight)

    return decide


def test_a_set_shrinks_one_epoch_after_it_was_decided_and_grows_again() -> None:
    decide = weights_after({0: (1, 1, 1, 1, 0), 2: (1, 1, 1, 1, 1)})
    cluster = Cluster(5, epoch_blocks=4, next_set=decide)
    until_epoch(cluster, 6, (0, 1, 2, 3, 4))
    process = cluster.processes[0]
    everybody = {0, 1, 2, 3, 4}
    assert [signers_of(process, epoch) for epoch in range(6)] == [
        everybody,
        everybody,
        everybody - {4},
        everybody - {4},
        everybody,
        everybody,
    ]
    leaders = {block.header.proposer for block, _ in process.store if block.header.epoch in (2, 3)}
    assert leaders <= everybody - {4}


def test_who_is_not_in_the_set_follows_and_signs_nothing() -> None:
    cluster = Cluster(5, epoch_blocks=4, next_set=weights_after({0: (1, 1, 1, 1, 0)}))
    until_epoch(cluster, 5, (0, 1, 2, 3, 4))
    signed_in = {r.epoch for r in cluster.processes[4].journal if isinstance(r, OwnVote)}
    assert signed_in == {0, 1}


def test_a_straggler_two_epochs_behind_catches_up_by_epoch_proofs() -> None:
    cluster = Cluster(4, epoch_blocks=4, silent=frozenset({3}))
    until_epoch(cluster, 3, (0, 1, 2))
    late = cluster.processes[3]
    cluster.silent = frozenset()
    cluster.after(0, partial(cluster.boot, late))
    until_epoch(cluster, epochs_of(cluster)[0] + 2, (0, 1, 2, 3))
    assert [opened.number for opened, _ in late.opened] == list(range(1, len(late.opened) + 1))
    assert final_hashes(late) == final_hashes(cluster.processes[0])[: len(late.store)]
    assert 3 in {s for _, proof in cluster.processes[0].store[-4:] for s in proof.signers}


def test_a_validator_joins_by_catching_up_before_it_votes() -> None:
    """Place 4 has no weight at genesis and is down until its epoch has begun."""
    decide = weights_after({0: (1, 1, 1, 1, 1)})
    cluster = Cluster(5, weights=(1, 1, 1, 1, 0), epoch_blocks=4, silent=frozenset({4}), next_set=decide)
    until_epoch(cluster, 2, (0, 1, 2, 3))
    cluster.silent = frozenset()
    cluster.after(0, partial(cluster.boot, cluster.processes[4]))
    until_epoch(cluster, epochs_of(cluster)[0] + 2, (0, 1, 2, 3, 4))
    votes = [r for r in cluster.processes[4].journal if isinstance(r, OwnVote)]
    assert votes
    assert min(vote.epoch for vote in votes) >= 2


def test_evidence_of_an_epoch_is_verified_under_its_set_in_a_later_one() -> None:
    """Told in epoch 1 of what validator 3 did in epoch 0, the chain names it once."""
    offence = pair(*(signed(3, VoteKind.NOTARIZE, 50, subject) for subject in (A, B)))
    cluster = Cluster(4, epoch_blocks=4, byzantine=frozenset({3}))
    until_epoch(cluster, 1, (0, 1, 2))
    cluster.send(3, 0, EvidenceMessage(offence))
    until_epoch(cluster, 3, (0, 1, 2))
    named = [(b.header.epoch, o) for b, _ in cluster.processes[1].store for o in offences_of(b.evidence)]
    assert [one for _, one in named] == [(3, 0, "E1", 50)]
    assert named[0][0] > 0


@pytest.mark.parametrize("restarted", [(1,), (1, 2, 3)], ids=["one", "all"])
def test_a_restart_inside_a_suffix_loses_nothing(restarted: tuple[int, ...]) -> None:
    cluster = a_suffix_cluster()
    link = cluster.link
    assert isinstance(link, NoFinalityWithoutSuffix)
    cluster.run(20_000, until=lambda: bool(link.suffix))
    assert link.suffix
    assert epochs_of(cluster)[1:] == [0, 0, 0]
    for index in restarted:
        cluster.crash(cluster.processes[index])
    until_epoch(cluster, 1, (1, 2, 3))
    goal = cluster.live_height() + 4
    cluster.run(40_000, until=lambda: cluster.live_height() >= goal)
    assert cluster.live_height() >= goal


def test_a_crash_at_any_effect_around_a_boundary_loses_nothing() -> None:
    """Everybody crashes together after n effects, for n through two boundaries."""
    quiet = Cluster(4, epoch_blocks=2)
    until_epoch(quiet, 2, (0, 1, 2, 3))
    effects = quiet.processes[0].performed
    for crash_at in range(effects // 2, effects, 3):
        cluster = Cluster(4, epoch_blocks=2)
        for process in cluster.processes:
            process.crash_at = crash_at
        until_epoch(cluster, 4, (0, 1, 2, 3))


@pytest.mark.parametrize("seed", range(12))
def test_epochs_of_two_blocks_under_every_fault_and_a_traitor(seed: int) -> None:
    run_seed(seed, 4, traitors=1, epoch_blocks=2)
    run_power_loss(seed, epoch_blocks=2)


def test_votes_weigh_what_their_signers_weigh() -> None:
    """Weights 1 to 10: 18 of 55 may be down, 19 may not."""
    weights = tuple(range(1, 11))
    validators = a_validator_set(10, weights)
    assert (validators.quorum, validators.faulty) == (37, 18)
    alive = Cluster(10, weights=weights, silent=frozenset({9, 7}), epoch_blocks=5)
    alive.run(5_000)
    dead = Cluster(10, weights=weights, silent=frozenset({9, 8}))
    dead.run(5_000)
    assert (alive.live_height() > 10, dead.live_height()) == (True, 0)


@pytest.mark.parametrize("epochs_on", [0, 1], ids=["closed", "in the next epoch"])
def test_a_power_loss_before_anybody_has_stored_the_boundary_ends_nothing(epochs_on: int) -> None:
    """The ledger stores behind consensus: the journals alone must hold why the epoch is over."""
    cluster = Cluster(4, epoch_blocks=6)
    if epochs_on:
        until_epoch(cluster, 1, (0, 1, 2, 3))
    else:
        cluster.run(20_000, until=lambda: all(is_closed(process) for process in cluster.processes))
        assert all(is_closed(process) for process in cluster.processes)
    for process in cluster.processes:
        cluster.crash(process)
        process.store = process.store[:5]
        process.by_hash = {name: height for name, height in process.by_hash.items() if height <= 5}
        process.opened = []
    cluster.run(cluster.now + 20_000, until=lambda: cluster.live_height() >= 20)
    assert cluster.live_height() >= 20
    assert cluster.observed.halts == []


def is_closed(process: Process) -> bool:
    return process.core is not None and process.core.state.closed is not None
