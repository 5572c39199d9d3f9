"""Whole networks from a seed: promises kept, runs repeatable, failures made small, broken builds noticed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from testnet.sim.campaign import quiet, result_of, run_seed, run_twins
from testnet.sim.canaries import CANARIES, Canary, broken, focused_plan, hunt
from testnet.sim.plan import Fault, FaultKind, Plan, from_json, to_json
from testnet.sim.report import Verdict, never_reached, verdict_on
from testnet.sim.shrink import shrink
from testnet.sim.simulation import verdict_of
from testnet.sim.swarm import Wishes, draw_plan
from testnet.sim.twins import TwinScenario
from tests.simulation.other_processes import event_hashes

REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*.json"))
TORN_TAIL = next(canary for canary in CANARIES if canary.name == "a torn tail silences")
CALM = Plan(seed=1, validators=4, hostile_ms=10_000, healed=(0, 1, 2, 3))


@pytest.fixture(autouse=True)
def _no_log_lines() -> None:
    quiet()


def test_without_faults_a_block_is_final_at_the_stated_pace_by_the_fast_path() -> None:
    simulation, violation = verdict_of(CALM)
    assert violation is None
    assert min(validator.height for validator in simulation.validators) >= 40
    assert simulation.sometimes["fast finality"] > 10 * simulation.sometimes["slow finality"]


@pytest.mark.parametrize("seed", range(1, 31))
def test_every_promise_is_kept_under_the_faults_of_a_seed(seed: int) -> None:
    result = run_seed(Wishes(), seed)
    assert (result.oracle, result.detail) == ("", "")


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
def test_what_once_failed_is_kept_now(path: Path) -> None:
    _, violation = verdict_of(from_json(path.read_bytes()))
    assert violation is None


def test_one_plan_gives_one_event_hash_in_every_process_and_under_every_hash_seed() -> None:
    hashes = event_hashes("from testnet.sim.swarm import draw_plan", "draw_plan(18)", ("0", "1", "4242"))
    assert hashes == {result_of(draw_plan(18)).event_hash}


def test_a_plan_is_data_and_replays_from_its_file() -> None:
    plan = draw_plan(14)
    again = from_json(to_json(plan).encode())
    assert again == plan
    assert verdict_of(again)[0].event_hash() == verdict_of(plan)[0].event_hash()


@pytest.mark.parametrize("seed", [3, 6, 8])
def test_the_real_ledger_keeps_its_books_under_the_faults_of_a_seed(seed: int) -> None:
    result = run_seed(Wishes(validators=4, hostile_ms=8_000, application="exchange"), seed)
    assert (result.oracle, result.detail) == ("", "")


def test_orders_are_filled_and_every_validator_has_the_same_books() -> None:
    plan = msgspec.structs.replace(CALM, application="exchange", hostile_ms=15_000)
    simulation, violation = verdict_of(plan)
    assert violation is None
    trades = [
        account
        for account in simulation.validators[0].executor._state.accounts()  # type: ignore[attr-defined]
        if account.positions
    ]
    assert len(trades) >= 2
    at_one_height = {
        tuple(sorted(validator.store.leaves.items()))
        for validator in simulation.validators
        if validator.height == simulation.validators[0].height
    }
    assert len(at_one_height) == 1


@pytest.mark.parametrize("application", ["empty", "exchange"])
def test_the_core_goes_on_while_disks_are_slow_and_nothing_is_said_before_it_is_written(
    application: str,
) -> None:
    latencies_ms = (20, 60, 150, 700)
    slow = [
        Fault(kind=FaultKind.SLOW_DISK, at_ms=200, until_ms=7_000, nodes=(node,), amount=latency_ms)
        for node, latency_ms in enumerate(latencies_ms)
    ]
    crash = Fault(kind=FaultKind.CRASH, at_ms=3_000, until_ms=3_500, nodes=(2,), amount=3)
    plan = msgspec.structs.replace(
        CALM, application=application, delta_ms=400, min_block_ms=100, hostile_ms=8_000, faults=(*slow, crash)
    )
    simulation, violation = verdict_of(plan)
    assert violation is None
    assert simulation.sometimes["step while the disk is busy"] > 100
    assert min(validator.height for validator in simulation.validators) >= 10


def test_epochs_follow_each_other() -> None:
    simulation, violation = verdict_of(msgspec.structs.replace(CALM, epoch_blocks=5))
    assert violation is None
    assert min(len(validator.store.opened) for validator in simulation.validators) >= 5


def test_another_seed_is_another_run() -> None:
    assert run_seed(Wishes(), 2).event_hash != run_seed(Wishes(), 3).event_hash


def test_taking_one_fault_away_leaves_the_others_as_they_were() -> None:
    plan = draw_plan(24)
    without = msgspec.structs.replace(plan, faults=plan.faults[1:])
    assert without.faults == plan.faults[1:] and draw_plan(24) == plan


def test_a_failing_plan_is_made_small_and_still_fails() -> None:
    plan = from_json((Path(__file__).parent / "regressions" / "torn_tail_silences.json").read_bytes())
    noise = tuple(
        fault for fault in draw_plan(24, Wishes(validators=4)).faults if fault.kind is FaultKind.DRIFT
    )
    noisy = msgspec.structs.replace(plan, faults=plan.faults + noise[:2])
    with broken(TORN_TAIL):
        small = shrink(noisy, "liveness", runs_max=60)
        _, violation = verdict_of(small)
    assert violation is not None and violation.oracle == "liveness"
    assert len(small.faults) <= len(plan.faults)
    assert verdict_of(small)[1] is None, "put right, the plan is kept"


FAST = [
    "report dropped from nullify",
    "notarize after nullify",
    "finalize after nullify",
    "journal forgotten at a restart",
    "fast quorum one too low",
    "send before persist",
    "no fsync",
    "signatures unchecked",
    "wall clock in the core",
]


@pytest.mark.parametrize("canary", [c for c in CANARIES if c.name in FAST], ids=lambda canary: canary.name)
def test_a_broken_build_is_noticed(canary: Canary) -> None:
    assert hunt(canary, 20).caught


@pytest.mark.slow
@pytest.mark.parametrize(
    "canary", [c for c in CANARIES if c.name not in FAST], ids=lambda canary: canary.name
)
def test_a_broken_build_is_noticed_in_time(canary: Canary) -> None:
    assert hunt(canary).caught


def test_a_healed_build_passes_after_a_canary() -> None:
    with broken(CANARIES[0]):
        assert verdict_of(draw_plan(1))[1] is not None
    assert verdict_of(draw_plan(1))[1] is None


@pytest.mark.slow
def test_the_build_as_it_should_be_is_never_taken_for_a_canary() -> None:
    found = [
        (seed, str(violation)) for seed in range(1, 401) if (violation := verdict_of(focused_plan(seed))[1])
    ]
    assert found == []


def test_twins_never_fork_the_chain() -> None:
    result = run_twins((0, 400))
    assert result.violations == []
    assert result.finalized > 200 and result.offences > 100


def test_twins_repeat_themselves() -> None:
    assert TwinScenario(7).run() == TwinScenario(7).run()


@pytest.mark.slow
def test_many_twins_never_fork_the_chain() -> None:
    for validators in (4, 7):
        assert run_twins((0, 10_000), validators).violations == []


@pytest.mark.slow
def test_a_campaign_keeps_its_promises_and_reaches_what_it_should() -> None:
    results = [run_seed(Wishes(), seed) for seed in range(1, 301)]
    assert [(one.seed, one.oracle, one.detail) for one in results if one.oracle] == []
    assert never_reached(results) == []
    assert verdict_on(results) is Verdict.KEPT
