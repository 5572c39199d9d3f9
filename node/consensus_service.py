"""Drives the consensus core: messages, timers and answers in; effects performed in order. One task owns the core.

One task steps the core, a second performs what it asks for. So votes are counted while the disk is busy, and what was
asked for meanwhile is written together: appended and fsynced once, before anything of it is sent (consensus.md section
14). A crash in between loses steps of which nobody has heard. A journal error stops the process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from consensus import admission
from consensus.effects import (
    Broadcast,
    BuildPayload,
    CancelTimer,
    DeliverFinal,
    Effect,
    EnteredView,
    EpochClosed,
    EpochOpened,
    Halt,
    Persist,
    Readmit,
    ReportEvidence,
    ReportNotarized,
    Send,
    ServeBlocks,
    ServeEpochProof,
    SetTimer,
    UpgradeRequired,
    ValidatePayload,
    WatchEnded,
)
from consensus.epoch import Epoch
from consensus.epochs import EpochManager, upgrade_sentence
from consensus.evidence import evidence_of_refusal, vote_of
from consensus.evidence_pool import ANY, UNJUSTIFIED
from consensus.inputs import (
    BlocksProved,
    Input,
    MessageReceived,
    OtherEpochHeard,
    PayloadBuilt,
    Started,
    TimerFired,
    TimerKind,
    Validated,
)
from consensus.messages import (
    VERSION_MAX,
    Block,
    BlockEvidence,
    BlockRequest,
    BlockResponse,
    ConsensusMessage,
    EvidenceMessage,
    Flag,
    Proposal,
    QuorumCertificate,
    Status,
    Vote,
    hash_of,
)
from gossip.network import Lane, Network
from ledger.transactions import SignedReport
from node.epoch_service import EpochService
from node.leader_delays import LeaderDelays
from node.ledger_service import LedgerService
from node.messages import lane_of
from node.metrics import NodeMetrics
from node.safety_journal import SafetyJournal
from node.storage.block_store import BlockStore
from node.verifier import SignatureVerifier
from primitives.codec import decode_own, encode
from primitives.errors import OperatorError, ProtocolViolation
from primitives.identifiers import BlockHash, ValidatorIndex
from primitives.reasons import CodecReason

INBOX_MAX = 8_192
"""Inputs waiting for the core; producers wait when it is full, and the network's bounded inboxes fill behind them."""
SERVE_BYTES_MAX = 2 * 1024 * 1024
"""Bytes of blocks in one answer to a peer that catches up."""
TURNS_MAX = 256
"""Turns of the core that wait for the disk; when it is full the core stands still, and its inbox fills."""
PROPOSAL_TIMES_MAX = 256
"""Blocks whose time of arrival is remembered, for pacing and for the finality measure."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FinalDelivery:
    """Blocks decided for good, their proof, and when this node learned it (monotonic)."""

    blocks: tuple[Block, ...]
    proof: QuorumCertificate
    is_fast: bool
    final_ns: int


class ConsensusService:
    """The trio shell around `consensus.epochs.EpochManager`."""

    def __init__(
        self,
        core: EpochManager,
        *,
        network: Network,
        journal: SafetyJournal,
        store: BlockStore,
        ledger: LedgerService,
        epochs: EpochService,
        verifier: SignatureVerifier,
        metrics: NodeMetrics,
        reports: Callable[[], Sequence[SignedReport]],
        min_block_ms: int,
        on_evidence: Callable[[ReportEvidence], None],
        on_notarized: Callable[[ReportNotarized], None],
        on_watch_ended: Callable[[], None],
    ) -> None:
        self._core = core
        self._network = network
        self._journal = journal
        self._store = store
        self._ledger = ledger
        self._epochs = epochs
        self._verifier = verifier
        self._metrics = metrics
        self.delays = LeaderDelays(metrics.registry)
        self._reports = reports
        self._min_block_ns = min_block_ms * 1_000_000
        self._on_evidence = on_evidence
        self._on_notarized = on_notarized
        self._on_watch_ended = on_watch_ended
        self._send, self._inbox = trio.open_memory_channel[Input](INBOX_MAX)
        self._turns_send, self._turns = trio.open_memory_channel[list[Effect]](TURNS_MAX)
        self._final_send, self.final_blocks = trio.open_memory_channel[FinalDelivery](math.inf)
        self._deadlines: dict[TimerKind, tuple[float, int]] = {}
        self.seen_ns: dict[BlockHash, int] = {}
        self.proposed_ns: dict[BlockHash, int] = {}
        self._built_ns = 0
        self.halted = ""
        self.is_catching_up = False
        """Set by node/sync: while it fetches ranges, the core's own requests for old blocks are not sent."""
        self.on_height: Callable[[int], None] = lambda _: None
        """Told of every height that a peer speaks of, believed or not."""
        self.view = 0

    async def run(self) -> None:
        """Serve until cancelled. Nothing promised is lost by cancellation: Persist precedes Send."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._perform_turns)
            await self._take([Started()])
            while True:
                inputs = await self._next_inputs()
                await self._take(inputs)
                await trio.lowlevel.checkpoint()

    async def receive(self, peer: ValidatorIndex, message: ConsensusMessage) -> None:
        """Check one decoded message (structure, bounds, signatures) and hand it to the core.

        Raises:
            ProtocolViolation: the sender is to blame; the message has had no effect, except that an unjustified
            proposal is evidence against its signer.
        """
        if isinstance(message, Status):
            self.on_height(message.final_height)
        elif isinstance(message, Proposal):
            self.on_height(message.block.header.height)
        if isinstance(message, EvidenceMessage):
            evidence = message.evidence
            if self._is_proved(
                vote_of(evidence), UNJUSTIFIED if isinstance(evidence, BlockEvidence) else ANY
            ):
                return  # Told again, as everybody does until it is on chain.
        number = admission.other_epoch(message, self._core.epoch)
        if number is not None:
            await self._send.send(OtherEpochHeard(peer, number, message))
            return
        try:
            await self._check(message)
        except ProtocolViolation:
            if isinstance(message, Proposal) and not self._is_proved(message.leader_vote, UNJUSTIFIED):
                proved = evidence_of_refusal(message, self._core.epoch)
                if proved is not None:
                    await self._send.send(MessageReceived(peer, EvidenceMessage(proved)))
            raise
        if isinstance(message, Proposal):
            header, now_ns = message.block.header, time.monotonic_ns()
            self._remember(self.seen_ns, hash_of(header), now_ns)
            delay_ppm = self.delays.on_proposal(header.epoch, header.view, header.proposer, now_ns)
            if delay_ppm is not None:
                self.delays.keep(header.height, header.proposer, delay_ppm)
        await self._send.send(MessageReceived(peer, message))

    async def receive_final(self, blocks: tuple[Block, ...], proof: QuorumCertificate) -> None:
        """Hand the core final blocks that were checked with `final_range.check_range`, signatures included."""
        await self._send.send(BlocksProved(blocks, proof))

    async def on_signer_back(self) -> None:
        """The signer was away and answers again: give up the view now if its time ran out meanwhile."""
        if TimerKind.VIEW not in self._deadlines:
            await self._send.send(TimerFired(TimerKind.VIEW, self._core.view))

    @property
    def epoch(self) -> Epoch:
        """The epoch that the core is in."""
        return self._core.epoch

    @property
    def final_height(self) -> int:
        """Height of the newest block that the core knows to be final, executed or not."""
        return self._core.final_height

    def _is_proved(self, vote: Vote, severity: int) -> bool:
        """Whether as bad an offence of the voter in that epoch is known: verifying another could cost 1,000 checks."""
        return self._core.state.pool.knows(vote.signer, vote.epoch, severity)

    async def _readmit(self, effect: Readmit) -> None:
        """A message that came before its epoch; its sender is not blamed, for it is long gone from the wire."""
        try:
            await self.receive(effect.peer, effect.message)
        except ProtocolViolation as violation:
            log.warning("message_refused", peer=effect.peer, reason=violation.reason.value)

    async def _decide(self, effect: EpochClosed) -> None:
        await self._send.send(await self._epochs.decide(effect, self._core.epoch.next_set))

    async def _check(self, message: ConsensusMessage) -> None:
        admission.check(message, self._core.epoch)
        if not await self._verifier.all_valid(admission.signatures_of(message, self._core.epoch)):
            raise ProtocolViolation(CodecReason.BAD_SIGNATURE, "a consensus signature does not verify")

    # --- inputs ---

    async def _next_inputs(self) -> list[Input]:
        """At least one input: what is waiting, or the timers that ran out."""
        soonest = min((deadline for deadline, _ in self._deadlines.values()), default=math.inf)
        inputs: list[Input] = []
        with trio.move_on_at(soonest):
            inputs.append(await self._inbox.receive())
        while len(inputs) < 256:
            try:
                inputs.append(self._inbox.receive_nowait())
            except trio.WouldBlock:
                break
        now = trio.current_time()
        due = [kind for kind, (deadline, _) in self._deadlines.items() if deadline <= now]
        inputs.extend(TimerFired(kind, self._deadlines.pop(kind)[1]) for kind in sorted(due))
        return inputs

    async def _take(self, inputs: Sequence[Input]) -> None:
        turn: list[Effect] = []
        for item in inputs:
            for effect in self._core.step(item):
                if isinstance(effect, DeliverFinal):
                    # At once: the core has forgotten these blocks already.
                    self._ledger.announce_final(effect.blocks[-1].header.height)
                if not self._starts(effect):
                    turn.append(effect)
        if turn:
            await self._turns_send.send(turn)

    # --- effects ---

    def _starts(self, effect: Effect) -> bool:
        """Perform an effect that tells nobody anything, and so need not wait for the disk; whether it was one."""
        match effect:
            case SetTimer(kind, view, delay_ms):
                if kind is TimerKind.PROPOSAL:
                    self.delays.on_allowed(delay_ms)
                self._deadlines[kind] = (trio.current_time() + delay_ms / 1000, view)
            case CancelTimer(kind):
                self._deadlines.pop(kind, None)
            case BuildPayload():
                self._nursery.start_soon(self._build, effect)
            case ValidatePayload():
                self._nursery.start_soon(self._validate, effect)
            case WatchEnded(epoch):
                log.warning("watch_ended", epoch=epoch)
                self._on_watch_ended()  # Before the first vote is written: it opens the watermark.
            case _:
                return False
        return True

    async def _perform_turns(self) -> None:
        """Write, then perform, in the order of the core; all turns that wait are one."""
        async for effects in self._turns:
            while self._turns.statistics().current_buffer_used:
                effects.extend(self._turns.receive_nowait())
            records = [
                record for effect in effects if isinstance(effect, Persist) for record in effect.records
            ]
            if records:
                with self._metrics.time_journal():
                    await trio.to_thread.run_sync(self._journal.append, records)
            for effect in effects:
                self._perform(effect)
            if self._journal.has_grown and not self._turns.statistics().current_buffer_used:
                # Whatever the core remembers now is written: what it asks for meanwhile comes after.
                await trio.to_thread.run_sync(self._journal.compact, self._journal.live_records())

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Persist():
                pass
            case Send(_, BlockRequest()) if self.is_catching_up:
                pass  # It is asked again at the next retry.
            case Send(to, message):
                self._network.send(to, lane_of(message), encode(message))
            case Broadcast(message):
                self._network.broadcast(lane_of(message), encode(message))
                if isinstance(message, Proposal):
                    self._on_own_proposal(message.block)
            case ServeBlocks():
                self._nursery.start_soon(self._serve, effect)
            case DeliverFinal(blocks, proof):
                # One who follows hears of final blocks alone: its core's own view stands still.
                self.view = max(self._core.view, blocks[-1].header.view)
                delivery = FinalDelivery(blocks, proof, effect.is_fast, time.monotonic_ns())
                self._final_send.send_nowait(delivery)
            case EpochClosed() | EpochOpened() | UpgradeRequired() | ServeEpochProof() | Readmit():
                self._change_epoch(effect)
            case ReportNotarized() | EnteredView() | ReportEvidence() | Halt():
                self._report(effect)

    def _change_epoch(
        self, effect: EpochClosed | EpochOpened | UpgradeRequired | ServeEpochProof | Readmit
    ) -> None:
        match effect:
            case EpochClosed():
                self._nursery.start_soon(self._decide, effect)
            case EpochOpened():
                self._epochs.keep(effect)
            case UpgradeRequired(version, height):
                raise OperatorError(upgrade_sentence(version, height, VERSION_MAX))
            case ServeEpochProof():
                self._epochs.serve(effect)
            case Readmit():
                self._nursery.start_soon(self._readmit, effect)

    def _report(self, effect: ReportNotarized | EnteredView | ReportEvidence | Halt) -> None:
        match effect:
            case ReportNotarized():
                self._metrics.on_notarized(effect)
                self._on_notarized(effect)
            case EnteredView(view, leader, admitted_by):
                self.view = view
                self.delays.on_entered(self._core.epoch.number, view, leader, time.monotonic_ns())
                self._metrics.on_view(view, admitted_by)
                log.debug("view_entered", view=view, leader=leader, admitted_by=admitted_by)
            case ReportEvidence():
                log.error("evidence", kind=effect.kind, offender=effect.offender)
                self._metrics.on_evidence(effect)
                self._on_evidence(effect)
            case Halt(reason, detail):
                self.halted = reason
                log.critical("consensus_halted", reason=reason, detail=detail)

    def _on_own_proposal(self, block: Block) -> None:
        """Our own block comes without ValidatePayload: we built it on this state. A resent one is known already."""
        block_hash = hash_of(block.header)
        if block_hash in self.proposed_ns or block.header.flags & Flag.SUFFIX:
            return
        self._remember(self.proposed_ns, block_hash, self._built_ns)
        self._remember(self.seen_ns, block_hash, self._built_ns)
        self._ledger.adopt(block_hash, block)
        self._nursery.start_soon(self._execute, block_hash)

    async def _execute(self, block_hash: BlockHash) -> None:
        with self._metrics.time_execute():
            await self._ledger.execute(block_hash)

    async def _build(self, effect: BuildPayload) -> None:
        """Wait for the block interval, then fill a block. Answers with PayloadBuilt."""
        parentseen_ns = self.seen_ns.get(effect.parent, 0)
        wait_ns = parentseen_ns + self._min_block_ns - time.monotonic_ns()
        if wait_ns > 0:
            await trio.sleep(wait_ns / 1e9)
        with self._metrics.time_build():
            payload = await self._ledger.build(effect.parent, effect.height, self._reports(), effect.evidence)
        if payload is None:
            return
        self._built_ns = time.monotonic_ns()
        await self._send.send(
            PayloadBuilt(
                effect.parent,
                effect.view,
                payload.transactions,
                payload.time_ns,
                payload.parent_state_root,
                payload.evidence,
            )
        )

    async def _validate(self, effect: ValidatePayload) -> None:
        with self._metrics.time_validate():
            ok = await self._ledger.is_valid(effect.block_hash, effect.block)
        if ok is None:
            return
        await self._send.send(Validated(effect.block_hash, ok))
        if ok:
            await self._execute(effect.block_hash)

    async def _serve(self, effect: ServeBlocks) -> None:
        """Answer a request for blocks that only the store still has."""
        blocks = await trio.to_thread.run_sync(self._stored_blocks, effect)
        response = BlockResponse(effect.request.block, blocks)
        self._network.send(effect.to, Lane.BULK, encode(response))

    def _stored_blocks(self, effect: ServeBlocks) -> tuple[Block, ...]:
        request = effect.request
        height = self._store.height_of(request.block)
        blocks: list[Block] = []
        size = 0
        while height is not None and height > request.height_above and len(blocks) < request.count_max:
            raw = self._store.block_at(height)
            if raw is None or (blocks and size + len(raw) > SERVE_BYTES_MAX):
                break
            blocks.append(decode_own(Block, raw))
            size += len(raw)
            height -= 1
        return tuple(blocks)

    @staticmethod
    def _remember(times: dict[BlockHash, int], block_hash: BlockHash, now_ns: int) -> None:
        times.setdefault(block_hash, now_ns)
        while len(times) > PROPOSAL_TIMES_MAX:
            del times[next(iter(times))]
