"""Seeds on a Dask cluster: the same runs as at home, in the same order, and refusals of one sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from primitives.errors import OperatorError
from testnet.sim import cluster
from testnet.sim.campaign import SEEDS_PER_TASK, RunResult, campaign, in_processes
from testnet.sim.cluster import on_cluster
from testnet.sim.commands import app
from testnet.sim.swarm import Wishes

WISHES = Wishes(validators=4, hostile_ms=3_000)
SEEDS = range(1, 3 * SEEDS_PER_TASK + 3)
NOBODY = "tcp://127.0.0.1:1"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="the extra quorate[cluster] is not installed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=str(tmp_path_factory.mktemp("dask")),
    ) as local:
        yield local.scheduler_address


def without_seconds(results: Iterator[RunResult]) -> list[RunResult]:
    return [msgspec.structs.replace(result, seconds=0.0) for result in results]


def test_a_cluster_gives_what_one_process_gives_in_the_order_of_the_seeds(address: str) -> None:
    assert without_seconds(campaign(SEEDS, WISHES, on_cluster(address))) == without_seconds(
        campaign(SEEDS, WISHES, in_processes(1))
    )


@pytest.mark.parametrize(
    ("typed", "counted", "count"),
    [
        (["run", "--seeds", "1..5", "--validators", "4", "--hours", "0.001"], "runs", 5),
        (["fork", "--seeds", "1..4", "--validators", "4"], "runs", 4),
        (["twins", "--scenarios", "520"], "scenarios", 520),
    ],
    ids=["run", "fork", "twins"],
)
def test_the_command_writes_the_report_of_a_local_campaign(
    address: str, tmp_path: Path, typed: list[str], counted: str, count: int
) -> None:
    reports = []
    for name, options in (("far", ["--cluster", address]), ("near", ["--jobs", "1"])):
        path = tmp_path / f"{name}.json"
        assert app([*typed, *options, "--report", str(path)], result_action="return_value") == 0
        found = msgspec.json.decode(path.read_bytes())
        reports.append({key: value for key, value in found.items() if not is_about_speed(key)})
    assert reports[0] == reports[1]
    assert reports[0][counted] == count


def is_about_speed(key: str) -> bool:
    return "cpu" in key or "second" in key


def test_a_worker_with_other_source_files_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "build_hash", lambda: "another build")
    with pytest.raises(OperatorError, match="other source files"):
        list(campaign([1], WISHES, on_cluster(address)))


def test_a_scheduler_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra quorate[cluster] is not installed")
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    with pytest.raises(OperatorError, match=f"no Dask scheduler answers at {NOBODY}"):
        list(campaign([1], WISHES, on_cluster(NOBODY)))


@pytest.mark.parametrize(
    "text", ["nonsense:abc", "tcp://127.0.0.1", "tcp://127.0.0.1:abc", "http://127.0.0.1:1"]
)
def test_an_address_that_is_none_is_shown_with_an_example(text: str) -> None:
    pytest.importorskip("distributed", reason="the extra quorate[cluster] is not installed")
    with pytest.raises(OperatorError, match=f"like tcp://127.0.0.1:8786, not '{text}'"):
        list(campaign([1], WISHES, on_cluster(text)))


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(OperatorError, match=r"install the extra quorate\[cluster\]"):
        list(campaign([1], WISHES, on_cluster(NOBODY)))


def test_one_seed_is_not_for_a_cluster() -> None:
    with pytest.raises(OperatorError, match="give it --seeds"):
        app(["run", "--seed", "1", "--cluster", NOBODY], result_action="return_value")
