"""What proves that an epoch is over, what a block may be at its height, and messages from other epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from consensus import admission
from consensus.certificates import check_epoch_proof, epoch_proof_of
from consensus.effects import (
    DeliverFinal,
    Effect,
    EpochClosed,
    EpochOpened,
    JournalRecord,
    Persist,
    RaisedFloor,
    Readmit,
    Send,
    ServeEpochProof,
)
from consensus.epoch import Epoch, first_epoch
from consensus.epochs import EARLY_MESSAGES_MAX, PROOFS_SERVED_MAX, EpochManager
from consensus.inputs import (
    Input,
    MessageReceived,
    NextSetDecided,
    OtherEpochHeard,
    Started,
    TimerFired,
    TimerKind,
    Validated,
)
from consensus.messages import (
    Block,
    BlockResponse,
    CertificateMessage,
    EpochClosing,
    EpochProof,
    EpochRequest,
    Flag,
    Status,
    Votes,
    hash_of,
    transaction_root,
)
from consensus.reasons import ConsensusReason as Reason
from consensus.state import CoreConfig
from primitives.codec import encode
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex
from tests.consensus.builders import (
    NOTARIZE,
    a_block,
    a_child,
    a_finalization,
    a_notarization,
    a_proposal,
    a_vote,
    name_of,
    of_type,
    sent,
)
from tests.consensus.cluster import CHAIN_ID, ModelSigner, a_validator_set
from tests.consensus.traitor import signed

EPOCH = first_epoch(CHAIN_ID, a_validator_set(4), epoch_blocks=2)
"""Two blocks; the second is the boundary."""
FIRST = a_block(1, epoch=EPOCH)
BOUNDARY = a_child(FIRST)
PEER = ValidatorIndex(2)


def a_suffix_block(parent: Block, text: tuple[bytes, ...] = ()) -> Block:
    plain = a_child(parent)
    header = replace(plain.header, transaction_root=transaction_root(text), flags=Flag.SUFFIX, time_ns=0)
    return replace(plain, header=header, transactions=text)


SUFFIX = a_suffix_block(BOUNDARY)


def a_proof(*blocks: Block) -> EpochProof:
    last = blocks[-1].header
    return epoch_proof_of(blocks, a_finalization(last.view, hash_of(last)))


def refusal(call: Callable[[], Any]) -> Reason:
    with pytest.raises(ProtocolViolation) as caught:
        call()
    assert isinstance(caught.value.reason, Reason)
    return caught.value.reason


def test_a_boundary_is_proved_directly_or_through_its_suffix() -> None:
    check_epoch_proof(a_proof(BOUNDARY), EPOCH)
    check_epoch_proof(a_proof(BOUNDARY, SUFFIX), EPOCH)
    heavy = a_notarization(2, name_of(BOUNDARY), range(4))
    check_epoch_proof(EpochProof((BOUNDARY.header,), heavy, ()), EPOCH)


def test_a_proof_brings_why_its_suffix_is_justified_unless_that_is_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert a_proof(BOUNDARY, SUFFIX).suffix == (SUFFIX,)
    monkeypatch.setattr("consensus.certificates.SUFFIX_BYTES_MAX", len(encode((SUFFIX.justification,))) - 1)
    bare = a_proof(BOUNDARY, SUFFIX)
    assert (bare.headers[1], bare.justifications, bare.suffix) == (SUFFIX.header, (), ())
    check_epoch_proof(bare, EPOCH)


@pytest.mark.parametrize(
    "proof",
    [
        a_proof(FIRST),
        a_proof(FIRST, BOUNDARY),
        a_proof(SUFFIX),
        a_proof(BOUNDARY, a_child(BOUNDARY)),
        a_proof(BOUNDARY, a_suffix_block(SUFFIX)),
        EpochProof((BOUNDARY.header, SUFFIX.header), a_finalization(2, name_of(BOUNDARY)), ()),
        EpochProof((BOUNDARY.header,), a_notarization(2, name_of(BOUNDARY)), ()),
        replace(a_proof(BOUNDARY, SUFFIX), justifications=(BOUNDARY.justification,)),
        replace(a_proof(BOUNDARY), justifications=(SUFFIX.justification,)),
    ],
    ids=[
        *("not the boundary", "from below", "above it", "no suffix", "a gap", "another block", "not final"),
        *("another justification", "one too many"),
    ],
)
def test_what_does_not_prove_the_boundary_final_is_refused(proof: EpochProof) -> None:
    assert refusal(lambda: check_epoch_proof(proof, EPOCH)) == Reason.NOT_CLOSED


def test_a_proof_needs_a_quorum_and_an_epoch_that_ends() -> None:
    short = EpochProof((BOUNDARY.header,), a_finalization(2, name_of(BOUNDARY), (0, 1)), ())
    assert refusal(lambda: check_epoch_proof(short, EPOCH)) == Reason.BELOW_QUORUM
    endless = first_epoch(CHAIN_ID, a_validator_set(4))
    assert refusal(lambda: check_epoch_proof(a_proof(BOUNDARY), endless)) == Reason.NOT_CLOSED


def with_header(block: Block, **changes: Any) -> Block:
    return replace(block, header=replace(block.header, **changes))


@pytest.mark.parametrize(
    "block",
    [
        with_header(FIRST, flags=Flag.SUFFIX),
        with_header(FIRST, flags=2),
        a_child(BOUNDARY),
        a_suffix_block(BOUNDARY, (b"payload",)),
        with_header(SUFFIX, time_ns=1),
        with_header(SUFFIX, parent_state_root=b"r" * 32),
        with_header(FIRST, next_set_hash=b"n" * 32),
        with_header(FIRST, height=0),
    ],
)
def test_a_block_is_what_its_height_says(block: Block) -> None:
    admission.check_block(SUFFIX, EPOCH)
    assert refusal(lambda: admission.check_block(block, EPOCH)) == Reason.WRONG_PLACE


@pytest.mark.parametrize("version", [0, 2])
def test_a_block_of_an_earlier_or_later_protocol_version_is_refused(version: int) -> None:
    assert refusal(lambda: admission.check_block(with_header(FIRST, version=version), EPOCH)) == (
        Reason.WRONG_VERSION
    )
    proof = a_proof(with_header(BOUNDARY, version=version))
    assert refusal(lambda: check_epoch_proof(proof, EPOCH)) == Reason.NOT_CLOSED


class Follower:
    """An observer with epochs, told everything."""

    def __init__(self, own_index: int | None = None, records: Sequence[JournalRecord] = ()) -> None:
        config = CoreConfig(CHAIN_ID, a_validator_set(4), own_index)
        signer = ModelSigner(own_index or 0)
        self.manager = EpochManager(config, signer, records=records, epoch_blocks=2)
        self.journal: list[JournalRecord] = []
        self.started = self.step(Started())

    def step(self, event: Input) -> list[Effect]:
        effects = self.manager.step(event)
        self.journal += [r for effect in effects if isinstance(effect, Persist) for r in effect.records]
        return effects

    def hear(self, message: Any) -> list[Any]:
        admission.check(message, self.epoch)
        return self.step(MessageReceived(PEER, message))

    @property
    def epoch(self) -> Epoch:
        return self.manager.epoch

    def see(self, block: Block) -> None:
        self.hear(a_proposal(block))
        self.step(Validated(name_of(block), True))
        assert not self.manager.is_halted

    def close(self) -> list[Any]:
        self.see(FIRST)
        self.see(BOUNDARY)
        return self.hear(EpochClosing(a_proof(BOUNDARY)))


def test_the_next_epoch_begins_when_its_second_next_set_is_decided() -> None:
    follower = Follower(1)
    assert of_type(follower.close(), EpochClosed) == [EpochClosed(0, BOUNDARY, a_proof(BOUNDARY))]
    assert follower.manager.step(NextSetDecided(1, a_validator_set(4))) == []
    shrunk = a_validator_set(4, (1, 1, 1, 0))
    effects = follower.manager.step(NextSetDecided(0, shrunk))
    assert effects[0] == Persist((RaisedFloor(1, 0),))
    (opened,) = of_type(effects, EpochOpened)
    assert isinstance(opened, EpochOpened)
    assert (opened.opened.number, opened.opened.genesis) == (1, name_of(BOUNDARY))
    assert (opened.opened.first_height, opened.opened.last_height) == (2, 4)
    assert (follower.epoch.validators.weights, follower.epoch.next_set.weights) == ((1,) * 4, (1, 1, 1, 0))


def test_the_journal_alone_closes_the_epoch_again() -> None:
    """The block store lost both blocks, and nobody is there to ask."""
    first_life = Follower(1)
    first_life.close()
    second_life = Follower(1, first_life.journal)
    assert of_type(second_life.started, DeliverFinal) == [
        DeliverFinal((FIRST, BOUNDARY), a_proof(BOUNDARY).certificate)
    ]
    assert of_type(second_life.started, EpochClosed) == [EpochClosed(0, BOUNDARY, a_proof(BOUNDARY))]


def test_nothing_is_signed_in_a_closed_epoch() -> None:
    follower = Follower(1)
    follower.close()
    own = follower.manager.state.own
    assert not any(
        (own.may_nullify(50), own.may_notarize(50, name_of(FIRST)), own.may_finalize(50, name_of(FIRST)))
    )
    assert follower.hear(Votes((a_vote(NOTARIZE, 3, name_of(SUFFIX), 1),))) == []


def test_a_message_of_a_later_epoch_makes_us_ask_why_once_and_comes_back_when_the_epoch_begins() -> None:
    follower = Follower()
    early = Votes((signed(1, NOTARIZE, 1, b"A" * 32, epoch=1),))
    assert admission.other_epoch(early, follower.epoch) == 1
    asked = [follower.manager.step(OtherEpochHeard(PEER, 1, early)) for _ in range(2)]
    assert asked == [[Send(PEER, EpochRequest(0))], []]
    follower.close()
    effects = follower.manager.step(NextSetDecided(0, a_validator_set(4)))
    assert of_type(effects, Readmit) == [Readmit(PEER, early)] * 2


def test_early_messages_are_few() -> None:
    follower = Follower()
    early = Votes((signed(1, NOTARIZE, 1, b"A" * 32, epoch=1),))
    for _ in range(EARLY_MESSAGES_MAX + 10):
        follower.manager.step(OtherEpochHeard(PEER, 1, early))
    follower.close()
    effects = follower.manager.step(NextSetDecided(0, a_validator_set(4)))
    assert len(of_type(effects, Readmit)) == EARLY_MESSAGES_MAX


def test_a_message_checked_before_the_epoch_changed_is_not_counted_after_it() -> None:
    follower = Follower()
    follower.close()
    follower.manager.step(NextSetDecided(0, a_validator_set(4)))
    late = CertificateMessage(a_finalization(40, b"A" * 32))
    assert follower.manager.step(MessageReceived(PEER, late)) == []
    assert follower.manager.view == 1


def test_a_status_from_a_later_epoch_is_answered_by_asking_for_the_proof() -> None:
    follower = Follower()
    assert sent(follower.hear(Status(3, 9, 9, 9)), EpochRequest) == [(2, EpochRequest(0))]


def test_few_epoch_proofs_are_served_to_a_peer_per_retry() -> None:
    follower = Follower()
    follower.close()
    follower.step(NextSetDecided(0, a_validator_set(4)))
    served = [of_type(follower.hear(EpochRequest(0)), ServeEpochProof) for _ in range(PROOFS_SERVED_MAX + 1)]
    follower.step(TimerFired(TimerKind.RETRY, 1))
    served.append(of_type(follower.hear(EpochRequest(0)), ServeEpochProof))
    answer = [ServeEpochProof(PEER, 0)]
    assert served == [*[answer] * PROOFS_SERVED_MAX, [], answer]


def test_an_empty_answer_belongs_to_every_epoch() -> None:
    assert admission.other_epoch(BlockResponse(b"A" * 32, ()), EPOCH) is None


def test_a_proof_of_another_boundary_than_ours_is_an_alarm() -> None:
    """The boundary was delivered by a proof through a suffix block that is not known; then comes another one."""
    other = a_child(FIRST, text=b"other")
    follower = Follower()
    follower.see(FIRST)
    follower.see(BOUNDARY)
    state = follower.manager.state
    state.tail.append(BOUNDARY)
    follower.hear(EpochClosing(a_proof(other)))
    assert follower.manager.is_halted
