"""`quorate sim` as typed: its commands are there, and a refusal is one clear sentence."""

from __future__ import annotations

import pytest

from node.__main__ import app


def test_the_model_is_a_command_of_the_simulator(capsys: pytest.CaptureFixture[str]) -> None:
    app(["sim", "model", "--help"], result_action="return_value")
    printed = capsys.readouterr().out
    assert "--deep-views" in printed
    assert "--plant" in printed


@pytest.mark.parametrize(
    ("options", "exit_code"), [(("1",), 0), (("2", "--plant", "fast-quorum-one-too-low"), 1)]
)
def test_its_exit_code_says_whether_a_rule_was_broken(options: tuple[str, ...], exit_code: int) -> None:
    typed = ["sim", "model", "--deep-views", "0", "--views", *options]
    assert app(typed, result_action="return_value") == exit_code
