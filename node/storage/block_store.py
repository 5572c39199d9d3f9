"""Final blocks, current leaves and the gateway's views, in LMDB. Reads and writes one directory.

Everything that a final block changes is one durable transaction: after a crash it is there as a whole or not
at all. The node writes from worker threads, one at a time; other processes open the same directory with
`read_only=True` and read while it writes. Keys are dense (height) wherever possible, for random keys cost
LMDB fifteen times as much.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lmdb

from primitives.codec import Wire, decode_own, encode
from primitives.errors import OperatorError, ensure

MAP_BYTES_START = 256 * 1024 * 1024
"""Address space reserved at first; doubled when it is full. Disk is used only as data comes."""
MAP_BYTES_MAX = 256 * 1024**3
"""A store that would outgrow this stops the node: set a retention."""
PRUNE_BLOCKS_PER_COMMIT = 16
"""Old heights removed with each commit: a shortened retention is worked off without a long pause."""
LEAF_KEY_BYTES_MAX = 511
"""LMDB's own limit for a key."""

T = TypeVar("T")
_DATABASES = ("block", "proof", "events", "hash", "height", "ids", "transaction", "leaf", "view", "meta")
_VERSION = b"1"
_UNDO = b"undo"
"""In `view`: the leaves that the newest block changed, as they were before it."""
_HASH_BYTES = 32


class _Undo(Wire):
    height_key: bytes
    former: tuple[tuple[bytes, bytes | None], ...]


class Before(NamedTuple):
    """The newest final block, and the state before it, which its header commits to."""

    height: int
    block: bytes
    proof: bytes
    """Empty when a later block proves this one."""
    leaves: list[tuple[bytes, bytes]]
    """By key."""


class Tip(NamedTuple):
    """The newest final block."""

    height: int
    block_hash: bytes


@dataclass(frozen=True, slots=True)
class FinalBlock:
    """What one final block leaves behind.

    `proof` is empty when a later block of the same `commit_many` proves this one. `leaves` are changes: a
    value of None removes the key. `views` replace the named blobs.
    """

    height: int
    block_hash: bytes
    block: bytes
    proof: bytes
    events: bytes
    transaction_ids: tuple[bytes, ...] = ()
    leaves: Sequence[tuple[bytes, bytes | None]] = ()
    views: Mapping[str, bytes] = field(default_factory=dict)


class BlockStore:
    """One environment, for one process. All methods may be called from any thread."""

    def __init__(self, environment: Any, databases: Mapping[str, Any], retention_blocks: int) -> None:
        """Use `BlockStore.open`."""
        self._environment = environment
        self._databases = databases
        self._retention_blocks = retention_blocks
        # LMDB forbids growing the map while a transaction of this process is open; commits are the writer's
        # alone.
        self._growing = threading.Lock()

    @classmethod
    def open(
        cls, path: Path, read_only: bool = False, *, chain_id: bytes | None = None, retention_blocks: int = 0
    ) -> BlockStore:
        """The store in a directory, created if need be (not when read only).

        Args:
            chain_id: refused if the store was made for another chain; None asks nothing.
            retention_blocks: heights kept below the tip, 0 for all.

        Raises:
            OperatorError: unreadable, of another format or of another chain.
        """
        try:
            if not read_only:
                path.mkdir(parents=True, exist_ok=True)
            environment = lmdb.open(
                str(path),
                map_size=MAP_BYTES_START if not read_only else 0,
                max_dbs=len(_DATABASES),
                readonly=read_only,
                create=not read_only,
                readahead=False,
                meminit=False,
            )
            databases = {
                name: environment.open_db(name.encode(), create=not read_only) for name in _DATABASES
            }
        except (lmdb.Error, OSError) as error:
            raise OperatorError(f"the block store {path} cannot be opened: {error}") from None
        if not read_only:
            # Slots of readers that were killed would keep old pages from being used again.
            environment.reader_check()
        store = cls(environment, databases, retention_blocks)
        store._check_format(path, chain_id, read_only)
        return store

    def _check_format(self, path: Path, chain_id: bytes | None, read_only: bool) -> None:
        wanted: dict[bytes, bytes] = {b"version": _VERSION}
        if chain_id is not None:
            wanted[b"chain_id"] = chain_id
        if not read_only and self._get("meta", b"version") is None:
            with self._environment.begin(write=True) as transaction:
                for key, value in wanted.items():
                    transaction.put(key, value, db=self._databases["meta"])
        for key, value in wanted.items():
            if self._get("meta", key) != value:
                self.close()
                raise OperatorError(
                    f"the block store {path} belongs to another {key.decode()} than this node runs"
                )

    # --- writing ---

    def commit(self, block: FinalBlock) -> None:
        """Make one final block durable. Raises OperatorError when the disk fails or is full: the caller must
        stop."""
        self.commit_many((block,))

    def commit_many(self, blocks: Sequence[FinalBlock]) -> None:
        """Make consecutive final blocks durable, all or none of them."""
        while blocks:
            try:
                with self._environment.begin(write=True) as transaction:
                    for block in blocks:
                        self._put_block(transaction, block)
                    self._prune(transaction, blocks[-1].height)
                return
            except lmdb.MapFullError:
                self._grow()
            except lmdb.Error as error:
                raise OperatorError(f"the block store cannot be written ({error}): the node stops") from None

    def _put_block(self, transaction: Any, block: FinalBlock) -> None:
        tip = self._tip_of(transaction)
        ensure(tip is None or block.height == tip.height + 1, "final blocks are stored in height order")
        key = _height_key(block.height)
        height_tables = {
            "block": block.block,
            "proof": block.proof,
            "events": block.events,
            "ids": b"".join(block.transaction_ids),
            "hash": block.block_hash,
        }
        for table, raw in height_tables.items():
            transaction.put(key, raw, db=self._databases[table], append=True)
        transaction.put(block.block_hash, key, db=self._databases["height"])
        for transaction_id in block.transaction_ids:
            transaction.put(transaction_id, key, db=self._databases["transaction"])
        former: list[tuple[bytes, bytes | None]] = []
        for leaf_key, value in block.leaves:
            former.append((leaf_key, _owned(transaction.get(leaf_key, db=self._databases["leaf"]))))
            if value is None:
                transaction.delete(leaf_key, db=self._databases["leaf"])
            else:
                transaction.put(leaf_key, value, db=self._databases["leaf"])
        transaction.put(_UNDO, encode(_Undo(key, tuple(former))), db=self._databases["view"])
        for name, blob in block.views.items():
            transaction.put(name.encode(), blob, db=self._databases["view"])

    def _prune(self, transaction: Any, tip_height: int) -> None:
        if not self._retention_blocks:
            return
        for _ in range(PRUNE_BLOCKS_PER_COMMIT):
            with transaction.cursor(db=self._databases["hash"]) as cursor:
                if not cursor.first() or _height_of(cursor.key()) + self._retention_blocks >= tip_height:
                    return
                key, block_hash = bytes(cursor.key()), bytes(cursor.value())
            ids = bytes(transaction.get(key, db=self._databases["ids"]) or b"")
            for start in range(0, len(ids), _HASH_BYTES):
                transaction.delete(ids[start : start + _HASH_BYTES], db=self._databases["transaction"])
            transaction.delete(block_hash, db=self._databases["height"])
            for table in ("block", "proof", "events", "ids", "hash"):
                transaction.delete(key, db=self._databases[table])

    def _grow(self) -> None:
        size = self._environment.info()["map_size"]
        if size >= MAP_BYTES_MAX:
            raise OperatorError(
                "the block store reached 256 GiB: set retention_blocks in the node's configuration"
            )
        with self._growing:
            self._environment.set_mapsize(size * 2)

    def close(self) -> None:
        """Release the files; everything committed is already durable."""
        self._environment.close()

    # --- reading ---

    def tip(self) -> Tip | None:
        """The newest final block, or None before the first."""
        return self._read(self._tip_of)

    def first_height(self) -> int | None:
        """The lowest height that retention has kept."""
        return self._read(lambda transaction: self._edge(transaction, "first"))

    def block_at(self, height: int) -> bytes | None:
        """The encoded block, or None when unknown or pruned."""
        return self._get("block", _height_key(height))

    def proof_at(self, height: int) -> bytes | None:
        """The encoded finality proof of exactly this height; None also when a later block proves it."""
        return self._get("proof", _height_key(height)) or None

    def events_at(self, height: int) -> bytes | None:
        """The encoded events of the block."""
        return self._get("events", _height_key(height))

    def hash_at(self, height: int) -> bytes | None:
        """The final block's hash."""
        return self._get("hash", _height_key(height))

    def height_of(self, block_hash: bytes) -> int | None:
        """The height of a final block."""
        return _optional_height(self._get("height", block_hash))

    def height_of_transaction(self, transaction_id: bytes) -> int | None:
        """The height of the final block that holds the transaction."""
        return _optional_height(self._get("transaction", transaction_id))

    def leaf(self, key: bytes) -> bytes | None:
        """One leaf of the state at the final tip."""
        return self._get("leaf", key)

    def leaves(self, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        """All leaves whose key begins with `prefix`, in key order, of one moment."""

        def scan(transaction: Any) -> list[tuple[bytes, bytes]]:
            with transaction.cursor(db=self._databases["leaf"]) as cursor:
                return list(_from(cursor, prefix))

        return self._read(scan)

    def before_tip(self) -> Before | None:
        """The newest final block and every leaf before it, of one moment; None before the first block.

        None also for a store that an older version of this program wrote last: with the next block it is there.
        """

        def scan(transaction: Any) -> Before | None:
            tip, raw = self._tip_of(transaction), transaction.get(_UNDO, db=self._databases["view"])
            if tip is None or tip.height == 0 or raw is None:
                return None
            undo, key = decode_own(_Undo, bytes(raw)), _height_key(tip.height)
            if undo.height_key != key:
                return None
            with transaction.cursor(db=self._databases["leaf"]) as cursor:
                leaves = dict(_from(cursor, b""))
            for leaf_key, value in undo.former:
                if value is None:
                    leaves.pop(leaf_key, None)
                else:
                    leaves[leaf_key] = value
            block, proof = (
                bytes(transaction.get(key, db=self._databases[one])) for one in ("block", "proof")
            )
            return Before(tip.height, block, proof, sorted(leaves.items()))

        return self._read(scan)

    def view(self, name: str) -> bytes | None:
        """The blob that the node wrote last under this name."""
        return self._get("view", name.encode())

    def _get(self, table: str, key: bytes) -> bytes | None:
        if not 0 < len(key) <= LEAF_KEY_BYTES_MAX:
            return None
        return self._read(lambda transaction: _owned(transaction.get(key, db=self._databases[table])))

    def _read(self, question: Callable[[Any], T]) -> T:
        with self._growing:
            try:
                with self._environment.begin() as transaction:
                    return question(transaction)
            except lmdb.MapResizedError:
                # Another process grew the map: take over its size.
                self._environment.set_mapsize(0)
                with self._environment.begin() as transaction:
                    return question(transaction)

    def _tip_of(self, transaction: Any) -> Tip | None:
        with transaction.cursor(db=self._databases["hash"]) as cursor:
            return Tip(_height_of(cursor.key()), bytes(cursor.value())) if cursor.last() else None

    def _edge(self, transaction: Any, which: str) -> int | None:
        with transaction.cursor(db=self._databases["hash"]) as cursor:
            return _height_of(cursor.key()) if getattr(cursor, which)() else None


def _from(cursor: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    found = cursor.set_range(prefix) if prefix else cursor.first()
    while found and bytes(cursor.key()).startswith(prefix):
        yield bytes(cursor.key()), bytes(cursor.value())
        found = cursor.next()


def _height_key(height: int) -> bytes:
    return height.to_bytes(8, "big")


def _height_of(key: bytes) -> int:
    return int.from_bytes(key, "big")


def _optional_height(key: bytes | None) -> int | None:
    return None if key is None else _height_of(key)


def _owned(value: Any) -> bytes | None:
    return None if value is None else bytes(value)
