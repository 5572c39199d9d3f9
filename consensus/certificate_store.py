"""Certificates of the views since the last final block: what may stand under or be skipped by the next. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.certificates import resolve
from consensus.messages import Certificate, QuorumCertificate, TimeoutCertificate, VoteKind
from consensus.validator_set import ValidatorSet
from primitives.identifiers import NO_BLOCK, BlockHash


@dataclass(slots=True)
class ViewCertificates:
    """At most one notarization and finalization are possible in a view, one skip, and few carried blocks."""

    notarization: QuorumCertificate | None = None
    notarization_weight: int = 0
    is_reported: bool = False
    """Whether clients have heard of the notarized block."""
    finalization: QuorumCertificate | None = None
    skip: TimeoutCertificate | None = None
    carries: dict[BlockHash, TimeoutCertificate] = field(default_factory=dict)


class CertificateStore:
    """By view. Grows with the views since finality; what a voter needs, it finds inside the proposal."""

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._views: dict[int, ViewCertificates] = {}

    def add(self, certificate: Certificate) -> bool:
        """Keep a valid certificate; whether it says something new (a notarization that became heavy does)."""
        kept = self._views.setdefault(certificate.view, ViewCertificates())
        if isinstance(certificate, TimeoutCertificate):
            carried = resolve(certificate, self._validators)
            if carried == NO_BLOCK:
                is_new = kept.skip is None
                kept.skip = kept.skip or certificate
            else:
                is_new = carried not in kept.carries
                kept.carries.setdefault(carried, certificate)
            return is_new
        if certificate.kind == VoteKind.FINALIZE:
            is_new = kept.finalization is None
            kept.finalization = kept.finalization or certificate
            return is_new
        weight = self._validators.weight_of(certificate.signers)
        first = kept.notarization is None
        became_heavy = kept.notarization_weight < self._validators.final_weight <= weight
        if first or became_heavy:
            kept.notarization, kept.notarization_weight = certificate, weight
        return first or became_heavy

    def of(self, view: int) -> ViewCertificates:
        """What is known about a view; empty when nothing is."""
        return self._views.get(view) or ViewCertificates()

    def parents(self, view: int) -> list[tuple[BlockHash, Certificate]]:
        """Blocks of `view` that a child may stand on, with the best certificate: final > notarized > carried (R2).

        A heavy notarization comes before a finalization: both prove finality, and it is known first.
        """
        kept = self.of(view)
        ranked: list[tuple[BlockHash, Certificate]] = []
        heavy = kept.notarization_weight >= self._validators.final_weight
        quorums = [kept.notarization, kept.finalization] if heavy else [kept.finalization, kept.notarization]
        ranked += [(BlockHash(one.block), one) for one in quorums if one is not None]
        ranked += sorted(kept.carries.items())
        best: dict[BlockHash, Certificate] = {}
        for block, certificate in ranked:
            best.setdefault(block, certificate)
        return list(best.items())

    def all_of(self, view: int) -> list[Certificate]:
        """Everything known about a view, for a peer that asks."""
        kept = self.of(view)
        found = [kept.finalization, kept.notarization, kept.skip, *kept.carries.values()]
        return [certificate for certificate in found if certificate is not None]

    def views(self) -> list[int]:
        """The views about which something is known, ascending."""
        return sorted(self._views)

    def prune(self, lowest: int) -> None:
        """Forget the views below `lowest`."""
        self._views = {view: kept for view, kept in self._views.items() if view >= lowest}
