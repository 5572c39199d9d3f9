"""Catch-up by ranges in simulated networks: whoever was long away comes back, past liars, losses and crashes."""

from __future__ import annotations

import msgspec
import pytest

from consensus.reasons import ConsensusReason
from primitives.errors import ProtocolViolation
from testnet.checkers import Violation
from testnet.sim.campaign import quiet, result_of
from testnet.sim.canaries import ranges_plan
from testnet.sim.plan import Fault, FaultKind, NetworkPlan, Plan, Traitor
from testnet.sim.simulation import Simulation, verdict_of
from tests.simulation.other_processes import event_hashes

AWAY = Fault(kind=FaultKind.CRASH, at_ms=500, until_ms=6_000, nodes=(3,))
LATE = Plan(
    seed=1,
    validators=4,
    delta_ms=50,
    min_block_ms=50,
    hostile_ms=8_000,
    range_blocks=4,
    faults=(AWAY,),
    healed=(0, 1, 2, 3),
)


@pytest.fixture(autouse=True)
def _no_log_lines() -> None:
    quiet()


def kept(plan: Plan) -> Simulation:
    simulation, violation = verdict_of(plan)
    assert violation is None
    return simulation


def is_back(simulation: Simulation) -> bool:
    heights = [validator.height for validator in simulation.validators]
    return heights[3] >= max(heights) - 4 > 60


def test_a_validator_long_away_fetches_ranges_from_several_peers_and_is_back() -> None:
    simulation = kept(LATE)
    assert is_back(simulation)
    assert simulation.sometimes["caught up by ranges"] >= 1
    assert simulation.sometimes["lie noticed: unproved"] == 0


def test_without_ranges_the_core_closes_the_gap_alone() -> None:
    simulation = kept(msgspec.structs.replace(LATE, range_blocks=0))
    assert is_back(simulation)
    assert simulation.sometimes["catch-up by ranges"] == 0


@pytest.mark.parametrize("kind", [FaultKind.CUT, FaultKind.LOST_DISK])
def test_a_partition_and_a_lost_disk_end_the_same_way(kind: FaultKind) -> None:
    fault = msgspec.structs.replace(AWAY, kind=kind, peers=(0, 1, 2))
    healed = (0, 1, 2) if kind is FaultKind.LOST_DISK else (0, 1, 2, 3)
    simulation = kept(msgspec.structs.replace(LATE, faults=(fault,), healed=healed))
    assert is_back(simulation)
    assert simulation.sometimes["caught up by ranges"] >= 1


def test_it_crosses_the_ends_of_epochs() -> None:
    simulation = kept(msgspec.structs.replace(LATE, epoch_blocks=20))
    assert is_back(simulation)
    assert simulation.sometimes["caught up by ranges"] >= 3
    epochs = [len(validator.store.opened) for validator in simulation.validators]
    assert epochs[3] == max(epochs) >= 4


def test_a_crash_while_ranges_are_on_their_way_loses_nothing_that_is_stored() -> None:
    again = Fault(kind=FaultKind.CRASH, at_ms=8_060, until_ms=9_000, nodes=(3,))
    slow = NetworkPlan(delay_min_ms=20, delay_max_ms=60)
    plan = msgspec.structs.replace(LATE, hostile_ms=12_000, network=slow, faults=(AWAY, again))
    at_ms = next(
        at_ms
        for at_ms in range(6_050, 8_500, 50)
        if verdict_of(with_second_crash(plan, at_ms))[0].sometimes["crash while catching up"]
    )
    assert is_back(kept(with_second_crash(plan, at_ms)))


def with_second_crash(plan: Plan, at_ms: int) -> Plan:
    again = msgspec.structs.replace(plan.faults[1], at_ms=at_ms, until_ms=at_ms + 300)
    return msgspec.structs.replace(plan, faults=(plan.faults[0], again))


def test_lost_questions_are_asked_of_others() -> None:
    simulation = kept(msgspec.structs.replace(LATE, network=NetworkPlan(loss_ppm=200_000), hostile_ms=15_000))
    assert is_back(simulation)
    assert simulation.sometimes["range asked of another peer"] >= 1


def test_who_lies_about_ranges_is_dropped_and_named_and_costs_no_liveness() -> None:
    simulations = [kept(ranges_plan(seed)) for seed in range(1, 13)]
    dropped = [one for one in simulations if one.sometimes["lying server dropped"]]
    assert len(dropped) >= 3
    assert sum(one.sometimes["caught up by ranges"] for one in simulations) >= 8


def test_silent_servers_cost_little() -> None:
    traitors = (Traitor(validator=0, behaviour="silent"), Traitor(validator=1, behaviour="silent"))
    plan = msgspec.structs.replace(
        LATE, validators=7, traitors=traitors, hostile_ms=15_000, healed=(2, 3, 4, 5, 6)
    )
    simulation = kept(plan)
    assert is_back(simulation)
    assert simulation.sometimes["question left without an answer"] >= 2


def test_two_who_give_one_block_in_ten_seconds_do_not_hold_up_the_others() -> None:
    traitors = (Traitor(validator=0, behaviour="dawdler"), Traitor(validator=1, behaviour="dawdler"))
    plan = msgspec.structs.replace(
        LATE, validators=7, traitors=traitors, hostile_ms=16_000, healed=(2, 3, 4, 5, 6)
    )
    assert is_back(kept(plan))


def test_whoever_caught_up_by_ranges_has_everybodys_books() -> None:
    simulation = kept(msgspec.structs.replace(LATE, application="exchange", min_block_ms=150))
    assert simulation.sometimes["caught up by ranges"] >= 1
    at_one_height = {
        tuple(sorted(validator.store.leaves.items()))
        for validator in simulation.validators
        if validator.height == simulation.validators[3].height
    }
    assert len(at_one_height) == 1


def test_an_honest_answer_that_is_refused_is_a_broken_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> list[object]:
        raise ProtocolViolation(ConsensusReason.UNPROVED, "nothing is believed")

    monkeypatch.setattr("node.sync.catch_up.check_final_header", never)
    _, violation = verdict_of(LATE)
    assert isinstance(violation, Violation) and violation.oracle == "honest messages pass"


def test_events_with_ranges_are_the_same_in_every_process_and_under_every_hash_seed() -> None:
    hashes = event_hashes("from testnet.sim.canaries import ranges_plan", "ranges_plan(4)", ("0", "1"))
    assert hashes == {result_of(ranges_plan(4)).event_hash}
