"""Log lines are JSON with their context; metrics count by reason and never lose a failed timing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import structlog

from ledger.staking.queries import get_validators
from ledger.transactions import LeaveValidatorSet
from node.logs import configure_logs
from node.metrics import NodeMetrics
from primitives.errors import OperatorError
from tests.ledger.staking_builders import OPERATORS, StakedExchange


def test_a_line_is_one_json_object_with_context(tmp_path: Path) -> None:
    configure_logs("info", tmp_path / "deep" / "node.log", node="node0")
    log = structlog.get_logger()
    log.debug("too quiet")
    log.info("block_final", height=7, block=b"\1\2")
    log.warning("said", by="a\nb")
    lines = [json.loads(line) for line in (tmp_path / "deep" / "node.log").read_text().splitlines()]
    assert [(line["event"], line["level"], line["node"]) for line in lines] == [
        ("block_final", "info", "node0"),
        ("said", "warning", "node0"),
    ]
    assert (lines[0]["height"], lines[1]["by"]) == (7, "a\nb")


def test_a_log_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=f"cannot write the log file {tmp_path}: Is a directory"):
        configure_logs("info", tmp_path)


def test_finality_percentiles_and_fast_share() -> None:
    metrics = NodeMetrics()
    assert (metrics.finality_percentiles_us(), metrics.fast_share_ppm()) == ((0, 0), 0)
    for number in range(1, 101):
        metrics.on_final(number, number * 1_000, fast=number % 4 != 0)
    metrics.on_final(101, None, fast=False)
    assert metrics.finality_percentiles_us() == (51_000, 100_000)
    assert (metrics.finality_count, metrics.fast_share_ppm()) == (100, 750_000)


def test_the_text_holds_counters_by_reason_and_those_of_others() -> None:
    metrics = NodeMetrics()
    metrics.count("transaction_refused", "bad_nonce", 2)
    metrics.set("mempool_size", 5)
    with pytest.raises(ZeroDivisionError), metrics.time_validate():
        _ = 1 // 0
    text = metrics.text({("frames_sent", "vote"): 9}).decode()
    assert 'quorate_events_total{name="transaction_refused",reason="bad_nonce"} 2.0' in text
    assert "quorate_mempool_size 5.0" in text
    assert 'quorate_frames_sent{label="vote"} 9' in text
    assert "quorate_validate_seconds_count 1.0" in text


def test_two_nodes_in_one_process_count_apart() -> None:
    one, two = NodeMetrics(), NodeMetrics()
    one.on_view(3, "notarization")
    assert 'quorate_views_total{by="notarization"} 1.0' in one.text().decode()
    assert "notarization" not in two.text().decode()


def test_members_of_the_running_set_are_shown_by_place() -> None:
    exchange, metrics = StakedExchange(), NodeMetrics()
    exchange.does(OPERATORS[1], LeaveValidatorSet(1))
    exchange.passes_epochs(2)
    exchange.sees(signers=(0, 1, 3), delays=((3, 16),)).block()
    metrics.set_validators(get_validators(exchange.state))
    text = metrics.text().decode()
    assert 'quorate_validator_power{validator="2"} 1.0' in text
    assert 'quorate_validator_missed_blocks{validator="2"} 1.0' in text
    assert 'quorate_validator_leader_delay_ppm{validator="3"} 1.0' in text
    assert 'quorate_validator_jailed{validator="0"} 0.0' in text
    assert 'quorate_validator_late_proposals{validator="3"} 0.0' in text
    assert 'quorate_validator_outside_reports{validator="0"} 0.0' in text
    assert 'quorate_validator_stake_uusd{validator="0"} 1e+12' in text
    assert 'validator="1"' not in text
