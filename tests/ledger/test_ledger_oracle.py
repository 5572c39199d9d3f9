"""Reports, medians, block time, and what the ledger believes between agreements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from ledger.apply import BlockContext, validate_block
from ledger.oracle import (
    build_oracle_update,
    check_update,
    compute_block_time,
    current_market,
    index_uusd_max,
    weighted_median,
)
from ledger.reasons import LedgerReason
from ledger.transactions import NO_QUOTES, IndexReport, OracleReport, OracleUpdate, SignedReport
from primitives.amounts import NS, USD
from primitives.codec import decode_own, encode
from primitives.errors import ProtocolViolation
from tests.ledger.exchange import (
    CALL_110,
    CHAIN,
    EXPIRY_NS,
    START_NS,
    Exchange,
    a_report,
    buy,
    reasons,
    sell,
    sign_report,
)

VECTORS = Path(__file__).parents[3] / "shared/data/test_vectors.json"
LATER_NS = START_NS + 10 * NS


@pytest.mark.skipif(not VECTORS.exists(), reason="the shared test vectors are not here")
def test_the_published_weighted_medians() -> None:
    cases = json.loads(VECTORS.read_text())["weighted_median"]
    assert [weighted_median(map(tuple, case["votes"])) for case in cases] == [
        case["median"] for case in cases
    ]


def reports_at(*seconds: float, btc_usd: float = 100_000) -> list[SignedReport]:
    """Reporter number n reports at the n-th time."""
    return [a_report(n, START_NS + round(item * NS), btc_usd) for n, item in enumerate(seconds)]


def refusal(exchange: Exchange, *reports: SignedReport) -> LedgerReason:
    """Why this update may not stand in a block."""
    with pytest.raises(ProtocolViolation) as refused:
        check_update(exchange.state, OracleUpdate(reports))
    return refused.value.reason


def test_block_time_is_the_lower_median_of_the_clocks() -> None:
    update = OracleUpdate(tuple(reports_at(1, 4, 2, 3)))
    assert compute_block_time(Exchange().state, update) == START_NS + 2 * NS


def test_block_time_never_goes_back_and_without_reports_it_only_ticks() -> None:
    exchange = Exchange()
    exchange.block(4)
    late = OracleUpdate(tuple(a_report(n, exchange.now_ns - NS + n) for n in range(4)))
    assert refusal(exchange, *late.reports) is LedgerReason.ORACLE_REPEATED
    assert compute_block_time(exchange.state, OracleUpdate(())) == exchange.state.clock.time_ns + 1


def test_an_update_needs_two_thirds_of_the_weight_or_no_report_at_all() -> None:
    one, two, three, _ = reports_at(1, 1, 1, 1)
    assert refusal(Exchange(), one, two) is LedgerReason.ORACLE_QUORUM
    assert check_update(Exchange().state, OracleUpdate((one, two, three))).time_ns == START_NS + NS


def test_reports_are_in_order_and_at_most_one_for_each_reporter() -> None:
    one, two, three, _ = reports_at(1, 1, 1, 1)
    assert refusal(Exchange(), two, one, three) is LedgerReason.ORACLE_ORDER
    assert refusal(Exchange(), one, one, two) is LedgerReason.ORACLE_ORDER


def test_a_report_that_is_too_old_for_the_block_spoils_the_update() -> None:
    assert refusal(Exchange(), *reports_at(1, 10, 10, 10)) is LedgerReason.ORACLE_STALE


def test_a_report_of_another_chain_reporter_or_shape_is_refused() -> None:
    _, two, three, _ = reports_at(1, 1, 1, 1)
    indices = (IndexReport(0, 100_000 * USD), IndexReport(1, 4_000 * USD))
    good = OracleReport(CHAIN, 0, LATER_NS, indices, (), (), NO_QUOTES)
    assert (
        refusal(Exchange(), sign_report(replace(good, chain_id=bytes(32))), two, three)
        is LedgerReason.WRONG_CHAIN
    )
    backwards = sign_report(replace(good, indices=indices[::-1]))
    assert refusal(Exchange(), backwards, two, three) is LedgerReason.ORACLE_CONTENT
    assert refusal(Exchange(), replace(two, reporter=0), three) is LedgerReason.ORACLE_REPORTER
    assert refusal(Exchange(), replace(two, reporter=77)) is LedgerReason.ORACLE_REPORTER


def test_the_leader_takes_the_newest_usable_report_of_each_and_leaves_stale_ones_out() -> None:
    stale, *fresh = reports_at(1, 10, 10, 10)
    older = a_report(1, START_NS + 9 * NS)
    update = build_oracle_update(Exchange().state, [older, stale, *fresh])
    assert update == OracleUpdate(tuple(fresh))
    assert build_oracle_update(Exchange().state, fresh[:2]) == OracleUpdate(())


def test_one_liar_of_four_cannot_move_the_index_out_of_the_honest_range() -> None:
    exchange = Exchange()
    prices = (99_990, 100_000, 100_010, 9_000_000)
    reports = [a_report(n, LATER_NS + n, price) for n, price in enumerate(prices)]
    exchange.apply((encode(build_oracle_update(exchange.state, reports)),))
    assert exchange.state.oracle(0).index_uusd == 100_000 * USD


def test_a_header_with_another_time_may_not_be_voted_for() -> None:
    exchange = Exchange()
    content = exchange.transactions()
    with pytest.raises(ProtocolViolation) as refused:
        validate_block(exchange.state, BlockContext(1, exchange.now_ns + 5), content)
    assert refused.value.reason is LedgerReason.WRONG_BLOCK_TIME


def test_between_agreements_forwards_follow_the_index_and_variance_the_clock() -> None:
    exchange = Exchange()
    exchange.block()
    before = current_market(exchange.state, 0, exchange.state.clock.time_ns).slices[-1]
    exchange.btc_usd, exchange.expiries = 101_000, []
    exchange.block(2)
    after = current_market(exchange.state, 0, exchange.state.clock.time_ns).slices[-1]
    assert after.forward_uusd == before.forward_uusd * 101 // 100
    left_ns = EXPIRY_NS - exchange.state.clock.time_ns
    assert after.theta_e12 == pytest.approx(before.theta_e12 * left_ns // (left_ns + 2 * NS), abs=1)


def vol_of(exchange: Exchange) -> int:
    """Agreed total variance of the 30-day expiry."""
    return current_market(exchange.state, 0, exchange.state.clock.time_ns).slices[-1].theta_e12


def test_a_jump_of_volatility_is_limited_for_two_epochs_and_believed_in_the_third() -> None:
    exchange = Exchange()
    exchange.block()
    calm = vol_of(exchange)
    exchange.vol_ppm = 1_000_000
    seen = []
    for _ in range(3):
        exchange.block(5)
        seen.append(round(vol_of(exchange) / calm, 2))
    assert seen == [1.15, 1.32, 4.0]


def test_confidence_decays_with_each_missed_epoch_until_only_gentle_orders_are_taken() -> None:
    exchange = Exchange(alice=100_000)
    exchange.block()
    exchange.expiries = []
    seen = []
    for _ in range(9):
        exchange.block(5)
        seen.append(current_market(exchange.state, 0, exchange.state.clock.time_ns).slices[-1].confidence_ppm)
    assert seen == [1_000_000, *range(900_000, 100_000, -100_000)]
    exchange.does("alice", buy(CALL_110, 2_200, 1), buy(CALL_110, 2_200, 1, post_only=True))
    assert reasons(exchange.block()) == ["only_post_only"]


def test_silence_of_the_oracle_lowers_confidence_by_blocks_because_time_stands_still() -> None:
    exchange = Exchange()
    exchange.block()
    for _ in range(64):
        exchange.block(oracle=False)
    assert (
        current_market(exchange.state, 0, exchange.state.clock.time_ns).slices[-1].confidence_ppm == 900_000
    )
    exchange.block()
    assert (
        current_market(exchange.state, 0, exchange.state.clock.time_ns).slices[-1].confidence_ppm == 1_000_000
    )


def test_before_any_report_options_are_marked_but_cannot_be_taken() -> None:
    exchange = Exchange(alice=100_000)
    exchange.does("alice", sell(CALL_110, 3_500, 1))
    assert reasons(exchange.block(oracle=False)) == ["only_post_only"]
    assert dict(exchange.state.marks.marks)[CALL_110] > 0


def test_a_report_beyond_what_the_margin_model_can_hold_is_refused() -> None:
    _, two, three, _ = reports_at(1, 1, 1, 1)
    assert index_uusd_max(0) > 500_000 * USD
    assert refusal(Exchange(), a_report(0, LATER_NS, 600_000), two, three) is LedgerReason.ORACLE_CONTENT
    content = decode_own(OracleReport, a_report(0, LATER_NS, expiries=[EXPIRY_NS]).payload)
    (surface,) = content.surfaces
    far = replace(surface, slices=(replace(surface.slices[0], forward_uusd=126_000 * USD),))
    assert (
        refusal(Exchange(), sign_report(replace(content, surfaces=(far,))), two)
        is LedgerReason.ORACLE_CONTENT
    )
