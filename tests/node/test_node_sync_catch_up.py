"""What a node that lags decides: whom it asks, what it takes for a target, what it hands on, and in which order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
import trio

from consensus.epoch import Epoch
from consensus.messages import CertificateMessage, EpochClosing
from node.sync.answers import ChainAnswers
from node.sync.catch_up import (
    LOOK_MS,
    PAUSE_MS,
    POLL_MS,
    REQUESTS_PER_PEER,
    TIP_GRACE_MS,
    TIP_MS_MAX,
    Abandon,
    Action,
    Ask,
    CatchUp,
    HandOn,
    Position,
    RunEnded,
    RunStarted,
    Tell,
    bad_signature,
    examine,
)
from node.sync.messages import Range, RangeRequest, Tip, TipRequest
from node.sync.scheduler import PATIENCE_MS_MIN
from primitives.codec import encode
from primitives.identifiers import ValidatorIndex
from testnet.bench.history import History
from tests.node.network_of_nodes import INDEX_UUSD, keys_of
from tests.node.test_node_sync import EPOCH_BLOCKS, a_short_epoch_genesis

BLOCKS = 40
A, B, C, D = (ValidatorIndex(index) for index in range(4))


@dataclass
class Served:
    """A history in two epochs, and what an honest node answers from it."""

    chain: ChainAnswers
    epochs: list[Epoch]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    data = tmp_path_factory.mktemp("served")
    history = History(a_short_epoch_genesis(), [keys_of(i) for i in range(4)], data, INDEX_UUSD)
    first = history.epoch
    trio.run(history.grow, BLOCKS)
    return Served(ChainAnswers(history.store, history.epochs, EPOCH_BLOCKS), [first, history.epoch])


@dataclass
class Node:
    """Thinks with a clock that is moved by hand, and keeps what it decides."""

    served: Served
    thinker: CatchUp
    now_ms: int = 0
    epoch: int = 0
    height: int = 0
    said: list[Action] = field(default_factory=list)

    def think(self) -> list[Action]:
        at = Position(self.served.epochs[self.epoch], self.height, self.height, False)
        new = self.thinker.think(self.now_ms, at)
        self.said += new
        return new

    def asks(self) -> list[Ask]:
        return [one for one in self.think() if isinstance(one, Ask)]

    def wait(self, milliseconds: int) -> list[Action]:
        self.now_ms += milliseconds
        return self.think()

    def answer(self, ask: Ask) -> None:
        """As an honest peer does."""
        question, chain = ask.question, self.served.chain
        reply: Range | Tip = (
            chain.range(question) if isinstance(question, RangeRequest) else chain.tip(question.epoch)
        )
        finding, _ = examine(ask, encode(reply))
        self.thinker.answered(ask, finding, self.now_ms)

    def apply(self, actions: list[Action]) -> list[int]:
        """The core takes what is handed on; the heights, in order."""
        heights = [
            block.header.height for one in actions if isinstance(one, HandOn) for block in one.found.blocks
        ]
        self.height = max([self.height, *heights])
        return heights


def a_node(
    served: Served, *, epoch: int = 0, height: int = 0, is_follower: bool = False, range_blocks: int = 4
) -> Node:
    thinker = CatchUp([A, B, C], 0, is_follower=is_follower, lag_blocks=4, range_blocks=range_blocks)
    return Node(served, thinker, epoch=epoch, height=height)


def to_ranges(node: Node) -> list[Ask]:
    """The questions for ranges, after honest answers about the tip."""
    node.now_ms = POLL_MS
    for ask in node.asks():
        node.answer(ask)
    return node.asks()


def test_at_its_start_a_validator_asks_everybody_and_then_only_when_a_great_height_is_heard(
    served: Served,
) -> None:
    node = a_node(served, epoch=1, height=BLOCKS)
    assert node.wait(POLL_MS - 1) == []
    tips = node.wait(1)
    assert [(one.peer, one.question) for one in tips if isinstance(one, Ask)] == [
        (peer, TipRequest(1)) for peer in (A, B, C)
    ]
    for ask in tips:
        assert isinstance(ask, Ask)
        node.answer(ask)
    assert node.think() == [] and node.thinker.next_ms(node.now_ms) is None
    assert not node.thinker.hear_height(BLOCKS + 4, BLOCKS)
    assert node.thinker.hear_height(BLOCKS + 5, BLOCKS)
    assert node.wait(PAUSE_MS - 1) == []
    assert len(node.wait(1)) == 3


def test_whoever_got_no_answer_asks_again_and_a_follower_always(served: Served) -> None:
    silent, follower = a_node(served), a_node(served, epoch=1, height=BLOCKS, is_follower=True)
    for node in (silent, follower):
        asks = [one for one in node.wait(POLL_MS) if isinstance(one, Ask)]
        for ask in asks if node is follower else []:
            node.answer(ask)
        node.think()
    assert silent.wait(TIP_MS_MAX) == [Abandon((1, 2, 3))]
    assert [len(node.wait(POLL_MS)) for node in (silent, follower)] == [3, 3]


def test_ranges_go_to_all_peers_and_are_handed_on_in_order(served: Served) -> None:
    node = a_node(served)
    asks = to_ranges(node)
    firsts = [ask.question.height_first for ask in asks if isinstance(ask.question, RangeRequest)]
    assert firsts == [1, 5, 9, 13, 17, 21]
    assert Counter(ask.peer for ask in asks) == dict.fromkeys((A, B, C), REQUESTS_PER_PEER)
    assert node.thinker.is_fetching
    for ask in asks[1:]:
        node.answer(ask)
    more = node.think()
    assert node.apply(more) == []
    for ask in (one for one in more if isinstance(one, Ask)):
        node.answer(ask)
    node.answer(asks[0])
    handed = []
    while new := node.think():
        handed += node.apply(new)
    assert handed == list(range(1, EPOCH_BLOCKS + 1))


def test_no_more_is_handed_on_than_the_ledger_executes(served: Served) -> None:
    node = a_node(served)
    asks = to_ranges(node)
    for ask in asks:
        node.answer(ask)
    handed = [one.found.blocks[-1].header.height for one in node.think() if isinstance(one, HandOn)]
    assert handed == [4, 8, 12]
    assert not any(isinstance(one, HandOn) for one in node.wait(LOOK_MS))


def test_the_end_of_an_epoch_is_told_to_the_core_and_the_next_ones_tip_is_asked_for(served: Served) -> None:
    node = a_node(served, height=EPOCH_BLOCKS)
    node.now_ms = POLL_MS
    for ask in node.asks():
        node.answer(ask)
    told = node.think()
    assert [type(one) for one in told] == [Tell]
    assert isinstance(told[0], Tell) and isinstance(told[0].message, EpochClosing)
    node.epoch = 1
    assert [one.question for one in node.wait(5) if isinstance(one, Ask)] == [TipRequest(1)] * 3


def test_an_epoch_that_does_not_begin_is_tried_again(served: Served) -> None:
    node = a_node(served, height=EPOCH_BLOCKS)
    node.now_ms = POLL_MS
    for ask in node.asks():
        node.answer(ask)
    node.think()
    assert node.wait(TIP_MS_MAX) == []
    assert len(node.wait(PAUSE_MS)) == 3


def test_a_target_in_the_midst_of_an_epoch_is_told_as_its_certificate(served: Served) -> None:
    node = a_node(served, epoch=1, height=EPOCH_BLOCKS)
    to_ranges(node)
    told = [one for one in node.said if isinstance(one, Tell | RunStarted)]
    assert [type(one) for one in told] == [RunStarted, Tell]
    assert isinstance(told[1], Tell) and isinstance(told[1].message, CertificateMessage)


def test_one_good_tip_is_enough_when_the_others_stay_silent(served: Served) -> None:
    node = a_node(served)
    node.now_ms = POLL_MS
    node.answer(node.asks()[1])
    assert node.think() == []
    actions = node.wait(TIP_GRACE_MS)
    assert [type(one) for one in actions[:2]] == [Abandon, RunStarted]
    assert next(one.peer for one in actions if isinstance(one, Ask)) == B, "who has answered is asked first"


def test_who_answers_late_is_asked_after_the_others(served: Served) -> None:
    node = a_node(served, range_blocks=1)
    asks = to_ranges(node)
    dawdler = asks[0].peer
    for wait_ms in (0, PATIENCE_MS_MIN - 1, 1):
        node.now_ms += wait_ms
        for ask in asks:
            if ask.peer != dawdler or wait_ms == 1:
                node.answer(ask)
        asks = [ask for ask in asks if ask.peer == dawdler and wait_ms != 1] + node.asks()
    assert [ask.peer == dawdler for ask in asks[:3]] == [False, False, True]


def test_a_liar_is_named_and_asked_no_more_in_the_run_and_its_range_goes_to_another(served: Served) -> None:
    node = a_node(served)
    asks = to_ranges(node)
    liar = asks[0].peer
    node.thinker.lied(asks[0], bad_signature())
    assert node.thinker.progress.liars == {liar: "sync_bad_signature"}
    for ask in asks[1:]:
        node.answer(ask)
    new = node.asks()
    assert new[0].question == asks[0].question
    assert liar not in {ask.peer for ask in new}


def test_when_all_have_lied_the_run_ends_and_another_begins_after_a_pause(served: Served) -> None:
    node = a_node(served)
    for ask in to_ranges(node):
        node.thinker.lied(ask, bad_signature())
    assert node.think() == [RunEnded(is_complete=False)]
    assert not node.thinker.is_fetching
    assert len(node.wait(PAUSE_MS)) == 3


def test_a_run_ends_with_its_epoch(served: Served) -> None:
    node = a_node(served)
    asks = to_ranges(node)
    node.epoch, node.height = 1, EPOCH_BLOCKS
    new = node.think()
    assert new[:2] == [Abandon(tuple(ask.number for ask in asks)), RunEnded(is_complete=False)]
    node.answer(asks[0])
    assert node.apply(node.think()) == []


def test_whoever_is_halted_asks_nothing(served: Served) -> None:
    node = a_node(served)
    to_ranges(node)
    at = Position(served.epochs[0], 0, 0, True)
    ended = node.thinker.think(node.now_ms, at)
    assert [type(one) for one in ended] == [Abandon, RunEnded]
    assert node.thinker.think(10**9, at) == []


def test_who_comes_and_goes_during_a_run_counts_from_the_next_round_on(served: Served) -> None:
    node = a_node(served)
    asks = to_ranges(node)
    node.thinker.know([B, C, D])
    for ask in asks:
        node.answer(ask)
    assert {ask.peer for ask in node.asks()} <= {A, B, C}
    node.epoch, node.height = 1, EPOCH_BLOCKS
    assert [ask.peer for ask in node.asks()] == [B, C, D]
