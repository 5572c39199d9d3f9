"""Proofs of offences, kept for ever: one small file each. Reads and writes one directory."""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

from consensus.effects import ReportEvidence
from consensus.evidence import vote_of
from consensus.messages import Evidence
from node.storage.files import write_durably
from primitives.codec import decode_own, encode

log = structlog.get_logger()


class EvidenceFiles:
    """One file for each (epoch, offender, kind): at most 7 for a validator in an epoch, whatever it does."""

    def __init__(self, directory: Path) -> None:
        """The directory is made with the first proof."""
        self.directory = directory

    def keep(self, effect: ReportEvidence) -> bool:
        """Store a proof durably; False when there is one of this offender, epoch and kind."""
        self.directory.mkdir(exist_ok=True)
        epoch = vote_of(effect.evidence).epoch
        path = self.directory / f"{epoch:08d}-{effect.offender:03d}-{effect.kind}.msgpack"
        if path.exists():
            return False
        write_durably(path, encode(effect.evidence))
        return True

    def load(self) -> list[Evidence]:
        """Every proof kept, oldest epoch first. A file that does not read is logged and left where it is."""
        found: list[Evidence] = []
        for path in sorted(self.directory.glob("*.msgpack")):
            try:
                found.append(decode_own(Evidence, path.read_bytes()))  # type: ignore[arg-type]
            except (OSError, msgspec.MsgspecError) as error:
                log.error("evidence_file_unreadable", file=str(path), error=str(error)[:200])
        return found
