"""Which pairs of votes prove an offence, and which an honest validator signs every day; with real signatures."""

from __future__ import annotations

import msgspec
import pytest

from consensus.epoch import first_epoch
from consensus.evidence import Offence, offence_of, pair, verify_pair, verify_unjustified
from consensus.messages import PairEvidence, Vote, sign_bytes
from consensus.reasons import ConsensusReason as Reason
from consensus.validator_set import ValidatorSet
from primitives.errors import ProtocolViolation
from primitives.identifiers import NO_BLOCK
from primitives.signing import SigningKey
from tests.consensus.builders import FINALIZE, NOTARIZE, NULLIFY, a_block, a_vote, name_of
from tests.consensus.cluster import CHAIN_ID

A, B = b"A" * 32, b"B" * 32
KEYS = [SigningKey(bytes([index]) * 32) for index in range(4)]
EPOCH = first_epoch(CHAIN_ID, ValidatorSet(tuple(key.public_key for key in KEYS)))


def a_real_vote(kind: int, view: int, subject: bytes, signer: int) -> Vote:
    signature = KEYS[signer].sign(sign_bytes(CHAIN_ID, kind, 0, view, subject))
    return Vote(kind, 0, view, subject, signer, signature)


PAIRS = [
    ((NOTARIZE, A), (NOTARIZE, B), Offence.TWO_NOTARIZATIONS),
    ((NOTARIZE, A), (NULLIFY, B), Offence.FALSE_REPORT),
    ((NOTARIZE, A), (NULLIFY, NO_BLOCK), Offence.FALSE_REPORT),
    ((FINALIZE, A), (NULLIFY, A), Offence.FINALIZED_AND_NULLIFIED),
    ((FINALIZE, A), (NULLIFY, NO_BLOCK), Offence.FINALIZED_AND_NULLIFIED),
    ((FINALIZE, A), (FINALIZE, B), Offence.TWO_FINALIZATIONS),
    ((FINALIZE, A), (NOTARIZE, B), Offence.FINALIZED_ANOTHER),
    ((NULLIFY, A), (NULLIFY, NO_BLOCK), Offence.TWO_REPORTS),
    ((NOTARIZE, A), (NULLIFY, A), None),
    ((NOTARIZE, A), (FINALIZE, A), None),
    ((NOTARIZE, A), (NOTARIZE, A), None),
]


@pytest.mark.parametrize(("first", "second", "offence"), PAIRS)
def test_pairs_of_one_signer_in_one_view(
    first: tuple[int, bytes], second: tuple[int, bytes], offence: Offence | None
) -> None:
    a, b = a_real_vote(first[0], 5, first[1], 2), a_real_vote(second[0], 5, second[1], 2)
    assert (offence_of(a, b), offence_of(b, a)) == (offence, offence)
    if offence is not None:
        assert pair(a, b) == pair(b, a)
        assert verify_pair(pair(b, a), EPOCH) == offence


def test_votes_of_two_signers_or_two_views_prove_nothing() -> None:
    assert offence_of(a_vote(NOTARIZE, 5, A, 1), a_vote(NOTARIZE, 5, B, 2)) is None
    assert offence_of(a_vote(NOTARIZE, 5, A, 1), a_vote(NOTARIZE, 6, B, 1)) is None


def test_forged_or_disordered_evidence_is_refused() -> None:
    good = pair(a_real_vote(NOTARIZE, 5, A, 2), a_real_vote(NOTARIZE, 5, B, 2))
    forged = msgspec.structs.replace(good.vote_b, signature=a_real_vote(NOTARIZE, 5, B, 1).signature)
    stranger = [msgspec.structs.replace(vote, signer=9) for vote in (good.vote_a, good.vote_b)]
    for evidence, reason in (
        (PairEvidence(good.vote_b, good.vote_a), Reason.NOT_AN_OFFENCE),
        (PairEvidence(good.vote_a, forged), Reason.NOT_AN_OFFENCE),
        (PairEvidence(*stranger), Reason.UNKNOWN_SIGNER),
    ):
        with pytest.raises(ProtocolViolation) as caught:
            verify_pair(evidence, EPOCH)
        assert caught.value.reason == reason


def test_vouching_for_an_unjustified_block_is_an_offence_and_for_a_justified_one_is_not() -> None:
    justified = a_block(1, epoch=EPOCH)
    gap = a_block(2, epoch=EPOCH)
    for kind in (NOTARIZE, NULLIFY):
        assert verify_unjustified(a_real_vote(kind, 2, name_of(gap), 1), gap, EPOCH) == Offence.UNJUSTIFIED
        assert verify_unjustified(a_real_vote(kind, 3, name_of(justified), 1), justified, EPOCH) == "E6"
    for vote, block in (
        (a_real_vote(NOTARIZE, 1, name_of(justified), 1), justified),
        (a_real_vote(FINALIZE, 2, name_of(gap), 1), gap),
        (a_real_vote(NOTARIZE, 2, name_of(justified), 1), gap),
    ):
        with pytest.raises(ProtocolViolation):
            verify_unjustified(vote, block, EPOCH)
