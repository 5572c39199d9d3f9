"""EIP-712: the digest of typed, readable data that an Ethereum wallet shows and signs. Pure.

Values are bytes for `address`, `bytesN` and `bytes`, int for `uintN` and `intN`, bool, str, mappings for structs and
sequences for arrays. Source: EIP-712, "Definition of encodeData" and "Definition of domainSeparator".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from Crypto.Hash import keccak

Fields = tuple[tuple[str, str], ...]
"""(name, type) of each member, in order."""

_DOMAIN_KINDS = {
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}
_WORD = 32


class TypedData(NamedTuple):
    """What a wallet is given: struct types by name, the one that is signed, the domain and the message."""

    types: tuple[tuple[str, Fields], ...]
    primary: str
    domain: tuple[tuple[str, Any], ...]
    message: Mapping[str, Any]

    def digest(self) -> bytes:
        """The 32 bytes that the signature covers."""
        return keccak256(
            b"\x19\x01" + domain_separator(self.domain) + _hash_struct(self.types, self.primary, self.message)
        )

    def to_wallet(self) -> dict[str, Any]:
        """The argument of eth_signTypedData_v4: plain JSON; bytes as 0x hex, integers as decimal strings."""
        types = (("EIP712Domain", _domain_fields(self.domain)), *self.types)
        return {
            "types": {
                name: [{"name": field, "type": kind} for field, kind in fields] for name, fields in types
            },
            "primaryType": self.primary,
            "domain": _plain(dict(self.domain)),
            "message": _plain(self.message),
        }


def keccak256(data: bytes) -> bytes:
    """Ethereum's digest, 32 bytes (not SHA3-256, whose padding differs)."""
    return keccak.new(digest_bits=256, data=data).digest()


@lru_cache(maxsize=64)
def domain_separator(domain: tuple[tuple[str, Any], ...]) -> bytes:
    """hashStruct of the domain's fields that are there, in the standard's order."""
    return _hash_struct((("EIP712Domain", _domain_fields(domain)),), "EIP712Domain", dict(domain))


def _domain_fields(domain: tuple[tuple[str, Any], ...]) -> Fields:
    return tuple((name, _DOMAIN_KINDS[name]) for name, _ in domain)


@lru_cache(maxsize=64)
def _type_hash(types: tuple[tuple[str, Fields], ...], name: str) -> bytes:
    by_name, reached, waiting = dict(types), set[str](), [name]
    while waiting:
        here = waiting.pop()
        reached.add(here)
        kinds = {kind.partition("[")[0] for _, kind in by_name[here]}
        waiting += sorted((kinds & by_name.keys()) - reached)
    order = [name, *sorted(reached - {name})]
    members = (f"{item}({','.join(f'{kind} {field}' for field, kind in by_name[item])})" for item in order)
    return keccak256("".join(members).encode())


def _hash_struct(types: tuple[tuple[str, Fields], ...], name: str, value: Mapping[str, Any]) -> bytes:
    words = [_encode(types, kind, value[field]) for field, kind in dict(types)[name]]
    return keccak256(_type_hash(types, name) + b"".join(words))


def _encode(types: tuple[tuple[str, Fields], ...], kind: str, value: Any) -> bytes:
    """One member as 32 bytes."""
    if kind.endswith("]"):
        inner = kind[: kind.rindex("[")]
        return keccak256(b"".join(_encode(types, inner, item) for item in value))
    if kind == "string":
        return keccak256(value.encode())
    if kind == "bytes":
        return keccak256(value)
    if kind == "address":
        return bytes(12) + bytes(value)
    if re.fullmatch(r"bytes\d+", kind):
        return bytes(value).ljust(_WORD, b"\0")
    if re.fullmatch(r"u?int\d+|bool", kind):
        return int(value).to_bytes(_WORD, "big", signed=kind[0] == "i")
    return _hash_struct(types, kind, value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
