"""Signatures: one strict rule, so that validity is a function of bytes alone."""

from __future__ import annotations

import copy
import pickle

import pytest

from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason
from primitives.signing import SigningKey, address_of, check_public_key, is_valid, verify

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
FIELD_PRIME = 2**255 - 19

# RFC 8032, section 7.1, tests 1 to 3: seed, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]

# Points whose order divides eight: they would verify messages that nobody signed.
SMALL_ORDER_KEYS = [
    bytes(32),
    bytes([1]) + bytes(31),
    (FIELD_PRIME - 1).to_bytes(32, "little"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]

KEY = SigningKey(bytes(range(32)))
MESSAGE = b"quorate-vote: view 7"
SIGNATURE = KEY.sign(MESSAGE)


@pytest.mark.parametrize(("seed", "public_key", "message", "signature"), RFC_8032, ids=["1", "2", "3"])
def test_the_vectors_of_rfc_8032(seed: str, public_key: str, message: str, signature: str) -> None:
    key = SigningKey(bytes.fromhex(seed))
    assert (key.public_key.hex(), key.sign(bytes.fromhex(message)).hex()) == (public_key, signature)
    assert is_valid(bytes.fromhex(public_key), bytes.fromhex(message), bytes.fromhex(signature))


def test_every_changed_bit_of_the_signature_is_noticed() -> None:
    for bit in range(512):
        forged = bytearray(SIGNATURE)
        forged[bit // 8] ^= 1 << bit % 8
        assert not is_valid(KEY.public_key, MESSAGE, bytes(forged)), f"bit {bit}"


def test_another_message_or_key_does_not_verify() -> None:
    assert is_valid(KEY.public_key, MESSAGE, SIGNATURE)
    assert not is_valid(KEY.public_key, MESSAGE + b"\x00", SIGNATURE)
    assert not is_valid(SigningKey(bytes(32)).public_key, MESSAGE, SIGNATURE)


def test_a_malleable_signature_is_refused() -> None:
    """S and S + group order satisfy the same equation; only the canonical one may count."""
    scalar = int.from_bytes(SIGNATURE[32:], "little")
    twin = SIGNATURE[:32] + (scalar + GROUP_ORDER).to_bytes(32, "little")
    assert not is_valid(KEY.public_key, MESSAGE, twin)


@pytest.mark.parametrize("public_key", SMALL_ORDER_KEYS, ids=lambda key: key.hex()[:8])
def test_a_key_of_small_order_is_refused(public_key: bytes) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        check_public_key(public_key)
    assert caught.value.reason is CodecReason.BAD_KEY
    # R = the identity and S = 0 would verify under the identity key for every message.
    assert not is_valid(public_key, MESSAGE, bytes([1]) + bytes(63))


def test_a_key_with_a_small_order_part_is_refused() -> None:
    """On the curve, but a good key plus a point of order two: outside the prime-order group."""
    y = int.from_bytes(KEY.public_key, "little") & (2**255 - 1)
    sign = KEY.public_key[31] >> 7
    # Adding the point (0, -1) gives (-x, -y).
    mixed = (FIELD_PRIME - y | (1 - sign) << 255).to_bytes(32, "little")
    with pytest.raises(ProtocolViolation):
        check_public_key(mixed)


def test_a_key_that_is_no_point_or_not_canonical_is_refused() -> None:
    for public_key in (
        b"\x02" + bytes(31),
        b"\xff" * 32,
        (FIELD_PRIME + 3).to_bytes(32, "little"),
        b"",
        bytes(33),
    ):
        with pytest.raises(ProtocolViolation) as caught:
            check_public_key(public_key)
        assert caught.value.reason is CodecReason.BAD_KEY


def test_a_good_key_passes() -> None:
    check_public_key(KEY.public_key)


def test_wrong_lengths_are_invalid_and_raise_nothing() -> None:
    assert not is_valid(KEY.public_key, MESSAGE, SIGNATURE[:-1])
    assert not is_valid(KEY.public_key, MESSAGE, SIGNATURE + b"\x00")
    assert not is_valid(KEY.public_key[:-1], MESSAGE, SIGNATURE)
    assert not is_valid(b"", b"", b"")


def test_verify_names_the_reason() -> None:
    verify(KEY.public_key, MESSAGE, SIGNATURE)
    with pytest.raises(ProtocolViolation) as caught:
        verify(KEY.public_key, b"other", SIGNATURE)
    assert caught.value.reason is CodecReason.BAD_SIGNATURE


def test_our_own_mistake_of_type_is_not_called_a_bad_signature() -> None:
    with pytest.raises(TypeError):
        is_valid("k" * 32, MESSAGE, SIGNATURE)  # type: ignore[arg-type]


def test_a_secret_key_does_not_leak_by_printing_pickling_or_copying() -> None:
    secret = bytes(range(32)).hex()
    assert secret not in f"{KEY!r} {KEY!s}"
    assert not hasattr(KEY, "__dict__")
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not serialisable"):
            leak(KEY)


def test_a_seed_has_thirty_two_bytes() -> None:
    with pytest.raises(ValueError, match="Invalid seed"):
        SigningKey(bytes(31))


def test_an_address_is_twenty_bytes_of_its_key_alone() -> None:
    addresses = {address_of(SigningKey(bytes([n]) * 32).public_key) for n in range(20)}
    assert len(addresses) == 20
    assert {len(address) for address in addresses} == {20}
    assert address_of(KEY.public_key) == address_of(bytes(KEY.public_key))
