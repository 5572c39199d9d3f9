"""Frames on a stream: version, kind, count, length, then length-prefixed messages. Pure.

    frame   = version:u8 kind:u8 count:u16 body_bytes:u32 body
    body    = count x (message_bytes:u32 message)          all integers big-endian

A frame is checked against its stream's limits as soon as its eight header bytes are here, and nothing is
allocated by a claimed length: the buffer grows only with bytes that arrived, and a header that claims too
much ends the stream.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from gossip.network import BULK_MESSAGE_BYTES_MAX, Lane
from gossip.reasons import GossipReason
from primitives.codec import U8, U16, Bytes32, Wire, decode, encode
from primitives.errors import ProtocolViolation
from primitives.identifiers import ChainId, ValidatorIndex

FRAME_VERSION = 0x51
"""First byte of every frame; another value is another protocol."""
PROTOCOL_VERSION = 1
"""Meaning of the messages above the frames; both sides must have the same."""
HEADER = struct.Struct("!BBHI")
_LENGTH = struct.Struct("!I")
_NONCE_BYTES = 8
HELLO_BYTES_MAX = 64
"""A longer hello is refused: a real one has 40 to 45 bytes."""


class Kind(IntEnum):
    """What a frame is for."""

    HELLO = 1
    """First on every stream, from both sides, and only there."""
    MESSAGES = 2
    PING = 3
    """Carries one 8-byte nonce, which the answering PONG repeats."""
    PONG = 4


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """What one frame may hold on one kind of stream; beyond it the stream is ended and the peer blamed."""

    frame_bytes_max: int
    """Header included."""
    messages_max: int


FRAME_LIMITS = {
    Lane.VOTE: FrameLimits(64 * 1024, 1024),
    Lane.BULK: FrameLimits(BULK_MESSAGE_BYTES_MAX + 64 * 1024, 4096),
}
HELLO_LIMITS = FrameLimits(HEADER.size + _LENGTH.size + HELLO_BYTES_MAX, 1)


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame."""

    kind: Kind
    messages: tuple[bytes, ...]


class Hello(Wire, frozen=True):
    """Who speaks, and for which chain. Its shape never changes; `protocol` tells the rest."""

    protocol: U16
    chain_id: Bytes32
    index: U16
    """The sender's validator index; FOLLOWER_INDEX for a node that does not vote."""
    lane: U8


FOLLOWER_INDEX = 2**16 - 1
FOLLOW_STREAM = 2
"""`Hello.lane` of a follower's request stream."""


def encode_frame(kind: Kind, messages: Sequence[bytes]) -> bytes:
    """One frame; the caller keeps within the stream's limits."""
    parts = [b""]
    body_bytes = 0
    for message in messages:
        parts.append(_LENGTH.pack(len(message)))
        parts.append(message)
        body_bytes += _LENGTH.size + len(message)
    parts[0] = HEADER.pack(FRAME_VERSION, kind, len(messages), body_bytes)
    return b"".join(parts)


def take_frame(queue: deque[bytes], limits: FrameLimits) -> tuple[bytes, int, int]:
    """Pop from the left as many messages as one frame holds.

    Returns:
        The frame's bytes, how many messages it holds, and the sum of their sizes. `queue` must not be empty,
        and no message in it longer than its lane allows, so that at least one always fits.
    """
    taken: list[bytes] = []
    room = limits.frame_bytes_max - HEADER.size
    message_bytes = 0
    while queue and len(taken) < limits.messages_max and room >= _LENGTH.size + len(queue[0]):
        message = queue.popleft()
        taken.append(message)
        room -= _LENGTH.size + len(message)
        message_bytes += len(message)
    return encode_frame(Kind.MESSAGES, taken), len(taken), message_bytes


class FrameDecoder:
    """Bytes of one stream in, whole frames out. Once it has raised, the stream is not to be read further."""

    def __init__(self, limits: FrameLimits) -> None:
        self.limits = limits
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order. Raises ProtocolViolation with a GossipReason."""
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def feed_one(self, data: bytes) -> Frame | None:
        """Like `feed`, but at most the first frame, so that the limits can change after it."""
        self._buffer += data
        return self._next()

    def finish(self) -> None:
        """The stream has ended. Raises ProtocolViolation(TRUNCATED) inside a frame."""
        if self._buffer:
            raise ProtocolViolation(
                GossipReason.TRUNCATED, f"the stream ended {len(self._buffer)} bytes into a frame"
            )

    def _next(self) -> Frame | None:
        if len(self._buffer) < HEADER.size:
            return None
        version, kind, count, body_bytes = HEADER.unpack_from(self._buffer)
        _check_header(version, kind, count, body_bytes, self.limits)
        end = HEADER.size + body_bytes
        if len(self._buffer) < end:
            return None
        body = bytes(memoryview(self._buffer)[HEADER.size : end])
        del self._buffer[:end]
        frame = Frame(Kind(kind), _split(body, count))
        if frame.kind in (Kind.PING, Kind.PONG) and [len(m) for m in frame.messages] != [_NONCE_BYTES]:
            raise ProtocolViolation(GossipReason.BAD_KIND, "a heartbeat carries one nonce of 8 bytes")
        return frame


def _check_header(version: int, kind: int, count: int, body_bytes: int, limits: FrameLimits) -> None:
    if version != FRAME_VERSION:
        raise ProtocolViolation(GossipReason.BAD_VERSION, f"frame version {version}, ours is {FRAME_VERSION}")
    if not Kind.HELLO <= kind <= Kind.PONG:
        raise ProtocolViolation(GossipReason.BAD_KIND, f"no frame kind {kind}")
    if HEADER.size + body_bytes > limits.frame_bytes_max:
        raise ProtocolViolation(
            GossipReason.TOO_LARGE, f"{HEADER.size + body_bytes} bytes, the limit is {limits.frame_bytes_max}"
        )
    if count == 0:
        raise ProtocolViolation(GossipReason.EMPTY, "a frame without messages")
    if count > limits.messages_max:
        raise ProtocolViolation(
            GossipReason.TOO_MANY_MESSAGES, f"{count} messages, the limit is {limits.messages_max}"
        )


def _split(body: bytes, count: int) -> tuple[bytes, ...]:
    messages = []
    offset = 0
    for _ in range(count):
        start = offset + _LENGTH.size
        if start > len(body):
            raise ProtocolViolation(GossipReason.TRUNCATED, "the body ends inside a message's length")
        offset = start + _LENGTH.unpack_from(body, offset)[0]
        if offset > len(body):
            raise ProtocolViolation(GossipReason.TRUNCATED, "the body ends inside a message")
        if offset == start:
            raise ProtocolViolation(GossipReason.EMPTY, "a message without bytes")
        messages.append(body[start:offset])
    if offset != len(body):
        raise ProtocolViolation(
            GossipReason.TRAILING_BYTES, f"{len(body) - offset} bytes after the last message"
        )
    return tuple(messages)


def encode_hello(chain_id: ChainId, index: ValidatorIndex | None, lane: int) -> bytes:
    """The hello frame that opens a stream; `index` None is a follower's."""
    hello = Hello(PROTOCOL_VERSION, chain_id, FOLLOWER_INDEX if index is None else index, lane)
    return encode_frame(Kind.HELLO, [encode(hello)])


def check_hello(frame: Frame, chain_id: ChainId, index: ValidatorIndex | None, lane: int) -> None:
    """Whether the other side is who we expect on this stream.

    Raises:
        ProtocolViolation: BAD_HELLO, WRONG_PROTOCOL, WRONG_CHAIN, WRONG_INDEX or FOLLOWS_ONLY.
    """
    if frame.kind is not Kind.HELLO:
        raise ProtocolViolation(GossipReason.BAD_HELLO, f"the first frame is {frame.kind.name}, not HELLO")
    try:
        hello = decode(Hello, frame.messages[0], bytes_max=HELLO_BYTES_MAX)
    except ProtocolViolation as error:
        raise ProtocolViolation(GossipReason.BAD_HELLO, str(error)) from None
    if hello.protocol != PROTOCOL_VERSION:
        raise ProtocolViolation(
            GossipReason.WRONG_PROTOCOL, f"protocol {hello.protocol}, ours is {PROTOCOL_VERSION}"
        )
    if hello.chain_id != chain_id:
        raise ProtocolViolation(
            GossipReason.WRONG_CHAIN, f"chain {hello.chain_id.hex()[:16]}, ours is {chain_id.hex()[:16]}"
        )
    # One that joins or leaves may be a validator to one side only; who asks is known by its peer id.
    if lane != FOLLOW_STREAM and hello.index != (FOLLOWER_INDEX if index is None else index):
        if hello.index == FOLLOWER_INDEX:
            raise ProtocolViolation(
                GossipReason.FOLLOWS_ONLY, f"validator {index} does not vote yet, or any more"
            )
        raise ProtocolViolation(
            GossipReason.WRONG_INDEX, f"claims index {hello.index}, but its peer id is bound to {index}"
        )
    if hello.lane != lane:
        raise ProtocolViolation(GossipReason.BAD_HELLO, f"a hello for stream {hello.lane} on stream {lane}")
