"""Broken builds that the campaigns must catch: each forgets one rule. A canary that lives means blind tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consensus import certificate_store, certificates, safety, vote_keeper
from consensus import state as state_module
from consensus.effects import Admitted
from consensus.messages import TimeoutCertificate, VoteKind
from consensus.safety import OwnVotes
from consensus.validator_set import ValidatorSet
from primitives.errors import InvariantViolation
from primitives.identifiers import NO_BLOCK, BlockHash
from tests.consensus import cluster
from tests.consensus.campaign import run_power_loss, run_seed

Patch = pytest.MonkeyPatch


def forget_the_report(patch: Patch) -> None:
    patch.setattr(OwnVotes, "nullify", lambda self, view: self._signed(VoteKind.NULLIFY, view, NO_BLOCK))


def notarize_after_nullify(patch: Patch) -> None:
    def may(self: OwnVotes, view: int, block: BlockHash) -> bool:
        own = self.of(view)
        return self._may_sign(view) and own.notarized is None and own.finalized in (None, block)

    patch.setattr(OwnVotes, "may_notarize", may)


def finalize_after_nullify(patch: Patch) -> None:
    def may(self: OwnVotes, view: int, block: BlockHash) -> bool:
        own = self.of(view)
        return self._may_sign(view) and own.finalized is None and own.notarized in (None, block)

    patch.setattr(OwnVotes, "may_finalize", may)


def forget_the_journal(patch: Patch) -> None:
    patch.setattr(safety.OwnVotes, "restore", lambda self, record: None)


def skip_with_every_timeout_certificate(patch: Patch) -> None:
    def never_carries(certificate: TimeoutCertificate, validators: ValidatorSet) -> BlockHash:
        return NO_BLOCK

    for module in (certificates, certificate_store, vote_keeper):
        patch.setattr(module, "resolve", never_carries)


def count_one_too_few_for_the_fast_path(patch: Patch) -> None:
    def careless(count: int) -> ValidatorSet:
        validators = cluster.ValidatorSet(tuple(cluster.ModelSigner(i).public_key for i in range(count)))
        validators.final_weight -= 1
        return validators

    patch.setattr(cluster, "a_validator_set", careless)


CANARIES = [
    (forget_the_report, 10),
    (notarize_after_nullify, 10),
    (finalize_after_nullify, 20),
    (forget_the_journal, 60),
    pytest.param(skip_with_every_timeout_certificate, 200, marks=pytest.mark.slow),
    pytest.param(count_one_too_few_for_the_fast_path, 200, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("break_it", "seeds"), CANARIES)
def test_a_broken_build_is_caught(break_it: Callable[[Patch], None], seeds: int, monkeypatch: Patch) -> None:
    break_it(monkeypatch)
    for seed in range(seeds):
        try:
            run_seed(seed, 4, traitors=1)
        except (AssertionError, InvariantViolation):
            return
    pytest.fail(f"{break_it.__name__} was not noticed in {seeds} seeds")


def test_certificates_lost_in_a_power_loss_are_missed(monkeypatch: Patch) -> None:
    """Votes alone are enough for safety, but not for getting going again (seed 42 gets stuck)."""
    restore = safety.restore
    monkeypatch.setattr(
        state_module,
        "restore",
        lambda own, records: restore(own, [one for one in records if not isinstance(one, Admitted)]),
    )
    with pytest.raises(AssertionError, match="stuck"):
        run_power_loss(42)
