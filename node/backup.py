"""A node's home as one file, and back. Reads and writes homes and tar files.

In the file: genesis, settings, keys (as they are, encrypted or not), the block store as of one moment, epochs
and evidence. Never in it: the journal and the signer's watermark. Both change with every vote, so any copy is
too old to vote from; a home that was restored has neither, and its node watches until nothing that the key may
have signed elsewhere can be contradicted (consensus/watch.py), as after a lost disk.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from node.config import CONFIG_FILE, NodeConfig, load_config
from node.genesis import chain_id_of, load_genesis
from node.home import check_empty
from node.recovery import is_intact
from node.storage.block_store import BlockStore
from node.storage.files import sync_directory
from primitives.errors import OperatorError

FORMAT = 1
MANIFEST = "manifest.json"
_STORE = "data/blocks/data.mdb"
_COPIED = ("data/epochs", "data/evidence")
_BLOCK_BYTES = 1 << 20


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """First in the file: what it is, and each file's blake2b."""

    format: int
    chain_id: str
    node: str
    height: int
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup file holds."""

    node: str
    height: int
    size_bytes: int


def backup(home: Path, out: Path, *, with_keys: bool) -> Backup:
    """Write a home's backup; the node may be running. The file appears under its name only when it is whole.

    Raises:
        OperatorError: the home cannot be read, or the file not be written; an existing file is not replaced.
    """
    config = load_config(home)
    chain_id = chain_id_of(load_genesis(config.genesis_path))
    if out.exists():
        raise OperatorError(f"{out} exists: a backup replaces no file")
    try:
        with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=out.name) as scratch:
            files, height = _collected(config, chain_id, Path(scratch), with_keys)
            manifest = _Manifest(
                FORMAT,
                chain_id.hex(),
                config.name,
                height,
                {name: _digest(path) for name, path in files.items()},
            )
            whole = Path(scratch) / "whole"
            with os.fdopen(os.open(whole, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                _write_tar(file, manifest, files)
                os.fsync(file.fileno())
            os.rename(whole, out)
            sync_directory(out.absolute().parent)
    except OSError as error:
        raise OperatorError(f"the backup {out} cannot be written: {error.strerror}") from None
    return Backup(config.name, height, out.stat().st_size)


def _collected(
    config: NodeConfig, chain_id: bytes, scratch: Path, with_keys: bool
) -> tuple[dict[str, Path], int]:
    """Every file by its name in the backup, and the newest block's height."""
    files = {CONFIG_FILE: config.home_path / CONFIG_FILE, "genesis": config.genesis_path}
    if with_keys:
        files["keystore"] = config.keystore_path
    copy = scratch / "blocks"
    copy.mkdir()
    with closing(BlockStore.open(config.store_path, read_only=True, chain_id=chain_id)) as store:
        store.copy(copy)
    with closing(BlockStore.open(copy, read_only=True, chain_id=chain_id)) as store:
        tip = store.tip()
        if tip is None or not is_intact(store):
            raise OperatorError(f"{config.store_path} holds no state that is whole: nothing was written")
    files[_STORE] = copy / "data.mdb"
    # Epochs after the store: those that begin meanwhile do no harm, one that is missing would.
    for directory in _COPIED:
        for path in sorted((config.data_path / PurePosixPath(directory).name).glob("*.msgpack")):
            files[f"{directory}/{path.name}"] = path
    return files, tip.height


def _write_tar(file: IO[bytes], manifest: _Manifest, files: dict[str, Path]) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        raw = msgspec.json.encode(manifest)
        entry = tarfile.TarInfo(MANIFEST)
        entry.size, entry.mode = len(raw), 0o600
        tar.addfile(entry, io.BytesIO(raw))
        for name, path in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o600
            with path.open("rb") as content:
                tar.addfile(entry, content)


def restore(file: Path, home: Path) -> Backup:
    """Make a home from a backup; the home must be new or empty.

    Raises:
        OperatorError: the file is not a whole backup, or the home is in use. The home is then as it was.
    """
    check_empty(home)
    scratch = home.absolute().with_name(home.name + ".restoring")
    try:
        scratch.mkdir(mode=0o700, parents=True)
        try:
            manifest = _unpacked(file, scratch)
            _check_restored(scratch, manifest)
            home.mkdir(exist_ok=True)
            os.rename(scratch, home)
            sync_directory(home.absolute().parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, tarfile.TarError, msgspec.MsgspecError) as error:
        raise OperatorError(f"{file} cannot be restored: {error}") from None
    return Backup(manifest.node, manifest.height, file.stat().st_size)


def _unpacked(file: Path, home: Path) -> _Manifest:
    with tarfile.open(file, mode="r:") as tar:
        members = iter(tar)
        manifest = _read_manifest(tar, next(members, None), file)
        config: NodeConfig | None = None
        found = set()
        for member in members:
            target = home / CONFIG_FILE if member.name == CONFIG_FILE else _target(config, member.name, file)
            content = tar.extractfile(member)
            if content is None or member.name not in manifest.files:
                raise OperatorError(f"{file} is not a whole backup: {member.name} does not belong to it")
            _write(target, content)
            if _digest(target) != manifest.files[member.name]:
                raise OperatorError(f"{file} is damaged: {member.name} is not what was backed up")
            found.add(member.name)
            config = load_config(home) if member.name == CONFIG_FILE else config
    if found != set(manifest.files):
        raise OperatorError(
            f"{file} is not a whole backup: it lacks {sorted(set(manifest.files) - found)[0]}"
        )
    return manifest


def _read_manifest(tar: tarfile.TarFile, first: tarfile.TarInfo | None, file: Path) -> _Manifest:
    content = tar.extractfile(first) if first is not None and first.name == MANIFEST else None
    if content is None:
        raise OperatorError(f"{file} is not a backup of a node")
    manifest = msgspec.json.decode(content.read(64 << 20), type=_Manifest)
    if manifest.format != FORMAT:
        raise OperatorError(f"{file} is a backup of format {manifest.format}, this program reads {FORMAT}")
    return manifest


def _target(config: NodeConfig | None, name: str, file: Path) -> Path:
    """Where a file of the backup belongs: only places that a backup has are possible."""
    if config is None:
        raise OperatorError(f"{file} is not a whole backup: it does not begin with {CONFIG_FILE}")
    directory, _, last = name.rpartition("/")
    places = {
        "genesis": config.genesis_path,
        "keystore": config.keystore_path,
        _STORE: config.store_path / "data.mdb",
    }
    found = places.get(name)
    if found is None and directory in _COPIED and last.endswith(".msgpack"):
        found = config.data_path / PurePosixPath(directory).name / last
    if found is None or ".." in found.parts or not found.is_relative_to(config.home_path):
        raise OperatorError(f"{file}: {name} does not belong inside a home: nothing was restored")
    return found


def _write(target: Path, content: IO[bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        shutil.copyfileobj(content, file, _BLOCK_BYTES)
        file.flush()
        os.fsync(file.fileno())


def _check_restored(home: Path, manifest: _Manifest) -> None:
    config = load_config(home)
    chain_id = chain_id_of(load_genesis(config.genesis_path))
    if chain_id.hex() != manifest.chain_id:
        raise OperatorError("the backup's genesis is not that of its chain")
    with closing(BlockStore.open(config.store_path, read_only=True, chain_id=chain_id)) as store:
        tip = store.tip()
        if tip is None or tip.height != manifest.height or not is_intact(store):
            raise OperatorError("the backup's block store is not what was backed up")


def _digest(path: Path) -> str:
    found = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        for block in _blocks(file):
            found.update(block)
    return found.hexdigest()


def _blocks(file: io.BufferedReader) -> Iterator[bytes]:
    while block := file.read(_BLOCK_BYTES):
        yield block
