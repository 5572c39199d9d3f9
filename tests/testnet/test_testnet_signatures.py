"""Over all certificates and journals on disk, a key has signed one subject in each (epoch, view, kind)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from consensus.effects import OwnVote
from consensus.messages import QuorumCertificate, VoteKind
from node.storage.block_store import BlockStore
from node.storage.journal import Journal
from primitives.codec import encode
from testnet.plan import RETURN_SECONDS, Plan
from testnet.signatures import double_signed
from tests.testnet.test_testnet_audit import final_block

ONE, OTHER = b"\1" * 32, b"\2" * 32


def a_home(path: Path, votes: list[OwnVote], proofs: list[QuorumCertificate]) -> Path:
    store = BlockStore.open(path / "data" / "blocks")
    for height, proof in enumerate(proofs, 1):
        block = final_block(height)
        fields = {name: getattr(block, name) for name in block.__slots__}
        store.commit(type(block)(**(fields | {"proof": encode(proof)})))
    store.close()
    journal, _ = Journal.open(path / "data" / "journal")
    journal.append([encode(vote) for vote in votes])
    journal.close()
    return path


def a_proof(view: int, subject: bytes, *signers: int) -> QuorumCertificate:
    return QuorumCertificate(VoteKind.FINALIZE, 0, view, subject, signers, (bytes(64),) * len(signers))


def test_the_same_vote_in_many_places_is_one_signature(tmp_path: Path) -> None:
    votes = [OwnVote(VoteKind.NOTARIZE, 0, 1, ONE), OwnVote(VoteKind.FINALIZE, 0, 1, ONE)]
    homes = [a_home(tmp_path / str(index), votes, [a_proof(1, ONE, 0, 1)]) for index in range(2)]
    assert double_signed(homes) == ([], 4)


def test_two_subjects_are_found_wherever_they_are(tmp_path: Path) -> None:
    votes = [OwnVote(VoteKind.FINALIZE, 0, 2, OTHER)]
    proofs = [a_proof(1, ONE, 0, 1), a_proof(2, ONE, 0, 1)]
    homes = [a_home(tmp_path / "0", votes, proofs), a_home(tmp_path / "1", [], [a_proof(1, OTHER, 1)])]
    assert double_signed(homes) == (
        [
            "validator 0 signed 2 votes of kind 3 in view 2 of epoch 0",
            "validator 1 signed 2 votes of kind 3 in view 1 of epoch 0",
        ],
        4,
    )


def test_kill_every_takes_all_in_turn_and_leaves_each_time_to_vote() -> None:
    plan = Plan(validators=4, seconds=300, kill_every=4)
    kills = plan.kills
    assert len(kills) > 60
    assert kills == plan.kills
    assert {kill.index for kill in kills} == {0, 1, 2, 3}
    for index in range(4):
        own = [kill for kill in kills if kill.index == index]
        gaps = [b.at_seconds - a.at_seconds - a.down_seconds for a, b in pairwise(own)]
        assert min(gaps) > RETURN_SECONDS
    assert kills[-1].at_seconds + kills[-1].down_seconds < 300
