"""Transactions signed in wallets: what is displayed is what is executed, on this chain, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, get_args

import msgspec
import pytest
from Crypto.Hash import keccak
from msgspec import inspect

from ledger.admission import check_transaction, read_transaction, signatures_of_block
from ledger.instruments import Instrument
from ledger.reasons import LedgerReason
from ledger.transactions import (
    Action,
    BlockTerms,
    BlockTrade,
    CancelAll,
    CancelOrder,
    Deposit,
    Leg,
    MassQuote,
    NamedInstrument,
    PlaceMarket,
    PlaceTrigger,
    PlaceUntil,
    Quote,
    RegisterSessionKey,
    ReplaceOrder,
    RequestQuotes,
    SessionScope,
    SetCancelTime,
    SignedTransaction,
    Transaction,
    TransferCash,
    WalletTransaction,
    Withdraw,
    session_proof_bytes,
)
from ledger.typed_data import instruments_of, typed_data
from primitives.amounts import NS, USD
from primitives.codec import decode_own, encode
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason
from primitives.wallet import ORDER, is_valid_by_any
from tests.ledger.exchange import (
    BTC_PERP,
    CALL_110,
    CHAIN,
    ETH_PERP,
    INSTRUMENTS,
    START_NS,
    Exchange,
    a_key,
    a_wallet,
    buy,
    reasons,
    sell,
    sign_in_wallet,
)

WANDA = a_wallet("wanda")
ORDER_10 = buy(BTC_PERP, 90_000.5, 10, post_only=True, label=7)


def names_of(transaction: Transaction) -> tuple[NamedInstrument, ...]:
    shown = [INSTRUMENTS[number] for number in instruments_of(transaction)]
    return tuple(NamedInstrument(item.id, item.name, item.lots_per_contract) for item in shown)


def shown_for(*actions: Any, subaccount: int = 0, nonce: int = 0, chain: bytes = CHAIN) -> dict[str, Any]:
    transaction = Transaction(chain, subaccount, nonce, actions)
    return typed_data(transaction, encode(transaction), names_of(transaction)).to_wallet()


def wanda_sends(
    *actions: Any, chain: bytes = CHAIN, nonce: int = 0, shown: Sequence[Instrument] = INSTRUMENTS
) -> bytes:
    return sign_in_wallet(WANDA, Transaction(chain, 0, nonce, actions), shown)


def wallets_digest(given: Mapping[str, Any]) -> bytes:
    """EIP-712 as a wallet computes it, from nothing but the JSON it is given."""

    def keccak256(data: bytes) -> bytes:
        return keccak.new(digest_bits=256).update(data).digest()

    def word(kind: str, value: Any) -> bytes:
        if kind.endswith("[]"):
            return keccak256(b"".join(word(kind[:-2], item) for item in value))
        if kind == "string":
            return keccak256(value.encode())
        return int(value, 0).to_bytes(32, "big")

    def struct(name: str, value: Mapping[str, Any]) -> bytes:
        fields = given["types"][name]
        head = f"{name}({','.join(field['type'] + ' ' + field['name'] for field in fields)})"
        words = [word(field["type"], value[field["name"]]) for field in fields]
        return keccak256(keccak256(head.encode()) + b"".join(words))

    domain = struct("EIP712Domain", given["domain"])
    return keccak256(b"\x19\x01" + domain + struct(given["primaryType"], given["message"]))


# --- what a person reads ---


def test_one_order_is_shown_field_by_field() -> None:
    given = shown_for(ORDER_10, subaccount=2, nonce=5)
    message = given["message"]
    assert message.pop("payload").startswith("0x")
    assert message == {
        "instrument": "BTC-PERPETUAL",
        "side": "buy",
        "size": "0.1",
        "price": "$90,000.50",
        "terms": "good till cancelled, post only, label 7",
        "subaccount": "2",
        "nonce": "5",
    }
    assert given["domain"] == {"name": "Quorate", "version": "1", "salt": "0x" + CHAIN.hex()}


@pytest.mark.parametrize(
    ("order", "price", "terms"),
    [
        (PlaceMarket(BTC_PERP, 1, 5, 2, False, 0), "market", "fill or kill"),
        (
            PlaceUntil(buy(BTC_PERP, 1, 1), START_NS + NS // 2),
            "$1.00",
            "good till 2026-02-02 02:40:00.5 UTC",
        ),
        (
            PlaceTrigger(BTC_PERP, 1, False, False, 80_000 * USD, None, 5, 1, True, 0),
            "market",
            "immediate or cancel, once the mark is at or below $80,000.00, reduce only",
        ),
    ],
)
def test_every_kind_of_order_says_its_terms(order: Any, price: str, terms: str) -> None:
    message = shown_for(order)["message"]
    assert (message["price"], message["terms"]) == (price, terms)


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (sell(CALL_110, 5, 1, ioc=True), None),
        (Withdraw(1_234_567_890_000), "withdraw: amount $1,234,567.89"),
        (TransferCash(3, 1), "transfer cash: to subaccount 3, amount $0.000001"),
        (CancelAll(None), "cancel all: instrument all"),
        (CancelAll(ETH_PERP), "cancel all: instrument ETH-PERPETUAL"),
        (CancelOrder(12), "cancel order: order id 12"),
        (ReplaceOrder(12, 5 * USD, 3), "replace order: order id 12, price $5.00, size 3 lots"),
        (SetCancelTime(0), "set cancel time: cancel at never"),
        (Deposit(bytes(20), 1, USD), f"deposit: owner 0x{'00' * 20}, subaccount 1, amount $1.00"),
        (
            MassQuote((Quote(ETH_PERP, 3_999 * USD, 5, 4_001 * USD, 10),)),
            "mass quote: quotes [(instrument ETH-PERPETUAL, bid $3,999.00, bid size 0.5, ask $4,001.00, ask size 1)]",
        ),
        (
            RequestQuotes((Leg(BTC_PERP, -150), Leg(CALL_110, 7)), START_NS),
            "request quotes: legs [(instrument BTC-PERPETUAL, size -1.5); "
            f"(instrument {INSTRUMENTS[CALL_110].name}, size 0.07)], expires 2026-02-02 02:40:00 UTC",
        ),
        (
            RegisterSessionKey(bytes(32), SessionScope.TRADE | SessionScope.CANCEL, START_NS, USD, bytes(64)),
            f"register session key: public key 0x{'00' * 32}, scope trade and cancel, "
            f"expires 2026-02-02 02:40:00 UTC, notional max $1.00, proof 0x{'00' * 64}",
        ),
    ],
)
def test_every_other_action_is_a_sentence_with_all_it_says(action: Any, sentence: str | None) -> None:
    said = shown_for(action, Withdraw(USD))["message"]["actions"]
    expected = sentence or f"sell 0.01 {INSTRUMENTS[CALL_110].name} at $5.00, immediate or cancel"
    assert said == [expected, "withdraw: amount $1.00"]


def test_the_wallets_own_arithmetic_gives_the_digest_that_validators_verify() -> None:
    for actions in ((ORDER_10,), (ORDER_10, Withdraw(USD), MassQuote(())), (SetCancelTime(5),)):
        transaction = Transaction(CHAIN, 1, 2**62, actions)
        data = typed_data(transaction, encode(transaction), names_of(transaction))
        assert wallets_digest(data.to_wallet()) == data.digest()
        read = read_transaction(sign_in_wallet(WANDA, transaction))
        assert read.check[:2] == (WANDA.address, data.digest())


# --- who may do what ---


def test_a_deposit_to_a_wallets_address_opens_the_account_that_the_wallet_signs_for() -> None:
    exchange = Exchange(custodian=1)
    exchange.does("custodian", Deposit(WANDA.address, 0, 500 * USD))
    exchange.block()
    exchange.does("wanda", Withdraw(200 * USD))
    assert reasons(exchange.block()) == []
    assert exchange.cash("wanda") == 300 * USD


def test_a_wallet_trades_transfers_and_lets_a_session_key_trade() -> None:
    exchange = Exchange(wanda=1_000_000, alice=1_000_000)
    exchange.block()
    exchange.does("wanda", buy(BTC_PERP, 100_000, 5), TransferCash(1, 1_000 * USD))
    exchange.does("alice", sell(BTC_PERP, 100_000, 5))
    assert reasons(exchange.block()) == []
    assert exchange.lots("wanda", BTC_PERP) == 5
    assert exchange.cash("wanda", 1) == 1_000 * USD
    robot = a_key("robot")
    proof = robot.sign(session_proof_bytes(CHAIN, WANDA.address, 0))
    scope = SessionScope.TRADE | SessionScope.CANCEL
    session = RegisterSessionKey(robot.public_key, scope, exchange.now_ns + 60 * NS, 10**15, proof)
    exchange.does("wanda", session)
    assert reasons(exchange.block()) == []
    exchange.does("robot", sell(BTC_PERP, 100_000, 2), nonce=10)
    exchange.does("alice", buy(BTC_PERP, 100_000, 2))
    assert reasons(exchange.block()) == []
    assert exchange.lots("wanda", BTC_PERP) == 3


def test_only_the_custodians_own_key_signs_deposits() -> None:
    exchange = Exchange(wanda=1_000)
    with pytest.raises(ProtocolViolation) as refused:
        check_transaction(exchange.state, wanda_sends(Deposit(WANDA.address, 0, USD)))
    assert refused.value.reason is LedgerReason.NOT_CUSTODIAN


# --- what is refused ---


def test_a_signature_is_for_one_chain_one_payload_one_owner_and_what_was_shown() -> None:
    read = read_transaction(wanda_sends(ORDER_10))
    good = decode_own(WalletTransaction, wanda_sends(ORDER_10))
    assert is_valid_by_any(*read.check)
    other_chain = encode(Transaction(bytes(32), 0, 0, (ORDER_10,)))
    other_nonce = encode(Transaction(CHAIN, 0, 1, (ORDER_10,)))
    other_price = encode(Transaction(CHAIN, 0, 0, (buy(BTC_PERP, 90_001, 10, post_only=True, label=7),)))
    renamed = (NamedInstrument(BTC_PERP, "ETH-PERPETUAL", 100),)
    resized = (NamedInstrument(BTC_PERP, "BTC-PERPETUAL", 10),)
    for forged in (
        *(WalletTransaction(item, *encode_rest(good)) for item in (other_chain, other_nonce, other_price)),
        *(WalletTransaction(good.payload, names, good.owner, good.signature) for names in (renamed, resized)),
        WalletTransaction(good.payload, good.names, a_wallet("walter").address, good.signature),
    ):
        assert not is_valid_by_any(*read_transaction(encode(forged)).check)


def encode_rest(signed: WalletTransaction) -> tuple[Any, bytes, bytes]:
    return signed.names, signed.owner, signed.signature


def test_the_other_s_is_not_a_second_transaction() -> None:
    good = decode_own(WalletTransaction, wanda_sends(ORDER_10))
    s, v = int.from_bytes(good.signature[32:64], "big"), good.signature[64]
    twin = good.signature[:32] + (ORDER - s).to_bytes(32, "big") + bytes((55 - v,))
    forged = WalletTransaction(good.payload, good.names, good.owner, twin)
    assert not is_valid_by_any(*read_transaction(encode(forged)).check)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (wanda_sends(ORDER_10, chain=bytes(32)), LedgerReason.WRONG_CHAIN),
        (wanda_sends(ORDER_10, nonce=200), LedgerReason.BAD_NONCE),
        (
            wanda_sends(ORDER_10, shown=[Instrument(BTC_PERP, 1, 0, 0, 0, 100)]),
            LedgerReason.WRONG_NAME,
        ),
        (wanda_sends(ORDER_10, shown=[Instrument(BTC_PERP, 0, 0, 0, 0, 10)]), LedgerReason.WRONG_NAME),
        (encode(WalletTransaction(b"\0", (), bytes(20), bytes(65))), CodecReason.MALFORMED),
        (encode((2, b"", (), bytes(20), bytes(64))), CodecReason.MALFORMED),
        (encode((1, *encode((b"",)), b"")), CodecReason.MALFORMED),
        (encode((3, b"", bytes(32), bytes(64))), CodecReason.MALFORMED),
        (encode((b"", bytes(32), bytes(64))), CodecReason.MALFORMED),
    ],
)
def test_a_bad_wallet_transaction_is_refused_for_its_first_fault(raw: bytes, reason: LedgerReason) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        check_transaction(Exchange(wanda=1_000).state, raw)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "names",
    [
        (),
        (NamedInstrument(ETH_PERP, "ETH-PERPETUAL", 10),),
        (NamedInstrument(0, "BTC-PERPETUAL", 100), NamedInstrument(6, "ETH-PERPETUAL", 10)),
        (NamedInstrument(0, "BTC-PERPETUAL", 100),) * 2,
    ],
)
def test_names_are_those_of_the_actions_instruments_and_no_others(names: tuple[NamedInstrument, ...]) -> None:
    payload = encode(Transaction(CHAIN, 0, 0, (ORDER_10,)))
    with pytest.raises(ProtocolViolation) as refused:
        read_transaction(encode(WalletTransaction(payload, names, WANDA.address, bytes(65))))
    assert refused.value.reason is LedgerReason.UNREADABLE


def test_more_than_a_person_reads_is_refused() -> None:
    check_transaction(Exchange(wanda=1_000).state, wanda_sends(*[CancelOrder(1)] * 32))
    quotes = tuple(Quote(BTC_PERP, 1, 1, 2, 1) for _ in range(32))
    payload = encode(Transaction(CHAIN, 0, 0, (MassQuote(quotes),)))
    names = (NamedInstrument(0, "BTC-PERPETUAL", 100),)
    with pytest.raises(ProtocolViolation) as refused:
        read_transaction(encode(WalletTransaction(payload, names, WANDA.address, bytes(65))))
    assert refused.value.reason is LedgerReason.UNREADABLE


def test_an_ed25519_envelope_does_not_pass_as_a_wallets() -> None:
    key = a_key("alice")
    signed = SignedTransaction(encode(Transaction(CHAIN, 0, 0, (ORDER_10,))), key.public_key, bytes(64))
    raw = b"\x94\x02" + encode(signed)[2:]
    with pytest.raises(ProtocolViolation) as refused:
        read_transaction(raw)
    assert refused.value.reason is CodecReason.MALFORMED


def test_a_block_whose_wallet_was_shown_a_wrong_name_executes_nothing_of_it() -> None:
    exchange = Exchange(wanda=1_000_000, alice=1_000)
    exchange.waiting.append(wanda_sends(ORDER_10, shown=[Instrument(BTC_PERP, 1, 0, 0, 0, 100)]))
    assert reasons(exchange.block()) == ["wrong_name"]
    exchange.does("wanda", ORDER_10, nonce=0)
    assert reasons(exchange.block()) == []


def test_the_same_bytes_execute_once() -> None:
    exchange = Exchange(wanda=1_000_000)
    raw = exchange.does("wanda", ORDER_10)
    assert reasons(exchange.block()) == []
    exchange.waiting.append(raw)
    assert reasons(exchange.block()) == ["bad_nonce"]


def test_a_blocks_signatures_are_of_both_schemes() -> None:
    exchange = Exchange(wanda=1_000_000, alice=1_000_000)
    exchange.does("alice", ORDER_10)
    exchange.does("wanda", ORDER_10)
    checks = signatures_of_block(exchange.state, exchange.transactions())
    assert [len(key) for key, _, _ in checks] == [32, 32, 32, 32, 32, 20]
    assert all(is_valid_by_any(*check) for check in checks)


def test_a_block_trade_shows_its_legs_and_price() -> None:
    terms = BlockTerms(CHAIN, WANDA.address, 0, 0, (Leg(BTC_PERP, 5),), 0, -3 * USD, START_NS, 1)
    [said] = shown_for(BlockTrade(terms, bytes(32), bytes(64)))["message"]["actions"]
    assert "legs [(instrument BTC-PERPETUAL, size 0.05)], side buy, price -$3.00" in said


# --- whatever is sent ---


def sampled(kind: inspect.Type, random: Random) -> Any:
    """A value of a wire type, often at its bounds."""
    match kind:
        case inspect.BoolType():
            return random.random() < 0.5
        case inspect.IntType():
            low, high = kind.ge or 0, kind.le or 0
            return random.choice((low, high, random.randint(low, high)))
        case inspect.BytesType():
            return random.randbytes(kind.min_length or 0)
        case inspect.StrType():
            return "".join(random.choices("a\u00e9\u4e2d,;[]\n\u202e0", k=kind.max_length or 9))
        case inspect.NoneType():
            return None
        case inspect.UnionType():
            return sampled(random.choice(kind.types), random)
        case inspect.VarTupleType():
            return tuple(sampled(kind.item_type, random) for _ in range((kind.min_length or 0) + 1))
        case inspect.StructType():
            return kind.cls(*(sampled(field.type, random) for field in kind.fields))
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", get_args(Action), ids=lambda kind: kind.__name__)
def test_every_action_has_words_whatever_it_says_and_nothing_odd_crashes_a_validator(kind: type) -> None:
    random = Random(kind.__name__)
    for _ in range(20):
        action = sampled(inspect.type_info(kind), random)
        transaction = Transaction(CHAIN, 0, 0, (action, Withdraw(1)))
        numbers = instruments_of(transaction)
        assert set(numbers) == every_instrument_in(action)
        names = tuple(NamedInstrument(number, f"X{number}", random.choice((1, 7, 100))) for number in numbers)
        payload = encode(transaction)
        data = typed_data(transaction, payload, names)
        assert wallets_digest(data.to_wallet()) == data.digest()
        raw = encode(WalletTransaction(payload, names, WANDA.address, WANDA.sign(data.digest())))
        assert is_valid_by_any(*read_transaction(raw).check)
        for number in numbers:
            assert f"X{number}" in data.message["actions"][0]


def every_instrument_in(value: Any, field: str = "") -> set[int]:
    """The obvious way to find them: look everywhere."""
    if isinstance(value, tuple):
        return set().union(*(every_instrument_in(item, field) for item in value))
    if isinstance(value, msgspec.Struct):
        found = (every_instrument_in(getattr(value, name), name) for name in value.__struct_fields__)
        return set().union(*found)
    return {value} if field == "instrument" and value is not None else set()
