"""What is refused before it waits for a block, and what a block's signatures cover."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ledger.admission import check_transaction, signatures_of_block
from ledger.reasons import LedgerReason
from ledger.transactions import (
    Deposit,
    SignedTransaction,
    Transaction,
    report_sign_bytes,
    transaction_id,
    transaction_sign_bytes,
)
from primitives.codec import decode_own, encode
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason
from primitives.signing import is_valid
from tests.ledger.exchange import BTC_PERP, CHAIN, NEAR_CALL, NEAR_NS, Exchange, a_key, buy, sign

ORDER = buy(BTC_PERP, 99_000, 1)


def alice_sends(*actions: object, chain: bytes = CHAIN, nonce: int = 0, subaccount: int = 0) -> bytes:
    return sign(a_key("alice"), Transaction(chain, subaccount, nonce, actions))  # type: ignore[arg-type]


def test_a_good_transaction_is_read_with_its_signer_and_what_the_signature_covers() -> None:
    exchange = Exchange(alice=1_000)
    raw = alice_sends(ORDER)
    read = check_transaction(exchange.state, raw)
    assert (read.id, read.account) == (transaction_id(raw), exchange.key("alice"))
    assert read.check[1] == transaction_sign_bytes(decode_own(SignedTransaction, raw).payload)
    assert is_valid(*read.check)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\xff" * 25_000, CodecReason.TOO_LARGE),
        (b"", CodecReason.MALFORMED),
        (b"\xff", CodecReason.MALFORMED),
        (alice_sends(ORDER)[:-1], CodecReason.MALFORMED),
        (encode(SignedTransaction(b"\x00", bytes(32), bytes(64))), CodecReason.MALFORMED),
        (alice_sends(ORDER, chain=bytes(32)), LedgerReason.WRONG_CHAIN),
        (alice_sends(ORDER, subaccount=1), LedgerReason.UNKNOWN_ACCOUNT),
        (alice_sends(ORDER, nonce=200), LedgerReason.BAD_NONCE),
        (alice_sends(buy(99, 1, 1)), LedgerReason.UNKNOWN_INSTRUMENT),
        (alice_sends(buy(BTC_PERP, 99_000.1, 1)), LedgerReason.OFF_TICK),
        (alice_sends(Deposit(bytes(20), 0, 1)), LedgerReason.NOT_CUSTODIAN),
    ],
)
def test_a_bad_transaction_is_refused_for_its_first_fault(raw: bytes, reason: LedgerReason) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        check_transaction(Exchange(alice=1_000).state, raw)
    assert refused.value.reason == reason
    assert refused.value.detail


def test_an_order_for_an_expired_option_does_not_wait_for_a_block() -> None:
    exchange = Exchange(alice=1_000)
    exchange.block((NEAR_NS - exchange.now_ns) / 1e9 + 1)
    with pytest.raises(ProtocolViolation) as refused:
        check_transaction(exchange.state, alice_sends(buy(NEAR_CALL, 100, 1)))
    assert refused.value.reason is LedgerReason.INSTRUMENT_EXPIRED


def test_a_payload_that_is_not_canonical_is_refused() -> None:
    payload = encode(Transaction(CHAIN, 0, 0, (ORDER,)))
    padded = payload.replace(b"\x00\x00", b"\x00\xcc\x00", 1)
    raw = encode(SignedTransaction(padded, a_key("alice").public_key, bytes(64)))
    with pytest.raises(ProtocolViolation) as refused:
        check_transaction(Exchange(alice=1_000).state, raw)
    assert refused.value.reason is CodecReason.NOT_CANONICAL


def test_a_blocks_signatures_are_its_reports_then_its_transactions_and_all_verify() -> None:
    exchange = Exchange(alice=1_000)
    exchange.does("alice", ORDER)
    content = exchange.transactions()
    checks = signatures_of_block(exchange.state, content)
    assert len(checks) == 5
    assert all(is_valid(*check) for check in checks)
    assert checks[0][0] == exchange.genesis.reporters[0].oracle_key
    assert checks[0][1].startswith(report_sign_bytes(b""))


@pytest.mark.parametrize(
    "spoil", [lambda content: (), lambda content: (content[0], b"junk"), lambda content: (b"j",)]
)
def test_a_block_that_cannot_be_read_has_no_signatures(spoil: Callable[[object], tuple[bytes, ...]]) -> None:
    exchange = Exchange(alice=1_000)
    with pytest.raises(ProtocolViolation):
        signatures_of_block(exchange.state, spoil(exchange.transactions()))
