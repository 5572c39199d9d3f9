"""Session keys: another key signs for one sub-account, within a scope, for a time, up to a notional."""

from __future__ import annotations

import pytest

from ledger.admission import check_transaction
from ledger.events import OrderAccepted, TransactionRejected
from ledger.transactions import (
    Action,
    CancelAll,
    Deposit,
    PlaceTrigger,
    RegisterSessionKey,
    ReplaceOrder,
    RevokeSessionKey,
    SessionScope,
    Side,
    Transaction,
    TransferCash,
    Withdraw,
    session_proof_bytes,
)
from primitives.amounts import NS, USD
from primitives.errors import ProtocolViolation
from primitives.signing import address_of
from tests.ledger.exchange import (
    BTC_PERP,
    CHAIN,
    START_NS,
    Exchange,
    a_genesis,
    a_key,
    buy,
    events_of,
    reasons,
    sell,
    sign,
)

LATER_NS = START_NS + 1_000 * NS
TRADING = SessionScope.TRADE | SessionScope.CANCEL


def register(
    name: str = "bot",
    *,
    of: str = "alice",
    subaccount: int = 0,
    scope: int = TRADING,
    expires_ns: int = LATER_NS,
    notional_usd: int = 1_000_000,
    proved_by: str | None = None,
) -> RegisterSessionKey:
    """What the owner signs, with the session key's own proof."""
    owner = address_of(a_key(of).public_key)
    proof = a_key(proved_by or name).sign(session_proof_bytes(CHAIN, owner, subaccount))
    return RegisterSessionKey(a_key(name).public_key, scope, expires_ns, notional_usd * USD, proof)


def an_exchange(*actions: Action) -> Exchange:
    """Alice has registered her bot's key."""
    exchange = Exchange().start(a_genesis({"alice": 100_000, "bob": 100_000}))
    exchange.block()
    exchange.does("alice", *(actions or (register(),)))
    exchange.block()
    return exchange


def bot_does(exchange: Exchange, *actions: Action, nonce: int = 50, name: str = "bot") -> bytes:
    raw = sign(a_key(name), Transaction(CHAIN, 0, nonce, tuple(actions)))
    exchange.waiting.append(raw)
    return raw


def test_a_session_key_trades_and_cancels_for_the_account() -> None:
    exchange = an_exchange()
    bot_does(exchange, buy(BTC_PERP, 99_000, 1))
    (accepted,) = events_of(exchange.block(), OrderAccepted)
    assert (accepted.owner, accepted.subaccount) == exchange.key("alice")
    bot_does(exchange, CancelAll(None), nonce=51)
    exchange.block()
    assert exchange.state.book(BTC_PERP).bids == ()


def test_owner_and_session_key_share_one_nonce_window() -> None:
    exchange = an_exchange()
    bot_does(exchange, buy(BTC_PERP, 99_000, 1), nonce=0)
    assert reasons(exchange.block()) == ["bad_nonce"]


@pytest.mark.parametrize(
    "action",
    [Withdraw(USD), TransferCash(1, USD), register("other"), RevokeSessionKey(a_key("bot").public_key)],
)
def test_outside_its_scope_a_session_key_is_refused_action_by_action(action: Action) -> None:
    exchange = an_exchange()
    raw = bot_does(exchange, buy(BTC_PERP, 99_000, 1), action)
    with pytest.raises(ProtocolViolation, match="may not sign"):
        check_transaction(exchange.state, raw)
    result = exchange.block()
    assert reasons(result) == ["session_scope"]
    assert len(events_of(result, OrderAccepted)) == 1
    assert exchange.cash("alice") == 100_000 * USD


def test_a_scope_without_trading_still_cancels_and_one_with_transfers_moves_cash() -> None:
    exchange = an_exchange(register(scope=SessionScope.CANCEL | SessionScope.TRANSFER))
    bot_does(exchange, CancelAll(None), buy(BTC_PERP, 99_000, 1), TransferCash(1, USD))
    assert reasons(exchange.block()) == ["session_scope"]
    assert exchange.cash("alice", 1) == USD


def test_after_its_time_a_session_key_may_do_nothing() -> None:
    exchange = an_exchange(register(expires_ns=START_NS + 3 * NS))
    raw = bot_does(exchange, CancelAll(None))
    result = exchange.block()
    assert [event.reason for event in events_of(result, TransactionRejected)] == ["session_expired"]
    with pytest.raises(ProtocolViolation, match="time is over"):
        check_transaction(exchange.state, raw)


def test_positions_orders_and_triggers_together_stay_within_the_notional() -> None:
    exchange = an_exchange(register(notional_usd=10_000))
    bot_does(exchange, buy(BTC_PERP, 99_000, 4), buy(BTC_PERP, 98_000, 7), buy(BTC_PERP, 97_000, 4))
    assert reasons(exchange.block()) == ["session_notional"]
    stop = PlaceTrigger(BTC_PERP, Side.SELL, False, False, 90_000 * USD, None, 3, 1, False, 0)
    bot_does(exchange, stop, nonce=51)
    assert reasons(exchange.block()) == ["session_notional"]
    exchange.does("alice", buy(BTC_PERP, 96_000, 50))
    assert reasons(exchange.block()) == []


def test_what_a_replacement_takes_away_is_free_for_it() -> None:
    exchange = an_exchange(register(notional_usd=10_000))
    bot_does(exchange, buy(BTC_PERP, 99_000, 9))
    (order,) = events_of(exchange.block(), OrderAccepted)
    bot_does(exchange, ReplaceOrder(order.order_id, 98_000 * USD, 10), nonce=51)
    assert reasons(exchange.block()) == []


def test_an_order_whose_replacement_is_too_much_stays_and_keeps_its_label() -> None:
    exchange = an_exchange(register(notional_usd=10_000))
    bot_does(exchange, buy(BTC_PERP, 99_000, 4, label=7))
    (order,) = events_of(exchange.block(), OrderAccepted)
    too_much = ReplaceOrder(order.order_id, 98_000 * USD, 20)
    bot_does(exchange, too_much, buy(BTC_PERP, 97_000, 1, label=7), nonce=51)
    assert reasons(exchange.block()) == ["session_notional", "duplicate_label"]


def test_reducing_orders_of_the_same_transaction_count_too() -> None:
    exchange = an_exchange(register(notional_usd=9_000))
    exchange.does("alice", buy(BTC_PERP, 100_000, 4))
    exchange.does("bob", sell(BTC_PERP, 100_000, 4))
    exchange.block()
    bot_does(exchange, sell(BTC_PERP, 100_500, 4, reduce_only=True), buy(BTC_PERP, 99_000, 2))
    assert reasons(exchange.block()) == ["session_notional"]


def test_reducing_is_never_too_much_for_a_session_key() -> None:
    exchange = an_exchange(register(notional_usd=1))
    exchange.does("alice", buy(BTC_PERP, 100_000, 5))
    exchange.does("bob", sell(BTC_PERP, 100_000, 5))
    exchange.block()
    bot_does(exchange, sell(BTC_PERP, 100_500, 5, reduce_only=True))
    assert reasons(exchange.block()) == []


def test_a_revoked_key_is_unknown() -> None:
    exchange = an_exchange()
    exchange.does("alice", RevokeSessionKey(a_key("bot").public_key))
    exchange.block()
    bot_does(exchange, CancelAll(None))
    assert reasons(exchange.block()) == ["unknown_account"]
    assert [key for key, _ in exchange.state.all_leaves() if key[:1] == b"q"] == [b"qp"]


def test_registering_again_gives_new_terms() -> None:
    exchange = an_exchange()
    exchange.does("alice", register(scope=SessionScope.CANCEL))
    exchange.block()
    bot_does(exchange, buy(BTC_PERP, 99_000, 1))
    assert reasons(exchange.block()) == ["session_scope"]


def test_an_owner_is_never_taken_for_a_session_key() -> None:
    exchange = Exchange().start(a_genesis({"alice": 100_000, "bob": 100_000}))
    exchange.block()
    exchange.does("alice", register("late"))
    exchange.block()
    exchange.does("custodian", Deposit(*exchange.key("late"), 500 * USD))
    exchange.block()
    exchange.does("late", Withdraw(USD))
    exchange.block()
    assert (exchange.cash("late"), exchange.cash("alice")) == (499 * USD, 100_000 * USD)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (register("bob"), "session_key_in_use"),
        (register("alice"), "session_key_in_use"),
        (register("new", expires_ns=START_NS), "time_passed"),
        (register("new", proved_by="mallory"), "session_proof"),
        (register("new", subaccount=1), "session_proof"),
        (RevokeSessionKey(a_key("new").public_key), "unknown_session_key"),
    ],
)
def test_every_refusal_has_its_reason(action: Action, reason: str) -> None:
    exchange = an_exchange()
    exchange.does("alice", action)
    root_free = [item for item in exchange.state.all_leaves() if item[0][:1] == b"q"]
    assert reasons(exchange.block()) == [reason]
    assert [item for item in exchange.state.all_leaves() if item[0][:1] == b"q"] == root_free


def test_a_key_serves_one_sub_account_only() -> None:
    exchange = an_exchange()
    exchange.does("bob", register(of="bob"))
    assert reasons(exchange.block()) == ["session_key_in_use"]


def test_a_sub_account_has_so_many_keys_and_expired_ones_make_room() -> None:
    exchange = an_exchange(*[register(f"bot {number}", expires_ns=START_NS + 4 * NS) for number in range(8)])
    exchange.does("alice", register("one more"))
    assert reasons(exchange.block()) == ["too_many_session_keys"]
    exchange.block(2)
    exchange.does("alice", register("one more"))
    assert reasons(exchange.block()) == []
    assert len([key for key, _ in exchange.state.all_leaves() if key[:2] == b"qs"]) == 1
