"""Where two nodes' chains and states part: the first block, leaf, field and transaction. Reads two homes.

Two honest nodes with the same blocks have the same state. A node whose state is another one stops at the next
block, whose header holds the root that was agreed on; so a difference is at most as old as the store's undo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from consensus.messages import Block
from ledger.admission import read_transaction
from ledger.apply import apply_block
from ledger.events import Event
from ledger.genesis import LedgerGenesis
from ledger.state import State, kind_of
from ledger.state_tree import StateTree
from ledger.transactions import transaction_id
from node.named_form import to_named
from node.observations import context_of
from node.recovery import stored_block
from node.storage.block_store import UNDO_BLOCKS, BlockStore
from primitives.codec import decode_own
from primitives.errors import InvariantViolation, OperatorError, ProtocolViolation, ensure

FIELDS_MAX = 20
"""Fields of one leaf that are shown."""
Leaves = dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field of one leaf; `field` is empty when the whole leaf is on one side only."""

    leaf: str
    field: str
    one: Any
    other: Any


@dataclass(frozen=True, slots=True)
class StateDifference:
    """The first block after which two states differ, though both nodes have that block."""

    height: int
    roots: tuple[bytes, bytes]
    signed_root: bytes | None
    """What the header above says, if one of the two has it."""
    fields: tuple[FieldDifference, ...]
    transaction: str
    """Which transaction it comes from, as a sentence."""
    is_oldest: bool
    """Whether earlier states are not at hand any more: the difference may be older."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two stores have in common."""

    tips: tuple[int, int]
    common_height: int
    """Up to here the blocks are the same."""
    forked: bool
    """Whether both have a block above `common_height`, and not the same one."""
    state: StateDifference | None


def compare(one: BlockStore, other: BlockStore, genesis: LedgerGenesis, chain_id: bytes) -> Comparison:
    """Find the first difference. Raises OperatorError when the stores have no height in common."""
    tips = tuple(tip.height for store in (one, other) if (tip := store.tip()) is not None)
    firsts = [first for store in (one, other) if (first := store.first_height()) is not None]
    if len(tips) < 2 or max(firsts) > min(tips):
        raise OperatorError(
            f"the two nodes have no height in common: they keep from {firsts} up to {list(tips)}"
        )
    low, high = max(firsts), min(tips)
    if one.hash_at(low) != other.hash_at(low):
        raise OperatorError(
            f"already the oldest block that both keep, {low}, is not the same: `quorate forensics`"
        )
    common = _last(low, high, lambda height: one.hash_at(height) == other.hash_at(height))
    difference = _state_difference(one, other, common, genesis, chain_id)
    return Comparison((tips[0], tips[1]), common, common < high, difference)


def _last(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The highest number up to `high` for which it holds; it does for `low`, and from some number on no more."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _state_difference(
    one: BlockStore, other: BlockStore, common: int, genesis: LedgerGenesis, chain_id: bytes
) -> StateDifference | None:
    def pair(height: int) -> tuple[Leaves, Leaves] | None:
        found = one.leaves_at(height), other.leaves_at(height)
        return None if found[0] is None or found[1] is None else (dict(found[0]), dict(found[1]))

    newest = pair(common)
    if newest is None:
        raise OperatorError(
            f"one of the nodes is more than {UNDO_BLOCKS} blocks further: its state after {common} is not kept. "
            "Compare with a node that stands nearer, or replay it (`quorate replay`)"
        )
    if newest[0] == newest[1]:
        return None
    oldest = max(0, common - UNDO_BLOCKS)
    while oldest < common and pair(oldest) is None:
        oldest += 1
    equal = pair(oldest)
    is_oldest = equal is None or equal[0] != equal[1]
    height = oldest if is_oldest else 1 + _last(oldest, common, lambda at: _are_equal(pair(at)))
    found = pair(height)
    ensure(found is not None, "states between two that are at hand are so too")
    states = found or newest
    above = one.block_at(height + 1) or other.block_at(height + 1)
    fields = tuple(_fields(*states))
    before = None if is_oldest else pair(height - 1)
    block = stored_block(one, height)
    events = [decode_own(tuple[Event, ...], store.events_at(height) or b"\x90") for store in (one, other)]
    return StateDifference(
        height=height,
        roots=(_root(states[0]), _root(states[1])),
        signed_root=None if above is None else decode_own(Block, above).header.parent_state_root,
        fields=fields,
        transaction=_by_events(block, *events)
        or _by_execution(block, before[0] if before else None, states, genesis, chain_id),
        is_oldest=is_oldest,
    )


def _are_equal(states: tuple[Leaves, Leaves] | None) -> bool:
    return states is not None and states[0] == states[1]


def _root(leaves: Leaves) -> bytes:
    return StateTree().update(leaves.items()).root


def _fields(one: Leaves, other: Leaves) -> Iterator[FieldDifference]:
    for key in sorted(one.keys() | other.keys()):
        left, right = one.get(key), other.get(key)
        if left == right:
            continue
        name = leaf_name(key)
        if left is None or right is None:
            yield FieldDifference(name, "", _value(key, left), _value(key, right))
            continue
        found = _differences(_value(key, left), _value(key, right), "")
        for _, (field, mine, theirs) in zip(range(FIELDS_MAX), found, strict=False):
            yield FieldDifference(name, field, mine, theirs)


def leaf_name(key: bytes) -> str:
    """What a leaf is called: its type, and the rest of its key."""
    try:
        return f"{kind_of(key).__name__} {key[1:].hex()}".rstrip()
    except (KeyError, IndexError):
        return f"unknown leaf {key.hex()}"


def _value(key: bytes, raw: bytes | None) -> Any:
    """The named form; the bytes as they are when they do not read."""
    if raw is None:
        return None
    try:
        return to_named(decode_own(kind_of(key), raw))
    except (KeyError, IndexError, msgspec.MsgspecError):
        return raw.hex()


def _differences(one: Any, other: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one:
            yield from _differences(one[name], other.get(name), f"{place}.{name}" if place else name)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differences(left, right, f"{place}[{index}]")
    elif one != other:
        yield place, one, other


def _by_events(block: Block, one: tuple[Event, ...], other: tuple[Event, ...]) -> str | None:
    """The transaction of the first event that is not the same."""
    for left, right in zip(one, other, strict=False):
        if left != right:
            name = getattr(left, "transaction_id", None) or getattr(right, "transaction_id", None)
            kind = type(left).__name__
            return (
                f"{_numbered(block, name)}, event {kind}" if name else f"no transaction's own: event {kind}"
            )
    if len(one) != len(other):
        return f"{len(one)} events here, {len(other)} there"
    return None


def _by_execution(
    block: Block,
    before: Leaves | None,
    states: tuple[Leaves, Leaves],
    genesis: LedgerGenesis,
    chain_id: bytes,
) -> str:
    """The first transaction, in the order of execution, that writes a differing leaf when executed here."""
    if before is None:
        return "not known: the state before the block is not kept"
    keys = [
        key for key in sorted(states[0].keys() | states[1].keys()) if states[0].get(key) != states[1].get(key)
    ]
    state = State.from_leaves(chain_id, genesis, sorted(before.items()))
    try:
        order = sorted(block.transactions[1:], key=lambda raw: read_transaction(raw).order)
        none = _executed(state, block, (), keys)
        if not order or _executed(state, block, tuple(order), keys) == none:
            return "none: the leaf is written by the block itself (prices, funding, liquidation, fees)"
        unchanged = _last(
            0, len(order), lambda count: _executed(state, block, tuple(order[:count]), keys) == none
        )
    except (ProtocolViolation, InvariantViolation) as error:
        return f"not known: the block cannot be executed here ({error})"
    return _numbered(block, transaction_id(order[unchanged]))


def _executed(
    state: State, block: Block, transactions: tuple[bytes, ...], keys: list[bytes]
) -> list[bytes | None]:
    """What these leaves are after the block with fewer transactions."""
    state.begin_block()
    try:
        apply_block(state, context_of(block), (block.transactions[0], *transactions))
        return [state.leaf_bytes(key) for key in keys]
    finally:
        state.rollback_block()


def _numbered(block: Block, name: bytes) -> str:
    names = [transaction_id(raw) for raw in block.transactions[1:]]
    if name not in names:
        return f"transaction {name.hex()} of an earlier block"
    return f"transaction {name.hex()}, number {names.index(name) + 1} of {len(names)} in the block"
