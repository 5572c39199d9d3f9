"""Catch-up in a node: performs what node/sync/catch_up.py decides, over streams, timers and worker threads. Trio.

It is resumed from the block store: what is executed is stored. Votes go on meanwhile, in this node and in those that
serve it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import structlog
import trio

from gossip.network import Network, NoAnswer
from gossip.reasons import GossipReason
from node.consensus_service import ConsensusService
from node.ledger_service import LedgerService
from node.metrics import NodeMetrics
from node.sync.catch_up import (
    LAG_BLOCKS,
    POLL_MS,
    Abandon,
    Action,
    Ask,
    CatchUp,
    HandOn,
    Position,
    RunEnded,
    RunStarted,
    SyncProgress,
    Tell,
    bad_signature,
    examine,
)
from node.sync.messages import RANGE_BLOCKS_MAX, RangeRequest
from node.verifier import SignatureVerifier
from primitives.codec import encode
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex

REPORT_MS = 2_000
"""How often the log tells of the progress."""

log = structlog.get_logger()


class SyncService:
    """Runs for the whole life of a node; idle while it is not behind."""

    def __init__(
        self,
        *,
        consensus: ConsensusService,
        ledger: LedgerService,
        network: Network,
        verifier: SignatureVerifier,
        metrics: NodeMetrics,
        peers: Sequence[ValidatorIndex],
        is_follower: bool,
    ) -> None:
        self._consensus = consensus
        self._ledger = ledger
        self._network = network
        self._verifier = verifier
        self._metrics = metrics
        self._peers = tuple(peers)
        self._is_follower = is_follower
        self._thinker: CatchUp | None = None
        """From when the clock runs."""
        self._changed = trio.Event()
        self._waiting: dict[int, trio.CancelScope] = {}
        """For answers, by the number of the question."""
        self._report_at_ms = 0

    def know(self, peers: Sequence[ValidatorIndex]) -> None:
        """Whom to ask from the next round on."""
        self._peers = tuple(peers)
        if self._thinker is not None:
            self._thinker.know(self._peers)

    @property
    def progress(self) -> SyncProgress:
        """Where catch-up stands."""
        return SyncProgress() if self._thinker is None else self._thinker.progress

    def on_height(self, height: int) -> None:
        """Somebody speaks of a block of this height: a reason to ask, not to believe."""
        if self._thinker is not None and self._thinker.hear_height(height, self._consensus.final_height):
            self._changed.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        self._thinker = thinker = CatchUp(
            self._peers,
            _now_ms(),
            is_follower=self._is_follower,
            lag_blocks=LAG_BLOCKS,
            range_blocks=RANGE_BLOCKS_MAX,
            poll_ms=POLL_MS,
        )
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                for action in thinker.think(_now_ms(), self._position()):
                    await self._perform(action, thinker, nursery)
                self._consensus.is_catching_up = thinker.is_fetching
                self._report(thinker)
                next_ms = thinker.next_ms(_now_ms())
                with trio.move_on_at(math.inf if next_ms is None else next_ms / 1_000):
                    await self._changed.wait()

    def _position(self) -> Position:
        consensus = self._consensus
        return Position(
            consensus.epoch, consensus.final_height, self._ledger.final_height, bool(consensus.halted)
        )

    # --- actions ---

    async def _perform(self, action: Action, thinker: CatchUp, nursery: trio.Nursery) -> None:
        match action:
            case Ask():
                scope = self._waiting[action.number] = trio.CancelScope()
                nursery.start_soon(self._ask, action, thinker, scope)
            case Abandon(numbers):
                for number in numbers:
                    self._waiting[number].cancel()
            case Tell(peer, message):
                await self._consensus.receive(peer, message)
            case HandOn(found):
                await self._consensus.receive_final(found.blocks, found.proof)
            case RunStarted(target, epoch):
                self._metrics.set("sync_running", 1)
                self._metrics.set("sync_target_height", target.height)
                height = self._consensus.final_height
                log.info("sync_started", height=height, target=target.height, epoch=epoch)
                self._report_at_ms = _now_ms() + REPORT_MS
            case RunEnded(is_complete):
                self._metrics.set("sync_running", 0)
                log.info("sync_ended", **self._figures(), complete=is_complete)

    async def _ask(self, ask: Ask, thinker: CatchUp, scope: trio.CancelScope) -> None:
        """One question, until it is answered or nobody waits for it any more."""
        with scope:
            try:
                raw = await self._network.request(ask.peer, encode(ask.question))
                finding, checks = await trio.to_thread.run_sync(examine, ask, raw)
                if not await self._verifier.all_valid(checks):
                    raise bad_signature()
                thinker.answered(ask, finding, _now_ms())
                self._count(ask, "late" if finding is None else "answered")
            except NoAnswer:
                thinker.failed(ask, _now_ms())
                self._count(ask, "late")
            except ProtocolViolation as violation:
                thinker.lied(ask, violation)
                self._blame(ask.peer, violation)
        del self._waiting[ask.number]
        self._changed.set()

    # --- what is said about it ---

    def _count(self, ask: Ask, how: str) -> None:
        if isinstance(ask.question, RangeRequest):
            self._metrics.count("sync_request", how)

    def _blame(self, peer: ValidatorIndex, violation: ProtocolViolation) -> None:
        reason = violation.reason.value
        self._metrics.count("sync_liar", reason)
        log.warning("sync_liar", peer=peer, reason=reason, detail=violation.detail)
        self._network.penalise(peer, GossipReason.FALSE_ANSWER)

    def _report(self, thinker: CatchUp) -> None:
        if thinker.is_fetching and _now_ms() >= self._report_at_ms:
            self._report_at_ms = _now_ms() + REPORT_MS
            log.info("sync_progress", **self._figures())

    def _figures(self) -> dict[str, object]:
        height, progress = self._ledger.final_height, self.progress
        rate = progress.rate(height, _now_ms())
        left = max(0, progress.target_height - height)
        return {
            "height": height,
            "target": progress.target_height,
            "blocks_per_second": round(rate, 1),
            "seconds_left": round(left / rate, 1) if rate > 0 else None,
        }

    def counters(self) -> dict[str, int]:
        """Numbers for the node's status."""
        progress, height = self.progress, self._ledger.final_height
        running = progress.is_running
        return {
            "sync_running": int(running),
            "sync_target_height": progress.target_height,
            "sync_blocks": progress.blocks,
            "sync_blocks_per_second": round(progress.rate(height, _now_ms())) if running else 0,
            "sync_requests_late": progress.late,
            "sync_liars": len(progress.liars),
        }


def _now_ms() -> int:
    return int(trio.current_time() * 1_000)
