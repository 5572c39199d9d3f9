"""One canonical byte form per value: array-like msgspec structs in msgpack, size-limited. Pure.

Order of checks on bytes from a stranger: length, typed decode with ranges, canonical re-encoding. Nothing is
allocated in proportion to a claimed length: msgspec stops at the end of the input.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, TypeVar, dataclass_transform

import msgspec

from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason


@dataclass_transform(frozen_default=True)
class Wire(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, gc=False):
    """Base of every object that is hashed, signed, sent or stored. No maps, floats or defaults."""


U8 = Annotated[int, msgspec.Meta(ge=0, le=2**8 - 1)]
U16 = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
U63 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
I64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Bytes20 = Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]
Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Bytes64 = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Bytes65 = Annotated[bytes, msgspec.Meta(min_length=65, max_length=65)]

T = TypeVar("T")
_ENCODER = msgspec.msgpack.Encoder()


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def prepare_decoders() -> None:
    """Know how to decode every Wire type defined so far: call it before a process has threads that decode.

    msgspec describes a type to itself on first use, and publishes that before it is complete: a thread that decodes
    while another does so for the first time ends the process (msgspec 0.22, a segmentation fault).
    """
    waiting = [Wire]
    for kind in waiting:
        waiting += kind.__subclasses__()
    for kind in waiting[1:]:
        msgspec.msgpack.Decoder(kind)


def encode(value: object) -> bytes:
    """The canonical bytes of a wire value."""
    return _ENCODER.encode(value)


def decode(kind: type[T], raw: bytes, *, bytes_max: int) -> T:
    """Decode bytes from a stranger.

    Raises:
        ProtocolViolation: TOO_LARGE, MALFORMED (wrong shape or range) or NOT_CANONICAL.
    """
    if len(raw) > bytes_max:
        raise ProtocolViolation(CodecReason.TOO_LARGE, f"{len(raw)} bytes, the limit is {bytes_max}")
    try:
        value: T = _decoder(kind).decode(raw)  # type: ignore[arg-type]  # types are hashable
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolViolation(CodecReason.MALFORMED, str(error)[:200]) from None
    if _ENCODER.encode(value) != raw:
        raise ProtocolViolation(CodecReason.NOT_CANONICAL, "re-encoding gives other bytes")
    return value


def decode_own(kind: type[T], raw: bytes) -> T:
    """Decode bytes that we wrote ourselves (from our own disk or process). Raises msgspec errors."""
    value: T = _decoder(kind).decode(raw)  # type: ignore[arg-type]  # types are hashable
    return value
