"""The client without its sockets: words into actions, forms into types, what becomes of a transaction."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger.events import ActionRejected, Trade, TransactionApplied, TransactionRejected
from ledger.transactions import (
    AcceptQuote,
    BidAuction,
    CancelAll,
    Leg,
    MassQuote,
    PlaceMarket,
    PlaceOrder,
    PlaceTrigger,
    PlaceUntil,
    Quote,
    QuotePackage,
    ReplaceOrder,
    RequestQuotes,
    SessionScope,
    SignedTransaction,
    Transaction,
    TransferCash,
    WalletTransaction,
    session_proof_bytes,
    transaction_id,
)
from node.client import market as words
from node.client import questions
from node.client.addresses import Gateways, stream_url
from node.client.errors import (
    ActionsRejected,
    BadAnswer,
    BadOrder,
    ClientError,
    NotFound,
    TransactionRefused,
    TryLater,
)
from node.client.errors import TransactionRejected as Rejected
from node.client.feed import AccountEvent, Feed
from node.client.market import Market, uusd
from node.client.signers import ExternalWallet, KeySigner, WalletSigner
from node.client.submissions import Account, Conversation, Receipt, Stage, Submission, add_consequences
from node.client.terminal import Signing
from node.client.typed import OtherEvent, read_event, read_form
from node.keystore import save_seeds
from node.rpc.answers import (
    BookAnswer,
    EventRow,
    InstrumentForm,
    LevelForm,
    SubmitAnswer,
    TransactionAnswer,
)
from node.rpc.client_form import client_form
from node.rpc.stream_forms import Gap, TradeMessage
from primitives.amounts import USD
from primitives.codec import decode_own
from primitives.signing import SigningKey, address_of, is_valid
from primitives.wallet import WalletKey, is_valid_by_any
from tests.histories import History
from tests.ledger.exchange import CHAIN, INSTRUMENTS, a_key, a_wallet

OWNER = b"\5" * 20


def listed(instrument: Any) -> InstrumentForm:
    return InstrumentForm(
        name=instrument.name,
        id=instrument.id,
        underlying="BTC",
        kind="call",
        expiry_ns=instrument.expiry_ns,
        strike_uusd=instrument.strike_uusd,
        lots_per_contract=instrument.lots_per_contract,
        is_settled=False,
        settlement_price_uusd=None,
        mark=None,
    )


MARKET = Market(listed(item) for item in INSTRUMENTS)


# --- words ---


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            MARKET.limit("BTC-PERPETUAL", "buy", "0.05", "90000.5", post_only=True, label=3),
            PlaceOrder(0, 0, 90_000_500_000, 5, 0, True, False, 3),
        ),
        (
            MARKET.limit(6, "sell", 2, Decimal("3999"), in_force="fok", expires_ns=9),
            PlaceUntil(PlaceOrder(6, 1, 3_999 * USD, 20, 2, False, False, 0), 9),
        ),
        (MARKET.market("ETH-PERPETUAL", "sell", "0.1"), PlaceMarket(6, 1, 1, 1, False, 0)),
        (
            MARKET.trigger("BTC-PERPETUAL", "sell", 1, below=80_000, reduce_only=True),
            PlaceTrigger(0, 1, False, False, 80_000 * USD, None, 100, 1, True, 0),
        ),
        (
            MARKET.trigger("BTC-PERPETUAL", "buy", 1, above="95000", by_index=True, price="95100"),
            PlaceTrigger(0, 0, True, True, 95_000 * USD, 95_100 * USD, 100, 0, False, 0),
        ),
        (MARKET.replace(12, "BTC-PERPETUAL", "0.5", 90_000), ReplaceOrder(12, 90_000 * USD, 50)),
        (
            MARKET.mass_quote({"BTC-PERPETUAL": (90_000, "0.1", None, 0)}),
            MassQuote((Quote(0, 90_000 * USD, 10, 1, 0),)),
        ),
        (MARKET.cancel_all("ETH-PERPETUAL"), CancelAll(6)),
        (MARKET.cancel_all(), CancelAll(None)),
        (
            MARKET.request_quotes({"ETH-PERPETUAL": "-0.5", "BTC-PERPETUAL": 1}, 7),
            RequestQuotes((Leg(0, 100), Leg(6, -5)), 7),
        ),
        (words.quote_package(3, "-10.5", None, 7), QuotePackage(3, -10_500_000, None, 7)),
        (words.accept_quote(3, OWNER, "sell", 12, 1), AcceptQuote(3, OWNER, 1, 1, 12 * USD)),
        (words.bid_auction(OWNER, 0, 500_000, -7), BidAuction(OWNER, 0, 500_000, -7 * USD)),
        (words.transfer(2, "0.5"), TransferCash(2, USD // 2)),
    ],
)
def test_words_become_exactly_these_actions(made: object, expected: object) -> None:
    assert made == expected


@pytest.mark.parametrize(
    ("ask", "complaint"),
    [
        (lambda: MARKET.limit("BTC-PERP", "buy", 1, 1), "did you mean BTC-PERPETUAL"),
        (lambda: MARKET.limit(0, "buy", "0.055", 1), "0.055"),
        (lambda: MARKET.limit(0, "buy", 1, "0.0000001"), "0.0000001"),
        (lambda: MARKET.limit(0, "buy", 1, 90_000.5), "90000.5"),
        (lambda: MARKET.limit(0, "buy", 1, "NaN"), "NaN"),
        (lambda: MARKET.limit(0, "buy", 1, "Infinity"), "Infinity"),
        (lambda: MARKET.limit(0, "buy", "ten", 1), "ten"),
        (lambda: MARKET.limit(0, "hold", 1, 1), "buy or sell"),
        (lambda: MARKET.limit(0, "buy", 0, 1), "size_lots"),
        (lambda: MARKET.limit(0, "buy", 1, -1), "price_uusd"),
        (lambda: MARKET.market(0, "buy", 1, in_force="gtc"), "time_in_force"),
        (lambda: MARKET.trigger(0, "buy", 1), "above or below"),
        (lambda: MARKET.trigger(0, "buy", 1, above=1, below=2), "above or below"),
        (lambda: words.withdraw(0), "amount_uusd"),
        (lambda: words.transfer(256, 1), "to_subaccount"),
    ],
)
def test_what_cannot_be_said_exactly_is_refused_in_words(ask: Any, complaint: str) -> None:
    with pytest.raises(BadOrder, match=complaint):
        ask()


def test_a_session_key_has_signed_that_it_is_willing() -> None:
    robot = a_key("robot")
    action = words.register_session(
        robot,
        CHAIN,
        OWNER,
        3,
        scopes=[SessionScope.TRADE, SessionScope.CANCEL],
        expires_ns=5,
        notional="1000",
    )
    assert (action.scope, action.notional_uusd_max, action.expires_ns) == (3, 1_000 * USD, 5)
    assert is_valid(robot.public_key, session_proof_bytes(CHAIN, OWNER, 3), action.proof)


# --- types ---


def test_every_event_of_a_long_history_is_read_back_as_it_was() -> None:
    seen = {type(event): event for block in History(1).blocks(60) for event in block.result.events}
    assert len(seen) > 8
    for event in seen.values():
        assert read_event(msgspec.json.decode(msgspec.json.encode(client_form(event)))) == event


def test_an_answer_is_read_back_and_what_is_new_in_it_is_passed_over() -> None:
    levels = (LevelForm(price_uusd=2**60, size_lots=5),)
    book = BookAnswer(instrument=0, name="X", mark_uusd=None, bids=levels, asks=())
    form = {**client_form(book), "invented_later": 1}
    assert read_form(BookAnswer, form) == book
    assert read_event({"event": "invented_later", "a": 1}) == OtherEvent(
        "invented_later", {"event": "invented_later", "a": 1}
    )


@pytest.mark.parametrize(
    "form", [{}, {"instrument": "zero", "name": "", "mark_uusd": None, "bids": [], "asks": []}, []]
)
def test_an_answer_of_another_shape_is_named(form: Any) -> None:
    with pytest.raises(BadAnswer, match="BookAnswer"):
        read_form(BookAnswer, form)


def test_a_refusal_is_an_exception_of_its_kind_with_its_reason() -> None:
    question = questions.book("NOPE")
    for status, reason, kind in ((404, "not_found", NotFound), (503, "busy", TryLater)):
        with pytest.raises(kind) as refused:
            question.read(status, msgspec.json.encode({"reason": reason, "detail": "so"}))
        assert (refused.value.reason, refused.value.detail) == (reason, "so")
    over_quota = msgspec.json.encode({"reason": "quota_exceeded", "detail": ""})
    with pytest.raises(TryLater) as later:
        question.read(429, over_quota, {"retry-after": "7"})
    assert later.value.wait_seconds == 7
    for body in (b"", b"<html>", b"[]"):
        with pytest.raises(BadAnswer):
            question.read(502, body)
    refused_order = {"transaction_id": "00" * 32, "accepted": False, "reason": "off_tick", "detail": "d"}
    answer = questions.hand_in(b"x").read(422, msgspec.json.encode(refused_order))
    assert answer == SubmitAnswer(transaction_id=bytes(32), accepted=False, reason="off_tick", detail="d")
    with pytest.raises(TransactionRefused):
        questions.check_accepted(answer)


def test_addresses_are_checked_and_taken_in_turn() -> None:
    gateways = Gateways(["http://a:1/", "https://b:2", "c:3"], "secret")
    seen = []
    for _ in range(4):
        seen.append(stream_url(gateways.url))
        gateways.leave(gateways.url)
    assert seen == ["ws://a:1/v1/ws", "wss://b:2/v1/ws", "ws://c:3/v1/ws", "ws://a:1/v1/ws"]
    gateways.leave("http://a:1")
    assert gateways.url == "https://b:2", "it was left already"
    assert gateways.headers == {"authorization": "Bearer secret"}
    for bad in ("ftp://a", "http://", ""):
        with pytest.raises(ClientError):
            Gateways(bad)


# --- signing ---


def test_an_account_counts_nonces_and_signs_under_either_scheme() -> None:
    order = MARKET.limit(0, "buy", 1, 90_000)
    alice = Account(KeySigner(a_key("alice")), CHAIN, OWNER, 2, 7)
    first, second = (decode_own(SignedTransaction, alice.sign([order], MARKET)) for _ in range(2))
    assert decode_own(Transaction, first.payload) == Transaction(CHAIN, 2, 7, (order,))
    assert decode_own(Transaction, second.payload).nonce == 8
    wanda = Account(WalletSigner(a_wallet("wanda")), CHAIN, OWNER, 0, 0)
    signed = decode_own(WalletTransaction, wanda.sign([order], MARKET))
    assert [(item.id, item.name) for item in signed.names] == [(0, "BTC-PERPETUAL")]


def test_a_wallet_elsewhere_is_shown_the_words_and_its_signature_checked_before_it_is_sent() -> None:
    wanda, shown = a_wallet("wanda"), []

    def ask(data: dict[str, Any]) -> bytes:
        from tests.ledger.test_wallet_transactions import wallets_digest

        shown.append(data["message"]["side"])
        return wanda.sign(wallets_digest(data))

    order = MARKET.limit(0, "sell", 1, 90_000)
    raw = Account(ExternalWallet(wanda.address, ask), CHAIN, OWNER, 0, 0).sign([order], MARKET)
    signed = decode_own(WalletTransaction, raw)
    assert (shown, signed.owner) == (["sell"], wanda.address)
    assert not is_valid_by_any(wanda.address, bytes(32), signed.signature)
    other = ExternalWallet(a_wallet("walter").address, ask)
    with pytest.raises(ClientError, match="not by its own address"):
        Account(other, CHAIN, OWNER, 0, 0).sign([order], MARKET)


@pytest.mark.parametrize(("name", "signer"), [("wallet", WalletSigner), ("account", KeySigner)])
def test_a_key_file_says_whose_account_it_signs_for(tmp_path: Path, name: str, signer: type) -> None:
    path, secret = tmp_path / "key.json", bytes(range(32))
    save_seeds({name: secret}, path, "a long password", log_n=14)
    (tmp_path / "password").write_text("a long password")
    found = Signing(key=path, password_file=tmp_path / "password").signer()
    assert type(found) is signer
    expected = WalletKey(secret).address if name == "wallet" else address_of(SigningKey(secret).public_key)
    assert found.address == expected
    public = json.loads(path.read_text())["public"]
    assert public == {name: expected.hex() if name == "wallet" else SigningKey(secret).public_key.hex()}


# --- what becomes of a transaction ---


def told(conversation: Conversation, **message: Any) -> None:
    conversation.take(msgspec.msgpack.encode(message))


def handed_in() -> tuple[Conversation, Submission]:
    conversation = Conversation()
    submission = conversation.add(b"raw")
    assert msgspec.msgpack.decode(conversation.frame(submission)) == {
        "op": "submit",
        "id": 1,
        "transaction": b"raw",
    }
    return conversation, submission


APPLIED = TransactionApplied(transaction_id(b"raw"), OWNER, 0, 3)
REFUSED_ACTION = ActionRejected(transaction_id(b"raw"), 0, "off_tick", "d")


def test_a_transaction_goes_from_sent_to_final() -> None:
    conversation, submission = handed_in()
    stages = [submission.receipt.stage]
    for message in ({"type": "accepted"}, {"type": "notarized", "height": 5}):
        told(conversation, id=1, **message)
        stages.append(submission.receipt.stage)
    told(conversation, type="accepted", id=1)
    assert (stages, submission.receipt.stage) == (
        [Stage.SENT, Stage.ACCEPTED, Stage.NOTARIZED],
        Stage.NOTARIZED,
    )
    told(
        conversation, type="final", id=1, height=5, events=[client_form(APPLIED), client_form(REFUSED_ACTION)]
    )
    receipt = submission.result()
    assert receipt == Receipt(transaction_id(b"raw"), Stage.FINAL, 5, (APPLIED, REFUSED_ACTION))
    with pytest.raises(ActionsRejected) as rejected:
        receipt.check()
    assert (rejected.value.reason, rejected.value.rejections) == ("off_tick", (REFUSED_ACTION,))


def test_a_transaction_that_is_refused_or_rejected_raises_its_reason() -> None:
    conversation, submission = handed_in()
    told(conversation, type="refused", id=1, transaction_id=None, reason="duplicate", detail="d")
    with pytest.raises(TransactionRefused, match="duplicate"):
        submission.result()
    conversation, submission = handed_in()
    event = TransactionRejected(transaction_id(b"raw"), "bad_nonce", "used")
    told(conversation, type="rejected", id=1, height=5, events=[client_form(event)])
    with pytest.raises(Rejected, match="bad_nonce: used"):
        submission.result()


def test_bytes_sent_again_that_are_known_already_leave_only_the_chain_to_ask() -> None:
    conversation, submission = handed_in()
    [again] = conversation.frames()
    assert msgspec.msgpack.decode(again)["transaction"] == b"raw"
    told(conversation, type="refused", id=1, transaction_id=None, reason="duplicate", detail="")
    assert (submission.is_unsure, submission.error, conversation.frames()) == (True, None, [])
    answer = TransactionAnswer(transaction_id=transaction_id(b"raw"), status="notarized", height=4, events=())
    conversation.settle(submission, answer)
    assert submission.receipt.stage is Stage.NOTARIZED
    conversation.settle(submission, msgspec.structs.replace(answer, status="final", events=(APPLIED,)))
    assert submission.result() == Receipt(transaction_id(b"raw"), Stage.FINAL, 4, (APPLIED,))


def test_what_a_gateway_says_of_nothing_we_sent_is_passed_over() -> None:
    conversation, submission = handed_in()
    told(conversation, type="final", id=9, height=1, events=[])
    told(conversation, type="subscribed", channels=[])
    assert submission.is_silent
    for junk in (b"\xc1", "{", msgspec.msgpack.encode([1])):
        with pytest.raises(BadAnswer):
            conversation.take(junk)


def test_a_receipt_is_completed_with_what_happened_to_the_account_in_its_block() -> None:
    trade = Trade(0, USD, 1, 5, 6, OWNER, 0, OWNER, 1, 0, 0)
    rows = [
        EventRow(height=height, place=0, cursor="", event=event)
        for height, event in ((6, trade), (5, trade), (5, APPLIED), (4, trade))
    ]
    receipt = Receipt(transaction_id(b"raw"), Stage.FINAL, 5, (APPLIED,))
    assert add_consequences(receipt, rows).events == (APPLIED, trade)


# --- channels ---


def test_a_feed_goes_on_where_its_last_connection_broke_off() -> None:
    feed = Feed(["trades", "blocks"])
    assert msgspec.msgpack.decode(feed.opening()) == {"op": "subscribe", "channels": ["trades", "blocks"]}
    assert (
        feed.take(msgspec.json.encode({"type": "subscribed", "channels": [], "stream": "life1"}).decode())
        is None
    )
    trade = TradeMessage(
        channel="trades",
        seq=7,
        height=3,
        cursor="",
        instrument=0,
        price_uusd=USD,
        size_lots=1,
        buy_order_id=5,
        sell_order_id=6,
        buyer=OWNER,
        buyer_subaccount=0,
        seller=OWNER,
        seller_subaccount=0,
        buyer_fee_uusd=0,
        seller_fee_uusd=-1,
    )
    assert feed.take(msgspec.msgpack.encode(client_form(trade))) == trade
    assert msgspec.msgpack.decode(feed.opening()) == {
        "op": "subscribe",
        "channels": ["trades", "blocks"],
        "stream": "life1",
        "resume": {"trades": 7},
    }
    gap = Gap(channel="trades", last_seq=7, seq=90)
    assert feed.take(msgspec.msgpack.encode(client_form(gap))) == gap


def test_a_feed_gives_an_accounts_events_and_raises_refusals() -> None:
    feed = Feed(["account:x"])
    head = {"type": "account", "channel": "account:x", "seq": 1, "height": 3, "account": "x", "cursor": "c"}
    given = feed.take(msgspec.msgpack.encode(head | client_form(APPLIED)))
    assert given == AccountEvent(channel="account:x", seq=1, height=3, account="x", cursor="c", event=APPLIED)
    assert feed.take(msgspec.msgpack.encode({"type": "invented_later"})) is None
    with pytest.raises(TryLater):
        feed.take(msgspec.msgpack.encode({"type": "refused", "id": None, "reason": "busy", "detail": ""}))


def test_dollars_are_exact() -> None:
    assert (uusd("0.000001"), uusd(90_000), words.dollars(1_500_000)) == (1, 90_000 * USD, Decimal("1.5"))
