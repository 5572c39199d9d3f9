"""The `quorate keys` commands, for the homes of nodes and of signers. Read and write files; the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

from cyclopts import App, Parameter

from gossip.peer_id import peer_id_of
from node.config import load_config
from node.genesis import chain_id_of, load_genesis
from node.keystore import (
    check_password,
    is_consensus_name,
    is_insecure,
    open_seeds,
    read_password,
    read_public_keys,
    replace_seeds,
)
from node.signer.desk import KEYSTORE_FILE, RECORD_DIRECTORY, SETTINGS_FILE, WATERMARK_FILE, read_settings
from node.signing_record import (
    ProtectionFile,
    SignedUpTo,
    raise_position,
    read_protection,
    signed_position,
    write_protection,
)
from node.storage.home_lock import HomeLock
from node.storage.watermark import Position
from primitives.errors import OperatorError
from primitives.signing import SEED_BYTES, SigningKey

app = App(name="keys", help="A home's secret keys, and the record of what they signed.")

NEW_PASSWORD_VARIABLE = "QUORATE_NEW_PASSWORD"

Home = Annotated[Path, Parameter(help="Home of a node or of a signer.")]
PasswordFile = Annotated[
    Path | None,
    Parameter(help="File with the keystore's password; else QUORATE_PASSWORD, else you are asked."),
]


class _Places(NamedTuple):
    """Where a home, of a node or of a signer, has what."""

    keystore: Path
    journal: Path
    watermark: Path
    chain_id: bytes


@app.command
def show(*, home: Home) -> None:
    """Print the public keys of a home, and how its keystore is protected. Needs no password.

    Example: quorate keys show --home network/node0
    """
    places = _places(home)
    for name, key in read_public_keys(places.keystore).items():
        print(f"{name:<12} {key.hex()}")
    print(f"{places.keystore}  {'NOT encrypted' if is_insecure(places.keystore) else 'encrypted'}")


@app.command
def change_password(
    *, home: Home, password_file: PasswordFile = None, new_password_file: Path | None = None
) -> None:
    """Encrypt a keystore under another password; one without encryption gets its first.

    Example: quorate keys change-password --home network/node0

    Parameters
    ----------
    new_password_file
        File with the new password; else QUORATE_NEW_PASSWORD, else you are asked.
    """
    with _stopped(home) as places:
        seeds, _ = open_seeds(places.keystore, password_file)
        ask = f"New password for {places.keystore}: "
        fresh = read_password(new_password_file, os.environ, ask, NEW_PASSWORD_VARIABLE)
        check_password(fresh)
        replace_seeds(seeds, places.keystore, fresh)
    print(f"{places.keystore}  encrypted under the new password")


@app.command
def new_consensus(*, home: Home, password_file: PasswordFile = None) -> None:
    """Add a consensus key to a stopped home, for `quorate validator rotate-key`. The old ones stay.

    Start the node (or signer) again afterwards: it signs with the new key from the epoch on in which the chain
    names it, and never again with an old one.

    Example: quorate keys new-consensus --home network/node0
    """
    with _stopped(home) as places:
        seeds, password = open_seeds(places.keystore, password_file)
        count = sum(map(is_consensus_name, seeds))
        if not count:
            raise OperatorError(
                f"{places.keystore} holds no consensus key: make the new one in the signer's home"
            )
        seed = os.urandom(SEED_BYTES)
        replace_seeds({**seeds, f"consensus-{count + 1}": seed}, places.keystore, password)
    print(f"consensus-{count + 1}  {SigningKey(seed).public_key.hex()}")


@app.command
def new_network(*, home: Home, password_file: PasswordFile = None) -> None:
    """Replace the network key of a stopped home. Announce the new one before the node starts again.

    A sentry has its validator's network key: write its home anew afterwards.

    Example: quorate keys new-network --home network/node0
    """
    with _stopped(home) as places:
        seeds, password = open_seeds(places.keystore, password_file)
        if "network" not in seeds:
            raise OperatorError(f"{places.keystore} holds no network key")
        seed = os.urandom(SEED_BYTES)
        replace_seeds({**seeds, "network": seed}, places.keystore, password)
    print(f"network  {peer_id_of(SigningKey(seed).public_key)}")
    print(f"now: quorate validator announce --home {home}, then start the node")


@app.command
def export_protection(*, home: Home, out: Path) -> None:
    """Write how far a stopped home's consensus keys have signed, as JSON for `import-protection`.

    Example: quorate keys export-protection --home network/node0 --out protection.json

    Parameters
    ----------
    out
        New file.
    """
    with _stopped(home) as places:
        position = signed_position(places.journal, places.watermark)
        record = ProtectionFile(
            chain_id=places.chain_id.hex(),
            consensus_keys=_consensus_keys(places),
            signed_up_to=SignedUpTo(*position),
        )
        write_protection(out, record)
    print(f"{out}  signed up to epoch {position.epoch} view {position.view}")


@app.command
def import_protection(file: Path, *, home: Home) -> None:
    """Sign nothing any more at or below the place that a protection file names. It only ever raises the record.

    Example: quorate keys import-protection protection.json --home network/node0

    Parameters
    ----------
    file
        What `export-protection` wrote.
    """
    record = read_protection(file)
    with _stopped(home) as places:
        if record.chain_id != places.chain_id.hex():
            raise OperatorError(f"{file} is about chain {record.chain_id[:16]}, {home} about another")
        own = _consensus_keys(places)
        if own and not set(own) & set(record.consensus_keys):
            raise OperatorError(f"{file} is about other consensus keys than those of {home}")
        given = Position(record.signed_up_to.epoch, record.signed_up_to.view)
        reached = raise_position(places.journal, places.watermark, given)
    raised = "raised to" if reached == given else "already beyond it, at"
    print(f"{home}  {raised} epoch {reached.epoch} view {reached.view}")


def _places(home: Path) -> _Places:
    if (home / SETTINGS_FILE).exists():
        chain_id = bytes.fromhex(read_settings(home).chain_id)
        return _Places(home / KEYSTORE_FILE, home / RECORD_DIRECTORY, home / WATERMARK_FILE, chain_id)
    config = load_config(home, environment=os.environ)
    chain_id = chain_id_of(load_genesis(config.genesis_path))
    return _Places(config.keystore_path, config.journal_path, config.watermark_path, chain_id)


@contextmanager
def _stopped(home: Path) -> Iterator[_Places]:
    """The home, ours alone. Raises OperatorError, with who has it, while it is in use."""
    places = _places(home)
    lock = HomeLock(home)
    try:
        yield places
    finally:
        lock.release()


def _consensus_keys(places: _Places) -> list[str]:
    keys = read_public_keys(places.keystore)
    return [key.hex() for name, key in keys.items() if is_consensus_name(name)]
