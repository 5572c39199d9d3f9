"""Who is asked for what: order, slowness, failures, lies, memory."""

from __future__ import annotations

from gossip.network import PeerName
from node.sync.scheduler import AHEAD_PIECES_MAX, PATIENCE_MS_MIN, REST_MS_MAX, REST_MS_MIN, Piece, Scheduler
from primitives.identifiers import ValidatorIndex

A, B, C = (ValidatorIndex(index) for index in range(3))


def taken(scheduler: Scheduler, peer: PeerName, now_ms: int = 0) -> Piece:
    piece = scheduler.take(peer, now_ms)
    assert piece is not None
    return piece


def bounds(piece: Piece | None) -> tuple[int, int] | None:
    return None if piece is None else (piece.first, piece.last)


def test_pieces_are_given_out_from_the_lowest_and_the_last_is_short() -> None:
    scheduler = Scheduler([A, B], 11, 25, 6)
    asked = [bounds(scheduler.take(peer, 0)) for peer in (A, B, A, B)]
    assert asked == [(11, 16), (17, 22), (23, 25), None]


def test_what_an_answer_leaves_open_is_asked_for_next() -> None:
    scheduler = Scheduler([A, B], 1, 20, 10)
    piece = taken(scheduler, A)
    assert scheduler.answered(A, piece, 4, 5)
    assert bounds(scheduler.take(B, 5)) == (5, 10)


def test_no_more_is_wanted_than_the_memory_holds_until_something_is_consumed() -> None:
    scheduler = Scheduler([A], 1, 10_000, 10)
    for _ in range(AHEAD_PIECES_MAX):
        piece = taken(scheduler, A)
        scheduler.answered(A, piece, piece.last, 1)
    assert scheduler.take(A, 1) is None
    scheduler.consumed(10)
    assert bounds(scheduler.take(A, 1)) == (10 * AHEAD_PIECES_MAX + 1, 10 * AHEAD_PIECES_MAX + 10)


def test_a_late_lowest_piece_is_asked_of_a_second_peer_and_the_first_answer_counts() -> None:
    scheduler = Scheduler([A, B, C], 1, 10, 10)
    piece = taken(scheduler, A, 0)
    assert scheduler.take(B, PATIENCE_MS_MIN - 1) is None
    assert scheduler.take(B, PATIENCE_MS_MIN) is piece
    assert scheduler.take(C, 10 * PATIENCE_MS_MIN) is None
    assert scheduler.answered(B, piece, 10, PATIENCE_MS_MIN + 5)
    assert not scheduler.answered(A, piece, 10, PATIENCE_MS_MIN + 6)


def test_who_fails_rests_longer_each_time_and_its_piece_goes_to_another() -> None:
    scheduler = Scheduler([A, B], 1, 10, 10)
    now_ms, rests = 0, []
    for _ in range(8):
        scheduler.failed(A, taken(scheduler, A, now_ms), now_ms)
        began_ms = now_ms
        while (piece := scheduler.take(A, now_ms)) is None:
            now_ms += REST_MS_MIN
        piece.asked.clear()
        rests.append(now_ms - began_ms)
    assert rests == [min(REST_MS_MIN << count, REST_MS_MAX) for count in range(8)]
    scheduler.failed(A, taken(scheduler, A, now_ms), now_ms)
    assert bounds(scheduler.take(B, now_ms)) == (1, 10)


def test_a_liar_is_never_asked_again_and_what_it_had_is_anybodys() -> None:
    scheduler = Scheduler([A, B], 1, 10, 10)
    taken(scheduler, A)
    scheduler.drop(A)
    assert scheduler.take(A, 10**9) is None
    assert bounds(scheduler.take(B, 0)) == (1, 10)
    assert not scheduler.is_hopeless
    scheduler.drop(B)
    assert scheduler.is_hopeless


def test_it_is_done_when_the_last_number_is_consumed() -> None:
    scheduler = Scheduler([A], 1, 3, 2)
    states = []
    for through in (2, 3):
        scheduler.consumed(through)
        states.append(scheduler.is_done)
    assert states == [False, True]
