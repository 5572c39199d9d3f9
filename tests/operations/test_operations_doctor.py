"""`quorate config` and `quorate doctor`: what they find in a home, on the machine and in a node, and the advice."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from node.__main__ import main
from node.operations.findings import Finding, Level, graded, worst_of
from node.operations.home_checks import check_home
from node.operations.machine_checks import check_disk, check_port, filesystem_of
from node.operations.running_checks import check_running
from node.rpc.ask import ask_status
from node.rpc.node_socket import NodeSocket
from tests.node.test_node_socket import STATUS, Handler


@pytest.fixture
def home(tmp_path: Path) -> Path:
    main_without_exit("init", "--home", str(tmp_path), "--insecure-keys", "--validators", "4")
    return tmp_path / "node1"


def main_without_exit(*arguments: str) -> int:
    """The command's exit code."""
    try:
        main(list(arguments))
    except SystemExit as ended:
        assert ended.code is None or isinstance(ended.code, int)
        return ended.code or 0
    return 0


def found_in(home: Path, **environment: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in check_home(home, None, environment)[1]}


def edit(home: Path, old: str, new: str) -> None:
    path = home / "node.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def forget_peers(home: Path) -> None:
    path = home / "node.toml"
    path.write_text(path.read_text().partition("[[peers]]")[0])


def test_a_validator_whose_address_only_the_chain_may_know_is_a_warning(home: Path) -> None:
    edit(home, "[[peers]]\nindex = 3", "[[peers]]\nindex = 9")
    finding = found_in(home)["peers"]
    assert (finding.level, finding.found) == (Level.WARNING, "no address of validator 3 (node3)")


def test_a_new_home_would_start_and_is_told_what_it_lacks(home: Path) -> None:
    findings = found_in(home)

    assert worst_of(list(findings.values())) == Level.WARNING
    assert findings["identity"].found == "validator 1 (node1)"
    assert [name for name, item in findings.items() if item.level == Level.WARNING] == ["keystore", "venues"]
    assert all(item.advice for item in findings.values() if item.level == Level.WARNING)


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "settings": (lambda home: edit(home, "port = ", "prot = "), "`prot`"),
    "genesis": (lambda home: (home / "genesis.json").write_text("{"), "not valid JSON"),
    "keystore": (lambda home: (home / "keystore.json").chmod(0o644), "chmod 600"),
    "identity": (
        lambda home: (home.parent / "node2" / "keystore.json").replace(home / "keystore.json"),
        "not those of validator 1",
    ),
    "peers": (forget_peers, "no address of any validator"),
    "gateway": (
        lambda home: edit(home, "[gateway]", '[gateway]\ntoken_file = "nowhere"'),
        "there is no token file",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_in_a_home_is_a_problem_with_advice(home: Path, name: str) -> None:
    plant, sentence = MISTAKES[name]
    plant(home)

    finding = next(item for item in check_home(home, None, {})[1] if item.level == Level.PROBLEM)

    assert (finding.name, bool(finding.advice)) == (name, True)
    assert sentence in finding.found


def test_config_check_exits_1_exactly_when_the_node_would_not_start(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_without_exit("config", "check", "--home", str(home)) == 0
    (home / "keystore.json").unlink()
    assert main_without_exit("config", "check", "--home", str(home)) == 1
    assert "there is no keystore" in capsys.readouterr().out


def test_config_show_says_where_each_value_comes_from(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUORATE_LOG_LEVEL", "debug")
    capsys.readouterr()

    main_without_exit("config", "show", "--home", str(home))

    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["log_level"] == ['"debug"', "QUORATE_LOG_LEVEL"]
    assert rows["index"] == ["1", "file"]
    assert rows["data"] == ['"data"', "default"]


def test_doctor_prints_findings_for_scripts_and_exits_1_because_no_peer_answers(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()

    assert main_without_exit("doctor", "--home", str(home), "--json") == 1

    report = json.loads(capsys.readouterr().out)
    findings = {item["name"]: item for item in report["findings"]}
    assert report["worst"] == "problem"
    assert findings["peers reached"]["found"].startswith("0 of 3")
    assert findings["node"]["level"] == "note"
    assert {"clock", "disk latency", "open files", "memory", "python", "packages"} <= findings.keys()


def test_the_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    names = [finding.name for finding in check_disk(tmp_path)]

    assert names == ["disk space", "file system", "disk latency"]
    assert list(tmp_path.iterdir()) == []
    assert filesystem_of(Path("/proc")) == "proc"


def test_a_port_in_use_is_a_problem_before_the_start_and_good_after_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert check_port("listen", "127.0.0.1", port, is_running=False).level == Level.PROBLEM
        assert check_port("listen", "127.0.0.1", port, is_running=True).level == Level.GOOD
    assert check_port("listen", "127.0.0.1", port, is_running=False).level == Level.GOOD
    assert check_port("listen", "127.0.0.1", port, is_running=True).level == Level.PROBLEM


def test_values_are_graded_by_two_limits() -> None:
    grades = [graded("x", "y", value, (1.0, 2.0), "z").level for value in (1.0, 1.5, 2.5)]

    assert grades == [Level.GOOD, Level.WARNING, Level.PROBLEM]


SECOND_NS = 10**9
STALE = replace(STATUS, market_time_ns=STATUS.block_time_ns + 31 * SECOND_NS)
AHEAD = replace(STATUS, block_time_ns=STATUS.market_time_ns + 2 * SECOND_NS)


@pytest.mark.parametrize(
    ("status", "name", "level"),
    [
        (None, "node", Level.NOTE),
        (STATUS, "voting", Level.GOOD),
        (replace(STATUS, index=-1), "voting", Level.NOTE),
        (replace(STATUS, index=-1, observer="the watermark is missing"), "voting", Level.PROBLEM),
        (replace(STATUS, halted="own_key_elsewhere"), "voting", Level.PROBLEM),
        (replace(STATUS, final_height=0), "newest block", Level.WARNING),
        (STATUS, "newest block", Level.GOOD),
        (STALE, "newest block", Level.PROBLEM),
        (AHEAD, "newest block", Level.PROBLEM),
    ],
)
def test_a_running_nodes_own_words_are_judged(status: object, name: str, level: Level) -> None:
    findings = {finding.name: finding for finding in check_running(status)}  # type: ignore[arg-type]

    assert findings[name].level == level


async def test_a_running_node_is_asked_over_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    assert ask_status(path) is None
    async with trio.open_nursery() as nursery:
        await nursery.start(NodeSocket(path, Handler()).run)
        assert await trio.to_thread.run_sync(ask_status, path) == STATUS
        nursery.cancel_scope.cancel()
