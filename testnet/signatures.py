"""After the run: every validator signature that is anywhere on disk, each (epoch, view, kind) once. Reads homes.

Stored certificates are what others have received; the journals, what their own signer was about to send.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from consensus.certificates import certificates_of, votes_of
from consensus.effects import JournalRecord, OwnVote
from consensus.messages import Block, QuorumCertificate
from node.storage.block_store import BlockStore
from node.storage.journal import Journal
from primitives.codec import decode_own
from primitives.errors import OperatorError

Signed = tuple[int, int, int, int, bytes]
"""Signer, epoch, view, kind, subject."""


def double_signed(homes: Sequence[Path]) -> tuple[list[str], int]:
    """(a sentence for each that was signed twice, how many signatures were compared) of stopped validators."""
    signed: dict[tuple[int, int, int, int], set[bytes]] = {}
    for signer, epoch, view, kind, subject in set(_everything(homes)):
        signed.setdefault((signer, epoch, view, kind), set()).add(subject)
    broken = [
        f"validator {signer} signed {len(subjects)} votes of kind {kind} in view {view} of epoch {epoch}"
        for (signer, epoch, view, kind), subjects in sorted(signed.items())
        if len(subjects) > 1
    ]
    return broken, len(signed)


def _everything(homes: Sequence[Path]) -> Iterator[Signed]:
    for index, home in enumerate(homes):
        try:
            yield from _stored(BlockStore.open(home / "data" / "blocks", read_only=True))
        except OperatorError:
            continue  # This validator never got as far as to make a store.
        yield from _journaled(index, Journal.open(home / "data" / "journal")[1])


def _stored(store: BlockStore) -> Iterator[Signed]:
    first, tip = store.first_height(), store.tip()
    for height in range(first or 0, tip.height + 1 if tip else 0):
        raw, raw_proof = store.block_at(height), store.proof_at(height)
        certificates = list(certificates_of(decode_own(Block, raw))) if raw else []
        if raw_proof:
            certificates.append(decode_own(QuorumCertificate, raw_proof))
        for certificate in certificates:
            for vote in votes_of(certificate):
                yield vote.signer, vote.epoch, vote.view, vote.kind, vote.subject
    store.close()


def _journaled(signer: int, raws: Iterable[bytes]) -> Iterator[Signed]:
    for raw in raws:
        record: JournalRecord = decode_own(JournalRecord, raw)  # type: ignore[arg-type]
        if isinstance(record, OwnVote):
            yield signer, record.epoch, record.view, record.kind, record.subject
