"""Catch-up: fetches the final blocks that this node lacks from many peers at once, and hands them to consensus. Trio.

One round: ask everybody for the tip of our epoch (only a certificate makes a target, never a claim); fetch ranges in
parallel, each checked with its own certificate as it arrives; give them to the core in order, no further ahead than
the ledger executes; then close the epoch, if it is over, and go on in the next. It is resumed from the block store:
what is executed is stored. Votes go on meanwhile, in this node and in those that serve it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
import trio

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
from gossip.network import Network, NoAnswer
from gossip.reasons import GossipReason
from node.consensus_service import ConsensusService
from node.ledger_service import LedgerService
from node.metrics import NodeMetrics
from node.sync.messages import RANGE_BLOCKS_MAX, Range, RangeRequest, Tip, TipRequest, decode_reply
from node.sync.reasons import SyncReason
from node.sync.scheduler import Piece, Scheduler
from node.verifier import SignatureVerifier
from primitives.codec import decode, encode
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex

LAG_BLOCKS = 32
"""A validator that is no further behind is left to consensus, which fetches what its proposals name."""
REQUESTS_PER_PEER = 2
"""In flight to one peer: while one range is on its way the other is being read from its disk."""
TIP_SECONDS_MAX = 2.0
"""How long the answers about the tip are waited for."""
PAUSE_SECONDS = 0.5
"""Between two rounds, so that whoever speaks of great heights all the time costs us little."""
IDLE_SECONDS = 0.05
"""How long one who has nothing to ask waits before it looks again."""
POLL_SECONDS = 2.0
"""How often a follower asks for the tip although nobody told it of blocks; also a validator until somebody answers."""
EXECUTE_AHEAD_BLOCKS = 2 * RANGE_BLOCKS_MAX
"""Blocks given to consensus and not executed yet: one range runs while the next waits."""
REPORT_SECONDS = 2.0
"""How often the log tells of the progress."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Target:
    """A height that a certificate has proved final in our epoch."""

    height: int
    peer: ValidatorIndex
    proof: QuorumCertificate
    closing: EpochProof | None


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A checked range."""

    blocks: tuple[Block, ...]
    proof: QuorumCertificate


@dataclass(slots=True)
class SyncProgress:
    """Where catch-up stands, for status and metrics."""

    is_running: bool = False
    target_height: int = 0
    started_height: int = 0
    started_at: float = 0.0
    blocks: int = 0
    """Fetched, checked and handed on since the start of the process."""
    late: int = 0
    """Requests that came to nothing: peers that were slow, away or had not what was asked for."""
    liars: dict[ValidatorIndex, str] = field(default_factory=dict)
    """Peers caught lying since the start, with the last reason."""

    def rate(self, height: int, now: float) -> float:
        """Blocks per second of the run under way, or of the last one."""
        return (height - self.started_height) / max(now - self.started_at, 1e-3)


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
        self._wake = trio.Event()
        self._changed = trio.Event()
        self.progress = SyncProgress()

    def on_height(self, height: int) -> None:
        """Somebody speaks of a block of this height: a reason to ask, not to believe."""
        if height > self._consensus.final_height + self._lag_max:
            self._wake.set()

    @property
    def _lag_max(self) -> int:
        return 0 if self._is_follower else LAG_BLOCKS

    async def run(self) -> None:
        """Serve until cancelled."""
        if not self._peers:
            return
        somebody_answered = False
        while True:
            with trio.move_on_after(
                math.inf if somebody_answered and not self._is_follower else POLL_SECONDS
            ):
                await self._wake.wait()
            self._wake = trio.Event()
            somebody_answered = await self._catch_up() or somebody_answered
            await trio.sleep(PAUSE_SECONDS)

    # --- rounds ---

    async def _catch_up(self) -> bool:
        """Rounds until we are as far as anybody proves to be; whether anybody answered."""
        answered = False
        while not self._consensus.halted:
            epoch = self._consensus.epoch
            heard, target = await self._find_target(epoch)
            answered = answered or heard
            if target is None:
                return answered
            behind = target.height - self._consensus.final_height
            if target.closing is None and behind <= self._lag_max:
                return answered
            is_done = behind <= 0 or await self._run_to(target, epoch)
            if is_done and target.closing is not None:
                is_done = await self._close(target, epoch)
            if not is_done:
                await trio.sleep(PAUSE_SECONDS)
        return answered

    async def _find_target(self, epoch: Epoch) -> tuple[bool, _Target | None]:
        """Whether anybody answered, and the highest height that an answer proves."""
        found: list[_Target] = []
        heard: list[ValidatorIndex] = []

        async def ask(peer: ValidatorIndex) -> None:
            try:
                raw = await self._network.request(peer, encode(TipRequest(epoch.number)))
                heard.append(peer)
                target = await self._check_tip(peer, decode_reply(Tip, raw), epoch)
            except NoAnswer:
                return
            except ProtocolViolation as violation:
                self._on_liar(peer, violation)
                return
            if target is not None:
                found.append(target)

        with trio.move_on_after(TIP_SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                for peer in self._peers:
                    nursery.start_soon(ask, peer)
        return bool(heard), max(found, key=lambda one: (one.height, -one.peer), default=None)

    async def _check_tip(self, peer: ValidatorIndex, tip: Tip, epoch: Epoch) -> _Target | None:
        """Raises ProtocolViolation for what is not proved; None for a peer that has nothing for us."""
        if tip.closing is not None:
            await self._verify(check_closing(tip.closing, epoch))
            return _Target(tip.closing.headers[0].height, peer, tip.closing.certificate, tip.closing)
        if tip.header is None or tip.header.epoch != epoch.number:
            return None
        if tip.proof is None:
            raise ProtocolViolation(SyncReason.UNPROVED, f"height {tip.header.height} without a proof")
        await self._verify(check_final_header(tip.header, tip.proof, epoch))
        return _Target(tip.header.height, peer, tip.proof, None)

    async def _close(self, target: _Target, epoch: Epoch) -> bool:
        """Give the core the proof that its epoch is over, and wait for the next one."""
        if target.closing is None:
            return True
        await self._consensus.receive(target.peer, EpochClosing(target.closing))
        with trio.move_on_after(TIP_SECONDS_MAX):
            while self._consensus.epoch.number == epoch.number:  # noqa: ASYNC110 - epochs set no event.
                await trio.sleep(0.002)
        return self._consensus.epoch.number != epoch.number

    # --- one epoch's blocks ---

    async def _run_to(self, target: _Target, epoch: Epoch) -> bool:
        """Fetch and hand on everything as far as the target; False when nobody has it."""
        progress, first = self.progress, self._consensus.final_height + 1
        if not progress.is_running:
            progress.started_height, progress.started_at = self._ledger.final_height, trio.current_time()
        progress.is_running, progress.target_height = True, target.height
        self._metrics.set("sync_running", 1)
        self._metrics.set("sync_target_height", target.height)
        self._consensus.is_catching_up = True
        log.info("sync_started", height=first - 1, target=target.height, epoch=epoch.number)
        try:
            if target.closing is None:
                await self._consensus.receive(target.peer, CertificateMessage(target.proof))
            scheduler = Scheduler(self._peers, first, target.height, RANGE_BLOCKS_MAX)
            arrived: dict[int, _Fetched] = {}
            async with trio.open_nursery() as nursery:
                for peer in self._peers:
                    for _ in range(REQUESTS_PER_PEER):
                        nursery.start_soon(self._fetch_from, peer, scheduler, arrived, epoch)
                nursery.start_soon(self._report)
                await self._hand_on(first, scheduler, arrived)
                nursery.cancel_scope.cancel()
            is_done = scheduler.is_done
            log.info("sync_ended", **self._figures(), complete=is_done)
            return is_done
        finally:
            self._consensus.is_catching_up = progress.is_running = False
            self._metrics.set("sync_running", 0)

    async def _fetch_from(
        self, peer: ValidatorIndex, scheduler: Scheduler, arrived: dict[int, _Fetched], epoch: Epoch
    ) -> None:
        """Ask one peer for piece after piece until it lies or all is done."""
        while not (scheduler.is_done or scheduler.is_hopeless):
            piece = scheduler.take(peer, _now_ms())
            if piece is None:
                with trio.move_on_after(IDLE_SECONDS):
                    await self._changed.wait()
                continue
            try:
                fetched = await self._fetch(peer, piece, epoch)
            except NoAnswer:
                fetched = None
            except ProtocolViolation as violation:
                self._on_liar(peer, violation)
                scheduler.drop(peer)
                self._notify()
                return
            if fetched is None:
                self.progress.late += 1
                self._metrics.count("sync_request", "late")
                scheduler.failed(peer, piece, _now_ms())
            elif scheduler.answered(peer, piece, fetched.blocks[-1].header.height, _now_ms()):
                self._metrics.count("sync_request", "answered")
                arrived[piece.first] = fetched
            self._notify()

    async def _fetch(self, peer: ValidatorIndex, piece: Piece, epoch: Epoch) -> _Fetched | None:
        """One checked range; None when the peer has not what was asked for. Raises as `_check_range`."""
        question = RangeRequest(piece.first, piece.last - piece.first + 1)
        raw = await self._network.request(peer, encode(question))
        fetched, checks = await trio.to_thread.run_sync(_decode_range, raw, piece, epoch)
        await self._verify(checks)
        return fetched

    async def _hand_on(self, first: int, scheduler: Scheduler, arrived: dict[int, _Fetched]) -> None:
        """Give ranges to the core in order, as fast as the ledger executes them."""
        height = first - 1
        while not (scheduler.is_done or scheduler.is_hopeless or self._consensus.halted):
            fetched = arrived.pop(height + 1, None)
            if fetched is None:
                with trio.move_on_after(IDLE_SECONDS):
                    await self._changed.wait()
                continue
            await self._until_final(height - EXECUTE_AHEAD_BLOCKS)
            await self._consensus.receive_final(fetched.blocks, fetched.proof)
            height = fetched.blocks[-1].header.height
            self.progress.blocks += len(fetched.blocks)
            scheduler.consumed(height)
            self._notify()
        await self._until_final(height)

    async def _until_final(self, height: int) -> None:
        """Until the ledger has executed it, unless consensus has halted."""
        while self._ledger.final_height < height and not self._consensus.halted:
            with trio.move_on_after(PAUSE_SECONDS):
                await self._ledger.wait_final(height)

    # --- what is said about it ---

    async def _verify(self, checks: Sequence[SignatureCheck]) -> None:
        if not await self._verifier.all_valid(checks):
            raise ProtocolViolation(SyncReason.BAD_SIGNATURE, "a certificate's signature does not verify")

    def _on_liar(self, peer: ValidatorIndex, violation: ProtocolViolation) -> None:
        reason = violation.reason.value
        self.progress.liars[peer] = reason
        self._metrics.count("sync_liar", reason)
        log.warning("sync_liar", peer=peer, reason=reason, detail=violation.detail)
        self._network.penalise(peer, GossipReason.FALSE_ANSWER)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _report(self) -> None:
        while True:
            await trio.sleep(REPORT_SECONDS)
            log.info("sync_progress", **self._figures())

    def _figures(self) -> dict[str, object]:
        height, progress = self._ledger.final_height, self.progress
        rate = progress.rate(height, trio.current_time())
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
            "sync_blocks_per_second": round(progress.rate(height, trio.current_time())) if running else 0,
            "sync_requests_late": progress.late,
            "sync_liars": len(progress.liars),
        }


def _decode_range(raw: bytes, piece: Piece, epoch: Epoch) -> tuple[_Fetched | None, list[SignatureCheck]]:
    """On a worker thread: the blocks with the signatures that prove them. Raises ProtocolViolation."""
    answer = decode_reply(Range, raw)
    if not answer.blocks:
        return None, []
    if len(answer.blocks) > piece.last - piece.first + 1:
        raise ProtocolViolation(SyncReason.WRONG_PLACE, "more blocks than were asked for")
    if answer.proof is None:
        raise ProtocolViolation(SyncReason.UNPROVED, f"blocks from height {piece.first} without a proof")
    blocks = tuple(decode(Block, one, bytes_max=BLOCK_BYTES_MAX) for one in answer.blocks)
    checks = check_range(blocks, answer.headers, answer.proof, piece.first, epoch)
    return _Fetched(blocks, answer.proof), checks


def _now_ms() -> int:
    return int(trio.current_time() * 1_000)
