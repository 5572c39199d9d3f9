"""Frames: what we write is what they read, and each way of being wrong has its reason."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.envelope import (
    FRAME_LIMITS,
    HEADER,
    Frame,
    FrameDecoder,
    FrameLimits,
    Hello,
    Kind,
    check_hello,
    encode_frame,
    encode_hello,
    take_frame,
)
from gossip.network import MESSAGE_BYTES_MAX, Lane
from gossip.reasons import GossipReason
from primitives.codec import encode
from primitives.errors import ProtocolViolation
from primitives.identifiers import ChainId, ValidatorIndex

LIMITS = FrameLimits(frame_bytes_max=64, messages_max=3)
CHAIN = ChainId(b"\7" * 32)
PEER = ValidatorIndex(3)


def decode_all(raw: bytes, limits: FrameLimits = LIMITS) -> list[Frame]:
    decoder = FrameDecoder(limits)
    frames = decoder.feed(raw)
    decoder.finish()
    return frames


def reason_for(raw: bytes, limits: FrameLimits = LIMITS) -> GossipReason:
    with pytest.raises(ProtocolViolation) as refusal:
        decode_all(raw, limits)
    assert isinstance(refusal.value.reason, GossipReason)
    return refusal.value.reason


def header(version: int = 0x51, kind: int = Kind.MESSAGES, count: int = 1, body_bytes: int = 5) -> bytes:
    return HEADER.pack(version, kind, count, body_bytes)


def length(size: int) -> bytes:
    return size.to_bytes(4, "big")


def test_a_frame_is_these_bytes() -> None:
    assert encode_frame(Kind.MESSAGES, [b"ab", b"c"]).hex() == "5102" + "0002" + "0000000b" + (
        "00000002" + "6162" + "00000001" + "63"
    )


@given(st.lists(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=3), max_size=4), st.data())
def test_frames_survive_any_cutting_of_the_stream(groups: list[list[bytes]], data: st.DataObject) -> None:
    raw = b"".join(encode_frame(Kind.MESSAGES, group) for group in groups)
    decoder = FrameDecoder(LIMITS)
    frames: list[Frame] = []
    while raw:
        cut = data.draw(st.integers(1, len(raw)))
        frames += decoder.feed(raw[:cut])
        raw = raw[cut:]
    decoder.finish()
    assert frames == [Frame(Kind.MESSAGES, tuple(group)) for group in groups]


def test_a_stream_that_ends_at_any_byte_inside_a_frame_is_truncated() -> None:
    raw = encode_frame(Kind.MESSAGES, [b"ab", b"cde"])
    assert [reason_for(raw[:cut]) for cut in range(1, len(raw))] == [GossipReason.TRUNCATED] * (len(raw) - 1)


def test_nothing_at_all_is_no_frame_and_no_offence() -> None:
    assert decode_all(b"") == []


def test_a_frame_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    room = LIMITS.frame_bytes_max - HEADER.size - 4
    assert decode_all(encode_frame(Kind.MESSAGES, [b"x" * room])) == [Frame(Kind.MESSAGES, (b"x" * room,))]
    assert reason_for(encode_frame(Kind.MESSAGES, [b"x" * (room + 1)])) == GossipReason.TOO_LARGE


@pytest.mark.parametrize("body_bytes", [1000 * LIMITS.frame_bytes_max, 2**31, 2**32 - 1])
def test_a_huge_claim_is_refused_on_its_header_alone(body_bytes: int) -> None:
    assert reason_for(header(body_bytes=body_bytes)) == GossipReason.TOO_LARGE


@pytest.mark.parametrize("claimed", [6, 2**31, 2**32 - 1])
def test_a_message_longer_than_its_body_is_truncated(claimed: int) -> None:
    assert reason_for(header(body_bytes=9) + length(claimed) + b"abcde") == GossipReason.TRUNCATED


def test_a_message_shorter_than_its_body_leaves_trailing_bytes() -> None:
    assert reason_for(header(body_bytes=9) + length(4) + b"abcde") == GossipReason.TRAILING_BYTES


def test_a_count_too_low_leaves_trailing_bytes_and_too_high_truncates() -> None:
    body = length(1) + b"a" + length(1) + b"b"
    assert reason_for(header(count=1, body_bytes=10) + body) == GossipReason.TRAILING_BYTES
    assert reason_for(header(count=3, body_bytes=10) + body) == GossipReason.TRUNCATED


def test_a_body_that_ends_inside_a_length_is_truncated() -> None:
    assert reason_for(header(body_bytes=3) + b"\0\0\0") == GossipReason.TRUNCATED


def test_more_messages_than_a_frame_may_hold() -> None:
    assert reason_for(encode_frame(Kind.MESSAGES, [b"a"] * 4)) == GossipReason.TOO_MANY_MESSAGES


def test_empty_frames_and_empty_messages() -> None:
    assert reason_for(encode_frame(Kind.MESSAGES, [])) == GossipReason.EMPTY
    assert reason_for(encode_frame(Kind.MESSAGES, [b""])) == GossipReason.EMPTY


@pytest.mark.parametrize("version", [0, 0x50, 0x52, 0xFF])
def test_another_version(version: int) -> None:
    assert reason_for(header(version=version)) == GossipReason.BAD_VERSION


@pytest.mark.parametrize("kind", [0, 5, 255])
def test_an_unknown_kind(kind: int) -> None:
    assert reason_for(header(kind=kind)) == GossipReason.BAD_KIND


@pytest.mark.parametrize("nonces", [[b"1234567"], [b"123456789"], [b"12345678", b"12345678"]])
def test_a_heartbeat_with_anything_but_one_nonce(nonces: list[bytes]) -> None:
    assert reason_for(encode_frame(Kind.PING, nonces)) == GossipReason.BAD_KIND


@given(st.binary(max_size=80))
def test_noise_is_frames_or_a_reason_and_never_another_exception(raw: bytes) -> None:
    try:
        frames = decode_all(raw)
    except ProtocolViolation as error:
        assert isinstance(error.reason, GossipReason)
    else:
        assert b"".join(encode_frame(frame.kind, frame.messages) for frame in frames) == raw


def test_one_frame_takes_what_fits_and_leaves_the_rest_in_order() -> None:
    queue = deque([b"a" * 20, b"b" * 20, b"c" * 20])
    frame, count, size = take_frame(queue, LIMITS)
    assert (decode_all(frame), count, size, list(queue)) == (
        [Frame(Kind.MESSAGES, (b"a" * 20, b"b" * 20))],
        2,
        40,
        [b"c" * 20],
    )


def test_one_frame_takes_no_more_messages_than_allowed() -> None:
    queue = deque([b"a"] * 5)
    assert take_frame(queue, LIMITS)[1:] == (3, 3)


@pytest.mark.parametrize("lane", list(Lane))
def test_the_longest_message_of_a_lane_fits_its_frame(lane: Lane) -> None:
    message = b"x" * MESSAGE_BYTES_MAX[lane]
    frame, _, _ = take_frame(deque([message]), FRAME_LIMITS[lane])
    assert decode_all(frame, FRAME_LIMITS[lane]) == [Frame(Kind.MESSAGES, (message,))]


def test_the_first_frame_can_be_read_alone() -> None:
    decoder = FrameDecoder(LIMITS)
    first = decoder.feed_one(encode_frame(Kind.MESSAGES, [b"a"]) + encode_frame(Kind.MESSAGES, [b"b"]))
    assert (first, decoder.feed(b"")) == (Frame(Kind.MESSAGES, (b"a",)), [Frame(Kind.MESSAGES, (b"b",))])


def a_hello(protocol: int = 1, chain_id: bytes = CHAIN, index: int = 3, lane: int = Lane.VOTE) -> Frame:
    return Frame(Kind.HELLO, (encode(Hello(protocol, chain_id, index, lane)),))


def hello_reason(frame: Frame, index: ValidatorIndex | None = PEER) -> GossipReason | None:
    try:
        check_hello(frame, CHAIN, index, Lane.VOTE)
    except ProtocolViolation as error:
        return GossipReason(error.reason)
    return None


def test_our_hello_is_accepted_by_whoever_expects_us() -> None:
    [frame] = decode_all(encode_hello(CHAIN, ValidatorIndex(3), Lane.VOTE), FRAME_LIMITS[Lane.VOTE])
    assert hello_reason(frame) is None
    [frame] = decode_all(encode_hello(CHAIN, None, Lane.VOTE), FRAME_LIMITS[Lane.VOTE])
    assert hello_reason(frame, index=None) is None


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (a_hello(chain_id=b"\1" * 32), GossipReason.WRONG_CHAIN),
        (a_hello(protocol=2), GossipReason.WRONG_PROTOCOL),
        (a_hello(index=2), GossipReason.WRONG_INDEX),
        (a_hello(index=65535), GossipReason.FOLLOWS_ONLY),
        (a_hello(lane=Lane.BULK), GossipReason.BAD_HELLO),
        (Frame(Kind.MESSAGES, a_hello().messages), GossipReason.BAD_HELLO),
        (Frame(Kind.HELLO, (b"\xc1",)), GossipReason.BAD_HELLO),
        (Frame(Kind.HELLO, (a_hello().messages[0] + b"\0",)), GossipReason.BAD_HELLO),
        (Frame(Kind.HELLO, (b"\x94" + b"\xff" * 63,)), GossipReason.BAD_HELLO),
        (Frame(Kind.HELLO, (b"x" * 65,)), GossipReason.BAD_HELLO),
    ],
)
def test_a_hello_that_is_not_what_we_expect(frame: Frame, reason: GossipReason) -> None:
    assert hello_reason(frame) == reason
