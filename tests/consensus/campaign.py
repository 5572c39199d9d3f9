"""One seeded run of a cluster: faults until it heals, then it must get going again. Pure.

The cluster asserts safety at every event (one chain, one signature per rule, journal before wire, nobody honest
accused); this adds liveness after healing.
"""

from __future__ import annotations

from functools import partial
from random import Random

from consensus.effects import Effect
from tests.consensus.cluster import Cluster, Process, hostile_link
from tests.consensus.traitor import Traitor

HOSTILE_MS = 2_500
CALM_MS = 25_000
"""Virtual time within which five more blocks must be final after healing; backoff may have grown to 64 times."""


def crash_if_alive(cluster: Cluster, process: Process) -> None:
    if process.core is not None:
        cluster.crash(process)


def run_seed(seed: int, count: int, *, traitors: int = 0, epoch_blocks: int = 0) -> Cluster:
    """Loss, duplication, reordering, partitions per (view, kind), crashes, and Byzantine validators."""
    rng = Random(seed)
    byzantine = frozenset(rng.sample(range(count), traitors))
    actors = {index: Traitor(index, count, seed) for index in byzantine}
    cluster = Cluster(
        count,
        seed=seed,
        link=hostile_link(seed, HOSTILE_MS, count),
        byzantine=byzantine,
        epoch_blocks=epoch_blocks,
        tamper=lambda sender, effect: actors[sender](sender, effect) if sender in actors else [effect],
    )
    for process in cluster.processes:
        if process.index not in byzantine and rng.random() < 0.4:
            cluster.after(rng.randint(1, HOSTILE_MS), partial(crash_if_alive, cluster, process))
    cluster.run(HOSTILE_MS)
    goal = max(cluster.heights()) + 5
    cluster.run(HOSTILE_MS + CALM_MS, until=lambda: cluster.live_height() >= goal)
    assert [halt for halt in cluster.observed.halts if halt[0] not in byzantine] == []
    assert cluster.live_height() >= goal, f"stuck at {cluster.heights()}"
    return cluster


def run_power_loss(seed: int, epoch_blocks: int = 0) -> Cluster:
    """A traitor does harm, then everybody loses power at once and the traitor never speaks again."""
    traitor = seed % 4
    actor = Traitor(traitor, 4, seed)

    def tamper(sender: int, effect: Effect) -> list[Effect]:
        if sender != traitor:
            return [effect]
        return actor(sender, effect) if cluster.now < HOSTILE_MS else []

    cluster = Cluster(
        4,
        seed=seed,
        link=hostile_link(seed, HOSTILE_MS, 4),
        byzantine=frozenset({traitor}),
        tamper=tamper,
        epoch_blocks=epoch_blocks,
    )
    cluster.run(HOSTILE_MS)
    for process in cluster.processes:
        crash_if_alive(cluster, process)
    goal = max(cluster.heights()) + 5
    cluster.run(HOSTILE_MS + CALM_MS, until=lambda: cluster.live_height() >= goal)
    assert cluster.live_height() >= goal, f"stuck at {cluster.heights()}"
    return cluster
