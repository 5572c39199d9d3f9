"""More than f validators collude: every fork names f+1 of them, nobody honest, and every proof stands alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from consensus.epoch import Epoch, first_epoch
from consensus.evidence import Offence
from consensus.forensics import Accusation, FinalChain, check_accusation, find_culprits
from consensus.fork import find_fork
from consensus.messages import (
    BlockEvidence,
    Justification,
    PairEvidence,
    hash_of,
)
from primitives.errors import ProtocolViolation
from primitives.identifiers import NO_BLOCK
from testnet.sim.campaign import quiet, run_seed
from testnet.sim.plan import from_json
from testnet.sim.simulation import verdict_of
from testnet.sim.swarm import Wishes
from tests.simulation.forging import (
    CHAIN_ID,
    EPOCH,
    FINALIZE,
    NOTARIZE,
    Shown,
    a_block,
    a_quorum,
    a_timeout,
    a_vote,
    directly,
    through_suffix,
)


def named(accusations: list[Accusation]) -> list[tuple[int, Offence]]:
    for accusation in accusations:
        check_accusation(accusation, EPOCH)
    return [(accusation.offender, accusation.offence) for accusation in accusations]


ONE, OTHER = a_block(1), a_block(1, text=b"other")


@pytest.mark.parametrize(
    ("kind", "other_kind", "signers", "offence"),
    [
        (FINALIZE, FINALIZE, (0, 1, 2), Offence.TWO_FINALIZATIONS),
        (NOTARIZE, NOTARIZE, (0, 1, 2, 3), Offence.TWO_NOTARIZATIONS),
        (FINALIZE, NOTARIZE, (0, 1, 2, 3), Offence.FINALIZED_ANOTHER),
    ],
)
def test_two_final_blocks_of_one_view_name_whoever_signed_for_both(
    kind: int, other_kind: int, signers: tuple[int, ...], offence: Offence
) -> None:
    one = FinalChain((ONE,), a_quorum(kind, ONE, (1, 2, 3) if kind == FINALIZE else signers))
    other = FinalChain((OTHER,), a_quorum(other_kind, OTHER, signers))
    guilty = sorted(set(one.proof.signers) & set(signers))
    assert named(find_culprits(one, other, EPOCH)) == [(index, offence) for index in guilty]
    assert len(guilty) >= 2


def test_a_final_block_that_was_skipped_names_whoever_gave_its_view_up() -> None:
    skip = a_timeout(1, {0: NO_BLOCK, 1: NO_BLOCK, 3: NO_BLOCK})
    above = a_block(2, skips=(skip,))
    chain = FinalChain((above,), a_quorum(FINALIZE, above, (0, 1, 3)))
    slow = FinalChain((ONE,), a_quorum(FINALIZE, ONE, (0, 1, 2)))
    expected = [(0, Offence.FINALIZED_AND_NULLIFIED), (1, Offence.FINALIZED_AND_NULLIFIED)]
    assert named(find_culprits(slow, chain, EPOCH)) == expected
    assert named(find_culprits(chain, slow, EPOCH)) == expected
    fast = FinalChain((ONE,), a_quorum(NOTARIZE, ONE, (0, 1, 2, 3)))
    assert [offence for _, offence in named(find_culprits(fast, chain, EPOCH))] == [Offence.FALSE_REPORT] * 3


def test_an_unjustified_block_names_whoever_certified_it_and_only_with_its_own_justification() -> None:
    above = a_block(2)  # Nothing says why view 1 may be skipped.
    chain = FinalChain((above,), a_quorum(NOTARIZE, above, (0, 1, 2, 3)))
    honest = FinalChain((ONE,), a_quorum(FINALIZE, ONE, (0, 1, 2)))
    accusations = find_culprits(honest, chain, EPOCH)
    assert named(accusations) == [(index, Offence.UNJUSTIFIED) for index in range(4)]
    whole = a_block(2, skips=(a_timeout(1, {0: NO_BLOCK, 1: NO_BLOCK, 3: NO_BLOCK}),))
    framed = BlockEvidence(
        a_vote(NOTARIZE, 2, hash_of(whole.header), 3), whole.header, Justification(None, ())
    )
    with pytest.raises(ProtocolViolation, match="does not vouch"):
        check_accusation(Accusation(3, Offence.UNJUSTIFIED, framed), EPOCH)
    torn = msgspec.structs.replace(whole, justification=Justification(None, ()))
    with pytest.raises(ProtocolViolation, match="justification"):
        find_culprits(honest, FinalChain((torn,), a_quorum(NOTARIZE, torn, (0, 1, 2, 3))), EPOCH)


def test_a_chain_that_continues_the_other_names_nobody() -> None:
    child = a_block(2, ONE, a_quorum(NOTARIZE, ONE, (0, 1, 2)))
    low = FinalChain((ONE,), a_quorum(FINALIZE, ONE, (0, 1, 2)))
    high = FinalChain((ONE, child), a_quorum(FINALIZE, child, (0, 1, 2)))
    assert find_culprits(low, high, EPOCH) == find_culprits(high, low, EPOCH) == []


def test_an_accusation_survives_no_change() -> None:
    one = FinalChain((ONE,), a_quorum(FINALIZE, ONE, (0, 1, 2)))
    other = FinalChain((OTHER,), a_quorum(FINALIZE, OTHER, (1, 2, 3)))
    found = find_culprits(one, other, EPOCH)
    proof = found[0].proof
    assert isinstance(proof, PairEvidence)
    forged = PairEvidence(proof.vote_a, msgspec.structs.replace(proof.vote_b, signature=bytes(64)))
    with pytest.raises(ProtocolViolation, match="does not verify"):
        check_accusation(Accusation(1, Offence.TWO_FINALIZATIONS, forged), EPOCH)
    with pytest.raises(ProtocolViolation, match="is signed by 1"):
        check_accusation(Accusation(2, Offence.TWO_FINALIZATIONS, proof), EPOCH)


def test_a_proof_that_proves_no_finality_is_refused() -> None:
    light = FinalChain((ONE,), a_quorum(NOTARIZE, ONE, (0, 1, 2)))
    with pytest.raises(ProtocolViolation, match="does not make its block final"):
        find_culprits(light, FinalChain((OTHER,), a_quorum(FINALIZE, OTHER, (0, 1, 2))), EPOCH)


# --- an epoch's last block, final through suffix blocks alone ---


SHORT: Epoch = first_epoch(CHAIN_ID, EPOCH.validators, 1)
"""Epochs of one block: it is the last of its epoch."""
BOTH = [(0, Offence.FINALIZED_AND_NULLIFIED), (1, Offence.FINALIZED_AND_NULLIFIED)]


@pytest.mark.parametrize(
    ("final_view", "boundary_view", "suffix_view"),
    [(1, 2, 3), (3, 1, 4), (2, 1, 4)],
    ids=["skipped below the boundary", "skipped below the suffix", "skipped between"],
)
def test_a_branch_that_is_final_through_suffix_blocks_is_judged_by_its_epoch_proof(
    final_view: int, boundary_view: int, suffix_view: int
) -> None:
    direct, indirect = directly(final_view, SHORT), through_suffix(boundary_view, suffix_view, SHORT)
    for one, other in ((direct, indirect), (indirect, direct)):
        fork = find_fork(one, other, SHORT)
        assert fork is not None and fork.height == 1
        for accusation in fork.accusations:
            check_accusation(accusation, SHORT)
        assert [(one.offender, one.offence) for one in fork.accusations] == BOTH


def test_the_proof_of_a_later_view_is_the_witness_when_the_suffix_comes_first() -> None:
    direct, indirect = directly(4, SHORT), through_suffix(1, 2, SHORT)
    fork = find_fork(direct, indirect, SHORT)
    assert fork is not None
    assert {one.offender for one in fork.accusations} == {0, 1}


def test_without_the_suffix_blocks_justifications_the_fork_is_not_judged_and_that_is_said() -> None:
    whole = through_suffix(1, 4, SHORT)
    bare = Shown(whole.block(1), None, msgspec.structs.replace(whole.closing, justifications=()), SHORT)
    with pytest.raises(ProtocolViolation, match="suffix blocks are justified was not kept"):
        find_fork(directly(3, SHORT), bare, SHORT)


def test_simulated_validators_that_fork_at_an_epochs_end_are_judged_through_suffix_blocks() -> None:
    quiet()
    plan = from_json((Path(__file__).parent / "regressions" / "fork_through_suffix.json").read_bytes())
    simulation, violation = verdict_of(plan)
    assert violation is None
    assert simulation.sometimes["fork judged through suffix blocks"] >= 1
    assert all(len(guilty) > 2 and guilty <= plan.traitor_set for guilty in simulation.forks)


# --- forks by the hundred ---


def test_every_fork_of_colluders_names_enough_of_them_and_nobody_honest() -> None:
    quiet()
    results = [run_seed(Wishes(over_threshold=True, hostile_ms=6_000), seed) for seed in range(20)]
    assert [(one.seed, one.oracle, one.detail) for one in results if one.oracle] == []
    assert sum(1 for one in results if one.forks) >= 5


@pytest.mark.slow
def test_many_forks_of_colluders_name_enough_of_them() -> None:
    quiet()
    results = [run_seed(Wishes(over_threshold=True), seed) for seed in range(20, 420)]
    assert [(one.seed, one.oracle, one.detail) for one in results if one.oracle] == []
    assert sum(1 for one in results if one.forks) >= 150
