"""Each signature is verified once if it is good, and every time if it is forged."""

from __future__ import annotations

import threading

import pytest

from node import verifier
from node.verifier import CHUNK, INLINE_MAX, SignatureVerifier
from primitives.signing import SigningKey

KEY = SigningKey(b"k" * 32)
Check = tuple[bytes, bytes, bytes]


def signed(number: int) -> Check:
    message = number.to_bytes(8, "big")
    return KEY.public_key, message, KEY.sign(message)


def forged(number: int) -> Check:
    return KEY.public_key, number.to_bytes(8, "big"), KEY.sign(b"something else")


async def test_a_valid_signature_costs_one_verification_for_ever() -> None:
    verifier = SignatureVerifier()
    assert await verifier.all_valid([signed(1)])
    assert await verifier.all_valid([signed(1), signed(2)])
    assert (verifier.verified, verifier.cached) == (2, 1)


async def test_a_forged_signature_is_never_remembered_as_valid() -> None:
    verifier = SignatureVerifier()
    assert [await verifier.all_valid([forged(1)]) for _ in range(3)] == [False] * 3
    assert (verifier.verified, verifier.cached) == (3, 0)


async def test_one_forgery_spoils_its_batch_but_not_what_was_known() -> None:
    verifier = SignatureVerifier()
    assert await verifier.all_valid([signed(1)])
    assert not await verifier.all_valid([signed(1), signed(2), forged(3)])
    assert await verifier.all_valid([signed(1), signed(2)])


async def test_the_same_signature_under_another_key_or_message_is_another_matter() -> None:
    verifier = SignatureVerifier()
    key, message, signature = signed(1)
    assert await verifier.all_valid([(key, message, signature)])
    assert not await verifier.all_valid([(SigningKey(b"x" * 32).public_key, message, signature)])
    assert not await verifier.all_valid([(key, message + b"!", signature)])


async def test_bytes_shifted_between_message_and_signature_do_not_hit_the_cache() -> None:
    verifier = SignatureVerifier()
    key, message, signature = signed(1)
    assert await verifier.all_valid([(key, message, signature)])
    assert not await verifier.all_valid([(key, message + signature[:1], signature[1:])])


async def test_nothing_to_check_is_valid() -> None:
    assert await SignatureVerifier().all_valid([])


@pytest.mark.parametrize("count", [INLINE_MAX + 1, CHUNK, 2 * CHUNK + 1])
@pytest.mark.parametrize("bad", [None, 0, -1])
async def test_a_large_batch_is_judged_off_the_loop_as_a_small_one_would_be(
    monkeypatch: pytest.MonkeyPatch, count: int, bad: int | None
) -> None:
    chunks: list[tuple[int, bool]] = []
    judge = verifier._all_valid

    def watched(checks: list[Check]) -> bool:
        chunks.append((len(checks), threading.current_thread() is threading.main_thread()))
        return judge(checks)

    monkeypatch.setattr(verifier, "_all_valid", watched)
    batch = [signed(number) for number in range(count)]
    if bad is not None:
        batch[bad] = forged(7)
    assert await SignatureVerifier().all_valid(batch) is (bad is None)
    sizes = [min(CHUNK, count - start) for start in range(0, count, CHUNK)]
    assert sorted(chunks) == sorted((size, False) for size in sizes)


async def test_the_cache_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "CACHE_ENTRIES_MAX", 2)
    it = SignatureVerifier()
    assert await it.all_valid([signed(1), signed(2), signed(3)])
    assert await it.all_valid([signed(2), signed(3)])
    assert (it.verified, it.cached) == (3, 2)
    assert await it.all_valid([signed(1)])
    assert it.verified == 4
