"""What a signer refuses: interchange cases in the manner of EIP-3076, for (epoch, view, kind)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from consensus.effects import OwnVote
from consensus.messages import VoteKind, sign_bytes
from consensus.safety import OwnVotes
from node.signer.desk import RECORD_DIRECTORY, WATERMARK_FILE, SignerSettings, SigningDesk, write_settings
from node.signer.protection import VIEWS_MAX, Protection, parse_vote
from node.signer.reasons import SignerReason
from node.signing_record import raise_position
from node.storage.watermark import Position, Watermark
from primitives.errors import OperatorError, ProtocolViolation
from primitives.identifiers import NO_BLOCK, BlockHash
from primitives.signing import SigningKey, is_valid

CHAIN_ID = b"\xc1" * 32
A, B = b"\xaa" * 32, b"\xbb" * 32
NOTARIZE, NULLIFY, FINALIZE = VoteKind
SIGNED = ""
KEY, NEXT_KEY = SigningKey(b"\1" * 32), SigningKey(b"\2" * 32)


def a_vote(kind: VoteKind, view: int, subject: bytes = NO_BLOCK, epoch: int = 3) -> OwnVote:
    return OwnVote(kind, epoch, view, subject)


class Case(NamedTuple):
    """Requests in order, or a position that is imported; each with the reason of its refusal, or SIGNED."""

    name: str
    steps: tuple[tuple[OwnVote | Position, str], ...]


CASES = [
    Case("a whole view", ((a_vote(NOTARIZE, 5, A), SIGNED), (a_vote(FINALIZE, 5, A), SIGNED))),
    Case("a view given up", ((a_vote(NULLIFY, 5), SIGNED), (a_vote(NOTARIZE, 6, A), SIGNED))),
    Case(
        "a view given up after its block", ((a_vote(NOTARIZE, 5, A), SIGNED), (a_vote(NULLIFY, 5, A), SIGNED))
    ),
    Case("finalized before notarized", ((a_vote(FINALIZE, 5, A), SIGNED), (a_vote(NOTARIZE, 5, A), SIGNED))),
    Case("an older view, late", ((a_vote(NOTARIZE, 9, A), SIGNED), (a_vote(NOTARIZE, 5, B), SIGNED))),
    Case(
        "the same message again",
        (
            (a_vote(NOTARIZE, 5, A), SIGNED),
            (a_vote(NOTARIZE, 5, A), SIGNED),
            (a_vote(NULLIFY, 5, A), SIGNED),
            (a_vote(NULLIFY, 5, A), SIGNED),
            (a_vote(NOTARIZE, 5, A), SIGNED),
        ),
    ),
    Case(
        "double proposal or notarize vote",
        ((a_vote(NOTARIZE, 5, A), SIGNED), (a_vote(NOTARIZE, 5, B), SignerReason.DOUBLE_NOTARIZE)),
    ),
    Case(
        "double nullify with another report",
        (
            (a_vote(NULLIFY, 5), SIGNED),
            (a_vote(NULLIFY, 5, A), SignerReason.DOUBLE_NULLIFY),
        ),
    ),
    Case(
        "double finalize",
        ((a_vote(FINALIZE, 5, A), SIGNED), (a_vote(FINALIZE, 5, B), SignerReason.DOUBLE_FINALIZE)),
    ),
    Case(
        "notarize after nullify",
        ((a_vote(NULLIFY, 5), SIGNED), (a_vote(NOTARIZE, 5, A), SignerReason.NOTARIZE_AFTER_NULLIFY)),
    ),
    Case(
        "finalize after nullify",
        (
            (a_vote(NOTARIZE, 5, A), SIGNED),
            (a_vote(NULLIFY, 5, A), SIGNED),
            (a_vote(FINALIZE, 5, A), SignerReason.FINALIZE_AFTER_NULLIFY),
        ),
    ),
    Case(
        "nullify after finalize",
        (
            (a_vote(NOTARIZE, 5, A), SIGNED),
            (a_vote(FINALIZE, 5, A), SIGNED),
            (a_vote(NULLIFY, 5, A), SignerReason.NULLIFY_AFTER_FINALIZE),
        ),
    ),
    Case(
        "finalize of another block than notarized",
        ((a_vote(NOTARIZE, 5, A), SIGNED), (a_vote(FINALIZE, 5, B), SignerReason.FINALIZE_AFTER_NOTARIZE)),
    ),
    Case(
        "notarize of another block than finalized",
        ((a_vote(FINALIZE, 5, A), SIGNED), (a_vote(NOTARIZE, 5, B), SignerReason.NOTARIZE_AFTER_FINALIZE)),
    ),
    Case("a report of what was not notarized", ((a_vote(NULLIFY, 5, A), SignerReason.FALSE_REPORT),)),
    Case(
        "a report of nothing after a notarize vote",
        ((a_vote(NOTARIZE, 5, A), SIGNED), (a_vote(NULLIFY, 5), SignerReason.FALSE_REPORT)),
    ),
    Case(
        "a lower epoch",
        (
            (a_vote(NOTARIZE, 1, A, epoch=4), SIGNED),
            (a_vote(NOTARIZE, 99, A, epoch=3), SignerReason.OLD_EPOCH),
        ),
    ),
    Case(
        "the same message of a lower epoch",
        (
            (a_vote(NOTARIZE, 5, A, epoch=3), SIGNED),
            (a_vote(NOTARIZE, 1, A, epoch=4), SIGNED),
            (a_vote(NOTARIZE, 5, A, epoch=3), SignerReason.OLD_EPOCH),
        ),
    ),
    Case(
        "views begin again in each epoch",
        ((a_vote(NOTARIZE, 500, A, epoch=3), SIGNED), (a_vote(NOTARIZE, 1, B, epoch=4), SIGNED)),
    ),
    Case(
        "a view below the window",
        (
            (a_vote(NOTARIZE, VIEWS_MAX + 5, A), SIGNED),
            (a_vote(NOTARIZE, 5, A), SignerReason.BELOW_FLOOR),
            (a_vote(NOTARIZE, 6, A), SIGNED),
        ),
    ),
    Case(
        "a record imported, then a view it covers",
        (
            (Position(3, 50), SIGNED),
            (a_vote(NOTARIZE, 50, A), SignerReason.BELOW_FLOOR),
            (a_vote(NOTARIZE, 51, A), SIGNED),
        ),
    ),
    Case(
        "a record imported, then a message signed before it",
        (
            (a_vote(NOTARIZE, 40, A), SIGNED),
            (Position(3, 50), SIGNED),
            (a_vote(NOTARIZE, 40, A), SignerReason.BELOW_FLOOR),
        ),
    ),
    Case(
        "a record of a later epoch imported",
        ((Position(9, 0), SIGNED), (a_vote(NOTARIZE, 5, A, epoch=8), SignerReason.OLD_EPOCH)),
    ),
    Case(
        "an older record imported lowers nothing",
        (
            (a_vote(NOTARIZE, 90, A), SIGNED),
            (Position(3, 50), SIGNED),
            (Position(2, 999), SIGNED),
            (a_vote(NOTARIZE, 90, B), SignerReason.DOUBLE_NOTARIZE),
            (a_vote(NOTARIZE, 91, B), SIGNED),
        ),
    ),
]


def a_desk(home: Path, *keys: SigningKey) -> SigningDesk:
    return SigningDesk(home, {key.public_key: key for key in keys or (KEY,)})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_settings(tmp_path, SignerSettings(CHAIN_ID.hex(), {}))
    Watermark.create(tmp_path / WATERMARK_FILE)
    return tmp_path


def asked(desk: SigningDesk, vote: OwnVote, key: SigningKey = KEY) -> str:
    """The reason of the refusal, or SIGNED once the signature was checked."""
    message = sign_bytes(CHAIN_ID, vote.kind, vote.epoch, vote.view, vote.subject)
    try:
        signature = desk.sign(key.public_key, message)
    except ProtocolViolation as violation:
        return violation.reason.value
    assert is_valid(key.public_key, message, signature)
    return SIGNED


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_interchange_case(case: Case) -> None:
    protection = Protection()
    for step, expected in case.steps:
        if isinstance(step, Position):
            protection.raise_to(step)
            continue
        try:
            protection.check(step)
        except ProtocolViolation as violation:
            assert violation.reason == expected
        else:
            assert expected == SIGNED
            protection.record(step)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_interchange_case_with_a_restart_after_each_step(home: Path, case: Case) -> None:
    for step, expected in case.steps:
        if isinstance(step, Position):
            raise_position(home / RECORD_DIRECTORY, home / WATERMARK_FILE, step)
            continue
        with a_desk(home) as desk:
            assert asked(desk, step) == expected


def test_other_bytes_are_not_signed(home: Path) -> None:
    good = sign_bytes(CHAIN_ID, 1, 3, 5, A)
    wrong = {
        b"": SignerReason.NOT_A_VOTE,
        good + b"\0": SignerReason.NOT_A_VOTE,
        good[:-1]: SignerReason.NOT_A_VOTE,
        b"X" + good[1:]: SignerReason.NOT_A_VOTE,
        sign_bytes(CHAIN_ID, 0, 3, 5, A): SignerReason.NOT_A_VOTE,
        sign_bytes(CHAIN_ID, 4, 3, 5, A): SignerReason.NOT_A_VOTE,
        sign_bytes(CHAIN_ID, 1, 3, 0, A): SignerReason.NOT_A_VOTE,
        sign_bytes(CHAIN_ID, 1, 2**32, 5, A): SignerReason.NOT_A_VOTE,
        sign_bytes(CHAIN_ID, 1, 3, 2**63, A): SignerReason.NOT_A_VOTE,
        sign_bytes(b"\xc2" * 32, 1, 3, 5, A): SignerReason.WRONG_CHAIN,
    }
    for message, reason in wrong.items():
        with pytest.raises(ProtocolViolation) as refused:
            parse_vote(CHAIN_ID, message)
        assert refused.value.reason is reason
    assert parse_vote(CHAIN_ID, good) == a_vote(NOTARIZE, 5, A)


def test_an_old_key_signs_nothing_once_a_newer_one_has(home: Path) -> None:
    desk = a_desk(home, KEY, NEXT_KEY)
    assert asked(desk, a_vote(NOTARIZE, 5, A, epoch=3)) == SIGNED
    assert asked(desk, a_vote(NOTARIZE, 1, A, epoch=4), NEXT_KEY) == SIGNED
    assert asked(desk, a_vote(NOTARIZE, 2, A, epoch=4)) == SignerReason.RETIRED_KEY
    desk.__exit__()
    again = a_desk(home, KEY, NEXT_KEY)
    assert asked(again, a_vote(NOTARIZE, 1, A, epoch=5)) == SignerReason.RETIRED_KEY
    assert asked(again, a_vote(NOTARIZE, 2, A, epoch=4), NEXT_KEY) == SIGNED


def test_one_record_serves_all_keys(home: Path) -> None:
    desk = a_desk(home, KEY, NEXT_KEY)
    assert asked(desk, a_vote(NOTARIZE, 5, A)) == SIGNED
    assert asked(desk, a_vote(NOTARIZE, 5, B), NEXT_KEY) == SignerReason.DOUBLE_NOTARIZE


def test_a_key_that_is_not_there_signs_nothing(home: Path) -> None:
    assert asked(a_desk(home), a_vote(NOTARIZE, 5, A), NEXT_KEY) == SignerReason.UNKNOWN_KEY


def test_a_signer_whose_record_was_rolled_back_does_not_start(home: Path) -> None:
    desk = a_desk(home)
    assert asked(desk, a_vote(NOTARIZE, 5, A)) == SIGNED
    desk.__exit__()
    for segment in (home / RECORD_DIRECTORY).iterdir():
        segment.unlink()
    with pytest.raises(OperatorError, match="but this key signed up to epoch 3 view 5"):
        a_desk(home)


def test_a_signer_without_watermark_does_not_start(home: Path) -> None:
    (home / WATERMARK_FILE).unlink()
    with pytest.raises(OperatorError, match="watermark is missing"):
        a_desk(home)


def test_everything_that_consensus_would_sign_is_signed_and_nothing_else() -> None:
    """All sequences of four votes in one view, by the node's rules and by the signer's, each written on its own."""
    votes = [a_vote(kind, 7, subject) for kind in VoteKind for subject in (A, B, NO_BLOCK)]
    votes = [vote for vote in votes if vote.kind == NULLIFY or vote.subject != NO_BLOCK]

    def explore(done: tuple[OwnVote, ...]) -> int:
        own, protection = OwnVotes(CHAIN_ID, 3, 1, KEY.sign), Protection(done)
        for vote in done:
            own.restore(vote)
        count = 0
        for vote in votes:
            block = BlockHash(vote.subject)
            report = own.of(7).notarized or NO_BLOCK
            allowed = {
                NOTARIZE: own.may_notarize(7, block),
                NULLIFY: own.may_nullify(7) and block == report,
                FINALIZE: own.may_finalize(7, block),
            }[VoteKind(vote.kind)]
            try:
                is_new = protection.check(vote)
            except ProtocolViolation:
                is_new = False
            assert is_new == allowed, (done, vote)
            count += 1 + (explore((*done, vote)) if is_new else 0)
        return count

    assert explore(()) > 50
