"""The codec gives each value one byte form and refuses every other one."""

from __future__ import annotations

import resource

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primitives.codec import (
    I64,
    U8,
    U16,
    U32,
    U63,
    Bytes20,
    Bytes32,
    Bytes64,
    Wire,
    decode,
    decode_own,
    encode,
    prepare_decoders,
)
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason


class Pair(Wire):
    level: U8
    owner: Bytes20


class Numbers(Wire):
    a: U8
    b: U16
    c: U32
    d: U63
    e: I64


class Digests(Wire):
    root: Bytes32
    signature: Bytes64


class Nested(Wire):
    pairs: tuple[Pair, ...]
    names: list[str]


class Signed(Wire):
    value: I64


class Ping(Wire, tag=0):
    nonce: U8


class Pong(Wire, tag=1):
    nonce: U8


OWNER = bytes(range(20))
PAIR = Pair(7, OWNER)
PAIR_BYTES = b"\x92\x07\xc4\x14" + OWNER


def refusal(kind: object, raw: bytes, bytes_max: int = 1_000) -> CodecReason:
    with pytest.raises(ProtocolViolation) as caught:
        decode(kind, raw, bytes_max=bytes_max)  # type: ignore[arg-type]
    assert isinstance(caught.value.reason, CodecReason)
    return caught.value.reason


def test_a_struct_is_the_array_of_its_fields() -> None:
    assert encode(PAIR) == PAIR_BYTES
    assert decode(Pair, PAIR_BYTES, bytes_max=len(PAIR_BYTES)) == PAIR


def test_bytes_of_our_own_come_back() -> None:
    assert decode_own(Pair, PAIR_BYTES) == PAIR


def test_one_byte_over_the_limit_is_too_large() -> None:
    assert refusal(Pair, PAIR_BYTES, len(PAIR_BYTES) - 1) is CodecReason.TOO_LARGE


def test_size_is_judged_before_shape() -> None:
    assert refusal(Pair, b"\xc1" * 11, 10) is CodecReason.TOO_LARGE


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="the byte msgpack never uses"),
        pytest.param(PAIR_BYTES[:-1], id="cut short"),
        pytest.param(PAIR_BYTES + b"\x00", id="something after the end"),
        pytest.param(b"\x91\x07", id="a field missing"),
        pytest.param(b"\x93" + PAIR_BYTES[1:] + b"\x00", id="a field too many"),
        pytest.param(b"\x92\xcd\x01\x00" + PAIR_BYTES[2:], id="number above its range"),
        pytest.param(b"\x92\xff" + PAIR_BYTES[2:], id="number below its range"),
        pytest.param(b"\x92\xc3" + PAIR_BYTES[2:], id="true for a number"),
        pytest.param(b"\x92\xcb\x40\x1c" + bytes(6) + PAIR_BYTES[2:], id="float for a number"),
        pytest.param(b"\x92\xa17" + PAIR_BYTES[2:], id="text for a number"),
        pytest.param(b"\x92\xc0" + PAIR_BYTES[2:], id="nil for a number"),
        pytest.param(b"\x92\x07\xc4\x13" + OWNER[:-1], id="bytes too short"),
        pytest.param(b"\x92\x07\xc4\x15" + OWNER + b"\x00", id="bytes too long"),
        pytest.param(b"\x92\x07\xb4" + b"x" * 20, id="text for bytes"),
        pytest.param(b"\x82\xa5level\x07\xa5owner\xc4\x14" + OWNER, id="a map"),
        pytest.param(b"\xc7\x02\x05\x92\x07", id="an extension type"),
        pytest.param(b"\x91" * 900, id="deep nesting"),
    ],
)
def test_another_shape_or_range_is_malformed(raw: bytes) -> None:
    assert refusal(Pair, raw) is CodecReason.MALFORMED


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x92\xcc\x07" + PAIR_BYTES[2:], id="small number in two bytes"),
        pytest.param(b"\x92\xd3" + bytes(7) + b"\x07" + PAIR_BYTES[2:], id="small number in nine bytes"),
        pytest.param(b"\x92\x07\xc5\x00\x14" + OWNER, id="length in two bytes"),
        pytest.param(b"\xdc\x00\x02" + PAIR_BYTES[1:], id="array header in three bytes"),
        pytest.param(b"\xdd\x00\x00\x00\x02" + PAIR_BYTES[1:], id="array header in five bytes"),
    ],
)
def test_another_byte_form_of_a_good_value_is_not_canonical(raw: bytes) -> None:
    assert decode_own(Pair, raw) == PAIR
    assert refusal(Pair, raw) is CodecReason.NOT_CANONICAL


def test_numbers_reach_the_ends_of_their_ranges_and_no_further() -> None:
    low = Numbers(0, 0, 0, 0, -(2**63))
    high = Numbers(2**8 - 1, 2**16 - 1, 2**32 - 1, 2**63 - 1, 2**63 - 1)
    assert [decode(Numbers, encode(value), bytes_max=99) for value in (low, high)] == [low, high]
    beyond = [
        Numbers(2**8, 0, 0, 0, 0),
        Numbers(0, 2**16, 0, 0, 0),
        Numbers(0, 0, 2**32, 0, 0),
        Numbers(0, 0, 0, 2**63, 0),
        Numbers(0, 0, 0, 0, 2**63),
        Numbers(-1, 0, 0, 0, 0),
        Numbers(0, 0, 0, -1, 0),
    ]
    assert [refusal(Numbers, encode(value)) for value in beyond] == [CodecReason.MALFORMED] * len(beyond)


def test_digests_and_signatures_have_their_exact_length() -> None:
    good = Digests(bytes(32), bytes(64))
    assert decode(Digests, encode(good), bytes_max=200) == good
    assert refusal(Digests, encode(Digests(bytes(31), bytes(64)))) is CodecReason.MALFORMED
    assert refusal(Digests, encode(Digests(bytes(32), bytes(65)))) is CodecReason.MALFORMED


def test_text_that_is_not_utf8_is_malformed() -> None:
    assert refusal(Nested, b"\x92\x90\x91\xa2\xff\xfe") is CodecReason.MALFORMED


def test_a_tag_tells_which_of_several_it_is() -> None:
    kinds = Ping | Pong
    assert decode(kinds, encode(Pong(9)), bytes_max=10) == Pong(9)  # type: ignore[arg-type]
    assert refusal(kinds, b"\x92\x02\x09") is CodecReason.MALFORMED


def test_a_claimed_length_costs_nothing() -> None:
    """Four thousand million elements in seven bytes: refused without the memory they would need."""
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for claim in (b"\xdd\xff\xff\xff\xff", b"\xdd\x04\x00\x00\x00"):
        assert refusal(Nested, b"\x92" + claim + PAIR_BYTES) is CodecReason.MALFORMED
        assert refusal(Nested, b"\x92\x90" + claim + b"\xa1x") is CodecReason.MALFORMED
    for claim in (b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"):
        assert refusal(Pair, b"\x92\x07" + claim) is CodecReason.MALFORMED
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb < 50_000


def test_a_wire_value_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        PAIR.level = 8  # type: ignore[misc]


pairs = st.builds(Pair, st.integers(0, 255), st.binary(min_size=20, max_size=20))
nested = st.builds(Nested, st.lists(pairs, max_size=5).map(tuple), st.lists(st.text(max_size=9), max_size=5))


@given(nested)
def test_every_value_survives_the_way_there_and_back(value: Nested) -> None:
    assert decode(Nested, encode(value), bytes_max=10_000) == value


@given(st.binary(max_size=60))
def test_strange_bytes_are_refused_or_are_the_one_form_of_their_value(raw: bytes) -> None:
    try:
        value = decode(Signed, raw, bytes_max=40)
    except ProtocolViolation:
        return
    assert encode(value) == raw


@given(nested, st.data())
def test_a_changed_byte_never_decodes_to_the_same_value(value: Nested, data: st.DataObject) -> None:
    raw = bytearray(encode(value))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = decode(Nested, bytes(raw), bytes_max=10_000)
    except ProtocolViolation:
        return
    assert other != value


def test_our_own_bytes_raise_the_libraries_error() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_own(Pair, b"\x90")


def test_every_wire_type_can_be_made_ready_before_there_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    ready: list[type[Wire]] = []
    monkeypatch.setattr(msgspec.msgpack, "Decoder", ready.append)
    prepare_decoders()
    direct = {kind for kind in Wire.__subclasses__() if not kind.__subclasses__()}
    below = {kind for parent in Wire.__subclasses__() for kind in parent.__subclasses__()}
    assert {Nested} | direct | below <= set(ready)
