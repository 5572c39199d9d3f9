"""A sub-account chooses its margin model; margins, orders and withdrawals follow the choice."""

from __future__ import annotations

from itertools import product
from random import Random

from ledger.events import AuctionBid, LiquidationStep
from ledger.margin.portfolio import Position
from ledger.margin.requirements import OpenOrder
from ledger.margin.standard import DEFAULT_STANDARD_PARAMETERS, compute_standard_margin
from ledger.prices import get_prices
from ledger.settlement.auction import buffer_margin_uusd, fee_uusd, largest_fraction_e12
from ledger.state import State
from ledger.trading.margin_model import parameters_of, standard_excess_without, standard_order_excess
from ledger.transactions import BidAuction, MarginModel, SetMarginModel, Withdraw
from ledger.workspace import OpenAccount
from primitives.amounts import USD
from tests.ledger.exchange import (
    BTC_PERP,
    CALL_100,
    CALL_110,
    CHAIN,
    PUT_90,
    Exchange,
    a_genesis,
    buy,
    events_of,
    reasons,
    sell,
)

STANDARD = SetMarginModel(MarginModel.STANDARD)
PORTFOLIO = SetMarginModel(MarginModel.PORTFOLIO)


def a_market(alice_usd: int = 100_000) -> Exchange:
    exchange = Exchange().start(a_genesis({"alice": alice_usd, "bob": 1_000_000}))
    exchange.block()
    return exchange


def sold_a_call(exchange: Exchange) -> None:
    """Alice is short one 110,000 call at 2,300."""
    exchange.does("alice", sell(CALL_110, 2_300, 100))
    exchange.does("bob", buy(CALL_110, 2_300, 100))
    assert reasons(exchange.block()) == []


def test_after_the_choice_every_block_margins_the_account_by_the_standard_model() -> None:
    exchange = a_market()
    sold_a_call(exchange)
    exchange.does("alice", STANDARD)
    assert reasons(exchange.block()) == []
    valuation = exchange.block().valuation
    margin = valuation.margin(exchange.key("alice"))
    expected = compute_standard_margin(
        valuation.risk,
        exchange.cash("alice"),
        [Position(CALL_110, -100)],
        dict.fromkeys(parameters_of(exchange.state), DEFAULT_STANDARD_PARAMETERS),
    )
    assert (margin.im_excess_uusd, margin.mm_excess_uusd) == (
        expected.im_excess_uusd,
        expected.mm_excess_uusd,
    )
    others = valuation.margin(exchange.key("bob"))
    assert others.im_excess_uusd == valuation.margin_now(exchange_account(exchange, "bob")).im_excess_uusd


def exchange_account(exchange: Exchange, name: str) -> OpenAccount:
    account = exchange.state.account(exchange.key(name))
    assert account is not None
    return OpenAccount(account)


def test_orders_beside_the_choice_are_judged_under_the_new_model() -> None:
    exchange = a_market(20_000)
    exchange.does("alice", STANDARD)
    exchange.block()
    exchange.does("alice", buy(BTC_PERP, 100_000, 100))
    exchange.does("bob", sell(BTC_PERP, 100_000, 100))
    assert reasons(exchange.block()) == []
    exchange.does("alice", PORTFOLIO, buy(BTC_PERP, 99_000, 30))
    assert reasons(exchange.block()) == ["insufficient_margin"]


def test_the_choice_is_refused_when_the_requirement_would_not_hold_under_it() -> None:
    exchange = a_market(22_700)
    sold_a_call(exchange)
    exchange.does("alice", buy(BTC_PERP, 100_000, 100))
    exchange.does("bob", sell(BTC_PERP, 100_000, 100))
    assert reasons(exchange.block()) == []
    exchange.does("alice", STANDARD)
    assert reasons(exchange.block()) == ["insufficient_margin"]
    assert exchange.state.standard.values == {}


def test_orders_and_withdrawals_are_judged_by_the_chosen_model() -> None:
    exchange = a_market(20_000)
    exchange.does("alice", STANDARD)
    exchange.block()
    exchange.does("alice", sell(CALL_110, 2_300, 100))
    assert reasons(exchange.block()) == []
    exchange.does("alice", sell(CALL_110, 2_300, 100))
    assert reasons(exchange.block()) == ["insufficient_margin"]
    exchange.does("alice", Withdraw(6_000 * USD))
    assert reasons(exchange.block()) == ["insufficient_margin"]


def test_the_way_back_leaves_no_trace() -> None:
    exchange = a_market()
    exchange.does("alice", STANDARD)
    exchange.block()
    assert list(exchange.state.standard.values) == [exchange.key("alice")]
    exchange.does("alice", PORTFOLIO)
    exchange.block()
    assert exchange.state.standard.values == {}
    assert [key for key, _ in exchange.state.all_leaves() if key[:2] == b"qa"] == []


def test_the_choice_survives_undo_and_restore() -> None:
    exchange = a_market()
    sold_a_call(exchange)
    exchange.does("alice", STANDARD)
    content = exchange.transactions()
    exchange.apply(content)
    exchange.state.rollback_block()
    assert exchange.state.standard.values == {}
    exchange.apply(content)
    following = exchange.transactions()
    root = exchange.apply(following).root
    exchange.state.rollback_block()
    exchange.state = State.from_leaves(CHAIN, exchange.genesis, exchange.state.all_leaves())
    assert exchange.apply(following).root == root


def test_the_excess_with_orders_is_at_most_the_excess_after_any_of_their_fills() -> None:
    exchange = a_market()
    prices, random = get_prices(exchange.state), Random(4)
    risk, parameters = prices.risk, parameters_of(exchange.state)
    ids = (BTC_PERP, CALL_110, PUT_90, CALL_100)
    for _ in range(60):
        held = {item: random.randint(-60, 60) for item in random.sample(ids, 2)}
        start = {item: (lots, cost_of(prices, item, lots)) for item, lots in held.items() if lots}
        orders = [
            OpenOrder(
                item,
                random.choice((-1, 1)) * random.randint(1, 60),
                prices.mark_uusd(item) // 100 * random.randint(90, 110),
            )
            for item in random.choices(ids, k=3)
        ]
        cash = 50_000 * USD
        positions = [Position(item, *value) for item, value in start.items()]
        bound = standard_order_excess(exchange.state, risk, cash, positions, orders)
        for fills in product((0, 1), repeat=3):
            after, left = dict(start), cash
            for order, is_filled in zip(orders, fills, strict=True):
                if is_filled:
                    lots, cost = after.get(order.instrument_id, (0, 0))
                    value = -(-order.lots * order.price_uusd // 100)
                    is_perpetual = order.instrument_id == BTC_PERP
                    after[order.instrument_id] = (lots + order.lots, cost + value if is_perpetual else 0)
                    left -= 0 if is_perpetual else value
            left -= sum(cost for lots, cost in after.values() if not lots)
            kept = [Position(item, *value) for item, value in after.items() if value[0]]
            actual = compute_standard_margin(risk, left, kept, parameters).im_excess_uusd
            # Each price of an order is rounded once against the account here and there.
            assert bound <= actual + 10


def cost_of(prices, instrument: int, lots: int) -> int:  # type: ignore[no-untyped-def]
    """What a position taken at the mark carries."""
    return lots * prices.mark_uusd(instrument) // 100 if instrument == BTC_PERP else 0


# --- liquidation under the account's own model ---


def a_spread_and_a_short() -> Exchange:
    """Alice holds five spreads, which lose nothing at settlement, and a short perpetual; nobody quotes."""
    exchange = a_market(200_000)
    for mine, other in (
        (buy(CALL_100, 5_750, 500), sell(CALL_100, 5_750, 500)),
        (sell(CALL_110, 2_300, 500), buy(CALL_110, 2_300, 500)),
        (sell(BTC_PERP, 100_000, 100), buy(BTC_PERP, 100_000, 100)),
    ):
        exchange.does("alice", mine)
        exchange.does("bob", other)
        assert reasons(exchange.block()) == []
    exchange.does("alice", STANDARD)
    exchange.block()
    exchange.does("alice", Withdraw(exchange.cash("alice") - 12_000 * USD))
    assert reasons(exchange.block()) == []
    assert [exchange.lots("alice", item) for item in (CALL_100, CALL_110, BTC_PERP)] == [500, -500, -100]
    return exchange


def test_liquidation_offers_what_weighs_most_on_the_standard_requirement() -> None:
    exchange = a_spread_and_a_short()
    exchange.btc_usd = 108_000
    (step,) = events_of(exchange.block(), LiquidationStep)
    assert (step.instrument, step.size_lots) == (BTC_PERP, 20)


def test_a_short_option_without_a_book_is_hedged_only_where_a_hedge_requires_less() -> None:
    offered = {}
    for model in (STANDARD, PORTFOLIO):
        exchange = a_market(30_000)
        sold_a_call(exchange)
        exchange.does("alice", model)
        assert reasons(exchange.block()) == []
        exchange.btc_usd = 132_000
        steps = events_of(exchange.block(), LiquidationStep)
        offered[model] = [step.instrument for step in steps]
    assert offered == {STANDARD: [CALL_110], PORTFOLIO: [BTC_PERP, CALL_110]}


def test_what_is_offered_is_the_position_whose_closing_leaves_most() -> None:
    exchange = a_spread_and_a_short()
    prices, cash = get_prices(exchange.state), exchange.cash("alice")
    account = exchange.state.account(exchange.key("alice"))
    assert account is not None
    held = [Position(item.instrument, item.lots, item.cost_uusd) for item in account.positions]
    left = standard_excess_without(exchange.state, prices.risk, cash, held)
    for place, item in enumerate(held):
        mark = prices.mark_uusd(item.instrument_id)
        others = [other for other in held if other is not item]
        after = cash + item.lots * mark // 100 - item.cost_uusd
        alone = compute_standard_margin(prices.risk, after, others, parameters_of(exchange.state))
        assert left[place] == alone.mm_excess_uusd
    assert [item.instrument_id for item in held][left.index(max(left))] == BTC_PERP


def test_a_bidder_and_whoever_takes_over_are_judged_by_their_own_model() -> None:
    """A tenth of a long perpetual: 10 % of its value under the standard model, more under the other."""
    taken = {}
    for model in (STANDARD, PORTFOLIO):
        names = {"alice": 20_000, "bob": 1_000_000, "dave": 1_300}
        exchange = Exchange().start(a_genesis(names))
        exchange.does("dave", model)
        exchange.does("alice", buy(BTC_PERP, 100_000, 100))
        exchange.does("bob", sell(BTC_PERP, 100_000, 100))
        exchange.block()
        exchange.btc_usd = 93_000
        for _ in range(6):
            exchange.block()
        exchange.does("dave", BidAuction(*exchange.key("alice"), 100_000, 1 << 60))
        result = exchange.block()
        taken[model] = reasons(result)
        if model == STANDARD:
            assert exchange.lots("dave", BTC_PERP) == 10
    assert taken == {STANDARD: [], PORTFOLIO: ["insufficient_margin"]}


def test_a_standard_account_for_sale_is_sold_until_its_own_buffer_margin_holds() -> None:
    exchange = a_market(14_000)
    exchange.does("bob", buy(BTC_PERP, 100_000, 100))
    exchange.does("alice", STANDARD, sell(BTC_PERP, 100_000, 100))
    assert reasons(exchange.block()) == []
    exchange.btc_usd = 109_000
    exchange.block()
    exchange.block(6)
    account = exchange_account(exchange, "alice")
    margin = exchange.block().valuation.margin_now(account)
    equity = margin.mtm_uusd + account.cash_uusd
    assert margin.mm_excess_uusd == equity - 109_000 * USD // 20
    bm = buffer_margin_uusd(equity, margin.mm_excess_uusd, 150_000)
    assert bm < 0 < equity
    exchange.does("bob", BidAuction(*exchange.key("alice"), 1_000_000, 1 << 60))
    (bid,) = events_of(exchange.block(0.001), AuctionBid)
    fee = fee_uusd(equity, bm, 100_000)
    assert bid.fee_uusd == fee
    fraction = largest_fraction_e12(equity - fee, bm - fee, 50_000, 0)
    assert abs(bid.fraction_e12 - fraction) < 10**9, "the discount has risen for a second"
