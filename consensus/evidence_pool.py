"""Proved offences until they are on chain: deduplicated, bounded, the worst of each offender and epoch. Pure.

Admission has verified everything that comes in. The driver keeps each piece for ever (`ReportEvidence`) and hands
the pieces back at the next start. Rules: consensus.md section 9.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from consensus.epoch import EVIDENCE_AGE_EPOCHS_MAX
from consensus.evidence import Offence, offence_in, vote_of
from consensus.messages import EVIDENCE_BLOCK_BYTES_MAX, EVIDENCE_ITEMS_MAX, Evidence
from primitives.codec import encode
from primitives.hashing import digest

POOL_ENTRIES_MAX = 1_024
"""(offender, epoch) pairs remembered; further ones are refused and come again with their sender's next gossip."""

ANY, UNJUSTIFIED = 1, 2
"""How bad an offence is; 0 is none."""

About = tuple[int, int]
"""(offender, epoch): what is punished once, at the worst kind."""


def about(evidence: Evidence) -> About:
    """Whose offence it is, and in which epoch."""
    vote = vote_of(evidence)
    return vote.signer, vote.epoch


def severity(evidence: Evidence) -> int:
    """UNJUSTIFIED for E6, which is punished as part of a coordinated attack; ANY for every other kind."""
    return UNJUSTIFIED if offence_in(evidence) is Offence.UNJUSTIFIED else ANY


def evidence_id(evidence: Evidence) -> bytes:
    """Digest of kind, epoch, view and offender: two proofs of one offence have the same id."""
    vote = vote_of(evidence)
    place = vote.epoch.to_bytes(4, "big") + vote.view.to_bytes(8, "big") + vote.signer.to_bytes(2, "big")
    return digest(b"quorate-offence", place + offence_in(evidence).value.encode())


@dataclass(slots=True)
class _Entry:
    evidence: Evidence
    settled: int = 0
    """The severity that the chain holds already; 0 for none."""

    def is_open(self) -> bool:
        return severity(self.evidence) > self.settled


class EvidencePool:
    """One record per (offender, epoch), kept at the worst kind; open until the chain holds that kind."""

    def __init__(self, kept: Iterable[Evidence] = ()) -> None:
        """`kept`: what the driver stored in earlier lives. What the chain holds already is found out again."""
        self._entries: dict[About, _Entry] = {}
        for evidence in kept:
            self.add(evidence)

    def add(self, evidence: Evidence) -> bool:
        """Keep a verified piece; whether it says something new or worse about its offender in its epoch."""
        key = about(evidence)
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= POOL_ENTRIES_MAX:
                return False
            self._entries[key] = _Entry(evidence)
            return True
        if severity(evidence) <= max(entry.settled, severity(entry.evidence)):
            return False
        entry.evidence = evidence
        return True

    def knows(self, offender: int, epoch: int, at_least: int) -> bool:
        """Whether as bad an offence by this validator in this epoch is here or on chain already."""
        entry = self._entries.get((offender, epoch))
        return entry is not None and at_least <= max(entry.settled, severity(entry.evidence))

    def settle(self, evidence: Evidence) -> None:
        """The chain holds this piece, or refuses it because it holds as bad a one."""
        self.add(evidence)
        entry = self._entries.get(about(evidence))
        if entry is not None:
            entry.settled = max(entry.settled, severity(evidence))

    def open(self) -> list[Evidence]:
        """What the chain does not hold yet, by epoch and offender."""
        entries = sorted(self._entries.items(), key=lambda item: (item[0][1], item[0][0]))
        return [entry.evidence for _, entry in entries if entry.is_open()]

    def pick(self, already: Iterable[Evidence] = ()) -> tuple[Evidence, ...]:
        """What our next block reports, within its reserved space, without what its ancestors report (`already`)."""
        reported = {(*about(one), severity(one)) for one in already}
        picked: list[Evidence] = []
        room = EVIDENCE_BLOCK_BYTES_MAX
        for evidence in self.open():
            size = len(encode(evidence))
            if (*about(evidence), severity(evidence)) not in reported and size <= room:
                picked.append(evidence)
                room -= size
        return tuple(picked[:EVIDENCE_ITEMS_MAX])

    def expire(self, epoch: int) -> None:
        """Forget what is too old to be punished in `epoch`."""
        oldest = epoch - EVIDENCE_AGE_EPOCHS_MAX
        self._entries = {key: entry for key, entry in self._entries.items() if key[1] >= oldest}

    def __len__(self) -> int:
        return len(self._entries)
