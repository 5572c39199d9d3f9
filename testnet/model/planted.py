"""Mutations of the production rules, planted on purpose: the model must find each. Changes and restores attributes.

Each replaces one attribute of production code while it is planted, so that what is shown to matter is the very line
that a real mistake would touch. Never planted outside `planted`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from consensus import certificates
from consensus.messages import TimeoutCertificate, VoteKind
from consensus.safety import OwnVotes, Signed
from consensus.validator_set import ValidatorSet
from primitives.identifiers import NO_BLOCK, BlockHash

MutationName = Literal[
    "fast-quorum-one-too-low",
    "report-dropped",
    "timeout-always-skips",
    "finalize-after-nullify",
    "notarize-after-nullify",
    "nullify-after-finalize",
    "skips-unchecked",
    "parent-unchecked",
]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One mistake: which attribute of which object becomes what."""

    sentence: str
    owner: Any
    attribute: str
    replacement: Any


def _fast_weight(self: ValidatorSet, byzantine_weight: int) -> int:
    return byzantine_weight + self.total - self.quorum + self.quorum // 2


def _nullify_without_report(self: OwnVotes, view: int) -> Signed | None:
    return self._signed(VoteKind.NULLIFY, view, NO_BLOCK)


def _always_skips(certificate: TimeoutCertificate, validators: ValidatorSet) -> BlockHash:
    return NO_BLOCK


def _carries_at_half(certificate: TimeoutCertificate, validators: ValidatorSet) -> BlockHash:
    weights = {group.report: validators.weight_of(group.signers) for group in certificate.groups}
    half = [
        report for report in weights if report != NO_BLOCK and 2 * weights[report] >= sum(weights.values())
    ]
    return BlockHash(half[0]) if half else NO_BLOCK


def _may_finalize(self: OwnVotes, view: int, block: BlockHash) -> bool:
    own = self.of(view)
    return self._may_sign(view) and own.finalized is None and own.notarized in (None, block)


def _may_notarize(self: OwnVotes, view: int, block: BlockHash) -> bool:
    own = self.of(view)
    return self._may_sign(view) and own.notarized is None and own.finalized in (None, block)


def _may_notarize_another(self: OwnVotes, view: int, block: BlockHash) -> bool:
    own = self.of(view)
    return self._may_sign(view) and own.notarized is None and own.nullified is None


def _may_nullify(self: OwnVotes, view: int) -> bool:
    return self._may_sign(view) and self.of(view).nullified is None


def _no_check(*_: object) -> None:
    return None


MUTATIONS: dict[MutationName, Mutation] = {
    "fast-quorum-one-too-low": Mutation(
        "F(t) is one too low, so 3 of 4 notarize votes are taken as final",
        ValidatorSet,
        "fast_weight",
        _fast_weight,
    ),
    "report-dropped": Mutation(
        "a nullify vote reports nothing, whatever was notarized", OwnVotes, "nullify", _nullify_without_report
    ),
    "timeout-always-skips": Mutation(
        "every timeout certificate is read as a skip", certificates, "resolve", _always_skips
    ),
    "finalize-after-nullify": Mutation(
        "R5 forgets that the view was nullified", OwnVotes, "may_finalize", _may_finalize
    ),
    "notarize-after-nullify": Mutation(
        "R3 forgets that the view was nullified", OwnVotes, "may_notarize", _may_notarize
    ),
    "nullify-after-finalize": Mutation(
        "R4 forgets that a block of the view was finalized", OwnVotes, "may_nullify", _may_nullify
    ),
    "skips-unchecked": Mutation(
        "a block may leave out its skip certificates", certificates, "_check_skips", _no_check
    ),
    "parent-unchecked": Mutation(
        "a block may stand on any parent, certified or not", certificates, "_check_parent", _no_check
    ),
}
"""By the name that `--plant` takes. The first five are those of consensus.md section 15."""
SURVIVORS: dict[str, Mutation] = {
    "notarize-other-than-finalized": Mutation(
        "R3 forgets that another block of the view was finalized",
        OwnVotes,
        "may_notarize",
        _may_notarize_another,
    ),
    "majority-at-half": Mutation(
        "a timeout certificate carries a block that half of its weight reports",
        certificates,
        "resolve",
        _carries_at_half,
    ),
}
"""Mistakes that cause no fork at n = 4: the first costs evidence (E5), the second that a certificate
carries one block at most."""


@contextmanager
def planted(mutation: Mutation) -> Iterator[None]:
    """Plant a mutation for the length of a `with` block, in this process only."""
    original = getattr(mutation.owner, mutation.attribute)
    setattr(mutation.owner, mutation.attribute, mutation.replacement)
    try:
        yield
    finally:
        setattr(mutation.owner, mutation.attribute, original)
