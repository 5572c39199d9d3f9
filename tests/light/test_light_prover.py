"""The prover holds one state, builds no more often than it may, and says what it cannot prove yet."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from node.light import prover as prover_module
from node.light.prover import NotProvable, trimmed
from node.light.sync import trust_of
from node.light.verifier import verify_proof_file
from primitives.errors import OperatorError
from tests.light.light_chain import LightChain, a_set, key_of
from tests.node.network_of_nodes import a_genesis


@pytest.fixture
def chain(tmp_path: Path) -> LightChain:
    """Two final blocks."""
    chain = LightChain(tmp_path)
    chain.block()
    chain.block()
    return chain


def test_a_tree_is_built_once_for_a_block(chain: LightChain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prover_module, "BUILD_REST", 0)
    prover = chain.prover
    first = prover.snapshot()
    assert prover.snapshot() is first
    chain.block()
    assert prover.snapshot().height == first.height + 1


def test_after_building_it_rests_and_proves_the_last_state_again(
    chain: LightChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prover_module, "BUILD_REST", 1_000_000)
    prover = chain.prover
    first = prover.snapshot()
    chain.block()
    assert prover.snapshot() is first
    proven = verify_proof_file(prover.proof_file("mark", bytes(4)), trust_of(chain.genesis))
    assert proven.height == 1


def test_a_block_that_is_not_provable_yet_leaves_the_state_before(
    chain: LightChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prover_module, "BUILD_REST", 0)
    prover = chain.prover
    first = prover.snapshot()
    chain.block(proof=chain.certificate(chain.tip))
    assert prover.snapshot() is first
    with pytest.raises(NotProvable, match="that of a later one"):
        chain.prover.snapshot()


def test_nothing_is_provable_before_the_first_block(tmp_path: Path) -> None:
    with pytest.raises(NotProvable, match="no block is final"):
        LightChain(tmp_path).prover.snapshot()


def test_a_stored_state_that_is_not_the_header_s_proves_nothing(chain: LightChain) -> None:
    header = chain.header(parent_state_root=b"\1" * 32)
    chain.header = lambda **_: header  # type: ignore[method-assign]
    chain.block()
    with pytest.raises(OperatorError, match="is not the one that block 3 commits to"):
        chain.prover.snapshot()


def test_epochs_that_are_not_kept_are_named(chain: LightChain) -> None:
    chain.end_epoch()
    chain.block()
    (chain.epochs.directory / f"{1:010d}.msgpack").rename(chain.epochs.directory / "away")
    with pytest.raises(NotProvable, match="epoch 1 has not begun here"):
        chain.proof("mark", bytes(4))
    with pytest.raises(NotProvable, match="epoch 7 has not begun here"):
        chain.prover.links(7)


def test_the_heaviest_signers_are_kept(tmp_path: Path) -> None:
    keys = [key_of(1, index) for index in range(5)]
    chain = LightChain(tmp_path, a_genesis(4))
    chain.know(keys)
    chain.validators = a_set(keys, (1, 5, 1, 5, 3))
    certificate = chain.certificate(chain.tip)
    kept = trimmed(certificate, chain.validators)
    assert (chain.validators.quorum, kept.signers) == (11, (1, 3, 4))
    assert kept.signatures == tuple(certificate.signatures[place] for place in kept.signers)
    assert msgspec.structs.replace(kept, signers=(), signatures=()) == msgspec.structs.replace(
        certificate, signers=(), signatures=()
    )
