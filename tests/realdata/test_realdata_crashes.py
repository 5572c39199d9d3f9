"""Real crashes through the real ledger: money to the unit, and nobody's deficit left lying."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest

from primitives.errors import OperatorError
from testnet.realdata.crashes import CRASHES, CrashResult, read_path, replay_crash, steepest

REAL_DATA = Path(os.environ.get("QUORATE_MARKET_DATA", "../shared/data"))
needs_bars = pytest.mark.skipif(
    not (REAL_DATA / "binance_spot_klines").is_dir(), reason=f"no price bars in {REAL_DATA}"
)


def assert_all_is_borne(result: CrashResult) -> None:
    assert (result.money_difference_uusd, result.unborne_uusd) == (0, 0)


def test_a_price_that_halves_at_once_is_borne_by_somebody() -> None:
    """No data needed: a gap no margin covers, then an hour and more in which the waterfall works."""
    result = replay_crash([50_000.0] * 5 + [25_000.0] * 80, date(2020, 3, 12))
    assert_all_is_borne(result)
    assert result.liquidated_accounts > 8
    assert result.auctions > 0
    assert result.vault_takeovers + result.deleveragings > 0


def test_a_quiet_price_liquidates_nobody() -> None:
    result = replay_crash([50_000.0] * 10, date(2020, 3, 12))
    assert (result.liquidated_accounts, result.liquidation_steps) == (0, 0)
    assert_all_is_borne(result)


def test_a_directory_without_bars_of_the_day_is_the_operators_to_fix(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no price bars of 2020-03-12"):
        read_path(tmp_path, date(2020, 3, 12))


@needs_bars
@pytest.mark.parametrize("day", CRASHES, ids=str)
def test_the_steepest_half_hour_of_a_crash_is_borne(day: date) -> None:
    path = read_path(REAL_DATA, day)
    start = steepest(path, 30)
    assert_all_is_borne(replay_crash(path[start : start + 30], day))


@needs_bars
@pytest.mark.slow
@pytest.mark.parametrize("day", CRASHES, ids=str)
def test_a_whole_crash_is_borne(day: date) -> None:
    result = replay_crash(read_path(REAL_DATA, day), day)
    assert_all_is_borne(result)
    assert result.liquidated_accounts > 0
