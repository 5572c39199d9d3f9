"""More than f validators collude: every fork names f+1 of them, nobody honest, and every proof stands alone."""

from __future__ import annotations

import msgspec
import pytest

from consensus.certificates import assemble_quorum, assemble_timeout
from consensus.epoch import Epoch, first_epoch
from consensus.evidence import Offence
from consensus.forensics import Accusation, FinalChain, check_accusation, find_culprits
from consensus.messages import (
    Block,
    BlockEvidence,
    Certificate,
    Header,
    Justification,
    PairEvidence,
    QuorumCertificate,
    TimeoutCertificate,
    Vote,
    VoteKind,
    evidence_root,
    hash_of,
    justification_root,
    sign_bytes,
    transaction_root,
)
from consensus.validator_set import ValidatorSet
from primitives.errors import ProtocolViolation
from primitives.identifiers import NO_BLOCK
from primitives.signing import SigningKey
from testnet.sim.campaign import quiet, run_seed
from testnet.sim.swarm import Wishes

CHAIN_ID = bytes(range(32))
KEYS = [SigningKey(bytes([index]) * 32) for index in range(4)]
EPOCH: Epoch = first_epoch(CHAIN_ID, ValidatorSet(tuple(key.public_key for key in KEYS)))
NOTARIZE, NULLIFY, FINALIZE = VoteKind


def a_vote(kind: int, view: int, subject: bytes, signer: int) -> Vote:
    signature = KEYS[signer].sign(sign_bytes(CHAIN_ID, kind, 0, view, subject))
    return Vote(kind, 0, view, subject, signer, signature)


def a_quorum(kind: int, block: Block, signers: tuple[int, ...]) -> QuorumCertificate:
    view, name = block.header.view, hash_of(block.header)
    return assemble_quorum({s: a_vote(kind, view, name, s) for s in signers})


def a_timeout(view: int, reports: dict[int, bytes]) -> TimeoutCertificate:
    return assemble_timeout({s: a_vote(NULLIFY, view, report, s) for s, report in reports.items()})


def a_block(
    view: int,
    parent: Block | None = None,
    certificate: Certificate | None = None,
    skips: tuple[TimeoutCertificate, ...] = (),
    text: bytes = b"one",
) -> Block:
    justification = Justification(certificate, skips)
    header = Header(
        version=EPOCH.version,
        chain_id=CHAIN_ID,
        epoch=0,
        view=view,
        height=1 if parent is None else parent.header.height + 1,
        parent_hash=EPOCH.genesis if parent is None else hash_of(parent.header),
        parent_view=0 if parent is None else parent.header.view,
        proposer=EPOCH.leaders.leader_of(view),
        time_ns=view,
        transaction_root=transaction_root((text,)),
        parent_state_root=bytes(32),
        next_set_hash=EPOCH.validators.set_hash(),
        justification_root=justification_root(justification),
        evidence_root=evidence_root(()),
        flags=0,
    )
    return Block(header, (text,), (), justification)


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
