"""The waiting room of transactions: oldest first, a limit for everybody and one for each, nobody twice."""

from __future__ import annotations

import pytest

from node import mempool
from node.mempool import Mempool, MempoolReason
from primitives.errors import ProtocolViolation

ALICE, BOB = b"A" * 32, b"B" * 32


def name(number: int) -> bytes:
    return number.to_bytes(32, "big")


def a_pool(*waiting: tuple[int, bytes, bytes]) -> Mempool:
    pool = Mempool()
    for number, sender, raw in waiting:
        pool.add(name(number), sender, raw)
    return pool


def refusal(pool: Mempool, number: int, sender: bytes, raw: bytes = b"raw") -> str:
    with pytest.raises(ProtocolViolation) as refused:
        pool.add(name(number), sender, raw)
    return refused.value.reason


def test_the_oldest_are_picked_first_whatever_their_ids() -> None:
    pool = a_pool((9, ALICE, b"first"), (1, BOB, b"second"), (5, ALICE, b"third"))
    assert pool.pick(10, 1_000, set()) == [b"first", b"second", b"third"]
    assert pool.pick(2, 1_000, set()) == [b"first", b"second"]
    assert pool.pick(10, 11, set()) == [b"first", b"second"]
    assert pool.pick(10, 1_000, {name(9)}) == [b"second", b"third"]


def test_picking_takes_nothing_out() -> None:
    pool = a_pool((1, ALICE, b"one"))
    assert pool.pick(1, 100, set()) == pool.pick(1, 100, set()) == [b"one"]
    assert (len(pool), pool.bytes, name(1) in pool) == (1, 3, True)


def test_a_waiting_and_a_decided_transaction_are_duplicates_and_a_dropped_one_is_not() -> None:
    pool = a_pool((1, ALICE, b"one"), (2, ALICE, b"two"), (3, ALICE, b"three"))
    assert refusal(pool, 1, ALICE) == MempoolReason.DUPLICATE
    pool.finish([name(1), name(7)])
    pool.drop(name(2))
    assert refusal(pool, 1, ALICE) == refusal(pool, 7, BOB) == MempoolReason.DUPLICATE
    pool.add(name(2), ALICE, b"two")
    assert (pool.pick(9, 99, set()), pool.bytes) == ([b"three", b"two"], 8)


def test_one_sender_cannot_take_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mempool, "PER_SENDER_MAX", 2)
    pool = a_pool((1, ALICE, b"one"), (2, ALICE, b"two"))
    assert refusal(pool, 3, ALICE) == MempoolReason.SENDER_BUSY
    pool.add(name(3), BOB, b"three")
    pool.finish([name(1)])
    pool.add(name(4), ALICE, b"four")
    assert pool.pick(9, 99, set()) == [b"two", b"three", b"four"]


def test_a_full_pool_is_busy_for_everybody_by_count_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mempool, "TRANSACTIONS_MAX", 2)
    pool = a_pool((1, ALICE, b"one"), (2, BOB, b"two"))
    assert refusal(pool, 3, b"C" * 32) == MempoolReason.BUSY
    pool.finish([name(1)])
    monkeypatch.setattr(mempool, "BYTES_MAX", 6)
    assert refusal(pool, 3, ALICE, b"four") == MempoolReason.BUSY
    pool.add(name(3), ALICE, b"now")
    assert (len(pool), pool.bytes) == (2, 6)


def test_a_refused_transaction_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mempool, "PER_SENDER_MAX", 1)
    pool = a_pool((1, ALICE, b"one"))
    assert refusal(pool, 2, ALICE) == MempoolReason.SENDER_BUSY
    pool.finish([name(1)])
    pool.add(name(2), ALICE, b"two")
    assert (len(pool), pool.bytes) == (1, 3)


def test_only_the_newest_decided_ones_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mempool, "RECENT_MAX", 2)
    pool = Mempool()
    pool.finish([name(1), name(2), name(3)])
    pool.add(name(1), ALICE, b"one")
    assert refusal(pool, 2, ALICE) == refusal(pool, 3, ALICE) == MempoolReason.DUPLICATE
