"""A validator without its memory: it watches, signs again when that is safe, and notices another with its key."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from consensus.effects import JournalRecord, OwnVote, RaisedFloor
from consensus.messages import Status, VoteKind, Votes
from consensus.watch import Watch
from tests.consensus.cluster import Cluster, a_validator_set
from tests.consensus.test_consensus_epochs import epochs_of, until_epoch
from tests.consensus.traitor import signed

A = b"A" * 32
OTHERS = (0, 1, 2)


def forget(cluster: Cluster, index: int) -> None:
    """Kill a validator, lose its journal, start it again to watch."""
    process = cluster.processes[index]
    process.journal = []
    process.config = replace(process.config, watch=Watch(index))
    cluster.crash(process)


def signed_in(records: list[JournalRecord]) -> set[int]:
    return {record.epoch for record in records if isinstance(record, OwnVote)}


def test_a_validator_without_a_journal_signs_again_two_epochs_after_it_has_caught_up() -> None:
    """The cluster asserts that it never contradicts what it signed before."""
    cluster = Cluster(4, epoch_blocks=20)
    cluster.run(20_000, until=lambda: cluster.live_height() >= 25)
    forget(cluster, 3)
    until_epoch(cluster, 5, (0, 1, 2, 3))
    assert cluster.observed.watched == [(3, 3)]
    assert min(signed_in(cluster.processes[3].journal)) == 3
    assert cluster.observed.halts == []


def test_a_restart_while_watching_begins_the_watch_anew() -> None:
    """Nothing that it journals looks like a memory of what it signed."""
    cluster = Cluster(4, epoch_blocks=20)
    cluster.run(20_000, until=lambda: cluster.live_height() >= 25)
    forget(cluster, 3)
    until_epoch(cluster, 2, (0, 1, 2, 3))
    process = cluster.processes[3]
    assert process.core is not None
    kept = [*process.journal, *process.core.journal_records()]
    assert [record for record in kept if isinstance(record, OwnVote | RaisedFloor)] == []


def test_another_process_with_our_key_is_noticed_while_we_are_silent() -> None:
    cluster = Cluster(4, epoch_blocks=1_000)
    cluster.run(300)
    forget(cluster, 3)
    cluster.run(cluster.now + 500)
    process = cluster.processes[3]
    assert process.core is not None
    view = process.core.view
    for place, halts in ((1, []), (view + 40, [(3, "own_key_elsewhere")])):
        cluster.after(0, partial(cluster._arrive, 0, 3, Votes((signed(3, VoteKind.NULLIFY, place, A),))))
        cluster.run(cluster.now + 1)
        assert cluster.observed.halts == halts


def test_the_bound_is_what_a_quorum_told_after_the_start() -> None:
    """Views told: 7, 9, 8 by the three others, which are a quorum; a fourth told view would change nothing."""
    validators = a_validator_set(4)
    watch = Watch(3)
    for peer, view in ((0, 7), (1, 9)):
        watch.on_status(peer, Status(5, 0, 0, view), 5, validators)
    watch.on_status(3, Status(5, 0, 0, 99), 5, validators)
    assert not watch.may_sign(7)
    watch.on_status(2, Status(5, 0, 0, 8), 5, validators)
    assert [watch.may_sign(epoch) for epoch in (5, 6, 7)] == [False, False, True]
    places = [(5, 10), (5, 11), (6, 1), (6, 2)]
    votes = [signed(3, VoteKind.NULLIFY, view, A, epoch) for epoch, view in places]
    assert [watch.is_elsewhere(vote) for vote in votes] == [False, True, False, True]


def test_peers_in_a_later_epoch_do_not_count_as_a_quorum_that_we_have_caught_up_with() -> None:
    watch, validators = Watch(3), a_validator_set(4)
    for peer in OTHERS:
        watch.on_status(peer, Status(6, 0, 0, 1), 5, validators)
    assert not watch.may_sign(100)


def test_a_block_store_older_than_the_journal_signs_nothing_twice() -> None:
    """It goes through the epochs again, silent in those that its journal knows to be over."""
    cluster = Cluster(4, epoch_blocks=4)
    until_epoch(cluster, 3, (0, 1, 2, 3))
    process = cluster.processes[3]
    cluster.crash(process)
    process.store = process.store[:2]
    process.by_hash = {name: height for name, height in process.by_hash.items() if height <= 2}
    process.opened = []
    until_epoch(cluster, epochs_of(cluster)[0] + 3, (0, 1, 2))
    until_epoch(cluster, epochs_of(cluster)[0], (3,))
    goal = len(cluster.processes[0].store) + 8
    cluster.run(20_000, until=lambda: min(cluster.heights()) >= goal)
    assert min(cluster.heights()) >= goal
    assert 3 in {s for _, proof in cluster.processes[0].store[-4:] for s in proof.signers}
