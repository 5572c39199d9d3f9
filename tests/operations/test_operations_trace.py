"""`quorate trace`: one transaction's way through the logs of several nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.__main__ import main
from node.logs import configure_logs
from node.operations.log_steps import read_steps
from node.tracing import trace
from primitives.errors import OperatorError

ID = bytes(range(32))
OTHER = b"\x99" * 32


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    """Two nodes' logs at level debug, with another transaction in the same block."""
    paths = [tmp_path / "node0.log", tmp_path / "node1.log"]
    configure_logs("debug", paths[0], node="node0")
    trace("submitted", [ID])
    configure_logs("debug", paths[1], node="node1")
    trace("received", [ID])
    trace("proposed", [OTHER, ID], height=7)
    trace("refused", [OTHER], reason="bad_nonce")
    configure_logs("debug", paths[0], node="node0")
    trace("final", iter([ID, OTHER]), height=7)
    return paths


def test_a_transaction_is_followed_through_all_nodes_in_order_of_time(logs: list[Path]) -> None:
    steps = read_steps(ID.hex(), reversed(logs))

    assert [(step.node, step.stage, step.rest) for step in steps] == [
        ("node0", "submitted", ""),
        ("node1", "received", ""),
        ("node1", "proposed", "height 7"),
        ("node0", "final", "height 7"),
    ]


def test_a_refusal_shows_its_reason(logs: list[Path]) -> None:
    assert [step.rest for step in read_steps(OTHER.hex()[:8], logs)] == ["height 7", "bad_nonce", "height 7"]


def test_above_debug_nothing_is_written_and_no_id_is_computed(tmp_path: Path) -> None:
    configure_logs("info", tmp_path / "log", node="n")

    trace("final", (1 // 0 for _ in range(1)))  # type: ignore[misc]

    assert (tmp_path / "log").read_bytes() == b""


def test_a_torn_line_is_passed_over(logs: list[Path]) -> None:
    whole = logs[0].read_bytes()
    logs[0].write_bytes(whole[:-20])

    assert len(read_steps(ID.hex(), logs)) == 3


@pytest.mark.parametrize("text", ["", "abc", "zz" * 16])
def test_what_is_no_id_is_refused(text: str, logs: list[Path]) -> None:
    with pytest.raises(OperatorError, match="no transaction id"):
        read_steps(text, logs)


def test_the_command_prints_milliseconds_since_the_first_step(
    logs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trace", ID.hex(), *map(str, logs)])

    rows = capsys.readouterr().out.splitlines()
    assert ended.value.code in (None, 0)
    assert rows[1].split()[:3] == ["0.0", "node0", "submitted"]
    assert rows[-1].split()[1:] == ["node0", "final", "height", "7"]
