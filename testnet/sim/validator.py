"""One simulated validator: the real core, journal and watermark on a simulated disk, clock and network. No I/O.

It keeps the driver's order (node/consensus_service.py): the core goes on while the disk is busy, and what its steps
want to persist is synced before anything of them is sent. It can die between any two effects, and inside a sync.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    JournalRecord,
    Persist,
    Readmit,
    ReportEvidence,
    Send,
    ServeBlocks,
    ServeEpochProof,
    SetTimer,
    UpgradeRequired,
    ValidatePayload,
    WatchEnded,
)
from consensus.epochs import EpochManager
from consensus.evidence_pool import EvidencePool
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
    Block,
    BlockRequest,
    ConsensusMessage,
    EpochClosing,
    Proposal,
    Status,
    hash_of,
)
from consensus.state import CoreConfig, Signer
from consensus.watch import Watch
from node.consensus_service import INBOX_MAX
from node.safety_journal import SafetyJournal, SafetyMemory, recover
from node.storage.watermark import Watermark
from primitives.errors import OperatorError
from primitives.identifiers import BlockHash, ValidatorIndex
from testnet.byzantine.actor import Actor, Later
from testnet.byzantine.doppelganger import Doppelganger
from testnet.byzantine.fearless import FearlessManager
from testnet.checkers import Violation
from testnet.checkers.signatures import HonestSignatures
from testnet.sim.catching_up import RangeCatchUp, RangeServer
from testnet.sim.executors import Executor
from testnet.sim.files import PowerCut, SimulatedDisk
from testnet.sim.network import MS, Letter
from testnet.sim.stores import FinalStore

if TYPE_CHECKING:
    from testnet.sim.simulation import Simulation

JOURNAL = Path("journal")
WATERMARK = Path("safety/watermark")
COMPACT_BYTES = 256 * 1024
"""Small, so that compaction happens often here; the node's is 16 MiB."""
STARTED = frozenset({SetTimer, CancelTimer, BuildPayload, ValidatePayload, WatchEnded})
"""Effects that tell nobody anything: they wait for no disk."""
WORK_NS = 1 * MS
"""Building and validating take this long."""


class Standing(Enum):
    """What the process is doing."""

    UP = "up"
    PAUSED = "paused"
    DOWN = "down"
    STOPPED = "stopped"
    """It stopped itself: the disk failed, or its journal is damaged."""


def records_of(effects: Sequence[Effect]) -> list[JournalRecord]:
    """All that is to be written, in order."""
    return [one for effect in effects if isinstance(effect, Persist) for one in effect.records]


class SimulatedValidator:
    """Its process, and what of it survives a crash."""

    def __init__(
        self,
        world: Simulation,
        index: int,
        config: CoreConfig,
        signer: Signer,
        disk: SimulatedDisk,
        actor: Actor | None,
    ) -> None:
        self.world, self.index, self.config, self.signer = world, index, config, signer
        self.disk, self.actor = disk, actor
        self.store = FinalStore()
        self.signatures = HonestSignatures(index)
        self.core: EpochManager | None = None
        self.standing = Standing.DOWN
        self.is_observer = False
        self.must_watch = False
        """Its disk lost something: it must boot as an observer."""
        self.knows_upgrade = index not in world.plan.old_builds
        """Whether the build on its disk knows protocol version 2."""
        self.version_max = 1
        """The newest version that the running build knows."""
        self.executor: Executor = world.new_executor(index, self.store)
        self.range_server = RangeServer(self, world.plan.epoch_blocks)
        self.catching_up: RangeCatchUp | None = None
        """Of this life; None while it is down, and in runs that leave catch-up to the core."""
        self.life = 0
        self.performed = 0
        self.crash_at: int | None = None
        self.drift_ppm = 0
        self.clock_offset_ns = 0
        self._timers: dict[TimerKind, int] = {}
        self._inbox: deque[Input] = deque()
        self._late: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        """What came while it stood still, beside the core's inputs."""
        self._turns: list[Effect] = []
        """What the core asks for, until the disk is free."""
        self._writing: list[Effect] | None = None
        """What is performed when the disk comes back."""
        self._announced = 0
        """Height of the newest block that the core calls final, delivered or not."""
        self._blocked: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        """Work of the ledger that waits for such blocks."""
        self._journal: SafetyJournal | None = None
        self._watermark: Watermark | None = None
        Watermark.create(WATERMARK, disk)

    @property
    def is_honest(self) -> bool:
        """Whether it follows the protocol."""
        return self.actor is None

    @property
    def height(self) -> int:
        """Final height, also while it is down."""
        return len(self.store.blocks)

    @property
    def is_paused(self) -> bool:
        """Whether it stands still."""
        return self.standing is Standing.PAUSED

    def wall_ns(self) -> int:
        """Its own idea of the time of day."""
        return self.world.now_ns + self.clock_offset_ns

    # --- living and dying ---

    def boot(self) -> None:
        """Start from what the disk holds."""
        if self.standing in (Standing.UP, Standing.PAUSED):
            return
        self.life += 1
        self._timers, self._writing = {}, None
        self._announced = self.height
        for queue in (self._inbox, self._late, self._turns, self._blocked):
            queue.clear()
        try:
            memory = recover(JOURNAL, WATERMARK, self.disk)
        except OperatorError as error:
            self.stop(str(error))
            return
        except PowerCut:
            self.crash()
            return
        if self.disk.is_synced:
            self.signatures.on_journaled(memory.records)
        if memory.journal.dropped_bytes:
            self.world.happened("torn record dropped")
        self.is_observer = memory.observer_reason is not None and self.is_honest
        if self.is_observer:
            self.world.happened("observer after a lost disk")
        if self.must_watch and self.is_honest and not self.is_observer:
            raise Violation("lost disk", f"validator {self.index} begins to vote without its memory")
        self.must_watch = False
        try:
            core = self.core = self._new_core(memory)
        except OperatorError as error:
            self.stop(str(error))
            return
        self._watermark = memory.watermark
        self._journal = SafetyJournal(memory.journal, memory.watermark, core.journal_records, COMPACT_BYTES)
        self.executor = self.world.new_executor(self.index, self.store)
        self.standing = Standing.UP
        if self.world.plan.range_blocks:
            self.catching_up = RangeCatchUp(self, self.world.plan.range_blocks)
        self.take(Started())

    def _new_core(self, memory: SafetyMemory) -> EpochManager:
        """As the node makes it: whoever lost its memory watches."""
        watch = Watch(self.index) if self.is_observer else None
        self.version_max = 2 if self.knows_upgrade else 1
        is_fearless = self.actor is not None and not isinstance(self.actor, Doppelganger)
        kind = FearlessManager if is_fearless else EpochManager
        return kind(
            replace(self.config, watch=watch, version_max=self.version_max),
            self.signer,
            self.store.tip(),
            memory.records,
            EvidencePool(self.store.evidence),
            epoch_blocks=self.world.plan.epoch_blocks,
            opened=[opened for opened, _ in self.store.opened],
        )

    def crash(self) -> None:
        """kill -9, or the plug: memory is gone, and what was not synced may be."""
        if self.core is not None and self._writing is not None and self._journal is not None:
            self.world.happened("crash inside a sync")
            self.disk.cut_at_sync = True
            try:
                self._journal.append(records_of(self._writing))
            except (PowerCut, OperatorError):
                self.disk.cut_at_sync = False
        if self.catching_up is not None and self.catching_up.is_fetching:
            self.world.happened("crash while catching up")
        self.disk.crash()
        self.core = self.catching_up = None
        self.crash_at = None
        self.standing = Standing.DOWN
        self.world.audit(b"crash", self.index)

    def stop(self, reason: str) -> None:
        """The process ends itself, saying why."""
        self.core = self.catching_up = None
        self.standing = Standing.STOPPED
        self.world.audit(b"stop", self.index)
        self.world.happened("stopped itself")

    def pause(self) -> None:
        """SIGSTOP."""
        if self.standing is Standing.UP:
            self.standing = Standing.PAUSED

    def resume(self) -> None:
        """SIGCONT: everything that came meanwhile is taken now."""
        if self.standing is Standing.PAUSED:
            self.standing = Standing.UP
            self._drain()
            late, self._late = self._late, []
            for action, arguments in late:
                action(*arguments)
            if self.catching_up is not None:
                self.catching_up.think()

    def when_awake(self, action: Callable[..., None], *arguments: Any) -> None:
        """For what comes while it stands still: done when it goes on, unless it dies before."""
        self._late.append((action, arguments))

    # --- inputs ---

    def take(self, event: Input) -> None:
        """One input, also while the disk is busy; what is to be said waits for the disk."""
        if self.core is None:
            return
        if self.is_paused:
            if len(self._inbox) < INBOX_MAX or isinstance(event, BlocksProved):  # The node waits for room.
                self._inbox.append(event)
            else:
                self.world.happened("inbox full")
            return
        if self._writing is not None:
            self.world.happened("step while the disk is busy")
        effects = self.core.step(event)
        if self.actor is not None:
            self.actor.epoch = self.core.epoch.number
            effects = self._twisted(effects)
        if effects:
            self._start(effects)
            self._perform_turns()

    def _drain(self) -> None:
        while self._inbox and self.standing is Standing.UP:
            self.take(self._inbox.popleft())

    def _twisted(self, effects: list[Effect]) -> list[Effect]:
        """What the traitor does instead; a delayed word comes back through the event heap."""
        assert self.actor is not None
        done: list[Effect] = []
        for effect in effects:
            for one in self.actor.act(effect):
                if isinstance(one, Later):
                    self.world.after(one.delay_ms * MS, self._later_effect, one.effect, self.life)
                else:
                    done.append(one)
        return done

    def _later_effect(self, effect: Effect, life: int) -> None:
        if self.core is not None and self.life == life:
            self._perform_one(effect)

    def _later_input(self, event: Input, life: int) -> None:
        if self.life == life:
            self.take(event)

    def _fire(self, kind: TimerKind, view: int, version: int, life: int) -> None:
        if self.life == life and self._timers.get(kind) == version:
            self.world.audit(b"timer", self.index)
            self.take(TimerFired(kind, view))

    # --- effects ---

    def _start(self, effects: Sequence[Effect]) -> None:
        """What tells nobody anything begins at once; the rest waits in order for the disk."""
        for effect in effects:
            if type(effect) in STARTED:
                self._perform_one(effect)
                if self._dies_here():
                    return
                continue
            if isinstance(effect, DeliverFinal):
                self._announced = max(self._announced, effect.blocks[-1].header.height)
            self._turns.append(effect)

    def _perform_turns(self) -> None:
        """Everything that waits is written at once, then performed in order; a busy disk ends it for now."""
        while self._turns and self._writing is None and self.core is not None:
            effects, self._turns = self._turns, []
            if self.disk.latency_ns and records_of(effects):
                self._writing = effects
                self.world.after(self.disk.latency_ns, self._synced, self.life)
                return
            if not self._write(effects):
                return

    def _synced(self, life: int) -> None:
        """The slow disk has done it."""
        if self.life != life or self._writing is None or self.core is None:
            return
        if self.is_paused:
            self.when_awake(self._synced, life)
            return
        effects, self._writing = self._writing, None
        if self._write(effects):
            self._perform_turns()

    def _write(self, effects: Sequence[Effect]) -> bool:
        """Write, then perform; whether the process goes on."""
        life, records = self.life, records_of(effects)
        if records and not self._persist(records):
            return False
        for effect in effects:
            if not isinstance(effect, Persist):
                self._perform_one(effect)
            if self._dies_here() or self.life != life or self.core is None:
                return False
        blocked, self._blocked = self._blocked, []
        for action, arguments in blocked:
            self._when_executed(action, *arguments)
        return self._compact()

    def _dies_here(self) -> bool:
        """Whether this was the effect after which it is killed."""
        self.performed += 1
        if self.crash_at is None or self.performed < self.crash_at:
            return False
        self.world.happened("crash between two effects")
        self.world.crashed_itself(self)
        return True

    def _when_executed(self, action: Callable[..., None], *arguments: Any) -> None:
        """The ledger builds and validates on what is final: it waits for blocks that wait for the disk."""
        if self.height >= self._announced:
            action(*arguments)
        else:
            self._blocked.append((action, arguments))

    def _persist(self, records: Sequence[JournalRecord]) -> bool:
        """Append and sync with the node's own code; whether the process goes on."""
        assert self._journal is not None
        if self.crash_at is not None and self.performed + 1 >= self.crash_at:
            self.disk.cut_at_sync = True
        try:
            self._journal.append(records)
        except PowerCut:
            self.world.happened("crash inside a sync")
            self.world.crashed_itself(self)
            return False
        except OperatorError as error:
            self.stop(str(error))
            return False
        finally:
            self.disk.cut_at_sync = False
        if self.is_honest:
            self.signatures.on_journaled(records)
        return True

    def _compact(self) -> bool:
        """With what the core remembers now, if all of it is written."""
        assert self._journal is not None
        if not self._journal.has_grown or self._turns:
            return True
        try:
            self._journal.compact(self._journal.live_records())
            self.world.happened("journal compacted")
        except OperatorError as error:
            self.stop(str(error))
            return False
        return True

    def _perform_one(self, effect: Effect) -> None:
        match effect:
            case Send(to=to, message=message):
                self._say(message, (to,))
            case Broadcast(message=message):
                self._say(message, self.world.others[self.index])
                if isinstance(message, Proposal):
                    self.executor.adopt(hash_of(message.block.header), message.block)
            case SetTimer(kind=kind, view=view, delay_ms=delay_ms):
                version = self._timers.get(kind, 0) + 1
                self._timers[kind] = version
                delay_ns = delay_ms * MS * 1_000_000 // (1_000_000 + self.drift_ppm)
                self.world.after(delay_ns, self._fire, kind, view, version, self.life)
            case CancelTimer(kind=kind):
                self._timers[kind] = self._timers.get(kind, 0) + 1
            case BuildPayload():
                self._build(effect)
            case ValidatePayload(block_hash=block_hash, block=block):
                self.world.after(WORK_NS, self._validate, block_hash, block, self.life)
            case DeliverFinal():
                self._deliver(effect)
            case ServeBlocks(to=to):
                # As few as ranges have, so that a gap which is large for those is large for the core too.
                self._say(self.store.serve(effect, self.world.plan.range_blocks), (to,))
            case EnteredView(view=view):
                self.world.on_view(self, view)
            case ReportEvidence(kind=kind, offender=offender):
                self.store.evidence.append(effect.evidence)
                self.world.on_evidence(self, kind, offender, effect.evidence)
            case (
                EpochClosed()
                | EpochOpened()
                | UpgradeRequired()
                | ServeEpochProof()
                | WatchEnded()
                | Readmit()
            ):
                self._change_epoch(effect)
            case Halt(reason=reason, detail=detail):
                self.world.on_halt(self, reason, detail)
            case _:
                pass

    def _change_epoch(
        self, effect: EpochClosed | EpochOpened | UpgradeRequired | ServeEpochProof | WatchEnded | Readmit
    ) -> None:
        """The ledger's part: the plan says who votes in which epoch, and by which version."""
        match effect:
            case EpochClosed(epoch=epoch) if self.core is not None:
                decided = self.world.decide(epoch, self.core.epoch.next_set)
                self.world.after(WORK_NS, self._later_input, decided, self.life)
            case EpochOpened(opened=opened, proof=proof):
                self.world.on_epoch(self, opened, proof)
                self.store.opened.append((opened, proof))
            case UpgradeRequired():
                self.world.happened("old build stopped")
                self.stop("this build is too old")
            case WatchEnded():
                self._end_watch()
            case ServeEpochProof(to=to, epoch=epoch) if epoch < len(self.store.opened):
                self._say(EpochClosing(self.store.opened[epoch][1]), (to,))
            case Readmit(peer=peer, message=message):
                self.world.after(0, self._hear_again, peer, message, self.life)

    def _end_watch(self) -> None:
        """As the node does: it signs again, and a new watermark knows of it."""
        assert self._journal is not None
        self.world.happened("watch ended")
        self.is_observer = False
        if self._watermark is None:
            Watermark.create(WATERMARK, self.disk)
            self._watermark = Watermark.open(WATERMARK, self.disk)
            assert self._watermark is not None
            self._journal.use(self._watermark)

    def _hear_again(self, peer: int, message: ConsensusMessage, life: int) -> None:
        if self.life == life:
            self.hear(Letter(peer, message, b""))

    def _say(self, message: ConsensusMessage, receivers: Sequence[int]) -> None:
        if self.is_honest:
            self.signatures.on_sent(message)
        if (
            isinstance(message, BlockRequest)
            and self.catching_up is not None
            and self.catching_up.is_fetching
        ):
            return  # As in the node: it is asked again at the next retry.
        self.world.send(self.index, message, receivers)

    def _build(self, effect: BuildPayload) -> None:
        wait_ns = max(WORK_NS, self.config.parameters.min_block_ms * MS)
        self.world.after(wait_ns, self._built, effect, self.life)

    def _built(self, effect: BuildPayload, life: int) -> None:
        if self.life == life:
            self._when_executed(self._fill, effect, life)

    def _fill(self, effect: BuildPayload, life: int) -> None:
        if self.life != life:
            return
        payload = self.executor.build(effect.parent, effect.height, self.wall_ns())
        if payload is not None:
            event = PayloadBuilt(
                effect.parent, effect.view, payload.transactions, payload.time_ns, payload.parent_state_root
            )
            self.take(event)

    def _validate(self, block_hash: BlockHash, block: Block, life: int) -> None:
        if self.life == life:
            self._when_executed(self._judge, block_hash, block, life)

    def _judge(self, block_hash: BlockHash, block: Block, life: int) -> None:
        if self.life != life:
            return
        ok = self.executor.is_valid(block_hash, block)
        if ok is not None:
            self.take(Validated(block_hash, ok))

    def _deliver(self, effect: DeliverFinal) -> None:
        if self.is_honest:
            self.world.on_final(self, effect)
        self.executor.finalize(effect.blocks, effect.proof)
        self.store.commit(effect)

    def hear(self, letter: Letter) -> None:
        """A message arrives from the network."""
        if self.catching_up is not None:
            self._hear_height(letter.message, self.catching_up)
        if self.core is None:
            return
        other = admission.other_epoch(letter.message, self.core.epoch)
        if other is not None:
            self.take(OtherEpochHeard(ValidatorIndex(letter.sender), other, letter.message))
            return
        if not self.world.admits(letter, self, self.core.epoch):
            return
        if self.actor is not None:
            for effect in self.actor.hear(letter.message):
                self._perform_one(effect)
        is_foreign = letter.sender == self.index and self.can_sign()
        self.take(MessageReceived(ValidatorIndex(letter.sender), letter.message))
        if is_foreign:
            self._check_stopped()

    def _hear_height(self, message: ConsensusMessage, catching_up: RangeCatchUp) -> None:
        """As the node does, before anything is checked."""
        final_height = 0 if self.core is None else self.core.final_height
        if isinstance(message, Status):
            catching_up.hear_height(message.final_height, final_height)
        elif isinstance(message, Proposal):
            catching_up.hear_height(message.block.header.height, final_height)

    def can_sign(self) -> bool:
        """Whether it would vote, if there were something to vote for."""
        if self.core is None or self.standing is not Standing.UP:
            return False
        state = self.core.state
        return state.own_index is not None and not state.is_stopped

    def _check_stopped(self) -> None:
        """It has heard a vote under its own key that it never gave."""
        if self.core is not None and not self.core.is_halted:
            raise Violation("doppelganger", f"validator {self.index} heard its key elsewhere and goes on")
        self.world.happened("stopped by its double")
