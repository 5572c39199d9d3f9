"""What a node that catches up asks, believes and hands on: every decision, for any clock and any network. Pure.

`CatchUp` thinks and `examine` judges answers. Around them is a shell that performs the actions in order: the node's
(service.py: streams, timers, worker threads), or the simulator's (testnet/sim/catching_up.py: letters, virtual time).

One round: ask everybody for the tip of our epoch (only a certificate makes a target, never a claim); fetch ranges in
parallel, each checked with its own certificate as it arrives; give them to the core in order, no further ahead than
the ledger executes; then close the epoch, if it is over, and go on in the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from consensus.certificates import SignatureCheck
from consensus.epoch import Epoch
from consensus.final_range import check_closing, check_final_header, check_range
from consensus.messages import (
    BLOCK_BYTES_MAX,
    Block,
    CertificateMessage,
    EpochClosing,
    EpochProof,
    QuorumCertificate,
)
from node.sync.messages import RANGE_BLOCKS_MAX, Range, RangeRequest, Tip, TipRequest, decode_reply
from node.sync.reasons import SyncReason
from node.sync.scheduler import PATIENCE_MS_MIN, Piece, Scheduler
from primitives.codec import decode
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex

LAG_BLOCKS = 32
"""A validator that is no further behind is left to consensus, which fetches what its proposals name."""
REQUESTS_PER_PEER = 2
"""In flight to one peer: while one range is on its way the other is being read from its disk."""
TIP_MS_MAX = 2_000
"""How long the answers about the tip are waited for."""
TIP_GRACE_MS = 250
"""How much longer when one leads us on already: silent peers cost little, and the next round finds a higher one."""
PAUSE_MS = 500
"""Between two rounds, so that whoever speaks of great heights all the time costs us little."""
LOOK_MS = 50
"""How long one who has nothing to ask waits before it looks again."""
CLOSING_LOOK_MS = 5
"""The same, for the next epoch to begin."""
POLL_MS = 2_000
"""How often a follower asks for the tip although nobody told it of blocks; also a validator until somebody answers."""
EXECUTE_AHEAD_RANGES = 2
"""Ranges given to consensus and not executed yet: one runs while the next waits."""


# --- questions and answers ---


@dataclass(frozen=True, slots=True)
class Ask:
    """To be sent to `peer`; `CatchUp.answered`, `failed` or `lied` say what came of it."""

    number: int
    peer: ValidatorIndex
    question: TipRequest | RangeRequest
    epoch: Epoch
    """Under which the answer is checked."""


@dataclass(frozen=True, slots=True)
class Target:
    """A height that a certificate has proved final in our epoch."""

    height: int
    peer: ValidatorIndex
    proof: QuorumCertificate
    closing: EpochProof | None


@dataclass(frozen=True, slots=True)
class ProvedRange:
    """Checked blocks, in order of height."""

    blocks: tuple[Block, ...]
    proof: QuorumCertificate


Finding = Target | ProvedRange


def examine(ask: Ask, raw: bytes) -> tuple[Finding | None, list[SignatureCheck]]:
    """What an answer proves, once the signatures returned are valid; None for a peer that has nothing for us.

    Raises:
        ProtocolViolation: SyncReason, or what is wrong with a block or a certificate: the peer lies.
    """
    if isinstance(ask.question, TipRequest):
        return _examine_tip(ask, decode_reply(Tip, raw))
    return _examine_range(ask.question, decode_reply(Range, raw), ask.epoch)


def bad_signature() -> ProtocolViolation:
    """For the shell that found one."""
    return ProtocolViolation(SyncReason.BAD_SIGNATURE, "a certificate's signature does not verify")


def _examine_tip(ask: Ask, tip: Tip) -> tuple[Target | None, list[SignatureCheck]]:
    epoch, closing = ask.epoch, tip.closing
    if closing is not None:
        checks = check_closing(closing, epoch)
        return Target(closing.headers[0].height, ask.peer, closing.certificate, closing), checks
    if tip.header is None or tip.header.epoch != epoch.number:
        return None, []
    if tip.proof is None:
        raise ProtocolViolation(SyncReason.UNPROVED, f"height {tip.header.height} without a proof")
    checks = check_final_header(tip.header, tip.proof, epoch)
    return Target(tip.header.height, ask.peer, tip.proof, None), checks


def _examine_range(
    question: RangeRequest, answer: Range, epoch: Epoch
) -> tuple[ProvedRange | None, list[SignatureCheck]]:
    if not answer.blocks:
        return None, []
    if len(answer.blocks) > question.count_max:
        raise ProtocolViolation(SyncReason.WRONG_PLACE, "more blocks than were asked for")
    if answer.proof is None:
        raise ProtocolViolation(
            SyncReason.UNPROVED, f"blocks from height {question.height_first} without a proof"
        )
    blocks = tuple(decode(Block, one, bytes_max=BLOCK_BYTES_MAX) for one in answer.blocks)
    checks = check_range(blocks, answer.headers, answer.proof, question.height_first, epoch)
    return ProvedRange(blocks, answer.proof), checks


# --- what the shell does ---


@dataclass(frozen=True, slots=True)
class Abandon:
    """Nobody waits for these answers any more."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tell:
    """Give this to the core as if `peer` had just sent it."""

    peer: ValidatorIndex
    message: CertificateMessage | EpochClosing


@dataclass(frozen=True, slots=True)
class HandOn:
    """Give a range to the core, as `BlocksProved`."""

    found: ProvedRange


@dataclass(frozen=True, slots=True)
class RunStarted:
    """Ranges up to the target are fetched from now on; the core's own requests for blocks need not be sent."""

    target: Target
    epoch: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last RunStarted is over."""

    is_complete: bool


Action = Ask | Abandon | Tell | HandOn | RunStarted | RunEnded


@dataclass(frozen=True, slots=True)
class Position:
    """How far this node is."""

    epoch: Epoch
    final_height: int
    """Of consensus."""
    executed_height: int
    """Of the ledger, which follows consensus."""
    is_halted: bool


@dataclass(slots=True)
class SyncProgress:
    """Where catch-up stands, for status and metrics."""

    is_running: bool = False
    target_height: int = 0
    started_height: int = 0
    started_ms: int = 0
    blocks: int = 0
    """Fetched, checked and handed on since the start of the process."""
    late: int = 0
    """Requests for ranges that came to nothing: peers that were slow, away or had not what was asked for."""
    liars: dict[ValidatorIndex, str] = field(default_factory=dict)
    """Peers caught lying since the start, with the last reason."""

    def rate(self, height: int, now_ms: int) -> float:
        """Blocks per second of the run under way, or of the last one."""
        return (height - self.started_height) * 1_000 / max(now_ms - self.started_ms, 1)


class _Phase(Enum):
    IDLE = auto()
    TIPS = auto()
    RANGES = auto()
    CLOSING = auto()
    PAUSED = auto()


class _Run:
    """The ranges of one epoch up to one target."""

    def __init__(
        self, peers: Sequence[ValidatorIndex], target: Target, epoch: Epoch, height: int, size: int
    ) -> None:
        self.target = target
        self.epoch = epoch
        self.height = height
        """As far as ranges were handed on."""
        self.peers = tuple(peers)
        self.scheduler = Scheduler(peers, height + 1, target.height, size)
        self.pieces: dict[int, Piece] = {}
        """Asked for, by the number of the question."""
        self.arrived: dict[int, ProvedRange] = {}
        """Not handed on yet, by the first height."""


class CatchUp:
    """Thinks for the whole life of a node; idle while it is not behind. All times in milliseconds of any one clock."""

    def __init__(
        self,
        peers: Sequence[ValidatorIndex],
        now_ms: int,
        *,
        is_follower: bool,
        lag_blocks: int = LAG_BLOCKS,
        range_blocks: int = RANGE_BLOCKS_MAX,
        poll_ms: int = POLL_MS,
    ) -> None:
        """`lag_blocks`: how far behind is left to consensus; a follower leaves nothing to it."""
        self._peers = tuple(peers)
        self._is_follower = is_follower
        self._lag_blocks = 0 if is_follower else lag_blocks
        self._range_blocks = range_blocks
        self._poll_ms = poll_ms
        self._phase = _Phase.IDLE
        self._is_woken = False
        self._has_heard = False
        """Whether anybody has ever answered."""
        self._deadline_ms: int | None = now_ms + poll_ms
        self._rest_until_ms = now_ms
        self._asks: dict[int, Ask] = {}
        """Whose answers are waited for, by number."""
        self._number = 0
        self._targets: list[Target] = []
        self._run: _Run | None = None
        self._closing: Target | None = None
        """Whose epoch is being closed."""
        self._failures: Counter[ValidatorIndex] = Counter()
        """Questions to a peer since its last prompt answer: others are asked before it."""
        self._turn = 0
        self.progress = SyncProgress()

    def know(self, peers: Sequence[ValidatorIndex]) -> None:
        """Whom to ask from the next round on."""
        self._peers = tuple(peers)

    @property
    def is_fetching(self) -> bool:
        """Whether ranges are on their way: the core need not ask for old blocks itself."""
        return self._phase is _Phase.RANGES

    # --- what is heard ---

    def hear_height(self, height: int, final_height: int) -> bool:
        """Somebody speaks of a block of this height: a reason to ask, not to believe. Whether to think again."""
        if height <= final_height + self._lag_blocks:
            return False
        self._is_woken = True
        return self._phase is _Phase.IDLE

    def answered(self, ask: Ask, finding: Finding | None, now_ms: int) -> None:
        """An answer that proves what `examine` found in it, its signatures included."""
        self._has_heard = True
        if self._asks.pop(ask.number, None) is None:
            return
        piece = self._take_piece(ask)
        if isinstance(finding, Target):
            self._failures[ask.peer] = 0
            self._targets.append(finding)
        elif piece is not None and self._run is not None:
            if finding is None:
                self._fail(ask.peer, piece, now_ms)
                return
            is_prompt = now_ms - piece.asked.get(ask.peer, now_ms) < PATIENCE_MS_MIN
            self._failures[ask.peer] = 0 if is_prompt else self._failures[ask.peer] + 1
            through = finding.blocks[-1].header.height
            if self._run.scheduler.answered(ask.peer, piece, through, now_ms):
                self._run.arrived[piece.first] = finding

    def failed(self, ask: Ask, now_ms: int) -> None:
        """No answer."""
        if self._asks.pop(ask.number, None) is None:
            return
        piece = self._take_piece(ask)
        if piece is not None:
            self._fail(ask.peer, piece, now_ms)
        else:
            self._failures[ask.peer] += 1

    def lied(self, ask: Ask, violation: ProtocolViolation) -> None:
        """An answer that does not verify: the peer is named, and asked no more in this run."""
        self.progress.liars[ask.peer] = violation.reason.value
        self._failures[ask.peer] += 1
        self._has_heard = True
        is_awaited = self._asks.pop(ask.number, None) is not None
        if is_awaited and self._take_piece(ask) is not None and self._run is not None:
            self._run.scheduler.drop(ask.peer)

    def _take_piece(self, ask: Ask) -> Piece | None:
        return None if self._run is None else self._run.pieces.pop(ask.number, None)

    def _fail(self, peer: ValidatorIndex, piece: Piece, now_ms: int) -> None:
        self._failures[peer] += 1
        self.progress.late += 1
        if self._run is not None:
            self._run.scheduler.failed(peer, piece, now_ms)

    def is_waiting(self, ask: Ask) -> bool:
        """Whether its answer is still wanted."""
        return ask.number in self._asks

    # --- what to do ---

    def next_ms(self, now_ms: int) -> int | None:
        """When to think again although nothing was heard; None: not at all."""
        match self._phase:
            case _Phase.RANGES:
                return now_ms + LOOK_MS
            case _Phase.CLOSING:
                return now_ms + CLOSING_LOOK_MS
            case _Phase.IDLE if self._is_woken:
                return self._rest_until_ms
        return self._deadline_ms

    def think(self, now_ms: int, at: Position) -> list[Action]:
        """Everything to do now, in order."""
        actions: list[Action] = []
        while self._step(now_ms, at, actions):
            pass
        return actions

    def _step(self, now_ms: int, at: Position, actions: list[Action]) -> bool:
        """One move of the present phase; whether another may follow at once."""
        if at.is_halted and self._phase is not _Phase.IDLE:
            return self._rest(now_ms, actions)
        match self._phase:
            case _Phase.IDLE:
                is_due = self._deadline_ms is not None and now_ms >= self._deadline_ms
                is_awake = self._is_woken and now_ms >= self._rest_until_ms
                if at.is_halted or not self._peers or not (is_due or is_awake):
                    return False
                self._is_woken = False
                return self._ask_tips(now_ms, at, actions)
            case _Phase.TIPS:
                return self._await_tips(now_ms, at, actions)
            case _Phase.RANGES:
                return self._fetch(now_ms, at, actions)
            case _Phase.CLOSING:
                return self._await_epoch(now_ms, at, actions)
            case _Phase.PAUSED:
                return self._is_over(now_ms) and self._ask_tips(now_ms, at, actions)

    def _is_over(self, now_ms: int) -> bool:
        return self._deadline_ms is not None and now_ms >= self._deadline_ms

    def _rest(self, now_ms: int, actions: list[Action]) -> bool:
        """Nothing to do until somebody speaks of a greater height."""
        self._end(actions)
        self._phase = _Phase.IDLE
        self._rest_until_ms = now_ms + PAUSE_MS
        must_poll = self._is_follower or not self._has_heard
        self._deadline_ms = now_ms + self._poll_ms if must_poll else None
        return False

    def _pause(self, now_ms: int, actions: list[Action]) -> bool:
        """Then try again."""
        self._end(actions)
        self._phase, self._deadline_ms = _Phase.PAUSED, now_ms + PAUSE_MS
        return False

    def _end(self, actions: list[Action], *, is_complete: bool = False) -> None:
        """Whatever is under way is over."""
        if self._asks:
            actions.append(Abandon(tuple(self._asks)))
            self._asks.clear()
        if self._run is not None:
            self._run, self.progress.is_running = None, False
            actions.append(RunEnded(is_complete))
        self._closing = None

    def _ask(
        self, peer: ValidatorIndex, question: TipRequest | RangeRequest, epoch: Epoch, actions: list[Action]
    ) -> Ask:
        self._number += 1
        ask = self._asks[self._number] = Ask(self._number, peer, question, epoch)
        actions.append(ask)
        return ask

    # --- how far the others are ---

    def _ask_tips(
        self, now_ms: int, at: Position, actions: list[Action], *, is_complete: bool = False
    ) -> bool:
        self._end(actions, is_complete=is_complete)
        self._phase, self._deadline_ms, self._targets = _Phase.TIPS, now_ms + TIP_MS_MAX, []
        for peer in self._peers:
            self._ask(peer, TipRequest(at.epoch.number), at.epoch, actions)
        return False

    def _await_tips(self, now_ms: int, at: Position, actions: list[Action]) -> bool:
        useful = [one for one in self._targets if self._leads_on(one, at)]
        if useful and self._deadline_ms is not None:
            self._deadline_ms = min(self._deadline_ms, now_ms + TIP_GRACE_MS)
        if self._asks and not self._is_over(now_ms):
            return False
        self._failures.update(ask.peer for ask in self._asks.values())
        if not useful:
            return self._rest(now_ms, actions)
        target = max(useful, key=lambda one: (one.height, one.closing is not None, -one.peer))
        self._end(actions)
        if target.closing is not None and target.height <= at.final_height:
            return self._close(target, target.closing, now_ms, actions)
        return self._start_run(target, now_ms, at, actions)

    def _leads_on(self, target: Target, at: Position) -> bool:
        """Whether it is of our epoch still, and further on than consensus is left to go by itself."""
        if target.proof.epoch != at.epoch.number:
            return False
        return target.closing is not None or target.height > at.final_height + self._lag_blocks

    # --- ranges ---

    def _start_run(self, target: Target, now_ms: int, at: Position, actions: list[Action]) -> bool:
        progress = self.progress
        progress.is_running, progress.target_height = True, target.height
        progress.started_height, progress.started_ms = at.executed_height, now_ms
        self._phase = _Phase.RANGES
        self._run = _Run(self._peers, target, at.epoch, at.final_height, self._range_blocks)
        self._turn += 1
        actions.append(RunStarted(target, at.epoch.number))
        if target.closing is None:
            actions.append(Tell(target.peer, CertificateMessage(target.proof)))
        return True

    def _fetch(self, now_ms: int, at: Position, actions: list[Action]) -> bool:
        run = self._run
        if run is None or at.epoch.number != run.epoch.number:
            return self._ask_tips(now_ms, at, actions)
        self._hand_on(run, at, actions)
        if run.scheduler.is_done and at.executed_height >= run.height:
            if run.target.closing is None:
                return self._ask_tips(now_ms, at, actions, is_complete=True)
            self._end(actions, is_complete=True)
            return self._close(run.target, run.target.closing, now_ms, actions)
        if run.scheduler.is_hopeless:
            return self._pause(now_ms, actions)
        self._ask_ranges(run, now_ms, actions)
        return False

    def _hand_on(self, run: _Run, at: Position, actions: list[Action]) -> None:
        """In order, no further ahead than the ledger executes."""
        ahead = EXECUTE_AHEAD_RANGES * self._range_blocks
        while run.height - ahead <= at.executed_height and run.height + 1 in run.arrived:
            found = run.arrived.pop(run.height + 1)
            run.height = found.blocks[-1].header.height
            self.progress.blocks += len(found.blocks)
            run.scheduler.consumed(run.height)
            actions.append(HandOn(found))

    def _ask_ranges(self, run: _Run, now_ms: int, actions: list[Action]) -> None:
        """The lowest pieces of those who have answered lately, each run beginning with another one."""
        count, turn = len(run.peers), self._turn
        order = sorted(range(count), key=lambda at: (self._failures[run.peers[at]], (at - turn) % count))
        in_flight = Counter(ask.peer for ask in self._asks.values())
        for slot in range(REQUESTS_PER_PEER):
            for place in order:
                peer = run.peers[place]
                piece = run.scheduler.take(peer, now_ms) if in_flight[peer] <= slot else None
                if piece is not None:
                    in_flight[peer] += 1
                    question = RangeRequest(piece.first, piece.last - piece.first + 1)
                    run.pieces[self._ask(peer, question, run.epoch, actions).number] = piece

    # --- the end of an epoch ---

    def _close(self, target: Target, proof: EpochProof, now_ms: int, actions: list[Action]) -> bool:
        """Give the core the proof that its epoch is over, and wait for the next one."""
        actions.append(Tell(target.peer, EpochClosing(proof)))
        self._phase, self._closing, self._deadline_ms = _Phase.CLOSING, target, now_ms + TIP_MS_MAX
        return False

    def _await_epoch(self, now_ms: int, at: Position, actions: list[Action]) -> bool:
        if self._closing is None or at.epoch.number != self._closing.proof.epoch:
            return self._ask_tips(now_ms, at, actions)
        return self._is_over(now_ms) and self._pause(now_ms, actions)
