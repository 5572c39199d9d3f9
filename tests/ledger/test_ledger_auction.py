"""Liquidation beyond the book: auctions, the vault, deleveraging, and what a debt costs everybody else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ledger.events import (
    AuctionBid,
    AuctionEnded,
    AuctionStarted,
    CashMoved,
    DebtChanged,
    Deleveraged,
    VaultTook,
)
from ledger.settlement.auction import (
    E12,
    buffer_margin_uusd,
    discount_ppm,
    fee_uusd,
    insolvent_payment_uusd,
    largest_fraction_e12,
)
from ledger.settlement.deleveraging import share_losses
from ledger.settlement.insurance_fund import haircut_uusd
from ledger.settlement.state import VAULT_KEY, get_liquidation
from ledger.settlement.transfer import apportion
from ledger.transactions import BidAuction, Deposit, TransferCash, Withdraw
from node.genesis_defaults import default_protection
from primitives.amounts import NS, PPM, USD, ceil_div
from tests.ledger.exchange import (
    BTC_PERP,
    CALL_110,
    INSTRUMENTS,
    NEAR_CALL,
    NEAR_NS,
    Exchange,
    a_genesis,
    buy,
    events_of,
    reasons,
    sell,
)

AUCTION = default_protection().auction
VECTORS = Path(__file__).parents[3] / "shared/data/test_vectors.json"
ANY_PRICE = 1 << 60


def vector(name: str) -> Any:
    """One of our own published examples."""
    if not VECTORS.exists():
        pytest.skip("the shared test vectors are not here")
    return json.loads(VECTORS.read_text())["own_other"][name]


# --- formulas ---


def test_vector_liq_solvent() -> None:
    expected = vector("liq_solvent")
    equity, mm = round(expected["MtM"] * USD), round(expected["MM"] * USD)
    bm = buffer_margin_uusd(equity, mm, AUCTION.buffer_ppm)
    assert bm == round(expected["BM"] * USD)
    discount = discount_ppm(0, AUCTION)
    fraction = largest_fraction_e12(equity, bm, discount, 0)
    assert round(fraction / E12, 9) == expected["max_fraction"]
    payment = ceil_div(fraction * (PPM - discount) * equity, E12 * PPM)
    assert payment - round(expected["bid_payment"] * USD) in (0, 1), "rounded up"
    assert abs((E12 - fraction) * bm // E12 + payment - round(expected["BM_after"] * USD)) <= 1
    assert fee_uusd(equity, bm, AUCTION.fee_ppm) - round(expected["fee"] * USD) in (0, 1), "rounded up"


def test_vector_liq_insolvent_t30() -> None:
    """Half of the hour: half of the way from -MtM = 3,000 to -MM = 10,000."""
    pays = insolvent_payment_uusd(-3_000 * USD, -10_000 * USD, 1_800 * NS, AUCTION.insolvent_ns)
    assert pays == vector("liq_insolvent_t30")["fund_pays"] * USD


def test_vector_social_withdraw_fee() -> None:
    share = vector("social")["withdraw_fee"]
    assert haircut_uusd(1_000 * USD, 100 * USD, 1_000 * USD) == ceil_div(1_000 * USD, 11)
    assert haircut_uusd(1_000 * USD, 100 * USD, 1_000 * USD) == pytest.approx(share * 1_000 * USD, abs=1)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, 50_000),
        (450, 175_000),
        (900, 300_000),
        (900 + 21_150, 650_000),
        (43_199, 999_983),
        (43_200, PPM),
        (90_000, PPM),
    ],
)
def test_the_discount_rises_fast_then_slowly_to_everything(seconds: int, expected: int) -> None:
    assert discount_ppm(seconds * NS, AUCTION) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0, 3_000), (3_600, 10_000), (7_200, 10_000)])
def test_the_fund_pays_from_the_debt_up_to_the_requirement(seconds: int, expected: int) -> None:
    pays = insolvent_payment_uusd(-3_000 * USD, -10_000 * USD, seconds * NS, AUCTION.insolvent_ns)
    assert pays == expected * USD


def test_nothing_is_for_sale_at_the_buffer_margin_and_all_of_it_at_most() -> None:
    assert largest_fraction_e12(100, 0, 50_000, 0) == 0
    assert largest_fraction_e12(100, -1, PPM, 0) == E12
    assert largest_fraction_e12(100, -1, 0, 0) == ceil_div(E12, 101)


def test_what_earlier_bids_paid_in_is_not_sold_again() -> None:
    """f = BM / (BM - (1 - d) MtM - d R): reserved cash leaves less to sell, so a larger part of it goes."""
    without, with_reserve = (largest_fraction_e12(10_000, -2_000, 300_000, kept) for kept in (0, 4_000))
    assert without == ceil_div(2_000 * E12, 9_000)
    assert with_reserve == ceil_div(2_000 * E12, 10_200)


def test_parts_add_up_and_the_largest_remainders_come_first() -> None:
    assert apportion(7, [5, 5, 3]) == [3, 3, 1] or apportion(7, [5, 5, 3]) == [3, 2, 2]
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(0, [3, 1]) == [0, 0]


def test_losses_are_the_deficit_exactly_unless_all_room_is_used() -> None:
    assert share_losses(100, [3, 1], [1_000, 1_000]) == [75, 25]
    assert share_losses(100, [3, 1], [50, 1_000]) == [50, 50]
    assert share_losses(100, [3, 1], [50, 20]) == [50, 20]


def test_a_haircut_is_no_more_than_the_debt() -> None:
    assert haircut_uusd(500, 0, 1_000) == 0
    assert haircut_uusd(500, 7, 0) == 7
    assert haircut_uusd(1, 1, 10**12) == 1


# --- a solvent auction ---


def a_losing_long(**parameters: int) -> Exchange:
    """Alice is long one bitcoin on little cash against Bob; nobody else quotes; Carol is rich."""
    names = {"alice": 20_000, "bob": 1_000_000, "carol": 1_000_000}
    exchange = Exchange().start(a_genesis(names, INSTRUMENTS, **parameters))
    exchange.block()
    exchange.does("alice", buy(BTC_PERP, 100_000, 100))
    exchange.does("bob", sell(BTC_PERP, 100_000, 100))
    exchange.block()
    return exchange


def an_auction() -> Exchange:
    """Alice's account is for sale."""
    exchange = a_losing_long()
    exchange.btc_usd = 93_000
    exchange.block()
    assert events_of(exchange.block(4.5), AuctionStarted) == []
    (started,) = events_of(exchange.block(0.5), AuctionStarted)
    assert not started.is_insolvent
    assert started.mm_excess_uusd < 0 < started.equity_uusd
    return exchange


def bid_for_alice(exchange: Exchange, fraction_ppm: int = PPM, at_most: int = ANY_PRICE) -> BidAuction:
    return BidAuction(*exchange.key("alice"), fraction_ppm, at_most)


def test_with_a_book_the_auction_waits_half_a_minute() -> None:
    exchange = a_losing_long()
    exchange.does("carol", buy(BTC_PERP, 50_000, 1))
    exchange.block()
    exchange.btc_usd = 93_000
    exchange.block()
    assert events_of(exchange.block(29.9), AuctionStarted) == []
    assert len(events_of(exchange.block(0.1), AuctionStarted)) == 1


def test_a_bidder_takes_just_enough_to_restore_the_buffer_margin() -> None:
    exchange = an_auction()
    fund, carol = exchange.state.supply.fund_uusd, exchange.cash("carol")
    exchange.does("carol", bid_for_alice(exchange))
    (bid,) = events_of(exchange.block(0.001), AuctionBid)
    assert 0 < bid.fraction_e12 < E12
    assert exchange.lots("carol", BTC_PERP) == ceil_div(100 * bid.fraction_e12, E12)
    assert exchange.lots("carol", BTC_PERP) + exchange.lots("alice", BTC_PERP) == 100
    assert exchange.state.supply.fund_uusd == fund + bid.fee_uusd > fund
    assert exchange.cash("carol") > carol
    result = exchange.block()
    assert len(events_of(result, AuctionEnded)) == 1
    assert get_liquidation(exchange.state, exchange.key("alice")) is None


def test_a_bidder_says_how_much_to_buy_and_what_to_pay_at_most() -> None:
    exchange = an_auction()
    exchange.does("carol", bid_for_alice(exchange, 100_000, 1 * USD))
    assert reasons(exchange.block()) == ["bid_price"]
    exchange.does("carol", bid_for_alice(exchange, 100_000))
    (bid,) = events_of(exchange.block(), AuctionBid)
    assert bid.fraction_e12 == E12 // 10
    leaf = get_liquidation(exchange.state, exchange.key("alice"))
    assert leaf is not None
    assert leaf.reserved_uusd == bid.payment_uusd > 0


def test_the_fee_is_taken_once_in_an_auction() -> None:
    exchange = an_auction()
    exchange.does("carol", bid_for_alice(exchange, 50_000))
    exchange.does("bob", bid_for_alice(exchange, 50_000))
    assert sorted(bid.fee_uusd > 0 for bid in events_of(exchange.block(), AuctionBid)) == [False, True]


def test_a_bidder_must_hold_its_own_initial_requirement_afterwards() -> None:
    exchange = an_auction()
    exchange.does("custodian", Deposit(*exchange.key("dave"), 1_000 * USD))
    exchange.block()
    exchange.does("dave", bid_for_alice(exchange))
    assert reasons(exchange.block()) == ["insufficient_margin"]


def test_nobody_pays_into_an_account_that_is_for_sale() -> None:
    exchange = an_auction()
    exchange.does("custodian", Deposit(*exchange.key("alice"), 50_000 * USD))
    assert reasons(exchange.block()) == ["auction_under_way"]


def test_nor_moves_cash_there_from_another_subaccount() -> None:
    exchange = a_losing_long()
    exchange.does("custodian", Deposit(exchange.key("alice")[0], 1, 50_000 * USD))
    exchange.btc_usd = 93_000
    exchange.block()
    exchange.block(5)
    exchange.does("alice", TransferCash(0, 1_000 * USD), subaccount=1)
    assert reasons(exchange.block()) == ["auction_under_way"]


def test_healthy_accounts_are_not_for_sale() -> None:
    exchange = a_losing_long()
    exchange.does("carol", bid_for_alice(exchange))
    assert reasons(exchange.block()) == ["no_auction"]


# --- worth nothing ---


def an_insolvent_long(**parameters: int) -> Exchange:
    """One bitcoin fell to 75,000: Alice owes 5,000 and a fee more than she has."""
    exchange = a_losing_long(**parameters)
    exchange.btc_usd = 75_000
    return exchange


def test_the_fund_pays_a_bidder_to_take_an_insolvent_account() -> None:
    exchange = an_insolvent_long()
    (started,) = events_of(exchange.block(), AuctionStarted)
    assert started.is_insolvent
    fund, carol = exchange.state.supply.fund_uusd, exchange.cash("carol")
    exchange.does("carol", bid_for_alice(exchange, PPM, -5_000 * USD))
    (bid,) = events_of(exchange.block(1_800), AuctionBid)
    halfway = (-started.equity_uusd - started.mm_excess_uusd) // 2
    assert (bid.fraction_e12, bid.payment_uusd) == (E12, -halfway)
    assert exchange.state.supply.fund_uusd == fund - halfway
    assert exchange.cash("carol") == carol + halfway + started.equity_uusd
    assert (exchange.lots("carol", BTC_PERP), exchange.lots("alice", BTC_PERP)) == (100, 0)
    assert exchange.cash("alice") == 0


def test_the_vault_takes_an_insolvent_account_whole_while_its_requirement_holds() -> None:
    exchange = an_insolvent_long(vault_usd=100_000)
    (took,) = events_of(exchange.block(), VaultTook)
    vault = exchange.state.account(VAULT_KEY)
    assert vault is not None
    assert [(item.instrument, item.lots) for item in vault.positions] == [(BTC_PERP, 100)]
    assert vault.cash_uusd == 100_000 * USD + took.equity_uusd
    assert (exchange.lots("alice", BTC_PERP), exchange.cash("alice")) == (0, 0)


def test_a_vault_that_is_too_small_takes_nothing() -> None:
    exchange = an_insolvent_long(vault_usd=10_000)
    result = exchange.block()
    assert events_of(result, VaultTook) == []
    assert len(events_of(result, AuctionStarted)) == 1


def test_with_an_empty_fund_the_other_side_bears_the_deficit_and_not_a_micro_dollar_more() -> None:
    exchange = an_insolvent_long(insurance_fund_uusd=0)
    (started,) = events_of(exchange.block(), AuctionStarted)
    bob = exchange.cash("bob")
    result = exchange.block()
    (cut,) = events_of(result, Deleveraged)
    paid = sum(event.amount_uusd for event in events_of(result, CashMoved))
    assert cut.loss_uusd + paid == -started.equity_uusd
    assert (cut.winner, cut.winner_subaccount) == exchange.key("bob")
    assert (exchange.lots("alice", BTC_PERP), exchange.lots("bob", BTC_PERP)) == (0, 0)
    assert exchange.cash("bob") == bob + 25_000 * USD - cut.loss_uusd
    assert exchange.cash("alice") == exchange.state.supply.debt_uusd == 0


def test_when_nobody_bids_for_an_hour_the_other_side_takes_over_and_the_fund_pays() -> None:
    exchange = an_insolvent_long()
    (started,) = events_of(exchange.block(), AuctionStarted)
    assert events_of(exchange.block(3_599), Deleveraged) == []
    fund = exchange.state.supply.fund_uusd
    (cut,) = events_of(exchange.block(1), Deleveraged)
    assert cut.loss_uusd == 0
    assert exchange.state.supply.fund_uusd == fund + started.equity_uusd


HELD = {"bob": 100, "carol": 300, "dave": 0}
"""Calls that the other side of Alice's portfolio holds before it."""


def test_hedges_stay_whole_and_scores_decide_who_gets_how_much() -> None:
    names = {"alice": 140_000, "bob": 300_000, "carol": 900_000, "dave": 3_000_000}
    exchange = Exchange().start(a_genesis(names, insurance_fund_uusd=0))
    exchange.block()
    exchange.does("alice", sell(CALL_110, 2_250, 400), buy(BTC_PERP, 100_000, 100))
    exchange.does("bob", buy(CALL_110, 2_250, 100))
    exchange.does("carol", buy(CALL_110, 2_250, 300))
    exchange.does("dave", sell(BTC_PERP, 100_000, 100))
    exchange.block()
    assert exchange.lots("alice", CALL_110) == -400
    exchange.btc_usd = 180_000
    exchange.block()
    cash = exchange.cash("alice")
    result = exchange.block()
    cuts = events_of(result, Deleveraged)
    deficit = -result.valuation.margin(exchange.key("alice")).mtm_uusd - cash
    assert sum(cut.loss_uusd for cut in cuts) == deficit > 0
    assert exchange.lots("alice", CALL_110) == exchange.lots("alice", BTC_PERP) == 0
    taken = {name: -(exchange.lots(name, CALL_110) - held) for name, held in HELD.items()}
    hedges = {name: exchange.lots(name, BTC_PERP) - (-100 if name == "dave" else 0) for name in taken}
    for name, calls in taken.items():
        assert abs(hedges[name] * 4 - calls) <= 4, "the same part of every leg"
    assert taken["carol"] > taken["bob"] > 0
    assert sum(taken.values()) == 400


# --- a debt that nobody pays ---


def a_debt() -> Exchange:
    """Alice's written calls are exercised for more than she has; the fund is empty; Bob, who holds them, is
    himself below his requirement, so nobody on the other side can be deleveraged."""
    names = {"alice": 30_000, "bob": 300_000, "carol": 2_000_000}
    exchange = Exchange().start(a_genesis(names, insurance_fund_uusd=0))
    exchange.block()
    exchange.does("alice", sell(NEAR_CALL, 300, 150))
    exchange.does("bob", buy(NEAR_CALL, 300, 150), sell(BTC_PERP, 100_000, 1_200))
    exchange.does("carol", buy(BTC_PERP, 100_000, 1_200))
    exchange.block()
    assert exchange.lots("alice", NEAR_CALL) == -150
    exchange.block((NEAR_NS - exchange.now_ns) // NS - 1_801)
    exchange.btc_usd = 123_000
    while exchange.now_ns <= NEAR_NS:
        exchange.block(16)
    assert exchange.state.supply.debt_uusd > 0
    return exchange


def test_a_debt_beyond_everything_stands_in_the_state_and_withdrawals_pay_their_part() -> None:
    exchange = a_debt()
    debt, cash = exchange.state.supply.debt_uusd, exchange.state.totals.cash_uusd
    assert exchange.cash("alice") == 0
    exchange.does("carol", Withdraw(100_000 * USD))
    (changed,) = events_of(exchange.block(), DebtChanged)
    kept = ceil_div(100_000 * USD * debt, debt + cash)
    assert changed.debt_uusd == exchange.state.supply.debt_uusd == debt - kept
    assert exchange.state.supply.withdrawn_uusd == 100_000 * USD - kept


def test_later_fees_go_to_the_debt_first() -> None:
    exchange = a_debt()
    debt = exchange.state.supply.debt_uusd
    exchange.does("custodian", Deposit(*exchange.key("dave"), 500_000 * USD))
    exchange.block()
    exchange.does("dave", sell(BTC_PERP, 123_000, 100))
    exchange.does("carol", buy(BTC_PERP, 123_000, 100))
    exchange.block()
    fees = 2 * 36_900_000
    assert exchange.state.supply.debt_uusd == debt - fees
