"""What changes between epochs, in whole simulated networks: validators, protocol versions, and who may vote again."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from testnet.sim.campaign import quiet
from testnet.sim.canaries import epochs_plan
from testnet.sim.plan import Fault, FaultKind, Plan, SetChange, Traitor, from_json, to_json
from testnet.sim.simulation import Simulation, verdict_of

CALM = Plan(
    seed=1,
    validators=5,
    min_block_ms=50,
    delta_ms=50,
    epoch_blocks=4,
    hostile_ms=8_000,
    healed=(0, 1, 2, 3),
)
EVERYBODY = (0, 1, 2, 3, 4)


@pytest.fixture(autouse=True)
def _no_log_lines() -> None:
    quiet()


def kept(plan: Plan, **changes: Any) -> Simulation:
    """The run of a plan that breaks no promise."""
    simulation, violation = verdict_of(replace(plan, **changes))
    assert violation is None
    return simulation


def proposers(simulation: Simulation, first_epoch: int, last_epoch: int) -> set[int]:
    blocks = simulation.chain.blocks.values()
    return {b.header.proposer for b in blocks if first_epoch <= b.header.epoch <= last_epoch}


def test_a_validator_joins_another_leaves_and_both_at_one_height_for_everybody() -> None:
    sets = (SetChange(epoch=3, weights=(1, 1, 1, 0, 1)),)
    simulation = kept(CALM, weights=(1, 1, 1, 1, 0), sets=sets, healed=(0, 1, 2))
    assert proposers(simulation, 0, 2) == {0, 1, 2, 3}
    assert proposers(simulation, 3, simulation.highest_epoch) == {0, 1, 2, 4}
    assert simulation.sometimes["validator joined"] == simulation.sometimes["validator left"] == 1
    assert simulation.sometimes["set changed"] == 5


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_leader_dies_and_the_network_parts_at_the_switch_height(seed: int) -> None:
    """One set for each height, no gap, and the chain goes on: the checkers look at every block."""
    switch = Fault(
        kind=FaultKind.SWITCH, at_ms=0, until_ms=1_500, nodes=(0, 1), peers=(2, 3, 4), amount=3 * 4
    )
    sets = (SetChange(epoch=3, weights=(1, 1, 0, 1, 1)),)
    simulation = kept(CALM, seed=seed, sets=sets, faults=(switch,), healed=(0, 1, 3, 4))
    assert simulation.sometimes["partition and dead leader at a switch"] == 1
    assert simulation.highest_epoch > 3


def test_a_rolling_upgrade_with_mixed_versions_has_no_fork_at_the_activation_height() -> None:
    upgrades = tuple(
        Fault(kind=FaultKind.UPGRADE, at_ms=at_ms, until_ms=at_ms + 100, nodes=(node,))
        for node, at_ms in ((0, 200), (1, 600), (2, 1_000), (3, 1_400), (4, 5_000))
    )
    simulation = kept(CALM, upgrade_epoch=5, old_builds=EVERYBODY, faults=upgrades, healed=EVERYBODY)
    assert simulation.sometimes["old build stopped"] >= 1
    versions = {height: block.header.version for height, block in simulation.chain.blocks.items()}
    assert [versions[height] for height in range(1, 30)] == [1] * 20 + [2] * 9
    assert min(validator.height for validator in simulation.validators) > 40


def test_an_upgrade_that_more_than_a_third_missed_waits_for_them() -> None:
    simulation = kept(CALM, upgrade_epoch=2, old_builds=(0, 1))
    assert simulation.sometimes["old build stopped"] == 2
    assert simulation.sometimes["upgrade in force"] == 5
    assert simulation.recovery_ms > 0


@pytest.mark.parametrize("lost", [0, 1, 2], ids=["everything", "the journal", "the watermark"])
def test_a_validator_that_lost_its_memory_watches_and_then_votes_in_a_later_epoch(lost: int) -> None:
    fault = Fault(kind=FaultKind.LOST_DISK, at_ms=2_000, until_ms=2_300, nodes=(4,), amount=lost)
    simulation = kept(CALM, faults=(fault,))
    assert simulation.sometimes["observer after a lost disk"] == simulation.sometimes["watch ended"] == 1
    last = simulation.highest_epoch
    assert 4 in proposers(simulation, last - 5, last)


def test_a_validator_that_hears_its_own_key_elsewhere_stops() -> None:
    traitor = Traitor(validator=4, behaviour="doppelganger")
    simulation = kept(CALM, traitors=(traitor,))
    assert simulation.halts == [(4, "own_key_elsewhere")]
    assert simulation.sometimes["stopped by its double"] == 1


def test_a_validator_that_was_away_for_many_epochs_goes_through_each_of_them() -> None:
    away = Fault(kind=FaultKind.CRASH, at_ms=500, until_ms=5_000, nodes=(4,))
    sets = tuple(SetChange(epoch=epoch, weights=(1, 1, 1, epoch % 2, 1)) for epoch in range(2, 12))
    simulation = kept(CALM, faults=(away,), sets=sets, healed=(0, 1, 2, 4))
    assert simulation.sometimes["caught up past an epoch"] >= 8
    opened = [one.number for one, _ in simulation.validators[4].store.opened]
    assert opened == list(range(1, len(opened) + 1))


@pytest.mark.parametrize("seed", range(1, 21))
def test_everything_that_may_change_between_epochs_changes_at_once(seed: int) -> None:
    kept(epochs_plan(seed))


def test_a_plan_with_sets_and_an_upgrade_replays_from_its_file() -> None:
    plan = epochs_plan(3)
    assert from_json(to_json(plan).encode()) == plan
    assert kept(plan).event_hash() == kept(plan).event_hash()
