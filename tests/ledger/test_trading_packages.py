"""Requests for quote and block trades: all legs at once at one net price, or nothing."""

from __future__ import annotations

import pytest

from ledger.events import OrderCancelled
from ledger.state import State
from ledger.trading.events import (
    PackageLeg,
    PackageQuoted,
    PackageTraded,
    QuotesRequested,
    RequestClosed,
)
from ledger.transactions import (
    AcceptQuote,
    Action,
    BlockTerms,
    BlockTrade,
    Leg,
    QuotePackage,
    RegisterSessionKey,
    RequestQuotes,
    SessionScope,
    Side,
    WithdrawRequest,
    block_terms_sign_bytes,
    session_proof_bytes,
)
from primitives.amounts import NS, USD
from tests.ledger.exchange import (
    BTC_PERP,
    CALL_100,
    CALL_110,
    CHAIN,
    START_NS,
    Exchange,
    a_genesis,
    a_key,
    buy,
    events_of,
    reasons,
    sell,
)

SOON_NS = START_NS + 100 * NS
SPREAD = (Leg(CALL_110, -100), Leg(CALL_100, 100))
"""One call spread, bought: about 5,700 less 2,275 dollars."""
COVERED = (Leg(BTC_PERP, 10), Leg(CALL_110, -10))


def a_market(**cash: int) -> Exchange:
    exchange = Exchange().start(a_genesis(cash or {"tom": 100_000, "maria": 100_000, "max": 100_000}))
    exchange.block()
    return exchange


def requested(exchange: Exchange, legs: tuple[Leg, ...] = SPREAD, name: str = "tom") -> int:
    """A request that is open; its id."""
    exchange.does(name, RequestQuotes(tuple(sorted(legs, key=lambda leg: leg.instrument)), SOON_NS))
    (event,) = events_of(exchange.block(), QuotesRequested)
    return int(event.request_id)


def quoted(exchange: Exchange, request_id: int, bid_usd: int | None, ask_usd: int | None) -> None:
    """Maria quotes."""
    sides = [None if usd is None else usd * USD for usd in (bid_usd, ask_usd)]
    exchange.does("maria", QuotePackage(request_id, *sides, SOON_NS))
    assert len(events_of(exchange.block(), PackageQuoted)) == 1


def accept(exchange: Exchange, request_id: int, side: Side, usd: int) -> AcceptQuote:
    maker, subaccount = exchange.key("maria")
    return AcceptQuote(request_id, maker, subaccount, side, usd * USD)


def equity(exchange: Exchange, name: str) -> int:
    """Cash and marked value; fees apart, a package at the marks changes neither side's."""
    account = exchange.state.account(exchange.key(name))
    assert account is not None
    assert exchange.state.marks is not None
    marks = dict(exchange.state.marks.marks)
    return account.cash_uusd + sum(
        item.lots * (marks[item.instrument] // 100) - item.cost_uusd for item in account.positions
    )


@pytest.mark.parametrize(("side", "usd", "sign"), [(Side.BUY, 3_500, 1), (Side.SELL, 3_400, -1)])
def test_an_accepted_quote_moves_all_legs_at_its_net_price(side: Side, usd: int, sign: int) -> None:
    exchange = a_market()
    request_id = requested(exchange)
    quoted(exchange, request_id, 3_400, 3_500)
    exchange.does("tom", accept(exchange, request_id, side, usd))
    result = exchange.block()
    (traded,) = events_of(result, PackageTraded)
    tom_fee, maria_fee = (traded.buyer_fee_uusd, traded.seller_fee_uusd)[::sign]
    assert [(leg.instrument, leg.lots) for leg in events_of(result, PackageLeg)] == [
        (CALL_110, -100),
        (CALL_100, 100),
    ]
    assert [exchange.lots("tom", item) for item in (CALL_110, CALL_100)] == [-100 * sign, 100 * sign]
    assert [exchange.lots("maria", item) for item in (CALL_110, CALL_100)] == [100 * sign, -100 * sign]
    assert exchange.cash("tom") == (100_000 - sign * usd) * USD - tom_fee
    assert exchange.cash("maria") == (100_000 + sign * usd) * USD - maria_fee
    assert tom_fee > maria_fee > 0
    assert [event.cause for event in events_of(result, RequestClosed)] == ["traded"]
    assert [key for key, _ in exchange.state.all_leaves() if key[:2] in (b"qr", b"qi")] == []


def test_a_package_with_a_perpetual_costs_what_was_agreed_in_equity() -> None:
    exchange = a_market()
    request_id = requested(exchange, COVERED)
    quoted(exchange, request_id, None, 9_800)
    exchange.does("tom", accept(exchange, request_id, Side.BUY, 9_800))
    result = exchange.block()
    (traded,) = events_of(result, PackageTraded)
    value = sum(leg.lots * leg.mark_uusd // 100 for leg in events_of(result, PackageLeg))
    assert equity(exchange, "tom") == 100_000 * USD + value - 9_800 * USD - traded.buyer_fee_uusd
    assert equity(exchange, "maria") == 100_000 * USD - value + 9_800 * USD - traded.seller_fee_uusd


def test_margin_is_judged_on_the_net_portfolio_not_leg_by_leg() -> None:
    exchange = a_market(tom=6_000, maria=1_000_000)
    exchange.does("tom", sell(CALL_110, 2_300, 100))
    assert reasons(exchange.block()) == ["insufficient_margin"]
    request_id = requested(exchange)
    quoted(exchange, request_id, 3_400, 3_500)
    exchange.does("tom", accept(exchange, request_id, Side.BUY, 3_500))
    assert reasons(exchange.block()) == []


@pytest.mark.parametrize(
    ("cash", "reason"),
    [
        ({"tom": 1_000, "maria": 100_000}, "insufficient_margin"),
        ({"tom": 100_000, "maria": 1_000}, "counterparty_refused"),
    ],
)
def test_if_either_side_cannot_carry_it_nothing_moves(cash: dict[str, int], reason: str) -> None:
    exchange = a_market(**cash)
    request_id = requested(exchange)
    quoted(exchange, request_id, 3_400, 3_500)
    exchange.does("tom", accept(exchange, request_id, Side.BUY, 3_500))
    result = exchange.block()
    assert reasons(result) == [reason]
    assert {name: exchange.cash(name) for name in cash} == {name: usd * USD for name, usd in cash.items()}
    assert events_of(result, RequestClosed) == []


def test_a_newer_quote_in_the_same_block_comes_before_the_acceptance_of_the_older() -> None:
    exchange = a_market()
    request_id = requested(exchange)
    quoted(exchange, request_id, 3_400, 3_500)
    exchange.does("tom", accept(exchange, request_id, Side.BUY, 3_500))
    exchange.does("maria", QuotePackage(request_id, 3_450 * USD, 3_550 * USD, SOON_NS))
    assert reasons(exchange.block()) == ["unknown_quote"]


def test_requests_and_quotes_end_with_their_time() -> None:
    exchange = a_market()
    request_id = requested(exchange)
    exchange.does("maria", QuotePackage(request_id, None, 3_500 * USD, exchange.now_ns + 3 * NS))
    exchange.block()
    exchange.does("tom", accept(exchange, request_id, Side.BUY, 3_500))
    assert reasons(exchange.block(5)) == ["unknown_quote"]
    result = exchange.block(100)
    assert [event.cause for event in events_of(result, RequestClosed)] == ["expired"]


def test_reduce_only_orders_shrink_with_what_a_package_takes_away() -> None:
    exchange = a_market()
    exchange.does("tom", buy(BTC_PERP, 100_000, 10))
    exchange.does("max", sell(BTC_PERP, 100_000, 10))
    exchange.block()
    exchange.does("tom", sell(BTC_PERP, 101_000, 10, reduce_only=True))
    request_id = requested(exchange, (Leg(BTC_PERP, 10),))
    quoted(exchange, request_id, 9_999, None)
    exchange.does("tom", accept(exchange, request_id, Side.SELL, 9_999))
    result = exchange.block()
    assert [event.reason for event in events_of(result, OrderCancelled)] == ["reduce_only"]
    assert exchange.lots("tom", BTC_PERP) == 0


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("tom", lambda e, r: RequestQuotes((Leg(CALL_100, 1), Leg(CALL_110, 1)), SOON_NS), "bad_legs"),
        ("tom", lambda e, r: RequestQuotes((Leg(CALL_100, 0),), SOON_NS), "bad_legs"),
        ("tom", lambda e, r: RequestQuotes((Leg(99, 1),), SOON_NS), "bad_legs"),
        ("tom", lambda e, r: RequestQuotes((Leg(CALL_100, 100_001),), SOON_NS), "bad_legs"),
        ("tom", lambda e, r: RequestQuotes(SPREAD[:1], START_NS), "time_passed"),
        ("tom", lambda e, r: RequestQuotes(SPREAD[:1], START_NS + 4_000 * NS), "time_passed"),
        ("tom", lambda e, r: QuotePackage(r, 1, 2, SOON_NS), "own_request"),
        ("max", lambda e, r: QuotePackage(r, 2, 2, SOON_NS), "empty_quote"),
        ("max", lambda e, r: QuotePackage(r + 9, 1, 2, SOON_NS), "unknown_request"),
        ("max", lambda e, r: QuotePackage(r, 1, 2, START_NS), "time_passed"),
        ("max", lambda e, r: accept(e, r, Side.BUY, 3_500), "not_the_taker"),
        ("max", lambda e, r: WithdrawRequest(r), "not_the_taker"),
        ("tom", lambda e, r: accept(e, r, Side.BUY, 3_501), "unknown_quote"),
        ("tom", lambda e, r: accept(e, r, Side.SELL, 3_500), "unknown_quote"),
    ],
)
def test_every_refusal_has_its_reason_and_changes_nothing(name: str, make, reason: str) -> None:  # type: ignore[no-untyped-def]
    exchange = a_market()
    request_id = requested(exchange)
    quoted(exchange, request_id, None, 3_500)
    before = [item for item in exchange.state.all_leaves() if item[0][:1] == b"q"]
    exchange.does(name, make(exchange, request_id))
    assert reasons(exchange.block()) == [reason]
    assert [item for item in exchange.state.all_leaves() if item[0][:1] == b"q"] == before


def test_a_price_far_from_the_marks_is_refused() -> None:
    exchange = a_market()
    request_id = requested(exchange)
    quoted(exchange, request_id, None, 30_000)
    exchange.does("tom", accept(exchange, request_id, Side.BUY, 30_000))
    assert reasons(exchange.block()) == ["net_price_outside_band"]


def test_a_sub_account_has_so_many_requests_open_and_may_withdraw_one() -> None:
    exchange = a_market()
    first = requested(exchange)
    exchange.does("tom", *[RequestQuotes((Leg(CALL_100, 1),), SOON_NS)] * 4)
    assert reasons(exchange.block()) == ["too_many_requests"]
    exchange.does("tom", WithdrawRequest(first), RequestQuotes((Leg(CALL_100, 1),), SOON_NS))
    assert reasons(exchange.block()) == []


def test_requests_survive_undo_and_restore() -> None:
    exchange = a_market()
    request_id = requested(exchange)
    quoted(exchange, request_id, 3_400, 3_500)
    exchange.does("tom", accept(exchange, request_id, Side.BUY, 3_500))
    content = exchange.transactions()
    root = exchange.apply(content).root
    exchange.state.rollback_block()
    exchange.state = State.from_leaves(CHAIN, exchange.genesis, exchange.state.all_leaves())
    assert exchange.apply(content).root == root


# --- block trades ---


def a_block_trade(exchange: Exchange, *, signed_by: str = "maria", **changes: object) -> BlockTrade:
    """Tom buys the spread from Maria for 3,450."""
    taker, subaccount = exchange.key("tom")
    fields: dict[str, object] = {
        "chain_id": CHAIN,
        "taker": taker,
        "taker_subaccount": subaccount,
        "maker_subaccount": 0,
        "legs": SPREAD,
        "side": Side.BUY,
        "price_uusd": 3_450 * USD,
        "expires_ns": SOON_NS,
        "nonce": 7,
    }
    terms = BlockTerms(**{**fields, **changes})  # type: ignore[arg-type]
    signature = a_key(signed_by).sign(block_terms_sign_bytes(terms))
    return BlockTrade(terms, a_key("maria").public_key, signature)


def test_a_block_trade_settles_under_both_signatures_once() -> None:
    exchange = a_market()
    trade = a_block_trade(exchange)
    exchange.does("tom", trade)
    assert len(events_of(exchange.block(), PackageTraded)) == 1
    assert exchange.lots("maria", CALL_100) == -100
    exchange.does("tom", trade)
    assert reasons(exchange.block()) == ["counterparty_refused"]
    exchange.does("maria", buy(BTC_PERP, 99_000, 1), nonce=7)
    assert reasons(exchange.block()) == ["bad_nonce"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signed_by": "mallory"}, "counterparty_refused"),
        ({"maker_subaccount": 3}, "counterparty_refused"),
        ({"nonce": 10**6}, "counterparty_refused"),
        ({"taker": bytes(20)}, "not_the_taker"),
        ({"chain_id": bytes(32)}, "not_the_taker"),
        ({"expires_ns": START_NS}, "time_passed"),
        ({"legs": SPREAD[::-1]}, "bad_legs"),
    ],
)
def test_a_block_trade_that_is_not_as_signed_is_refused(changes: dict[str, object], reason: str) -> None:
    exchange = a_market()
    action: Action = a_block_trade(exchange, **changes)  # type: ignore[arg-type]
    exchange.does("tom", action)
    assert reasons(exchange.block()) == [reason]
    assert exchange.cash("maria") == 100_000 * USD


def test_a_session_key_that_names_unknown_instruments_is_refused_like_anybody() -> None:
    exchange = a_market()
    owner = exchange.key("tom")[0]
    proof = a_key("bot").sign(session_proof_bytes(CHAIN, owner, 0))
    scope, most_uusd = SessionScope.NEGOTIATE, 10**15
    exchange.does("tom", RegisterSessionKey(a_key("bot").public_key, scope, SOON_NS, most_uusd, proof))
    exchange.block()
    exchange.does("bot", a_block_trade(exchange, legs=(Leg(77, 1),)), nonce=40)
    assert reasons(exchange.block()) == ["bad_legs"]
