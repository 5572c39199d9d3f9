"""A client's transaction at the door: one reply each, a reason for each refusal, and what is accepted is passed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from gossip.network import Lane
from ledger.transactions import (
    CancelAll,
    Deposit,
    PlaceOrder,
    Side,
    SignedTransaction,
    TimeInForce,
    Transaction,
    transaction_id,
)
from node import mempool, transaction_service
from node.messages import TransactionBundle
from node.metrics import NodeMetrics
from node.transaction_service import TransactionService
from primitives.amounts import USD
from primitives.codec import decode_own, encode
from primitives.identifiers import ValidatorIndex
from tests.ledger.exchange import a_key, buy, sign
from tests.node.memory_network import Hub, MemoryNetwork
from tests.node.network_of_nodes import BTC_PERP, INSTRUMENTS, Ledger, sent_by

NEAR_CALL = INSTRUMENTS[2]
ORDER = buy(BTC_PERP, 99_000, 1)


class Door:
    """A TransactionService over a real ledger, in a network of four of which the others are away."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger(path / "blocks")
        self.network = MemoryNetwork(Hub(4), ValidatorIndex(0), None)
        self.metrics = NodeMetrics()
        self.service = TransactionService(
            self.ledger.service, self.network, self.ledger.verifier, self.metrics
        )

    def signed(self, *actions: Any, nonce: int = 0, name: str = "alice", subaccount: int = 0) -> bytes:
        return sent_by(name, self.ledger.chain_id, nonce, *actions, subaccount=subaccount)

    async def reason(self, raw: bytes) -> str:
        (reply,) = await self.service.submit([raw])
        assert reply.accepted == (reply.reason == "")
        assert (reply.detail == "") == reply.accepted, "every refusal has its sentence"
        return reply.reason

    @property
    def bundles(self) -> list[tuple[bytes, ...]]:
        """The transactions of every bundle that was sent to one peer of the three."""
        sent = [decode_own(TransactionBundle, raw).transactions for lane, raw in self.network.sent[::3]]
        assert {lane for lane, _ in self.network.sent} <= {Lane.BULK}
        return sent


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


async def test_a_good_transaction_waits_and_is_passed_on_at_once(door: Door) -> None:
    raw = door.signed(ORDER)
    (reply,) = await door.service.submit([raw])
    assert (reply.transaction_id, reply.accepted, reply.reason) == (transaction_id(raw), True, "")
    assert transaction_id(raw) in door.ledger.service.mempool
    assert door.bundles == [(raw,)]


def with_forged_signature(raw: bytes) -> bytes:
    signed = decode_own(SignedTransaction, raw)
    return encode(SignedTransaction(signed.payload, signed.public_key, bytes(64)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda d: sent_by("alice", bytes(32), 0, ORDER), "wrong_chain"),
        (lambda d: d.signed(ORDER, name="mallory"), "unknown_account"),
        (lambda d: d.signed(ORDER, subaccount=1), "unknown_account"),
        (lambda d: d.signed(ORDER, nonce=200), "bad_nonce"),
        (lambda d: with_forged_signature(d.signed(ORDER)), "bad_signature"),
        (lambda d: d.signed(buy(BTC_PERP, 99_000.5, 1)), "off_tick"),
        (lambda d: d.signed(buy(999, 99_000, 1)), "unknown_instrument"),
        (lambda d: d.signed(ORDER, buy(999, 99_000, 1)), "unknown_instrument"),
        (lambda d: d.signed(buy(BTC_PERP, 99_000, 1, ioc=True, post_only=True)), "post_only_not_gtc"),
        (lambda d: d.signed(Deposit(bytes(20), 0, USD)), "not_custodian"),
        (lambda d: b"", "malformed"),
        (lambda d: b"\xff" * 200, "malformed"),
        (lambda d: d.signed(ORDER)[:-1], "malformed"),
        (lambda d: d.signed(ORDER) + b"\0", "malformed"),
        (lambda d: d.signed(*[CancelAll(None)] * 257), "malformed"),
        (
            lambda d: d.signed(PlaceOrder(BTC_PERP, Side.BUY, 0, 1, TimeInForce.GTC, False, False, 0)),
            "malformed",
        ),
        (
            lambda d: d.signed(PlaceOrder(BTC_PERP, Side.BUY, 2**63, 1, TimeInForce.GTC, False, False, 0)),
            "malformed",
        ),
        (
            lambda d: d.signed(PlaceOrder(BTC_PERP, Side.BUY, USD, -1, TimeInForce.GTC, False, False, 0)),
            "malformed",
        ),
        (lambda d: bytes(25_000), "too_large"),
    ],
)
async def test_each_refusal_has_its_reason_and_changes_nothing(door: Door, make: Any, reason: str) -> None:
    assert await door.reason(make(door)) == reason
    assert (len(door.ledger.service.mempool), door.bundles) == (0, [])
    assert f'quorate_events_total{{name="transaction_refused",reason="{reason}"}} 1.0' in (
        door.metrics.text().decode()
    )
    assert await door.reason(door.signed(ORDER)) == ""


async def test_a_used_nonce_is_refused_as_soon_as_its_block_executed(door: Door) -> None:
    first = door.signed(ORDER)
    assert await door.reason(first) == ""
    await door.ledger.finalizes(await door.ledger.build())
    assert await door.reason(door.signed(CancelAll(None))) == "bad_nonce"
    assert await door.reason(first) in ("bad_nonce", "duplicate")


async def test_an_expired_option_takes_no_orders(door: Door) -> None:
    order = buy(NEAR_CALL.id, 100, 1)
    assert await door.reason(door.signed(order)) == ""
    ledger = door.ledger
    ledger.now_ns = NEAR_CALL.expiry_ns
    await ledger.finalizes(await ledger.build())
    assert await door.reason(door.signed(order, nonce=1)) == "instrument_expired"


async def test_the_same_bytes_twice_are_a_duplicate_also_within_one_call(door: Door) -> None:
    raw = door.signed(ORDER)
    replies = await door.service.submit([raw, raw])
    assert [reply.reason for reply in replies] == ["", "duplicate"]
    assert await door.reason(raw) == "duplicate"
    assert door.bundles == [(raw,)]


async def test_a_full_pool_answers_busy_and_verifies_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mempool, "TRANSACTIONS_MAX", 1)
    assert await door.reason(door.signed(ORDER)) == ""
    assert await door.reason(door.signed(ORDER, nonce=1)) == "busy"
    monkeypatch.setattr(mempool, "TRANSACTIONS_MAX", 9)
    monkeypatch.setattr(mempool, "PER_SENDER_MAX", 1)
    assert await door.reason(door.signed(ORDER, nonce=1)) == "sender_busy"
    assert door.ledger.verifier.verified == 1
    assert await door.reason(door.signed(ORDER, name="bob")) == ""


async def test_replies_come_in_the_order_of_the_question(door: Door) -> None:
    good = [door.signed(ORDER, nonce=nonce) for nonce in range(2)]
    raws = [good[0], b"bad", good[1], sent_by("bob", bytes(32), 0, ORDER)]
    replies = await door.service.submit(raws)
    assert [reply.reason for reply in replies] == ["", "malformed", "", "wrong_chain"]
    assert [reply.transaction_id for reply in replies] == [transaction_id(raw) for raw in raws]
    assert door.bundles == [tuple(good)]


async def test_many_go_out_in_bundles_of_the_limit(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_service, "BUNDLE_TRANSACTIONS_MAX", 2)
    raws = [door.signed(ORDER, nonce=nonce) for nonce in range(5)]
    await door.service.submit(raws)
    assert door.bundles == [tuple(raws[:2]), tuple(raws[2:4]), tuple(raws[4:])]


async def test_a_bundle_of_a_peer_is_admitted_and_not_echoed(door: Door) -> None:
    good = door.signed(ORDER)
    await door.service.receive(
        TransactionBundle((b"bad", good, with_forged_signature(door.signed(ORDER, nonce=1))))
    )
    assert transaction_id(good) in door.ledger.service.mempool
    assert (len(door.ledger.service.mempool), door.bundles) == (1, [])


async def test_a_forgery_in_a_bundle_does_not_keep_the_true_one_out(door: Door) -> None:
    true = door.signed(ORDER)
    await door.service.receive(TransactionBundle((with_forged_signature(true), true)))
    assert transaction_id(true) in door.ledger.service.mempool


async def test_what_clients_gave_us_is_passed_on_again_until_it_is_decided(
    door: Door, autojump_clock: MockClock, nursery: Any
) -> None:
    import trio

    raw, other = door.signed(ORDER), door.signed(ORDER, name="bob")
    await door.service.submit([raw])
    await door.service.receive(TransactionBundle((other,)))
    nursery.start_soon(door.service.run)
    await trio.sleep(2.5)
    assert door.bundles == [(raw,)] * 3, (
        "at once, and once a second; another validator's are that one's to repeat"
    )
    door.ledger.service.mempool.finish([transaction_id(raw)])
    await trio.sleep(5)
    assert len(door.bundles) == 3


async def test_the_custodian_may_deposit(door: Door) -> None:
    from primitives.signing import address_of

    owner = address_of(a_key("carol").public_key)
    deposit = Transaction(door.ledger.chain_id, 0, 0, (Deposit(owner, 0, 5 * USD),))
    assert await door.reason(sign(a_key("custodian"), deposit)) == ""
    block = await door.ledger.build()
    assert await door.ledger.validates(block)
    await door.ledger.finalizes(block)
    assert await door.reason(door.signed(CancelAll(None), name="carol")) == ""
