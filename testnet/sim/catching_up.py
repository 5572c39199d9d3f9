"""Catch-up by ranges: the node's own thinking and answers, with letters and virtual time around them. No I/O.

Real are CatchUp with its Scheduler, ChainAnswers, the encoded messages, and every check of answers. Done again here is
the shell of node/sync/service.py: a question goes out, its answer comes, is lost, or is too late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.inputs import BlocksProved
from gossip.request_response import REQUEST_SECONDS_MAX
from node.sync.answers import ChainAnswers
from node.sync.catch_up import (
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
from node.sync.messages import Range, RangeRequest, Tip, decode_question
from primitives.amounts import NS
from primitives.codec import encode
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex
from testnet.sim.network import MS, Letter
from testnet.sim.stores import ServedStore

if TYPE_CHECKING:
    from testnet.sim.validator import SimulatedValidator


class RangeServer:
    """Answers for one validator, over all its lives: what it serves is on its disk."""

    def __init__(self, validator: SimulatedValidator, epoch_blocks: int) -> None:
        store = ServedStore(validator.store)
        self._validator = validator
        self._chain = ChainAnswers(store, store, epoch_blocks)

    def answer(self, raw: bytes) -> tuple[bytes, int] | None:
        """Encoded question in; out an encoded answer and after how many milliseconds. None: silence.

        A traitor says what it likes, when it likes.
        """
        question, actor = decode_question(raw), self._validator.actor
        if isinstance(question, RangeRequest):
            honest: Range | Tip = self._chain.range(question)
        else:
            honest = self._chain.tip(question.epoch)  # type: ignore[union-attr]  # Nothing else is asked here.
        if actor is None:
            return encode(honest), 0
        said = actor.answer(question, honest)
        if said is None:
            self._validator.world.happened("question left without an answer")
            return None
        return encode(said), actor.answer_delay_ms(said)


class RangeCatchUp:
    """One life of one validator."""

    def __init__(self, validator: SimulatedValidator, range_blocks: int) -> None:
        self._validator, self._world = validator, validator.world
        peers = [ValidatorIndex(peer) for peer in self._world.others[validator.index]]
        self._thinker = CatchUp(
            peers, self._now_ms(), is_follower=False, lag_blocks=range_blocks // 2, range_blocks=range_blocks
        )
        self._tick_version = 0
        self._asked: dict[int, int] = {}
        """Of this run: whom each range was last asked of, by its first height."""
        self._arm()

    @property
    def is_fetching(self) -> bool:
        """Whether the core's own requests for blocks are held back."""
        return self._thinker.is_fetching

    def hear_height(self, height: int, final_height: int) -> None:
        """Somebody speaks of a height."""
        if self._thinker.hear_height(height, final_height):
            self.think()

    def think(self) -> None:
        """Do whatever is to be done now, until nothing is."""
        while self._is_awake() and (actions := self._thinker.think(self._now_ms(), self._position())):
            for action in actions:
                if self._is_alive():
                    self._perform(action)
        if self._is_awake():
            self._arm()

    def _is_alive(self) -> bool:
        return self._validator.catching_up is self and self._validator.core is not None

    def _is_awake(self) -> bool:
        return self._is_alive() and not self._validator.is_paused

    def _now_ms(self) -> int:
        return self._world.now_ns // MS

    def _position(self) -> Position:
        validator, core = self._validator, self._validator.core
        assert core is not None
        return Position(core.epoch, core.final_height, validator.height, core.is_halted)

    def _arm(self) -> None:
        """The one timer."""
        self._tick_version += 1
        next_ms = self._thinker.next_ms(self._now_ms())
        if next_ms is not None:
            delay_ns = max(MS, next_ms * MS - self._world.now_ns)
            self._world.after(delay_ns, self._tick, self._tick_version)

    def _tick(self, version: int) -> None:
        if version == self._tick_version:
            self.think()

    def _perform(self, action: Action) -> None:
        match action:
            case Ask():
                self._ask(action)
            case Tell(peer=peer, message=message):
                self._validator.hear(Letter(peer, message, b""))
            case HandOn(found=found):
                self._validator.take(BlocksProved(found.blocks, found.proof))
            case RunStarted():
                self._asked.clear()
                self._world.ranges.on_run(self._validator.index)
                self._world.happened("catch-up by ranges")
            case RunEnded(is_complete=True):
                self._world.happened("caught up by ranges")
            case RunEnded() | Abandon():
                pass  # An answer that nobody waits for any more has no effect.

    # --- questions and answers ---

    def _ask(self, ask: Ask) -> None:
        if isinstance(ask.question, RangeRequest):
            self._world.ranges.on_asked(self._validator.index, ask.peer)
            first = ask.question.height_first
            if self._asked.setdefault(first, ask.peer) != ask.peer:
                self._world.happened("range asked of another peer")
            self._asked[first] = ask.peer
        raw = encode(ask.question)
        self._world.carry(self._validator.index, ask.peer, raw, self._on_question, ask, raw)
        self._world.after(REQUEST_SECONDS_MAX * NS, self._on_timeout, ask)

    def _on_question(self, ask: Ask, raw: bytes) -> None:
        """It has reached the other side: a process that is down is noticed by the end of the stream."""
        server, asker = self._world.validators[ask.peer], self._validator.index
        if server.is_paused:
            server.when_awake(self._on_question, ask, raw)
            return
        if server.core is None:
            self._world.carry(ask.peer, asker, b"", self._on_failure, ask)
            return
        said = server.range_server.answer(raw)
        if said is not None:
            answer, delay_ms = said
            self._world.after(
                delay_ms * MS, self._world.carry, ask.peer, asker, answer, self._on_answer, ask, answer
            )

    def _on_answer(self, ask: Ask, raw: bytes) -> None:
        if self._validator.is_paused:
            self._validator.when_awake(self._on_answer, ask, raw)
            return
        if not self._is_alive():
            return
        try:
            finding, checks = examine(ask, raw)
            if not all(self._world.ring.is_valid(check) for check in checks):
                raise bad_signature()
            if finding is not None and self._validator.is_honest:
                self._world.ranges.on_believed(self._validator.index, ask.question, raw)
            self._thinker.answered(ask, finding, self._now_ms())
        except ProtocolViolation as violation:
            self._thinker.lied(ask, violation)
            self._world.on_liar(self._validator, ask, violation)
        self.think()

    def _on_failure(self, ask: Ask) -> None:
        if self._is_alive():
            self._thinker.failed(ask, self._now_ms())
            self.think()

    def _on_timeout(self, ask: Ask) -> None:
        if self._is_alive() and self._thinker.is_waiting(ask):
            self._world.happened("question timed out")
            self._on_failure(ask)
