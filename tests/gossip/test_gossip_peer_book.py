"""Standing: who is who, and the ladder from counting to a ban."""

from __future__ import annotations

from gossip.network import FollowerId, PeerConfig
from gossip.peer_book import (
    FOLLOWER_BAN_NS,
    FOLLOWER_STANDINGS_MAX,
    SCORE_BAN,
    SCORE_DISCONNECT,
    VALIDATOR_BAN_NS,
    PeerBook,
    Reaction,
)
from gossip.reasons import GossipReason
from primitives.amounts import NS
from primitives.identifiers import ValidatorIndex

START_NS = 1000 * NS
ALICE = ValidatorIndex(0)
STRANGER = FollowerId("12D3stranger")


def a_book() -> PeerBook:
    return PeerBook([PeerConfig(ALICE, "12D3alice", "127.0.0.1", 1)])


def invalid(book: PeerBook, times: int, now_ns: int = START_NS) -> list[Reaction]:
    return [book.blame(ALICE, GossipReason.INVALID_MESSAGE, now_ns) for _ in range(times)]


def test_a_validator_is_known_by_the_peer_id_that_genesis_binds() -> None:
    book = a_book()
    assert (book.index_of("12D3alice"), book.name_of("12D3alice")) == (ALICE, ALICE)
    assert (book.index_of("12D3stranger"), book.name_of("12D3stranger")) == (None, STRANGER)


def test_the_ladder_counts_then_disconnects_once_then_bans() -> None:
    assert invalid(a_book(), 20) == (
        [Reaction.COUNTED] * 9 + [Reaction.DISCONNECT] + [Reaction.COUNTED] * 9 + [Reaction.BAN]
    )


def test_a_false_answer_cuts_the_connection_and_a_second_one_bans() -> None:
    book = a_book()
    reactions = [book.blame(ALICE, GossipReason.FALSE_ANSWER, START_NS) for _ in range(2)]
    assert reactions == [Reaction.DISCONNECT, Reaction.BAN]


def test_the_thresholds_are_what_the_ladder_says() -> None:
    book = a_book()
    invalid(book, 10)
    assert book.score(ALICE, START_NS) == SCORE_DISCONNECT
    assert book.score(ALICE, START_NS) * 2 == SCORE_BAN


def test_a_score_is_forgiven_point_by_point() -> None:
    book = a_book()
    invalid(book, 5)
    assert [book.score(ALICE, START_NS + seconds * NS) for seconds in (0, 1, 49, 50, 51)] == [50, 49, 1, 0, 0]


def test_a_peer_that_fell_below_the_line_is_disconnected_again_when_it_returns_there() -> None:
    book = a_book()
    invalid(book, 10)
    assert invalid(book, 2, START_NS + 20 * NS) == [Reaction.COUNTED, Reaction.DISCONNECT]


def test_a_ban_ends_and_leaves_a_clean_slate() -> None:
    book = a_book()
    invalid(book, 20)
    assert book.is_banned(ALICE, START_NS + VALIDATOR_BAN_NS - 1)
    assert not book.is_banned(ALICE, START_NS + VALIDATOR_BAN_NS)
    assert book.score(ALICE, START_NS) == 0


def test_a_follower_is_banned_for_longer() -> None:
    book = a_book()
    while book.blame(STRANGER, GossipReason.TRAILING_BYTES, START_NS) is not Reaction.BAN:
        pass
    assert book.is_banned(STRANGER, START_NS + FOLLOWER_BAN_NS - 1)


def test_another_chain_is_a_mistake_and_not_an_attack() -> None:
    book = a_book()
    reactions = {book.blame(ALICE, GossipReason.WRONG_CHAIN, START_NS) for _ in range(100)}
    assert (reactions, book.score(ALICE, START_NS)) == ({Reaction.COUNTED}, 0)


def test_strangers_are_remembered_within_a_limit_that_spares_the_banned() -> None:
    book = a_book()
    while book.blame(STRANGER, GossipReason.TRAILING_BYTES, START_NS) is not Reaction.BAN:
        pass
    first = FollowerId("first")
    for name in [first, *(FollowerId(f"peer{number}") for number in range(FOLLOWER_STANDINGS_MAX - 1))]:
        book.blame(name, GossipReason.BAD_REQUEST, START_NS)
    assert book.is_banned(STRANGER, START_NS)
    assert book.score(first, START_NS) == 0
