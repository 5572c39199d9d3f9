"""Wallets' signatures: the standard's own example, and that each signature has exactly one form."""

from __future__ import annotations

import pickle

import pytest

from primitives.eip712 import TypedData, domain_separator, keccak256
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason
from primitives.signing import SigningKey
from primitives.wallet import ORDER, WalletKey, is_valid_by_any, recover_address

COW = bytes.fromhex("CD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826")
BOB = bytes.fromhex("bBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB")
CONTRACT = bytes.fromhex("CcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC")
MAIL = TypedData(
    types=(
        ("Mail", (("from", "Person"), ("to", "Person"), ("contents", "string"))),
        ("Person", (("name", "string"), ("wallet", "address"))),
    ),
    primary="Mail",
    domain=(("name", "Ether Mail"), ("version", "1"), ("chainId", 1), ("verifyingContract", CONTRACT)),
    message={
        "from": {"name": "Cow", "wallet": COW},
        "to": {"name": "Bob", "wallet": BOB},
        "contents": "Hello, Bob!",
    },
)
"""The example of EIP-712 itself; its digests and signature are those of the standard's Example.js."""
MAIL_DIGEST = bytes.fromhex("be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2")
MAIL_SIGNATURE = bytes.fromhex(
    "4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d"
    "07299936d304c153f6443dfa05f40ff007d72911b6f72307f996231605b915621c"
)
WALLET = WalletKey(keccak256(b"cow"))
DIGEST = bytes(range(32))


def test_the_standards_mail_has_the_standards_digests() -> None:
    assert domain_separator(MAIL.domain).hex() == (
        "f2cee375fa42b42143804025fc449deafd50cc031ca257e0b194a650a912090f"
    )
    assert MAIL.digest() == MAIL_DIGEST


def test_the_standards_mail_is_signed_and_recovered_as_in_the_standard() -> None:
    assert WALLET.address == COW
    assert WALLET.sign(MAIL_DIGEST) == MAIL_SIGNATURE
    assert recover_address(MAIL_DIGEST, MAIL_SIGNATURE) == COW


def test_arrays_numbers_and_bytes_are_encoded_as_words() -> None:
    data = TypedData(
        (("T", (("a", "uint8[]"), ("b", "bytes4"), ("c", "int16"), ("d", "bool"), ("e", "bytes"))),),
        "T",
        (("name", "x"),),
        {"a": [1, 2], "b": b"abcd", "c": -2, "d": True, "e": b"\1"},
    )
    words = (
        keccak256(b"T(uint8[] a,bytes4 b,int16 c,bool d,bytes e)"),
        keccak256((1).to_bytes(32, "big") + (2).to_bytes(32, "big")),
        b"abcd" + bytes(28),
        b"\xff" * 31 + b"\xfe",
        bytes(31) + b"\1",
        keccak256(b"\1"),
    )
    domain = keccak256(keccak256(b"EIP712Domain(string name)") + keccak256(b"x"))
    assert data.digest() == keccak256(b"\x19\x01" + domain + keccak256(b"".join(words)))


def test_what_the_wallet_is_given_is_plain_json() -> None:
    given = MAIL.to_wallet()
    assert given["domain"] == {
        "name": "Ether Mail",
        "version": "1",
        "chainId": "1",
        "verifyingContract": "0x" + CONTRACT.hex(),
    }
    assert given["types"]["EIP712Domain"][2] == {"name": "chainId", "type": "uint256"}
    assert (given["primaryType"], given["message"]["from"]["wallet"]) == ("Mail", "0x" + COW.hex())


def test_a_signature_has_one_form() -> None:
    good = WALLET.sign(DIGEST)
    r, s, v = good[:32], int.from_bytes(good[32:64], "big"), good[64]
    twin = r + (ORDER - s).to_bytes(32, "big") + bytes((55 - v,))
    assert recover_address(DIGEST, good) == WALLET.address
    spoiled = {
        "the other s": twin,
        "v from 0": good[:64] + bytes((v - 27,)),
        "v with a chain": good[:64] + bytes((v + 10,)),
        "v of a large r": good[:64] + bytes((v + 2,)),
        "s of 0": r + bytes(32) + good[64:],
        "r of 0": bytes(32) + good[32:],
        "r of the order": ORDER.to_bytes(32, "big") + good[32:],
        "too long": good + b"\0",
        "too short": good[:-1],
        "nothing": b"",
    }
    assert {name: recover_address(DIGEST, raw) for name, raw in spoiled.items()} == dict.fromkeys(spoiled)
    assert recover_address(DIGEST, good[:64] + bytes((55 - v,))) != WALLET.address


def test_a_signature_is_for_one_digest_and_one_wallet() -> None:
    good = WALLET.sign(DIGEST)
    assert is_valid_by_any(WALLET.address, DIGEST, good)
    assert not is_valid_by_any(WALLET.address, bytes(32), good)
    assert not is_valid_by_any(BOB, DIGEST, good)
    assert not is_valid_by_any(WALLET.address, DIGEST[:31], good)


def test_neither_scheme_passes_for_the_other() -> None:
    key = SigningKey(bytes(32))
    assert is_valid_by_any(key.public_key, DIGEST, key.sign(DIGEST))
    assert not is_valid_by_any(key.public_key[:20], DIGEST, key.sign(DIGEST))
    assert not is_valid_by_any(key.public_key, DIGEST, WALLET.sign(DIGEST))
    assert not is_valid_by_any(WALLET.address, DIGEST, WALLET.sign(DIGEST)[:64])


@pytest.mark.parametrize("secret", [b"", bytes(32), ORDER.to_bytes(32, "big"), bytes(33)])
def test_a_number_outside_the_group_is_no_key(secret: bytes) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        WalletKey(secret)
    assert refused.value.reason is CodecReason.BAD_KEY


def test_a_wallets_key_is_neither_printed_nor_pickled() -> None:
    assert repr(WALLET) == f"WalletKey(address={COW.hex()})"
    with pytest.raises(TypeError):
        pickle.dumps(WALLET)
