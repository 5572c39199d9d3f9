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

from node.storage.retention import KEEP_ALL, Retention
from primitives.codec import U63, Wire, decode_own, encode
from primitives.errors import OperatorError, ensure

MAP_BYTES_START = 256 * 1024 * 1024
"""Address space reserved at first; doubled when it is full. Disk is used only as data comes."""
MAP_BYTES_MAX = 256 * 1024**3
"""A store that would outgrow this stops the node: set a retention."""
PRUNE_BLOCKS_PER_COMMIT = 16
"""Old heights removed with each commit: a shortened retention is worked off without a long pause."""
LEAF_KEY_BYTES_MAX = 511
"""LMDB's own limit for a key."""
UNDO_BLOCKS = 256
"""So many heights back the state can be read; what older blocks replaced is gone."""
ACCOUNT_BYTES = 21
"""Owner and sub-account, as the index has them."""

T = TypeVar("T")
_BY_HEIGHT = ("block", "proof", "events", "hash", "ids", "touched", "stamp", "undo")
"""`ids`: of transactions; `touched`: accounts; `stamp`: _Stamp; `undo`: of the newest UNDO_BLOCKS alone."""
_DATABASES = (*_BY_HEIGHT, "height", "place", "transaction", "account", "leaf", "view", "meta")
_VERSION = b"2"
_HASH_BYTES = 32


class _Undo(Wire):
    """The leaves that a block changed, as they were before it."""

    former: tuple[tuple[bytes, bytes | None], ...]


class _Stamp(Wire):
    """What indices and retention need of a block."""

    epoch: U63
    view: U63
    time_ns: U63


class Before(NamedTuple):
    """The newest final block, and the state before it, which its header commits to."""

    height: int
    block: bytes
    proof: bytes
    """Empty when a later block proves this one."""
    leaves: list[tuple[bytes, bytes]]
    """By key."""


class Place(NamedTuple):
    """Where a final block stands in consensus and in time."""

    epoch: int
    view: int
    time_ns: int


class StoreUse(NamedTuple):
    """Disk that a store takes."""

    file_bytes: int
    """The file's used length; room that forgotten blocks left inside it is used again."""
    table_bytes: dict[str, int]
    """Of these, what each table's pages take now."""


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
    epoch: int = 0
    view: int = 0
    """Consensus' view; 0 is genesis', which no index has."""
    time_ns: int = 0
    accounts: Sequence[bytes] = ()
    """Owner and sub-account of each account that the block changed, each once."""


class BlockStore:
    """One environment, for one process. All methods may be called from any thread."""

    def __init__(self, environment: Any, databases: Mapping[str, Any], retention: Retention) -> None:
        """Use `BlockStore.open`."""
        self._environment = environment
        self._databases = databases
        self._retention = retention
        self.keep_from: int | None = None
        """No block from this height on is forgotten: a snapshot needs it. None: nothing does."""
        # LMDB forbids growing the map while a transaction of this process is open; commits are the writer's
        # alone.
        self._growing = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path,
        read_only: bool = False,
        *,
        chain_id: bytes | None = None,
        retention: Retention = KEEP_ALL,
    ) -> BlockStore:
        """The store in a directory, created if need be (not when read only).

        Args:
            chain_id: refused if the store was made for another chain; None asks nothing.
            retention: which old blocks each commit forgets.

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
        store = cls(environment, databases, retention)
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

        def write(transaction: Any) -> None:
            for block in blocks:
                self._put_block(transaction, block)
            self._prune(transaction, blocks[-1])

        if blocks:
            self._write(write)

    def _write(self, write: Callable[[Any], None]) -> None:
        """One durable transaction, begun again when the map has to grow."""
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    write(transaction)
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
            "touched": b"".join(block.accounts),
            "stamp": encode(_Stamp(block.epoch, block.view, block.time_ns)),
            "hash": block.block_hash,
        }
        for table, raw in height_tables.items():
            transaction.put(key, raw, db=self._databases[table], append=True)
        transaction.put(block.block_hash, key, db=self._databases["height"])
        if block.view:
            transaction.put(_place_key(block.epoch, block.view), key, db=self._databases["place"])
        for transaction_id in block.transaction_ids:
            transaction.put(transaction_id, key, db=self._databases["transaction"])
        for account in block.accounts:
            transaction.put(account + key, b"", db=self._databases["account"])
        former: list[tuple[bytes, bytes | None]] = []
        for leaf_key, value in block.leaves:
            former.append((leaf_key, _owned(transaction.get(leaf_key, db=self._databases["leaf"]))))
            if value is None:
                transaction.delete(leaf_key, db=self._databases["leaf"])
            else:
                transaction.put(leaf_key, value, db=self._databases["leaf"])
        if tip is not None:
            transaction.put(key, encode(_Undo(tuple(former))), db=self._databases["undo"], append=True)
        if block.height >= UNDO_BLOCKS:
            transaction.delete(_height_key(block.height - UNDO_BLOCKS), db=self._databases["undo"])
        for name, blob in block.views.items():
            transaction.put(name.encode(), blob, db=self._databases["view"])

    def _prune(self, transaction: Any, tip: FinalBlock) -> None:
        if self._retention.keeps_all:
            return
        for _ in range(PRUNE_BLOCKS_PER_COMMIT):
            with transaction.cursor(db=self._databases["stamp"]) as cursor:
                if not cursor.first():
                    return
                key, stamp = bytes(cursor.key()), decode_own(_Stamp, bytes(cursor.value()))
            height = _height_of(key)
            held = self.keep_from is not None and height >= self.keep_from
            if held or not self._retention.may_forget(height, stamp.time_ns, tip.height, tip.time_ns):
                return
            self._forget(transaction, key, stamp)

    def _forget(self, transaction: Any, key: bytes, stamp: _Stamp) -> None:
        def raw(table: str) -> bytes:
            return bytes(transaction.get(key, db=self._databases[table]) or b"")

        for transaction_id in _cut(raw("ids"), _HASH_BYTES):
            transaction.delete(transaction_id, db=self._databases["transaction"])
        for account in _cut(raw("touched"), ACCOUNT_BYTES):
            transaction.delete(account + key, db=self._databases["account"])
        transaction.delete(raw("hash"), db=self._databases["height"])
        transaction.delete(_place_key(stamp.epoch, stamp.view), db=self._databases["place"])
        for table in _BY_HEIGHT:
            transaction.delete(key, db=self._databases[table])

    def replace_leaves(self, leaves: Sequence[tuple[bytes, bytes]]) -> None:
        """Another state at the tip, whole: made again after damage. What earlier blocks replaced is forgotten."""

        def write(transaction: Any) -> None:
            for table in ("leaf", "undo"):
                transaction.drop(self._databases[table], delete=False)
            for key, value in leaves:
                transaction.put(key, value, db=self._databases["leaf"])

        self._write(write)

    def _grow(self) -> None:
        size = self._environment.info()["map_size"]
        if size >= MAP_BYTES_MAX:
            raise OperatorError(
                "the block store reached 256 GiB: set retention_blocks in the node's configuration"
            )
        with self._growing:
            self._environment.set_mapsize(size * 2)

    def copy(self, directory: Path) -> None:
        """Write the store as of one moment into an empty directory, without holding up its writer."""
        self._environment.copy(str(directory), compact=True)

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

    def leaves_at(self, height: int) -> list[tuple[bytes, bytes]] | None:
        """All leaves after the block of this height, by key; None above the tip or more than UNDO_BLOCKS below."""

        def scan(transaction: Any) -> list[tuple[bytes, bytes]] | None:
            tip = self._tip_of(transaction)
            return None if tip is None else self._leaves_back(transaction, tip.height, height)

        return self._read(scan)

    def _leaves_back(self, transaction: Any, tip: int, height: int) -> list[tuple[bytes, bytes]] | None:
        if height > tip:
            return None
        with transaction.cursor(db=self._databases["leaf"]) as cursor:
            leaves = dict(_from(cursor, b""))
        for at in range(tip, height, -1):
            raw = transaction.get(_height_key(at), db=self._databases["undo"])
            if raw is None:
                return None
            for leaf_key, value in decode_own(_Undo, bytes(raw)).former:
                if value is None:
                    leaves.pop(leaf_key, None)
                else:
                    leaves[leaf_key] = value
        return sorted(leaves.items())

    def before_tip(self) -> Before | None:
        """The newest final block and every leaf before it, of one moment; None before the first block."""

        def scan(transaction: Any) -> Before | None:
            tip = self._tip_of(transaction)
            if tip is None or tip.height == 0:
                return None
            leaves = self._leaves_back(transaction, tip.height, tip.height - 1)
            key = _height_key(tip.height)
            block, proof = (
                bytes(transaction.get(key, db=self._databases[one])) for one in ("block", "proof")
            )
            return None if leaves is None else Before(tip.height, block, proof, leaves)

        return self._read(scan)

    def height_of_view(self, epoch: int, view: int) -> int | None:
        """The height of the final block that was proposed in this view."""
        return _optional_height(self._get("place", _place_key(epoch, view)))

    def place_at(self, height: int) -> Place | None:
        """Epoch, view and time of a final block."""
        raw = self._get("stamp", _height_key(height))
        if raw is None:
            return None
        stamp = decode_own(_Stamp, raw)
        return Place(stamp.epoch, stamp.view, stamp.time_ns)

    def heights_of_account(self, account: bytes, below: int | None = None, count: int = 100) -> list[int]:
        """Newest first: heights (under `below`) of the blocks that changed an account, owner and sub-account."""
        ensure(len(account) == ACCOUNT_BYTES, "an account is an owner and a sub-account")
        end = account + (b"\xff" * 8 if below is None else _height_key(below))

        def scan(transaction: Any) -> list[int]:
            heights: list[int] = []
            with transaction.cursor(db=self._databases["account"]) as cursor:
                found = cursor.prev() if cursor.set_range(end) else cursor.last()
                while found and len(heights) < count and bytes(cursor.key()).startswith(account):
                    heights.append(_height_of(cursor.key()[ACCOUNT_BYTES:]))
                    found = cursor.prev()
            return heights

        return self._read(scan)

    def use(self) -> StoreUse:
        """What the store takes on disk."""
        info, page = self._environment.info(), self._environment.stat()["psize"]

        def count(transaction: Any) -> dict[str, int]:
            sizes = {}
            for name, database in self._databases.items():
                stat = transaction.stat(db=database)
                pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
                sizes[name] = pages * page
            return sizes

        return StoreUse((info["last_pgno"] + 1) * page, self._read(count))

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


def _cut(raw: bytes, length: int) -> Iterator[bytes]:
    return (raw[start : start + length] for start in range(0, len(raw), length))


def _place_key(epoch: int, view: int) -> bytes:
    return epoch.to_bytes(4, "big") + view.to_bytes(8, "big")


def _height_key(height: int) -> bytes:
    return height.to_bytes(8, "big")


def _height_of(key: bytes) -> int:
    return int.from_bytes(key, "big")


def _optional_height(key: bytes | None) -> int | None:
    return None if key is None else _height_of(key)


def _owned(value: Any) -> bytes | None:
    return None if value is None else bytes(value)
