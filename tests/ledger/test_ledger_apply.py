"""One block: who may do what, in which phase, and what it costs."""

from __future__ import annotations

import pytest

from ledger.apply import BlockContext, apply_block, validate_block
from ledger.events import (
    ActionRejected,
    CashMoved,
    OrderAccepted,
    OrderCancelled,
    Trade,
    TransactionApplied,
    TransactionRejected,
)
from ledger.reasons import LedgerReason
from ledger.transactions import (
    CancelAll,
    CancelLabel,
    CancelOrder,
    Deposit,
    Transaction,
    TransferCash,
    Withdraw,
)
from primitives.amounts import USD
from primitives.errors import ProtocolViolation
from tests.ledger.exchange import (
    BTC_PERP,
    CALL_100,
    CALL_110,
    CHAIN,
    ETH_PERP,
    PUT_90,
    Exchange,
    a_genesis,
    a_key,
    buy,
    events_of,
    reasons,
    sell,
    sign,
)


def an_exchange(**parameters: int) -> Exchange:
    """Three solvent traders, prices agreed."""
    cash = {"alice": 100_000, "bob": 100_000, "carol": 100_000}
    exchange = Exchange().start(a_genesis(cash, **parameters))
    exchange.block()
    return exchange


# --- the call ---


def test_two_orders_that_cross_in_one_block_trade_at_one_price() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 100_100, 10))
    exchange.does("bob", sell(BTC_PERP, 99_900, 10))
    (trade,) = events_of(exchange.block(), Trade)
    assert (trade.price_uusd, trade.size_lots) == (100_000 * USD, 10)
    assert (exchange.lots("alice", BTC_PERP), exchange.lots("bob", BTC_PERP)) == (10, -10)


def test_makers_rested_from_an_earlier_block_and_pay_the_maker_fee() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 99_000, 10))
    exchange.block()
    exchange.does("bob", sell(BTC_PERP, 99_000, 10))
    (trade,) = events_of(exchange.block(), Trade)
    assert (trade.buyer_fee_uusd, trade.seller_fee_uusd) == (990_000, 2_970_000)
    assert exchange.state.supply.fees_uusd == 3_960_000
    assert exchange.cash("alice") == 100_000 * USD - 990_000


def test_an_option_buyer_pays_the_premium_and_the_writer_gets_it() -> None:
    exchange = an_exchange()
    exchange.does("alice", sell(CALL_110, 2_300, 10))
    exchange.does("bob", buy(CALL_110, 2_300, 10))
    (trade,) = events_of(exchange.block(), Trade)
    premium = trade.price_uusd * 10 // 100
    assert exchange.cash("alice") == 100_000 * USD + premium - trade.seller_fee_uusd
    assert exchange.cash("bob") == 100_000 * USD - premium - trade.buyer_fee_uusd


def test_what_is_left_of_an_immediate_order_is_cancelled_and_of_a_resting_one_stays() -> None:
    exchange = an_exchange()
    exchange.does("alice", sell(BTC_PERP, 100_000, 3))
    exchange.does("bob", buy(BTC_PERP, 100_000, 5, ioc=True))
    exchange.does("carol", sell(BTC_PERP, 100_500, 4))
    (cancelled,) = events_of(exchange.block(), OrderCancelled)
    assert (cancelled.left_lots, cancelled.reason) == (2, "immediate_or_cancel")
    assert exchange.state.book(BTC_PERP).depth(1, 9) == [(100_500 * USD, 4)]
    account = exchange.state.account(exchange.key("bob"))
    assert account is not None
    assert account.orders == ()


def test_an_account_never_trades_with_itself_the_newer_order_goes() -> None:
    exchange = an_exchange()
    exchange.does("alice", sell(BTC_PERP, 100_000, 3))
    exchange.block()
    exchange.does("alice", buy(BTC_PERP, 100_000, 3))
    result = exchange.block()
    assert [event.reason for event in events_of(result, OrderCancelled)] == ["self_trade"]
    assert events_of(result, Trade) == []


def test_the_order_of_transactions_inside_a_block_does_not_matter() -> None:
    exchange = an_exchange()
    for name, side in (("alice", buy), ("bob", sell), ("carol", buy)):
        exchange.does(name, side(BTC_PERP, 100_000, 7), side(CALL_110, 2_280, 3))
        exchange.does(name, side(BTC_PERP, 99_990, 2), CancelAll(None))
    update, *content = exchange.transactions()
    roots = set()
    for order in (content, content[::-1], content[2:] + content[:2]):
        result = exchange.apply((update, *order))
        roots.add((result.root, result.events))
        exchange.state.rollback_block()
    assert len(roots) == 1


# --- transactions ---


def test_a_transaction_of_another_chain_account_or_nonce_changes_nothing() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 99_000, 1), nonce=7)
    exchange.block()
    foreign = Transaction(bytes(32), 0, 0, (buy(BTC_PERP, 99_000, 1),))
    exchange.waiting.append(sign(a_key("bob"), foreign))
    exchange.does("mallory", buy(BTC_PERP, 99_000, 1))
    exchange.does("alice", buy(BTC_PERP, 99_000, 1), subaccount=3)
    exchange.does("alice", buy(BTC_PERP, 99_000, 1), nonce=7)
    result = exchange.block()
    assert len(events_of(result, TransactionRejected)) == len(result.events)
    assert sorted(reasons(result)) == ["bad_nonce", "unknown_account", "unknown_account", "wrong_chain"]


def test_a_batch_is_judged_action_by_action() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 99_000, 1), buy(99, 1, 1), buy(BTC_PERP, 98_000, 1))
    result = exchange.block()
    assert [type(event) for event in result.events] == [
        TransactionApplied,
        ActionRejected,
        OrderAccepted,
        OrderAccepted,
    ]
    (refused,) = events_of(result, ActionRejected)
    assert (refused.index, refused.reason) == (1, "unknown_instrument")
    assert [event.index for event in events_of(result, OrderAccepted)] == [0, 2]


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (buy(99, 100, 1), "unknown_instrument"),
        (buy(BTC_PERP, 99_000.25, 1), "off_tick"),
        (buy(CALL_110, 1_002, 1), "off_tick"),
        (buy(BTC_PERP, 126_000, 1), "price_outside_band"),
        (sell(BTC_PERP, 74_000, 1), "price_outside_band"),
        (buy(BTC_PERP, 99_000, 1, post_only=True, ioc=True), "post_only_not_gtc"),
        (sell(BTC_PERP, 99_000, 1, reduce_only=True), "reduce_only_would_increase"),
        (buy(BTC_PERP, 99_000, 2_000), "insufficient_margin"),
        (CancelOrder(12), "unknown_order"),
        (CancelLabel(12), "unknown_order"),
        (CancelLabel(0), "unknown_order"),
        (Deposit(bytes(20), 0, 5), "not_custodian"),
        (Withdraw(100_001 * USD), "insufficient_margin"),
        (TransferCash(0, 5), "same_account"),
        (TransferCash(1, 100_001 * USD), "insufficient_margin"),
    ],
)
def test_every_refusal_has_its_reason_and_a_sentence(action: object, reason: str) -> None:
    exchange = an_exchange()
    exchange.does("alice", action)  # type: ignore[arg-type]
    (refused,) = events_of(exchange.block(), ActionRejected)
    assert refused.reason == reason
    assert refused.detail
    assert exchange.cash("alice") == 100_000 * USD


# --- cancels ---


def test_orders_are_cancelled_by_id_by_label_and_by_instrument() -> None:
    exchange = an_exchange()
    exchange.does(
        "alice", *(buy(BTC_PERP, 99_000 - n, 1, label=n) for n in range(1, 4)), buy(ETH_PERP, 3_900, 1)
    )
    accepted = events_of(exchange.block(), OrderAccepted)
    exchange.does("alice", CancelOrder(accepted[0].order_id))
    exchange.does("alice", CancelLabel(2))
    exchange.does("alice", CancelAll(ETH_PERP))
    result = exchange.block()
    assert [event.order_id for event in events_of(result, OrderCancelled)] == [
        accepted[index].order_id for index in (0, 1, 3)
    ]
    assert exchange.state.book(BTC_PERP).depth(0, 9) == [(98_997 * USD, 1)]


def test_nobody_cancels_another_ones_order() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 99_000, 1))
    (accepted,) = events_of(exchange.block(), OrderAccepted)
    exchange.does("bob", CancelOrder(accepted.order_id))
    assert reasons(exchange.block()) == ["unknown_order"]


def test_cancels_of_a_block_come_before_its_trades() -> None:
    exchange = an_exchange()
    exchange.does("alice", sell(BTC_PERP, 100_000, 1))
    exchange.block()
    exchange.does("bob", buy(BTC_PERP, 100_000, 1))
    exchange.does("alice", CancelAll(None))
    assert events_of(exchange.block(), Trade) == []


# --- post-only and reduce-only ---


def test_a_post_only_order_that_would_trade_with_the_resting_book_is_refused() -> None:
    exchange = an_exchange()
    exchange.does("alice", sell(BTC_PERP, 100_000, 1))
    exchange.block()
    exchange.does(
        "bob", buy(BTC_PERP, 100_000, 1, post_only=True), buy(BTC_PERP, 99_999.5, 1, post_only=True)
    )
    assert reasons(exchange.block()) == ["post_only_would_cross"]
    assert exchange.state.book(BTC_PERP).best_bid_uusd == 99_999_500_000


def test_a_market_maker_may_move_a_quote_across_its_own_cancelled_one() -> None:
    exchange = an_exchange()
    exchange.does("alice", sell(BTC_PERP, 100_000, 1, post_only=True))
    exchange.block()
    exchange.does("alice", CancelAll(None), buy(BTC_PERP, 100_000, 1, post_only=True))
    assert reasons(exchange.block()) == []


def a_long_position() -> Exchange:
    """Alice is long 10 lots against Bob."""
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 100_000, 10))
    exchange.does("bob", sell(BTC_PERP, 100_000, 10))
    exchange.block()
    return exchange


def test_reduce_only_orders_together_never_exceed_the_position() -> None:
    exchange = a_long_position()
    exchange.does("alice", *(sell(BTC_PERP, 101_000, 6, reduce_only=True) for _ in range(2)))
    exchange.does("alice", buy(BTC_PERP, 99_000, 1, reduce_only=True))
    assert reasons(exchange.block()) == ["reduce_only_would_increase"] * 2


def test_a_resting_reduce_only_order_goes_when_the_position_shrinks_below_it() -> None:
    exchange = a_long_position()
    exchange.does("alice", sell(BTC_PERP, 101_000, 10, reduce_only=True))
    exchange.block()
    exchange.does("alice", sell(BTC_PERP, 100_000, 4))
    exchange.does("carol", buy(BTC_PERP, 100_000, 4))
    result = exchange.block()
    assert [event.reason for event in events_of(result, OrderCancelled)] == ["reduce_only"]


# --- limits ---


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ("open_orders_max", "too_many_orders"),
        ("orders_per_book_max", "book_full"),
    ],
)
def test_a_full_account_and_a_full_book_refuse_the_next_order(parameter: str, reason: str) -> None:
    exchange = an_exchange(**{parameter: 2})
    exchange.does("alice", *(buy(BTC_PERP, 99_000, 1) for _ in range(3)))
    assert reasons(exchange.block()) == [reason]


def test_an_account_is_in_a_limited_number_of_instruments() -> None:
    exchange = an_exchange(positions_max=2)
    exchange.does("alice", buy(BTC_PERP, 99_000, 1), buy(ETH_PERP, 3_900, 1), buy(CALL_110, 2_000, 1))
    assert reasons(exchange.block()) == ["too_many_positions"]


def test_a_label_names_one_open_order() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 99_000, 1, label=5), buy(BTC_PERP, 98_000, 1, label=5))
    assert reasons(exchange.block()) == ["duplicate_label"]


# --- margin ---


def test_a_batch_too_large_for_its_margin_is_taken_as_far_as_it_carries() -> None:
    exchange = an_exchange()
    exchange.does("alice", *(sell(CALL_100, 5_800, 100) for _ in range(20)))
    result = exchange.block()
    accepted, refused = events_of(result, OrderAccepted), events_of(result, ActionRejected)
    assert 1 <= len(accepted) < 20
    assert [event.index for event in (*accepted, *refused)] == list(range(20))
    assert {event.reason for event in refused} == {"insufficient_margin"}


def test_margin_counts_the_worse_of_all_buys_and_all_sells() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 99_000, 500), sell(BTC_PERP, 101_000, 500))
    assert reasons(exchange.block()) == []
    exchange.does("alice", buy(BTC_PERP, 99_000, 200))
    assert reasons(exchange.block()) == ["insufficient_margin"]


def test_an_order_may_not_be_backed_by_cash_that_leaves_in_the_same_batch() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 100_000, 400), Withdraw(60_000 * USD))
    result = exchange.block()
    assert reasons(result) == ["insufficient_margin"]
    assert exchange.cash("alice") == 40_000 * USD


# --- cash ---


def test_the_custodian_deposits_and_the_account_comes_to_exist() -> None:
    exchange = an_exchange()
    owner, _ = exchange.key("dave")
    exchange.does("custodian", Deposit(owner, 4, 500 * USD))
    assert events_of(exchange.block(), CashMoved) == [CashMoved(owner, 4, 500 * USD, "deposit")]
    exchange.does("dave", TransferCash(9, 200 * USD), Withdraw(100 * USD), subaccount=4)
    exchange.block()
    assert (exchange.cash("dave", 4), exchange.cash("dave", 9)) == (200 * USD, 200 * USD)
    assert exchange.state.supply.withdrawn_uusd == 100 * USD


def test_open_orders_keep_money_from_being_withdrawn() -> None:
    exchange = an_exchange()
    exchange.does("alice", buy(BTC_PERP, 99_000, 500))
    exchange.block()
    exchange.does("alice", Withdraw(50_000 * USD))
    assert reasons(exchange.block()) == ["insufficient_margin"]
    exchange.does("alice", CancelAll(None), Withdraw(50_000 * USD))
    assert reasons(exchange.block()) == []


# --- blocks that may not be voted for ---


def block_refusal(
    exchange: Exchange, *transactions: bytes, height: int = 2, root: bytes | None = None
) -> LedgerReason:
    """Why a block with this content may not be voted for."""
    context = BlockContext(height, exchange.state.clock.time_ns + 1)
    with pytest.raises(ProtocolViolation) as refused:
        validate_block(exchange.state, context, transactions, parent_state_root=root)
    reason = refused.value.reason
    assert isinstance(reason, LedgerReason)
    return reason


def test_a_block_with_bytes_that_are_no_transaction_is_refused() -> None:
    exchange = an_exchange()
    good = exchange.does("alice", PUT_ORDER)
    assert block_refusal(exchange) is LedgerReason.NO_ORACLE_UPDATE
    assert block_refusal(exchange, b"\x00") is LedgerReason.UNDECODABLE_TRANSACTION
    assert block_refusal(exchange, b"", b"junk") is LedgerReason.UNDECODABLE_TRANSACTION
    assert block_refusal(exchange, b"", good + b"\x00") is LedgerReason.UNDECODABLE_TRANSACTION
    assert block_refusal(exchange, b"", b"\x00" * 20_000) is LedgerReason.UNDECODABLE_TRANSACTION
    assert block_refusal(exchange, b"", good, good) is LedgerReason.DUPLICATE_TRANSACTION
    assert block_refusal(exchange, b"", good, height=3) is LedgerReason.WRONG_HEIGHT
    assert block_refusal(exchange, b"", good, root=bytes(32)) is LedgerReason.WRONG_STATE_ROOT
    validate_block(
        exchange.state,
        BlockContext(2, exchange.state.clock.time_ns + 1),
        (b"", good),
        parent_state_root=exchange.state.root(),
    )


PUT_ORDER = buy(PUT_90, 1_500, 1)


def test_an_invalid_block_leaves_the_state_as_it_was() -> None:
    exchange = an_exchange()
    root = exchange.state.root()
    with pytest.raises(ProtocolViolation):
        apply_block(exchange.state, BlockContext(2, 5), (b"",))
    assert exchange.state.root() == root
    assert exchange.state.chain_id == CHAIN
