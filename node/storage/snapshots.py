"""Snapshots of the ledger on disk: our own, and one that is being fetched. Reads and writes one directory.

    snapshots/000000005000/head             SnapshotHead: which state it is, and why validators agree
    snapshots/000000005000/000000.chunk     ... one file for each part of the manifest
    snapshots/incoming/...                  the same of an import that is not complete yet

A snapshot gets its name when all of it is durable, so one that is listed is whole. Chunks are written by
ledger.snapshot and checked by it again whenever they are used.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import msgspec

from consensus.certificates import check_body
from consensus.messages import BLOCK_BYTES_MAX, SUFFIX_HEADERS_MAX, Block, Header, QuorumCertificate, hash_of
from ledger.reasons import SnapshotReason
from ledger.snapshot import (
    CHUNK_BYTES_MAX,
    LEAF_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    Manifest,
    check_manifest,
    verify_chunk,
)
from node.storage.files import sync_directory, write_all
from primitives.codec import Bytes32, Wire, decode, encode
from primitives.errors import OperatorError, ProtocolViolation
from primitives.hashing import digest

HEAD_BYTES_MAX = MANIFEST_BYTES_MAX + BLOCK_BYTES_MAX + 1024 * 1024
_INCOMING = "incoming"
_HEAD = "head"


class SnapshotHead(Wire):
    """The state after `block`, and why it is that: the block above holds its root, and is final.

    A certificate proves its block and all blocks below, so `headers` (the block above `block` first, each the
    child of the one before) lead up to the block that `certificate` is for. Whether its signers are the
    validators of that epoch, and enough, is checked against the epochs that the reader trusts.
    """

    chain_id: Bytes32
    manifest: Manifest
    block: Block
    headers: Annotated[tuple[Header, ...], msgspec.Meta(min_length=1, max_length=SUFFIX_HEADERS_MAX)]
    certificate: QuorumCertificate

    @property
    def height(self) -> int:
        """Of the block after which the state is this one."""
        return self.manifest.height

    @property
    def name(self) -> bytes:
        """What the chunks are called by: snapshots of one name have the same chunks, whoever wrote them."""
        return digest(b"quorate-snapshot", encode(self.manifest))


def check_head(head: SnapshotHead, chain_id: bytes) -> None:
    """That manifest, blocks and certificate belong together; signatures and weights are the caller's.

    Raises:
        ProtocolViolation: with a SnapshotReason, or as check_body: whoever sent it lies.
    """
    headers = head.headers
    above = headers[0]
    check_body(head.block)
    check_manifest(head.manifest, above.height - 1, above.parent_state_root)
    linked = all(
        child.parent_hash == hash_of(parent) and child.height == parent.height + 1
        for parent, child in pairwise((head.block.header, *headers))
    )
    ours = head.chain_id == chain_id and all(
        one.chain_id == chain_id for one in (head.block.header, *headers)
    )
    if not (linked and ours and head.certificate.block == hash_of(headers[-1])):
        raise ProtocolViolation(
            SnapshotReason.WRONG_ANCHOR, "the certificate does not stand on the snapshot's block"
        )


def decode_head(raw: bytes) -> SnapshotHead:
    """From a stranger's bytes. Raises ProtocolViolation."""
    return decode(SnapshotHead, raw, bytes_max=HEAD_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """One whole snapshot on disk."""

    directory: Path
    head: SnapshotHead

    @property
    def height(self) -> int:
        """Of the state."""
        return self.head.height

    @property
    def count(self) -> int:
        """How many chunks it has."""
        return len(self.head.manifest.parts)

    def read_chunk(self, index: int) -> bytes:
        """As stored; check it with verify_chunk before use. Raises OperatorError when the file is gone."""
        return _read(_chunk_path(self.directory, index))

    def leaves(self) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of the whole state, in no order. Raises OperatorError naming a damaged chunk."""
        for index in range(self.count):
            try:
                yield from verify_chunk(self.head.manifest, index, self.read_chunk(index))
            except ProtocolViolation as violation:
                raise OperatorError(
                    f"{_chunk_path(self.directory, index)} is damaged ({violation.detail}): remove {self.directory}"
                ) from None

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(path.stat().st_size for path in self.directory.iterdir())


class SnapshotFiles:
    """The whole snapshots of one node."""

    def __init__(self, directory: Path) -> None:
        """The directory is made with the first snapshot."""
        self.directory = directory

    def heights(self) -> list[int]:
        """Of every whole snapshot, ascending."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())

    def begun(self) -> frozenset[bytes]:
        """Names of the snapshots of which an import has begun."""
        incoming = self.directory / _INCOMING
        if not incoming.is_dir():
            return frozenset()
        return frozenset(bytes.fromhex(path.name) for path in incoming.iterdir())

    def newest(self, at_most: int | None = None) -> int | None:
        """The height of the newest one (not above `at_most`), or None."""
        heights = [height for height in self.heights() if at_most is None or height <= at_most]
        return heights[-1] if heights else None

    def open(self, height: int) -> StoredSnapshot:
        """One of `heights()`. Raises OperatorError when it is gone or does not read."""
        return open_snapshot(self._path(height))

    def put(self, head: SnapshotHead, chunks: Sequence[bytes]) -> StoredSnapshot:
        """Write a snapshot of ours; one of this height that is there already stays as it is."""
        incoming = SnapshotImport(self.directory, head)
        for index in incoming.missing():
            incoming.put(index, chunks[index])
        return incoming.finish()

    def keep_newest(self, count: int) -> list[int]:
        """Remove all but the newest; the heights removed."""
        old = self.heights()[: -count or None]
        for height in old:
            shutil.rmtree(self._path(height), ignore_errors=True)
        return old

    @property
    def size_bytes(self) -> int:
        """Disk that all snapshots take, those being fetched included."""
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())

    def _path(self, height: int) -> Path:
        return self.directory / f"{height:012d}"


class SnapshotImport:
    """A snapshot that comes chunk by chunk, in any order, over any number of restarts.

    A chunk is on disk only once it was verified. Starting again with the same head goes on where it stopped.
    """

    def __init__(self, directory: Path, head: SnapshotHead) -> None:
        """`head` was checked (check_head, and its certificate). `directory`: that of SnapshotFiles."""
        self.head = head
        self._directory = directory
        self._incoming = directory / _INCOMING / head.name.hex()
        self._incoming.mkdir(parents=True, exist_ok=True)
        _write(self._incoming / _HEAD, encode(head))
        self._missing = {index for index in range(len(head.manifest.parts)) if not self._is_there(index)}

    def missing(self) -> list[int]:
        """Chunks that are not on disk yet, ascending."""
        return sorted(self._missing)

    def put(self, index: int, raw: bytes) -> None:
        """Keep a chunk. Raises ProtocolViolation when it is not the manifest's: who sent it lies."""
        verify_chunk(self.head.manifest, index, raw)
        _write(_chunk_path(self._incoming, index), raw)
        self._missing.discard(index)

    def finish(self) -> StoredSnapshot:
        """Give the complete snapshot its name, durably. Raises OperatorError while chunks are missing."""
        if self._missing:
            raise OperatorError(f"{len(self._missing)} chunks of the snapshot are missing")
        path = self._directory / f"{self.head.height:012d}"
        sync_directory(self._incoming)
        if path.exists():
            shutil.rmtree(self._incoming)
        else:
            os.rename(self._incoming, path)
        sync_directory(self._directory)
        return open_snapshot(path)

    def abandon(self) -> None:
        """Remove what has come so far."""
        shutil.rmtree(self._incoming, ignore_errors=True)

    def _is_there(self, index: int) -> bool:
        path = _chunk_path(self._incoming, index)
        try:
            verify_chunk(self.head.manifest, index, path.read_bytes())
        except (OSError, ProtocolViolation):
            return False
        return True


def open_snapshot(directory: Path) -> StoredSnapshot:
    """A whole snapshot in a directory. Raises OperatorError when there is none, or its head is damaged."""
    try:
        return StoredSnapshot(directory, decode_head(_read(directory / _HEAD)))
    except ProtocolViolation as violation:
        raise OperatorError(f"{directory / _HEAD} is damaged: {violation.detail}") from None


def _chunk_path(directory: Path, index: int) -> Path:
    return directory / f"{index:06d}.chunk"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max(HEAD_BYTES_MAX, LEAF_BYTES_MAX + CHUNK_BYTES_MAX))
    except OSError as error:
        raise OperatorError(f"the snapshot file {path} cannot be read: {error.strerror}") from None


def _write(path: Path, raw: bytes) -> None:
    """Durable under its name only when it is whole; the directory is synced at the end."""
    new = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, raw)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(new, path)
    except OSError as error:
        raise OperatorError(f"the snapshot file {path} cannot be written: {error.strerror}") from None
