"""Verifies proof files without a node: one file to copy into another program. Pure; needs PyNaCl and nothing else.

    trust = trust_of_genesis(genesis_wire_bytes)       # or trust_of_checkpoint(bytes that you trust)
    proven = verify_proof_file(proof_bytes, trust)     # raises ProofRefused
    proven.leaves[key]                                 # the leaf's bytes, None: there is no such leaf

What is checked, in this order: the file is canonical msgpack of the shape below; each epoch from the trusted
one on was closed by its own validators, who named the next ones; a block of the last epoch is final (a
finalization by weight q, or a notarization by weight F_FINAL, for it or for a block that descends from it);
each leaf is, or is not, under the state root in that block's header. A header carries the root of the state
before its block, so the proven state is that of the height below. Format: docs/spec/proofs.md.

    file     = [1, kind, subject, chain id, first epoch, [link ...], finality, [leaf ...]]
    link     = [header, certificate, next validator set, or nil if it is the same]     one for each epoch passed
    finality = [[header ...], certificate]      each header the child of the one before; certificate: of the last
    leaf     = [key, value or nil, [leaves, [[bit, sibling] ...], nil or [path, value digest]]]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

FILE_BYTES_MAX = 16 * 1024 * 1024
"""A longer file is refused: about three thousand epochs of a hundred validators. Start from a checkpoint."""
DEPTH_MAX = 12
"""Lists within lists; a genesis has fewer."""
VALIDATORS_MAX = 256
WEIGHT_TOTAL_MAX = 2**53
HEADERS_MAX = 600
"""Headers between the block whose root is used and the one that the certificate is for."""
VERSION = 1
CHECKPOINT_VERSION = 1
PROTOCOL_VERSION_MAX = 1
"""The newest protocol version whose headers this file reads."""
NOTARIZE, FINALIZE = 1, 3

_HASH, _U8, _U16, _U32, _U63 = b"", 2**8 - 1, 2**16 - 1, 2**32 - 1, 2**63 - 1
_HEADER: tuple[tuple[str, Any], ...] = (
    ("version", _U16),
    ("chain_id", _HASH),
    ("epoch", _U32),
    ("view", _U63),
    ("height", _U63),
    ("parent_hash", _HASH),
    ("parent_view", _U63),
    ("proposer", _U16),
    ("time_ns", _U63),
    ("transaction_root", _HASH),
    ("parent_state_root", _HASH),
    ("next_set_hash", _HASH),
    ("justification_root", _HASH),
    ("evidence_root", _HASH),
    ("flags", _U8),
)
"""A header's fields in order, each a hash or an integer up to a maximum."""


class ProofRefused(Exception):
    """The proof proves nothing; the sentence says why."""


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ProofRefused(sentence)


# --- digests ---


def digest(domain: bytes, data: bytes) -> bytes:
    """blake2b-256 with the domain as its person."""
    return blake2b(data, digest_size=32, person=domain).digest()


def sign_bytes(chain_id: bytes, kind: int, epoch: int, view: int, block: bytes) -> bytes:
    """The 94 bytes that a validator's vote signs."""
    place = epoch.to_bytes(8, "big") + view.to_bytes(8, "big")
    return b"QUORATE-BFT-1" + bytes((kind,)) + chain_id + place + block


# --- canonical msgpack: nil, booleans, integers, strings, bytes, lists ---


def pack(value: Any) -> bytes:
    """The one encoding of a value; the shortest of every form. Lists may be tuples."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return _pack_integer(value)
    if isinstance(value, bytes):
        return _sized(len(value), (0xC4, 0xC5, 0xC6)) + value
    if isinstance(value, str):
        raw = value.encode()
        short = bytes((0xA0 | len(raw),)) if len(raw) < 32 else _sized(len(raw), (0xD9, 0xDA, 0xDB))
        return short + raw
    body = b"".join(pack(item) for item in value)
    count = len(value)
    return (bytes((0x90 | count,)) if count < 16 else _sized(count, (None, 0xDC, 0xDD))) + body


def _pack_integer(value: int) -> bytes:
    if -32 <= value < 128:
        return bytes((value & 0xFF,))
    code = 0xCC if value >= 0 else 0xD0
    for power in range(4):
        bits = 8 << power
        if value < 1 << bits if value >= 0 else value >= -(1 << bits - 1):
            return bytes((code + power,)) + value.to_bytes(bits // 8, "big", signed=value < 0)
    raise ProofRefused("an integer has more than 64 bits")


def _sized(length: int, codes: Sequence[int | None]) -> bytes:
    for power, code in enumerate(codes):
        if code is not None and length < 1 << (8 << power):
            return bytes((code,)) + length.to_bytes(1 << power, "big")
    raise ProofRefused("something is longer than 4 GiB")


def unpack(raw: bytes) -> Any:
    """The value of canonical bytes; lists are tuples. Refuses anything that pack would write differently."""
    _require(len(raw) <= FILE_BYTES_MAX, f"longer than {FILE_BYTES_MAX} bytes")
    try:
        value, end = _unpack(raw, 0, DEPTH_MAX)
    except (IndexError, UnicodeDecodeError):
        raise ProofRefused("not msgpack, or cut short") from None
    _require(end == len(raw) and pack(value) == raw, "not in canonical form")
    return value


def _unpack(raw: bytes, at: int, depth: int) -> tuple[Any, int]:
    code = raw[at]
    at += 1
    if code < 0x80 or code >= 0xE0:
        return (code if code < 0x80 else code - 256), at
    if code in (0xC0, 0xC2, 0xC3):
        return (None if code == 0xC0 else code == 0xC3), at
    if 0xCC <= code <= 0xD3:
        size = 1 << (code & 3)
        return int.from_bytes(_take(raw, at, size), "big", signed=code >= 0xD0), at + size
    length, at, kind = _length(raw, code, at)
    if kind == "list":
        return _unpack_list(raw, at, length, depth)
    chunk = _take(raw, at, length)
    return (chunk if kind == "bytes" else chunk.decode()), at + length


def _length(raw: bytes, code: int, at: int) -> tuple[int, int, str]:
    if 0x90 <= code <= 0x9F:
        return code & 0x0F, at, "list"
    if 0xA0 <= code <= 0xBF:
        return code & 0x1F, at, "text"
    for first, sizes, kind in ((0xC4, (1, 2, 4), "bytes"), (0xD9, (1, 2, 4), "text"), (0xDC, (2, 4), "list")):
        if 0 <= code - first < len(sizes):
            size = sizes[code - first]
            return int.from_bytes(_take(raw, at, size), "big"), at + size, kind
    raise ProofRefused("a msgpack type that is never used here")


def _unpack_list(raw: bytes, at: int, length: int, depth: int) -> tuple[Any, int]:
    # Every item takes a byte, so a claimed length costs nothing before the input ends.
    _require(depth > 0, "lists too deep")
    items = []
    for _ in range(length):
        item, at = _unpack(raw, at, depth - 1)
        items.append(item)
    return tuple(items), at


def _take(raw: bytes, at: int, size: int) -> bytes:
    if at + size > len(raw):
        raise IndexError
    return raw[at : at + size]


# --- shapes ---


def _list(value: Any, length: int | None, what: str) -> Any:
    fits = isinstance(value, tuple) and (length is None or len(value) == length)
    _require(fits, f"{what} is not a list" + ("" if length is None else f" of {length}"))
    return value


def _int(value: Any, maximum: int, what: str) -> int:
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= maximum
    _require(fits, f"{what} is not an integer from 0 to {maximum}")
    return int(value)


def _bytes(value: Any, length: int | None, what: str) -> bytes:
    fits = isinstance(value, bytes) and (length is None or len(value) == length)
    _require(fits, f"{what} is not bytes" + ("" if length is None else f", {length} of them"))
    return bytes(value)


# --- validators ---


@dataclass(frozen=True)
class ValidatorSet:
    """Keys by place, integer weights (0: not a member), and F_FINAL."""

    public_keys: tuple[bytes, ...]
    weights: tuple[int, ...]
    final_weight: int

    @property
    def total(self) -> int:
        """W."""
        return sum(self.weights)

    @property
    def quorum(self) -> int:
        """q: more than two thirds of W."""
        return 2 * self.total // 3 + 1

    def fast_weight(self, byzantine_weight: int) -> int:
        """F(t): notarize votes of this weight are final against Byzantine weight t."""
        return byzantine_weight + self.total - self.quorum + self.quorum // 2 + 1

    def wire(self) -> tuple[Any, ...]:
        """What its hash covers."""
        return self.public_keys, self.weights, self.final_weight

    def set_hash(self) -> bytes:
        """What headers of the epoch before commit to."""
        return digest(b"quorate-valset", pack(self.wire()))


def validator_set(value: Any) -> ValidatorSet:
    """From [[key ...], [weight ...], F_FINAL]. Raises ProofRefused unless it is a possible set."""
    keys, weights, final_weight = _list(value, 3, "a validator set")
    keys = tuple(_bytes(key, 32, "a validator's key") for key in _list(keys, None, "keys"))
    weights = tuple(_int(one, WEIGHT_TOTAL_MAX, "a weight") for one in _list(weights, None, "weights"))
    found = ValidatorSet(keys, weights, _int(final_weight, WEIGHT_TOTAL_MAX, "F_FINAL"))
    _require(0 < len(keys) <= VALIDATORS_MAX, f"a set has 1 to {VALIDATORS_MAX} validators")
    _require(len(set(keys)) == len(keys) == len(weights), "every validator has its own key and a weight")
    _require(0 < found.total <= WEIGHT_TOTAL_MAX, "somebody has weight, and the total is bounded")
    lowest = max(found.quorum, found.fast_weight(0))
    _require(lowest <= found.final_weight <= found.total, "F_FINAL lies between max(q, F(0)) and the total")
    return found


@dataclass(frozen=True)
class Trust:
    """Whose signatures count: the validators of one epoch of one chain. Everything proven rests on this."""

    chain_id: bytes
    epoch: int
    validators: ValidatorSet

    def checkpoint(self) -> bytes:
        """A file for later, to be kept where nobody else writes."""
        return pack((CHECKPOINT_VERSION, self.chain_id, self.epoch, self.validators.wire()))


def trust_of_genesis(raw: bytes) -> Trust:
    """From a genesis in wire form (`quorate light genesis` writes it); the chain id is its digest."""
    fields = _list(unpack(raw), 6, "a genesis")
    entries = [_list(entry, 5, "a validator") for entry in _list(fields[3], None, "validators")]
    parameters = _list(fields[4], 5, "the consensus parameters")
    keys, weights = tuple(entry[1] for entry in entries), tuple(entry[4] for entry in entries)
    final_weight = _int(parameters[4], _U32, "F_FINAL")
    if not final_weight:
        # F(f): the weight that assumes nothing beyond f.
        total = sum(_int(weight, _U32, "a weight") for weight in weights)
        quorum = 2 * total // 3 + 1
        final_weight = max(quorum, 2 * (total - quorum) + quorum // 2 + 1)
    return Trust(digest(b"quorate-genesis", raw), 0, validator_set((keys, weights, final_weight)))


def trust_of_checkpoint(raw: bytes) -> Trust:
    """From what Trust.checkpoint wrote. It is believed, not checked."""
    version, chain_id, epoch, validators = _list(unpack(raw), 4, "a checkpoint")
    _require(version == CHECKPOINT_VERSION, "a checkpoint of another version")
    return Trust(
        _bytes(chain_id, 32, "the chain id"), _int(epoch, _U32, "the epoch"), validator_set(validators)
    )


# --- finality ---


@dataclass(frozen=True)
class Header:
    """What the proof uses of a block's header, and the block's name."""

    block_hash: bytes
    epoch: int
    height: int
    parent_hash: bytes
    time_ns: int
    parent_state_root: bytes
    next_set_hash: bytes
    is_suffix: bool


def header_of(value: Any, trust: Trust) -> Header:
    """From the header's 15 fields. Raises ProofRefused unless it is of this chain and epoch."""
    raw = _list(value, None, "a header")
    _require(
        bool(raw) and _int(raw[0], _U16, "version") <= PROTOCOL_VERSION_MAX,
        f"a header of a later protocol version than {PROTOCOL_VERSION_MAX}: this verifier is too old for the chain",
    )
    fields: dict[str, Any] = {}
    for (name, kind), item in zip(_HEADER, _list(value, len(_HEADER), "a header"), strict=True):
        fields[name] = _bytes(item, 32, name) if isinstance(kind, bytes) else _int(item, kind, name)
    _require(fields["chain_id"] == trust.chain_id, "a header names another chain")
    _require(fields["epoch"] == trust.epoch, f"a header is not of epoch {trust.epoch}")
    own = {name: fields[name] for name in Header.__dataclass_fields__ if name in fields}
    block_hash = digest(b"quorate-header", pack(value))
    return Header(block_hash=block_hash, is_suffix=bool(fields["flags"]), **own)


def check_certificate(value: Any, block_hash: bytes, trust: Trust) -> None:
    """That the certificate makes the block final: a finalization, or a heavy notarization.

    Raises:
        ProofRefused: another block or epoch, unordered or unknown signers, too little weight, or any signature
            that is not valid.
    """
    tag, kind, epoch, view, block, signers, signatures = _list(value, 7, "a certificate")
    kind = _int(kind, _U8, "the certificate's kind")
    _require(
        _int(tag, _U8, "the tag") == 1 and kind in (NOTARIZE, FINALIZE), "not a notarization or finalization"
    )
    _require(
        _int(epoch, _U32, "the certificate's epoch") == trust.epoch,
        f"the certificate is not of epoch {trust.epoch}",
    )
    _require(block == block_hash, "the certificate is for another block")
    view = _int(view, _U63, "the certificate's view")
    members = trust.validators
    places = [_int(one, len(members.weights) - 1, "a signer") for one in _list(signers, None, "signers")]
    _require(places == sorted(set(places)), "signers are not strictly ascending")
    _require(all(members.weights[one] for one in places), "a signer is not in the validator set")
    _require(len(_list(signatures, None, "signatures")) == len(places), "not one signature per signer")
    weight = sum(members.weights[one] for one in places)
    needed = members.quorum if kind == FINALIZE else members.final_weight
    _require(weight >= needed, f"signed by weight {weight}, final is {needed}")
    message = sign_bytes(trust.chain_id, kind, epoch, view, block_hash)
    for place, signature in zip(places, signatures, strict=True):
        _check_signature(members.public_keys[place], message, _bytes(signature, 64, "a signature"))


def _check_signature(public_key: bytes, message: bytes, signature: bytes) -> None:
    try:
        crypto_sign_open(signature + message, public_key)
    except (BadSignatureError, ValueError, TypeError):
        raise ProofRefused("a signature is not valid") from None


def check_finality(value: Any, trust: Trust) -> Header:
    """The first header of a finality proof: its block is final, itself or through a descendant."""
    raw_headers, certificate = _list(value, 2, "a finality proof")
    _require(0 < len(_list(raw_headers, None, "headers")) <= HEADERS_MAX, "no headers, or too many")
    headers = [header_of(item, trust) for item in raw_headers]
    for parent, child in pairwise(headers):
        linked = child.parent_hash == parent.block_hash and child.height == parent.height + 1
        _require(linked, "the headers are not a chain")
    check_certificate(certificate, headers[-1].block_hash, trust)
    return headers[0]


def follow(trust: Trust, link: Any) -> Trust:
    """The next epoch: a final header of this one, signed by its validators, names the next one's."""
    raw_header, certificate, named = _list(link, 3, "an epoch link")
    header = header_of(raw_header, trust)
    check_certificate(certificate, header.block_hash, trust)
    members = trust.validators if named is None else validator_set(named)
    _require(members.set_hash() == header.next_set_hash, "the header names another next validator set")
    return Trust(trust.chain_id, trust.epoch + 1, members)


# --- leaves ---


def check_leaf(root: bytes, key: bytes, value: bytes | None, proof: Any) -> None:
    """That under `root` the key has this value, or, with None, that there is no such leaf.

    A branch's bit and halves are under the root, so an absent key's own bits lead to exactly one leaf; another
    key's leaf in that place proves the absence.
    """
    leaves, raw_steps, other = _list(proof, 3, "a leaf's proof")
    path = _path(key)
    steps = []
    for step in _list(raw_steps, None, "a leaf's path"):
        bit, sibling = _list(step, 2, "a step")
        steps.append((_int(bit, _U8, "a step's bit"), _bytes(sibling, 32, "a step's sibling")))
    if value is not None:
        _require(other is None, "the proof shows another key's leaf")
        top = _leaf_digest(path, digest(b"quorate-st-value", value))
    elif other is not None:
        raw_path, value_digest = _list(other, 2, "another key's leaf")
        other_path = int.from_bytes(_bytes(raw_path, 32, "a path"), "big")
        leads_there = all(_bit(path, bit) == _bit(other_path, bit) for bit, _ in steps)
        _require(other_path != path and leads_there, "the leaf shown does not stand in the key's place")
        top = _leaf_digest(other_path, _bytes(value_digest, 32, "a value's digest"))
    else:
        _require(leaves == 0 and not steps, "no leaf is shown, and the tree is not empty")
        top = bytes(32)
    for bit, sibling in reversed(steps):
        halves = sibling + top if _bit(path, bit) else top + sibling
        top = digest(b"quorate-st-node", bytes((bit,)) + halves)
    count = _int(leaves, _U63, "the number of leaves").to_bytes(8, "big")
    _require(digest(b"quorate-st-root", count + top) == root, "a leaf is not under the state root")


def _path(key: bytes) -> int:
    return int.from_bytes(digest(b"quorate-st-key", key), "big")


def _bit(path: int, bit: int) -> int:
    return path >> (255 - bit) & 1


def _leaf_digest(path: int, value_digest: bytes) -> bytes:
    return digest(b"quorate-st-leaf", path.to_bytes(32, "big") + value_digest)


# --- files ---

SUBJECT_BYTES = {"account": 21, "margin": 21, "mark": 4, "settlement": 4, "order": 12}
"""account, margin: owner (20), sub-account; mark, settlement: instrument; order: order id (8), instrument (4)."""

_KEYS: Mapping[str, Callable[[bytes], list[bytes]]] = {
    "account": lambda subject: [b"a" + subject],
    "margin": lambda subject: [b"a" + subject, b"c", b"m", b"p"],
    "mark": lambda _: [b"m"],
    "settlement": lambda subject: [b"i" + subject],
    "order": lambda subject: [b"b" + subject[8:]],
}


def keys_of(kind: str, subject: bytes) -> list[bytes]:
    """The leaves that a proof of this kind must hold first; a margin's needs more, which its account names."""
    _require(SUBJECT_BYTES.get(kind) == len(subject), "an unknown kind of proof, or no subject of that kind")
    return _KEYS[kind](subject)


@dataclass(frozen=True)
class Proven:
    """What a proof file proves, given the trust it was checked under."""

    kind: str
    subject: bytes
    height: int
    """Of the block after which the state is this one."""
    state_root: bytes
    block_hash: bytes
    """Of the final block, one higher, whose header holds the root."""
    time_ns: int
    """Time of that block."""
    leaves: Mapping[bytes, bytes | None]
    trust: Trust
    """The epoch of that block: a later proof may start from here."""


def verify_proof_file(raw: bytes, trust: Trust) -> Proven:
    """Check a proof file against what you trust. Raises ProofRefused with the first thing that is wrong."""
    fields = _list(unpack(raw), 8, "a proof file")
    version, kind, subject, chain_id, first_epoch, links, finality, leaves = fields
    _require(_int(version, _U8, "the version") == VERSION, "a proof file of another version")
    _require(isinstance(kind, str), "the kind is not text")
    subject = _bytes(subject, None, "the subject")
    _require(chain_id == trust.chain_id, "the proof is of another chain")
    first_epoch = _int(first_epoch, _U32, "the first epoch")
    links = _list(links, None, "the epoch chain")
    known = trust.epoch - first_epoch
    _require(0 <= known <= len(links), f"the epochs of the proof do not pass through epoch {trust.epoch}")
    for link in links[known:]:
        trust = follow(trust, link)
    header = check_finality(finality, trust)
    _require(header.height > 0 and not header.is_suffix, "the block carries no state root")
    found: dict[bytes, bytes | None] = {}
    for leaf in _list(leaves, None, "the leaves"):
        key, value, proof = _list(leaf, 3, "a leaf")
        key = _bytes(key, None, "a key")
        value = None if value is None else _bytes(value, None, "a value")
        check_leaf(header.parent_state_root, key, value, proof)
        found[key] = value
    expected, keys = keys_of(kind, subject), list(found)
    exact = keys == expected or (kind == "margin" and keys[: len(expected)] == expected)
    _require(exact and len(keys) == len(leaves), "the leaves are not those of the subject")
    root, time_ns = header.parent_state_root, header.time_ns
    return Proven(kind, subject, header.height - 1, root, header.block_hash, time_ns, found, trust)
