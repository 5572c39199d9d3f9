"""CometBFT beside us: its settings edited, its logs read; the real thing where its binary is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from primitives.errors import OperatorError
from testnet.bench.finality import FinalityPlan, configured, finality_figures, finality_of

CONFIG = """log_format = "plain"
[rpc]
laddr = "tcp://127.0.0.1:26657"
[p2p]
laddr = "tcp://0.0.0.0:26656"
strict = true
"""


def line(message: str, at: str, what: str) -> str:
    return f'{{"_msg":"{message}",{what},"ts":"2026-11-21T15:10:{at}Z"}}'


def test_finality_is_counted_from_the_proposers_own_sight_to_each_nodes_commit() -> None:
    proposer = [
        line("received proposal", "15.000000123", '"proposal":"Proposal{7/0 (BDD2:1:65D6, -1) B619 @ 2026}"'),
        line("received complete proposal block", "15.001000000", '"height":7'),
        line("finalizing commit of block", "15.009000000", '"height":7'),
    ]
    other = [
        "not json",
        line("received complete proposal block", "15.004000000", '"height":7'),
        line("executed block", "15.005000000", '"height":7'),
        line("finalizing commit of block", "15.012000000", '"height":7'),
    ]
    assert finality_of([other, proposer]) == pytest.approx([12.0, 9.0], abs=0.001)


def test_blocks_of_a_network_that_is_still_connecting_do_not_count() -> None:
    early = [
        line("received complete proposal block", "15.000000000", '"height":3'),
        line("finalizing commit of block", "17.000000000", '"height":3'),
    ]
    assert finality_of([early]) == []


def test_a_setting_is_replaced_in_its_own_section_with_its_own_quotes() -> None:
    edited = configured(CONFIG, {"p2p.laddr": "tcp://127.0.0.1:9", "p2p.strict": "false"})
    assert edited == CONFIG.replace("tcp://0.0.0.0:26656", "tcp://127.0.0.1:9").replace("true", "false")


def test_a_setting_of_another_version_is_named() -> None:
    with pytest.raises(OperatorError, match=r"no rpc\.speed: is this version"):
        configured(CONFIG, {"rpc.speed": "1"})


def test_a_binary_that_is_not_there_is_refused_with_how_to_get_it() -> None:
    with pytest.raises(OperatorError, match=r"does not run .* go install"):
        finality_figures(FinalityPlan(cometbft=Path("no-such-binary")), print)


@pytest.mark.slow
def test_both_are_measured_where_cometbft_is_named() -> None:
    binary = os.environ.get("QUORATE_COMETBFT")
    if binary is None:
        pytest.skip("QUORATE_COMETBFT names no binary of CometBFT")
    figures = finality_figures(FinalityPlan(seconds=8, cometbft=Path(binary)), print)
    assert {name for name in figures if name.endswith("p50_ms")} == {
        "finality.quorate_p50_ms",
        *(f"finality.cometbft_waits_{wait}_ms_p50_ms" for wait in (100, 10, 1)),
    }
    assert min(figures[name] for name in figures if name.endswith("count")) > 0
