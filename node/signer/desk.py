"""Signs a vote once its record is on disk. Blocking file I/O in one home directory; call from one thread at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec
import structlog

from consensus.messages import sign_bytes
from node.safety_journal import SafetyJournal, recover
from node.signer.protection import Protection, parse_vote
from node.signer.reasons import SignerReason
from node.storage.files import DISK
from primitives.errors import OperatorError, ProtocolViolation
from primitives.signing import SigningKey

KEYSTORE_FILE = "keystore.json"
SETTINGS_FILE = "signer.json"
RECORD_DIRECTORY = "record"
WATERMARK_FILE = "keystore.watermark"

log = structlog.get_logger()


class SignerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `signer.json` holds."""

    chain_id: str
    """Hexadecimal: the only chain whose votes are signed."""
    retired: dict[str, int]
    """Public key -> the first epoch in which it signs nothing any more, for a newer key has signed there."""


def read_settings(home: Path) -> SignerSettings:
    """Raises OperatorError for a home without settings, or with unreadable ones."""
    path = home / SETTINGS_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=SignerSettings)
    except FileNotFoundError:
        raise OperatorError(f"{home} is no signer's home: `quorate signer init` makes one") from None
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise OperatorError(f"cannot read {path}: {error}") from None


def write_settings(home: Path, settings: SignerSettings) -> None:
    """Create or replace `signer.json`, durably. Raises OperatorError."""
    raw = msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n"
    try:
        DISK.write_durably(home / SETTINGS_FILE, raw)
    except OSError as error:
        raise OperatorError(f"cannot write {home / SETTINGS_FILE}: {error.strerror}") from None


class SigningDesk:
    """The keys, and the record of all that they signed."""

    def __init__(self, home: Path, keys: Mapping[bytes, SigningKey]) -> None:
        """`keys` by public key, oldest first.

        Raises:
            OperatorError: the record and the watermark do not fit each other, or are damaged.
        """
        self._home = home
        self._keys = keys
        settings = read_settings(home)
        self.chain_id = bytes.fromhex(settings.chain_id)
        self._retired = {bytes.fromhex(key): epoch for key, epoch in settings.retired.items()}
        memory = recover(home / RECORD_DIRECTORY, home / WATERMARK_FILE)
        if memory.observer_reason is not None or memory.watermark is None:
            raise OperatorError(f"{home}: {memory.observer_reason}")
        self.protection = Protection(memory.records)
        self._journal, self._watermark = memory.journal, memory.watermark
        self._safety = SafetyJournal(self._journal, self._watermark, self.protection.records)

    @property
    def public_keys(self) -> tuple[bytes, ...]:
        """The keys, oldest first."""
        return tuple(self._keys)

    def sign(self, public_key: bytes, message: bytes) -> bytes:
        """The signature of a vote that contradicts nothing; its record is durable when this returns.

        Raises:
            ProtocolViolation: a SignerReason; nothing was signed or recorded.
            OperatorError: the disk failed; the process must stop.
        """
        key = self._keys.get(public_key)
        if key is None:
            raise ProtocolViolation(SignerReason.UNKNOWN_KEY, f"no key {public_key.hex()[:16]} here")
        vote = parse_vote(self.chain_id, message)
        until = self._retired.get(public_key)
        if until is not None and vote.epoch >= until:
            raise ProtocolViolation(SignerReason.RETIRED_KEY, f"a newer key signs since epoch {until}")
        if self.protection.check(vote):
            self._retire_older(public_key, vote.epoch)
            self._safety.append([vote])
            self.protection.record(vote)
            self._safety.compact_if_grown()
        return key.sign(sign_bytes(self.chain_id, vote.kind, vote.epoch, vote.view, vote.subject))

    def _retire_older(self, public_key: bytes, epoch: int) -> None:
        keys = list(self._keys)
        fresh = [one for one in keys[: keys.index(public_key)] if self._retired.get(one, epoch + 1) > epoch]
        if not fresh:
            return
        self._retired |= dict.fromkeys(fresh, epoch)
        retired = {key.hex(): until for key, until in self._retired.items()}
        write_settings(self._home, SignerSettings(self.chain_id.hex(), retired))
        for one in fresh:
            log.warning("key_retired", public_key=one.hex(), signs_nothing_from_epoch=epoch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the record; everything signed is durable already."""
        self._journal.close()
        self._watermark.close()
