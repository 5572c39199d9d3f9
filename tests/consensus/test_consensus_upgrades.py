"""Protocol versions: an upgrade at a height, with builds that know it and builds that do not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest

from consensus.effects import OwnVote
from consensus.epochs import EpochManager
from primitives.errors import OperatorError
from tests.consensus.cluster import Cluster, Process, final_hashes
from tests.consensus.test_consensus_epochs import epochs_of, until_epoch

EPOCH_BLOCKS = 4
UPGRADE_EPOCH = 3
LAST_OLD_HEIGHT = UPGRADE_EPOCH * EPOCH_BLOCKS


def a_cluster(*old: int) -> Cluster:
    """Everybody knows version 2, but for the `old`; it is in force from epoch 3 on."""
    cluster = Cluster(4, epoch_blocks=EPOCH_BLOCKS)
    cluster.version_2_from = UPGRADE_EPOCH
    for process in cluster.processes:
        if process.index not in old:
            install_version_2(process)
    return cluster


def install_version_2(process: Process) -> None:
    process.config = replace(process.config, version_max=2)


def versions_by_height(process: Process) -> list[int]:
    return [block.header.version for block, _ in process.store]


def epochs_voted_in(process: Process) -> set[int]:
    return {record.epoch for record in process.journal if isinstance(record, OwnVote)}


def check_one_chain(cluster: Cluster) -> None:
    chains = sorted((final_hashes(process) for process in cluster.processes), key=len)
    for shorter, longer in pairwise(chains):
        assert longer[: len(shorter)] == shorter


def test_everybody_changes_at_the_same_height() -> None:
    cluster = a_cluster()
    until_epoch(cluster, UPGRADE_EPOCH + 1, (0, 1, 2, 3))
    for process in cluster.processes:
        versions = versions_by_height(process)
        assert versions == [1] * LAST_OLD_HEIGHT + [2] * (len(versions) - LAST_OLD_HEIGHT)
        assert len(versions) > LAST_OLD_HEIGHT


def test_one_old_build_stops_before_its_first_vote_and_goes_on_when_it_is_replaced() -> None:
    cluster = a_cluster(3)
    until_epoch(cluster, UPGRADE_EPOCH + 1, (0, 1, 2))
    late = cluster.processes[3]
    assert cluster.observed.outdated == [(3, 2, LAST_OLD_HEIGHT + 1)]
    assert max(epochs_voted_in(late)) < UPGRADE_EPOCH
    assert len(late.store) == LAST_OLD_HEIGHT
    install_version_2(late)
    cluster.after(0, partial(cluster.boot, late))
    until_epoch(cluster, epochs_of(cluster)[0] + 2, (0, 1, 2, 3))
    check_one_chain(cluster)
    assert final_hashes(late) == final_hashes(cluster.processes[0])[: len(late.store)]


def test_with_two_old_builds_of_four_the_chain_waits_and_does_not_fork() -> None:
    cluster = a_cluster(2, 3)
    cluster.run(30_000)
    assert {place for place, _, _ in cluster.observed.outdated} == {2, 3}
    assert [len(process.store) for process in cluster.processes] == [LAST_OLD_HEIGHT] * 4
    for process in cluster.processes[2:]:
        install_version_2(process)
        cluster.after(0, partial(cluster.boot, process))
    until_epoch(cluster, UPGRADE_EPOCH + 1, (0, 1, 2, 3), 200_000)
    check_one_chain(cluster)


def test_a_restart_of_the_old_build_stops_again_and_signs_nothing() -> None:
    cluster = a_cluster(3)
    until_epoch(cluster, UPGRADE_EPOCH + 1, (0, 1, 2))
    cluster.after(0, partial(cluster.boot, cluster.processes[3]))
    cluster.run(cluster.now + 2_000)
    assert cluster.observed.outdated == [(3, 2, LAST_OLD_HEIGHT + 1)] * 2
    assert max(epochs_voted_in(cluster.processes[3])) < UPGRADE_EPOCH


def test_a_build_older_than_its_own_store_does_not_start() -> None:
    cluster = a_cluster()
    until_epoch(cluster, UPGRADE_EPOCH + 1, (0, 1, 2, 3))
    downgraded = cluster.processes[3]
    downgraded.config = replace(downgraded.config, version_max=1)
    with pytest.raises(OperatorError, match="runs protocol version 2, and this build knows versions up to 1"):
        downgraded.boot()


def test_a_chain_of_a_later_version_is_not_begun() -> None:
    process = a_cluster().processes[0]
    with pytest.raises(OperatorError, match="from height 1 on the chain runs protocol version 3"):
        EpochManager(replace(process.config, version=3), process.signer)
