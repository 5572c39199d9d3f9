"""Fees become rewards: exact, to the micro-dollar, and every rounding in its documented direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.events import CashMoved
from ledger.instruments import Underlying
from ledger.oracle import build_oracle_update, check_report
from ledger.reasons import LedgerReason
from ledger.staking.events import EpochRewarded, Rewarded
from ledger.staking.pools import shares_for, value_of
from ledger.staking.state import Delegation, delegation_key, get_activity, get_totals, validator_key
from ledger.transactions import (
    NO_QUOTES,
    Delegate,
    IndexReport,
    OracleReport,
    SeenDelay,
    SignedReport,
    Unbond,
)
from primitives.amounts import NS, PPM, USD
from primitives.codec import encode
from primitives.errors import ProtocolViolation
from tests.ledger.exchange import CHAIN, a_report, events_of, sign_report
from tests.ledger.staking_builders import EVERYBODY, STAKE, StakedExchange, a_staking


def traders(changes: dict[str, Any] | None = None, **cash_usd: int) -> StakedExchange:
    return StakedExchange(changes, alice=1_000_000, bob=1_000_000, **cash_usd)


def test_of_a_blocks_fees_the_stake_gets_its_part_rounded_down_and_the_fund_the_rest() -> None:
    exchange = traders({"fund_fee_share_ppm": 333_333})
    fund = exchange.fund
    fees = exchange.trades()
    to_stake = fees * 666_667 // PPM
    assert fees * 666_667 % PPM != 0
    assert get_totals(exchange.state).rewards_uusd == to_stake
    assert exchange.fund == fund + fees - to_stake
    assert exchange.state.supply.fees_uusd == 0


def test_an_epochs_rewards_go_to_stake_in_proportion_and_the_residue_to_the_fund() -> None:
    exchange = traders(carol=200_000)
    exchange.does("carol", Delegate(0, 123_457 * USD))
    fees = exchange.trades()
    fund, rewards = exchange.fund, get_totals(exchange.state).rewards_uusd
    total = 4 * STAKE + 123_457 * USD
    first, other = rewards * (STAKE + 123_457 * USD) // total, rewards * STAKE // total
    result = exchange.ends_epoch()
    assert [exchange.stake(number) for number in EVERYBODY] == [
        STAKE + 123_457 * USD + first,
        *[STAKE + other] * 3,
    ]
    residue = rewards - first - 3 * other
    assert 0 < residue < 4 < fees
    assert exchange.fund == fund + residue
    assert get_totals(exchange.state).rewards_uusd == 0
    assert events_of(result, EpochRewarded) == [EpochRewarded(0, first + 3 * other, 0, residue)]


def test_a_commission_is_paid_to_the_operator_rounded_down() -> None:
    staking = a_staking()
    validators = tuple(replace(item, commission_ppm=123_457) for item in staking.validators)
    exchange = traders({"validators": validators})
    exchange.trades()
    part = get_totals(exchange.state).rewards_uusd // 4
    result = exchange.ends_epoch()
    commission = part * 123_457 // PPM
    assert part * 123_457 % PPM != 0
    assert exchange.cash("operator 2") == commission
    assert exchange.stake(2) == STAKE + part - commission
    assert CashMoved(*exchange.key("operator 2"), commission, "commission") in result.events
    assert Rewarded(2, 0, part - commission, commission, "") in result.events


def test_rewards_belong_to_delegators_in_proportion_to_their_shares() -> None:
    exchange = traders(carol=2_000_000)
    exchange.does("carol", Delegate(3, 1_000_000 * USD))
    exchange.trades()
    exchange.ends_epoch()
    validator = exchange.validator(3)
    assert validator.stake_uusd > 2 * STAKE
    assert value_of(validator, exchange.shares("carol", 3)) == validator.stake_uusd // 2


def test_an_epoch_without_fees_rewards_nobody() -> None:
    assert events_of(traders().ends_epoch(), Rewarded) == []


def test_shares_bought_round_down_and_a_value_rounds_down() -> None:
    validator = replace(traders().validator(0), stake_uusd=10, shares=3)
    assert [shares_for(validator, amount) for amount in (3, 4, 6, 7, 10)] == [0, 1, 1, 2, 3]
    assert [value_of(validator, shares) for shares in (1, 2, 3)] == [3, 6, 10]


def test_a_part_that_is_taken_out_costs_shares_rounded_up() -> None:
    exchange = traders(carol=2_000_000)
    exchange.does("carol", Delegate(3, 1_000_000 * USD))
    exchange.trades()
    exchange.ends_epoch()
    before, held = exchange.validator(3), exchange.shares("carol", 3)
    amount = 777_777 * USD
    exchange.does("carol", Unbond(3, amount))
    exchange.block()
    sold = held - exchange.shares("carol", 3)
    assert sold * before.stake_uusd >= amount * before.shares > (sold - 1) * before.stake_uusd
    assert amount * before.shares % before.stake_uusd != 0


def test_taking_the_whole_value_out_leaves_no_share() -> None:
    exchange = traders(carol=2_000_000)
    exchange.does("carol", Delegate(3, 777_777 * USD))
    exchange.trades()
    exchange.ends_epoch()
    worth = value_of(exchange.validator(3), exchange.shares("carol", 3))
    exchange.does("carol", Unbond(3, worth))
    exchange.block()
    assert (exchange.shares("carol", 3), exchange.unbonding("carol")) == (0, [worth])


def test_what_the_last_share_leaves_goes_to_the_fund() -> None:
    exchange = traders({"min_delegation_uusd": 1})
    pool = exchange.validator(0)
    exchange.state.begin_block()
    key = exchange.key("operator 0")
    exchange.state.put(validator_key(0), replace(pool, shares=1))
    exchange.state.put(delegation_key(0, key), Delegation(0, *key, 1))
    fund = exchange.fund
    exchange.does("operator 0", Unbond(0, STAKE - 5))
    exchange.block()
    assert (exchange.stake(0), exchange.unbonding("operator 0")) == (0, [STAKE - 5])
    assert exchange.fund == fund + 5


# --- who earns nothing ---


def rewarded(exchange: StakedExchange) -> dict[int, str]:
    exchange.trades()
    return {item.validator: item.withheld for item in events_of(exchange.ends_epoch(), Rewarded)}


def test_a_leader_that_is_late_again_and_again_earns_nothing_and_the_fund_gets_its_part() -> None:
    exchange = traders()
    for _ in range(4):
        exchange.sees(delays=((1, 800_000), (2, 799_999))).block()
    fund = exchange.fund
    assert rewarded(exchange) == {0: "", 1: "late", 2: "", 3: ""}
    assert exchange.stake(1) == STAKE < exchange.stake(2)
    assert exchange.fund - fund > exchange.stake(2) - STAKE


def test_a_leader_that_is_late_now_and_then_earns() -> None:
    exchange = traders()
    for delay_ppm in (900_000, 100_000, 100_000, 100_000):
        exchange.sees(delays=((1, delay_ppm),)).block()
    assert rewarded(exchange)[1] == ""


def test_a_late_share_exactly_at_the_limit_earns() -> None:
    exchange = traders({"late_share_ppm_max": 500_000})
    for delay_ppm in (900_000, 900_000, 100_000, 100_000):
        exchange.sees(delays=((1, delay_ppm),)).block()
    assert rewarded(exchange)[1] == ""


def test_lateness_is_forgotten_with_the_window() -> None:
    exchange = traders()
    for _ in range(4):
        exchange.sees(delays=((1, 900_000),)).block()
    for _ in range(16):
        exchange.block()
    assert rewarded(exchange)[1] == ""


def test_the_leader_delay_is_smoothed_and_rounds_down() -> None:
    exchange = traders()
    exchange.sees(delays=((1, 900_000),)).block()
    assert get_activity(exchange.state, 1).leader_delay_ppm == 56_250
    exchange.sees(delays=((1, 101),)).block()
    assert get_activity(exchange.state, 1).leader_delay_ppm == (56_250 * 15 + 101) // 16


def block_of_reports(exchange: StakedExchange, *delays: Sequence[SeenDelay]) -> None:
    """The n-th reporter tells the n-th delays."""
    exchange.now_ns += NS
    reports = [a_report(number, exchange.now_ns, delays=seen) for number, seen in enumerate(delays)]
    exchange.apply((encode(build_oracle_update(exchange.state, reports)),))


def delay_of(exchange: StakedExchange, number: int) -> tuple[int, int]:
    activity = get_activity(exchange.state, number)
    return sum(times for _, times in activity.led), activity.leader_delay_ppm


def test_a_delay_is_the_lower_median_of_what_reporters_saw() -> None:
    exchange = traders()
    exchange.block()
    block_of_reports(exchange, *([SeenDelay(1, 2, delay_ppm)] for delay_ppm in (10**6, 160, 320, 0)))
    assert delay_of(exchange, 2) == (1, 10)


def test_a_delay_counts_when_two_thirds_of_the_power_tell_of_it_and_then_once() -> None:
    exchange = traders()
    exchange.block()
    one = [SeenDelay(1, 2, 160)]
    block_of_reports(exchange, one, one, [], [])
    assert delay_of(exchange, 2) == (0, 0)
    block_of_reports(exchange, one, one, one, [])
    assert delay_of(exchange, 2) == (1, 10)
    block_of_reports(exchange, one, one, one, one)
    assert delay_of(exchange, 2) == (1, 10)


def test_two_proposals_of_one_height_are_two_leaders_delays() -> None:
    exchange = traders()
    exchange.block()
    block_of_reports(exchange, *([[SeenDelay(1, 0, 1_600_000), SeenDelay(1, 3, 160)]] * 4))
    assert (delay_of(exchange, 0), delay_of(exchange, 3)) == ((1, 100_000), (1, 10))


@pytest.mark.parametrize("seen", [SeenDelay(1, 4, 160), SeenDelay(2, 1, 160), SeenDelay(2**62, 1, 160)])
def test_delays_of_nobody_and_of_heights_to_come_count_for_nothing(seen: SeenDelay) -> None:
    exchange = traders()
    exchange.block()
    block_of_reports(exchange, *([[seen]] * 4))
    assert [delay_of(exchange, number) for number in EVERYBODY] == [(0, 0)] * 4


def test_an_absurd_delay_counts_as_ten_timers() -> None:
    exchange = traders()
    exchange.block()
    block_of_reports(exchange, *([[SeenDelay(1, 0, 2**32 - 1)]] * 4))
    assert delay_of(exchange, 0) == (1, 10 * PPM // 16)


def test_a_report_tells_its_delays_in_order() -> None:
    exchange = traders()
    exchange.block()
    wrong = a_report(0, exchange.now_ns + NS, delays=(SeenDelay(1, 2, 0), SeenDelay(1, 1, 0)))
    with pytest.raises(ProtocolViolation) as refused:
        check_report(exchange.state, wrong)
    assert refused.value.reason == LedgerReason.ORACLE_CONTENT


def block_with_index(exchange: StakedExchange, odd_usd: int) -> None:
    """Reporter 3 says another index than the others."""
    exchange.now_ns += NS
    indices = (IndexReport(Underlying.BTC, odd_usd * USD), IndexReport(Underlying.ETH, 4_000 * USD))
    reports: list[SignedReport] = [a_report(number, exchange.now_ns) for number in range(3)]
    reports.append(sign_report(OracleReport(CHAIN, 3, exchange.now_ns, indices, (), (), NO_QUOTES)))
    exchange.apply((encode(build_oracle_update(exchange.state, reports)),))


@pytest.mark.parametrize(
    ("odd_usd", "blocks", "withheld"),
    [
        (101_001, 6, "off_median"),
        (98_999, 6, "off_median"),
        (101_000, 6, ""),
        (150_000, 5, ""),
    ],
)
def test_a_reporter_persistently_outside_the_band_earns_nothing(
    odd_usd: int, blocks: int, withheld: str
) -> None:
    exchange = traders()
    for _ in range(blocks):
        block_with_index(exchange, odd_usd)
    assert rewarded(exchange) == {0: "", 1: "", 2: "", 3: withheld}


def test_when_everybody_forfeits_the_fund_gets_all_of_it() -> None:
    exchange = traders()
    for _ in range(4):
        exchange.sees(delays=tuple((number, 900_000) for number in EVERYBODY)).block()
    exchange.trades()
    fund, rewards = exchange.fund, get_totals(exchange.state).rewards_uusd
    result = exchange.ends_epoch()
    assert events_of(result, EpochRewarded) == [EpochRewarded(1, 0, 0, rewards)]
    assert exchange.fund == fund + rewards
