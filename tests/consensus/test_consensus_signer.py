"""A signer that is away or refuses: nothing is voted, nothing changes, and later the vote can be cast."""

from __future__ import annotations

from consensus.effects import OwnVote
from consensus.epochs import EpochManager
from consensus.messages import VoteKind
from consensus.safety import OwnVotes
from consensus.state import CoreConfig
from primitives.identifiers import BlockHash
from tests.consensus.cluster import CHAIN_ID, ModelSigner, a_validator_set

BLOCK = BlockHash(b"\x07" * 32)


class Away:
    """Gives signatures only while it is here."""

    def __init__(self) -> None:
        self.is_here = False

    def sign(self, message: bytes) -> bytes | None:
        return ModelSigner(1).sign(message) if self.is_here else None


def test_without_a_signature_nothing_is_recorded_and_the_vote_can_be_cast_later() -> None:
    away = Away()
    own = OwnVotes(CHAIN_ID, 0, 1, away.sign)
    assert [own.notarize(4, BLOCK), own.nullify(4), own.finalize(4, BLOCK)] == [None] * 3
    assert list(own.records())[1:] == []
    away.is_here = True
    cast = own.nullify(4)
    assert cast is not None
    assert cast[1] == OwnVote(VoteKind.NULLIFY, 0, 4, bytes(32))


def test_recorded_votes_are_left_out_while_the_signer_is_away() -> None:
    away = Away()
    own = OwnVotes(CHAIN_ID, 0, 1, away.sign)
    own.restore(OwnVote(VoteKind.NOTARIZE, 0, 4, BLOCK))
    assert list(own.votes_in(4)) == []
    away.is_here = True
    assert [(vote.kind, vote.subject) for vote in own.votes_in(4)] == [(VoteKind.NOTARIZE, BLOCK)]


def test_of_our_keys_the_one_that_the_set_names_at_our_place_signs() -> None:
    keys = [ModelSigner(index).public_key for index in (1, 9)]
    config = CoreConfig(CHAIN_ID, a_validator_set(4), 1, own_key=keys[1])
    later = EpochManager(config, ModelSigner(9), rotated={keys[0]: ModelSigner(1)})
    assert later.state.own_index == 1
    cast = later.state.own.nullify(1)
    assert cast is not None
    alone = OwnVotes(CHAIN_ID, 0, 1, ModelSigner(1).sign).nullify(1)
    assert alone == cast
    assert EpochManager(config, ModelSigner(9)).state.own_index is None
