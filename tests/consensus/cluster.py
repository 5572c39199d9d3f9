"""A cluster of real cores in one process: seeded event queue, virtual time, a network with faults, crashes. Pure.

Every effect boundary is a place to crash at. The cluster itself watches the promises: one final chain, no two
contradicting signatures of an honest key ever, every vote journaled before it is sent, nobody honest accused.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from consensus import admission
from consensus.effects import (
    Broadcast,
    BuildPayload,
    CancelTimer,
    DeliverFinal,
    Effect,
    EpochClosed,
    EpochOpened,
    Halt,
    JournalRecord,
    OpenedEpoch,
    OwnVote,
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
from consensus.evidence import offence_of
from consensus.evidence_pool import EvidencePool
from consensus.inputs import (
    Input,
    MessageReceived,
    NextSetDecided,
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
    BlockResponse,
    CertificateMessage,
    ConsensusMessage,
    EpochClosing,
    EpochProof,
    Evidence,
    Proposal,
    QuorumCertificate,
    Vote,
    Votes,
    hash_of,
)
from consensus.state import CoreConfig, FinalTip, Parameters, Signer
from consensus.validator_set import ValidatorSet
from primitives.hashing import digest
from primitives.identifiers import BlockHash, ValidatorIndex
from primitives.signing import SigningKey, is_valid

CHAIN_ID = digest(b"test-chain", b"cluster")
DELTA_MS = 100
Delays = list[int]
Link = Callable[[int, int, int, ConsensusMessage], Delays]
"""(now_ms, sender, receiver, message) -> arrival delays in ms: none is lost, two is duplicated."""


class ModelSigner:
    """Unforgeable inside the model: a digest under the validator's number. Deterministic like Ed25519."""

    def __init__(self, index: int) -> None:
        self.public_key = digest(b"test-key", index.to_bytes(2, "big"))

    def sign(self, message: bytes) -> bytes:
        return digest(b"test-sign-a", self.public_key + message) + digest(
            b"test-sign-b", self.public_key + message
        )


def a_validator_set(count: int, weights: tuple[int, ...] | None = None) -> ValidatorSet:
    return ValidatorSet(tuple(ModelSigner(index).public_key for index in range(count)), weights)


class Process:
    """One validator: a core, its journal and block store (which survive), its timers (which do not)."""

    def __init__(self, config: CoreConfig, index: int, signer: Signer) -> None:
        self.config = config
        self.signer = signer
        self.index = index
        self.journal: list[JournalRecord] = []
        self.store: list[tuple[Block, QuorumCertificate]] = []
        self.by_hash: dict[bytes, int] = {}
        self.kept: list[Evidence] = []
        self.epoch_blocks = 0
        self.opened: list[tuple[OpenedEpoch, EpochProof]] = []
        """Every epoch that began here, with the proof that the one before is closed; survives."""
        self.core: EpochManager | None = None
        self.timers: dict[TimerKind, int] = {}
        self.life = 0
        self.performed = 0
        """Effects performed in all lives."""
        self.crash_at: int | None = None

    def boot(self) -> None:
        tip = FinalTip(*self.store[-1]) if self.store else None
        self.core = EpochManager(
            self.config,
            self.signer,
            tip,
            tuple(self.journal),
            EvidencePool(self.kept),
            epoch_blocks=self.epoch_blocks,
            opened=[opened for opened, _ in self.opened],
        )
        self.timers = {}
        self.life += 1

    def lowest(self) -> int:
        return len(self.store)


@dataclass
class Observed:
    """What everybody could see from outside."""

    final: dict[int, bytes] = field(default_factory=dict)
    proofs: dict[int, int] = field(default_factory=dict)
    """Kind of the first proof delivered, by height."""
    votes: dict[tuple[int, int, int], list[Vote]] = field(default_factory=dict)
    evidence: list[tuple[str, int]] = field(default_factory=list)
    halts: list[tuple[int, str]] = field(default_factory=list)
    watched: list[tuple[int, int]] = field(default_factory=list)
    outdated: list[tuple[int, int, int]] = field(default_factory=list)
    """(process, version, height) of builds that stopped because they do not know a version."""
    """(validator, epoch from which it signs again)."""
    steps: int = 0
    log: list[str] = field(default_factory=list)


def uniform_link(rng: Random, low_ms: int = 5, high_ms: int = 15) -> Link:
    return lambda now, sender, receiver, message: [rng.randint(low_ms, high_ms)]


def steady_link(now: int, sender: int, receiver: int, message: ConsensusMessage) -> Delays:
    """Every message takes 10 ms."""
    return [10]


class Cluster:
    """`count` validators over a link; those in `silent` never start. One seed, one trace."""

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        link: Link | None = None,
        silent: frozenset[int] = frozenset(),
        byzantine: frozenset[int] = frozenset(),
        parameters: Parameters | None = None,
        tamper: Callable[[int, Effect], list[Effect]] | None = None,
        keys: Sequence[SigningKey] = (),
        bad_transactions: frozenset[bytes] = frozenset(),
        narrate: bool = False,
        weights: tuple[int, ...] | None = None,
        epoch_blocks: int = 0,
        next_set: Callable[[int, ValidatorSet], ValidatorSet] = lambda epoch, known: known,
    ) -> None:
        self.rng = Random(seed)
        self.link = link or uniform_link(self.rng)
        self.parameters = parameters or Parameters(delta_ms=DELTA_MS)
        self.signers: list[Signer] = list(keys) or [ModelSigner(index) for index in range(count)]
        self.validators = (
            ValidatorSet(tuple(key.public_key for key in keys)) if keys else a_validator_set(count, weights)
        )
        self.verified: set[admission.SignatureCheck] | None = set() if keys else None
        """Real signatures already verified, when there are real keys."""
        self.processes = [
            Process(CoreConfig(CHAIN_ID, self.validators, index, self.parameters), index, self.signers[index])
            for index in range(count)
        ]
        self.next_set = next_set
        """(epoch that ended, set of the epoch after it) -> set of the epoch after that: the ledger's decision."""
        self.version_2_from: int | None = None
        """The epoch from which protocol version 2 is in force."""
        for process in self.processes:
            process.epoch_blocks = epoch_blocks
        self.silent, self.byzantine = silent, byzantine
        self.tamper, self.bad_transactions, self.narrate = tamper, bad_transactions, narrate
        self.observed = Observed()
        self.now = 0
        self.restart_ms = 50
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._admitted: dict[int, ConsensusMessage] = {}
        self.journal_votes: list[set[tuple[int, int, int, bytes]]] = [set() for _ in range(count)]
        for process in self.processes:
            if process.index not in silent:
                self.after(0, partial(self.boot, process))

    # --- running ---

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay_ms, next(self._order), action))

    def run(self, until_ms: int, until: Callable[[], bool] | None = None) -> None:
        """Perform events up to a time, or until a condition holds."""
        while self._events and self._events[0][0] <= until_ms:
            if until is not None and until():
                return
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = max(self.now, until_ms) if until is None else self.now

    def heights(self) -> list[int]:
        """Final height of every process, silent ones included (0)."""
        return [len(process.store) for process in self.processes]

    def live_height(self) -> int:
        """The lowest final height among those that run honestly."""
        outside = self.silent | self.byzantine
        return min(len(p.store) for p in self.processes if p.index not in outside)

    def boot(self, process: Process) -> None:
        process.boot()
        if process.index in self.byzantine and process.core is not None:
            # A traitor says what its core never signed; it must not take fright when it hears it.
            process.core.core._check_own = lambda vote: None  # type: ignore[method-assign]
        self.step(process, Started())

    def crash(self, process: Process, restart_ms: int | None = None) -> None:
        """Kill it between two effects; what was not performed is lost, with everything in memory."""
        process.core = None
        process.crash_at = None
        self.after(restart_ms or self.restart_ms, partial(self.boot, process))

    def step(self, process: Process, event: Input) -> None:
        if process.core is None:
            return
        self.observed.steps += 1
        effects = process.core.step(event)
        if self.narrate:
            self._narrate(process, event, effects)
        for effect in effects:
            for one in self.tamper(process.index, effect) if self.tamper is not None else [effect]:
                self._perform(process, one)
            process.performed += 1
            if process.crash_at is not None and process.performed >= process.crash_at:
                self.crash(process)
                return

    # --- the driver ---

    def _perform(self, process: Process, effect: Effect) -> None:
        match effect:
            case Persist(records=records):
                process.journal += records
                for record in records:
                    if isinstance(record, OwnVote):
                        known = (record.epoch, record.kind, record.view, record.subject)
                        self.journal_votes[process.index].add(known)
            case Send(to=to, message=message):
                self.send(process.index, to, message)
            case Broadcast(message=message):
                for other in self.processes:
                    if other.index != process.index:
                        self.send(process.index, other.index, message)
            case SetTimer(kind=kind, view=view, delay_ms=delay_ms):
                process.timers[kind] = process.timers.get(kind, 0) + 1
                expected = (process.life, process.timers[kind])
                self.after(delay_ms, partial(self._fire, process, kind, view, expected))
            case CancelTimer(kind=kind):
                process.timers[kind] = process.timers.get(kind, 0) + 1
            case BuildPayload() | ValidatePayload() | DeliverFinal() | ServeBlocks():
                self._execute(process, effect)
            case _:
                self._perform_rare(process, effect)

    def _perform_rare(self, process: Process, effect: Effect) -> None:
        match effect:
            case EpochClosed(epoch=epoch):
                validators = self.next_set(epoch, self._next_set_of(process))
                version = 2 if self.version_2_from is not None and epoch + 2 >= self.version_2_from else 1
                self.later(process, 3, NextSetDecided(epoch, validators, version))
            case UpgradeRequired(version=version, height=height):
                self.observed.outdated.append((process.index, version, height))
                process.core = None
            case EpochOpened(opened=opened, proof=proof):
                process.opened.append((opened, proof))
            case ServeEpochProof(to=to, epoch=epoch):
                self.send(process.index, to, EpochClosing(process.opened[epoch][1]))
            case WatchEnded(epoch=epoch):
                self.observed.watched.append((process.index, epoch))
            case Readmit(peer=peer, message=message):
                self._arrive(peer, process.index, message)
            case ReportEvidence(kind=kind, offender=offender, evidence=evidence):
                process.kept.append(evidence)
                assert offender in self.byzantine, f"honest validator {offender} accused of {kind}"
                self.observed.evidence.append((kind, offender))
            case Halt(reason=reason):
                self.observed.halts.append((process.index, reason))

    @staticmethod
    def _next_set_of(process: Process) -> ValidatorSet:
        assert process.core is not None
        return process.core.epoch.next_set

    def _execute(
        self, process: Process, effect: BuildPayload | ValidatePayload | DeliverFinal | ServeBlocks
    ) -> None:
        """The application and the block store; validating and building take 1 ms."""
        match effect:
            case BuildPayload(parent=parent, view=view):
                payload = (f"view {view}".encode(),)
                built = PayloadBuilt(parent, view, payload, self.now * 1_000_000, bytes(32))
                self.later(process, max(1, self.parameters.min_block_ms), built)
            case ValidatePayload(block_hash=block_hash, block=block):
                ok = not self.bad_transactions.intersection(block.transactions)
                self.later(process, 1, Validated(block_hash, ok))
            case DeliverFinal():
                self._deliver(process, effect)
            case ServeBlocks(to=to, request=request):
                self.send(process.index, to, self._stored(process, request))

    def later(self, process: Process, delay_ms: int, event: Input) -> None:
        """Give an input after a delay, unless the process has died meanwhile."""
        life = process.life

        def act() -> None:
            if process.life == life:
                self.step(process, event)

        self.after(delay_ms, act)

    def _fire(self, process: Process, kind: TimerKind, view: int, expected: tuple[int, int]) -> None:
        if (process.life, process.timers.get(kind)) == expected:
            self.step(process, TimerFired(kind, view))

    def _stored(self, process: Process, request: BlockRequest) -> BlockResponse:
        height = process.by_hash.get(request.block, 0)
        lowest = max(request.height_above, height - request.count_max)
        blocks = tuple(process.store[at - 1][0] for at in range(height, lowest, -1))
        return BlockResponse(request.block, blocks)

    def _deliver(self, process: Process, effect: DeliverFinal) -> None:
        for block in effect.blocks:
            height, name = block.header.height, hash_of(block.header)
            if process.index not in self.byzantine:
                assert self.observed.final.setdefault(height, name) == name, f"fork at height {height}"
                self.observed.proofs.setdefault(height, effect.proof.kind)
            assert block.header.flags == 0, "suffix blocks are never delivered"
            if height == len(process.store) + 1:
                process.store.append((block, effect.proof))
                process.by_hash[name] = height
            assert hash_of(process.store[height - 1][0].header) == name, "delivered in order, no gap"

    # --- the network ---

    def send(self, sender: int, receiver: int, message: ConsensusMessage) -> None:
        """Put a message on the wire; what honest keys sign is watched here."""
        if sender not in self.byzantine:
            self._watch(sender, message)
        for delay_ms in self.link(self.now, sender, receiver, message):
            self.after(delay_ms, partial(self._arrive, sender, receiver, message))

    def _arrive(self, sender: int, receiver: int, message: ConsensusMessage) -> None:
        process = self.processes[receiver]
        if process.core is None:
            return
        number = admission.other_epoch(message, process.core.epoch)
        if number is not None:
            self.step(process, OtherEpochHeard(ValidatorIndex(sender), number, message))
            return
        if id(message) not in self._admitted:
            admission.check(message, process.core.epoch)
            if self.verified is not None:
                for check in admission.signatures_of(message, process.core.epoch):
                    assert check in self.verified or is_valid(*check)
                    self.verified.add(check)
            self._admitted[id(message)] = message
        self.step(process, MessageReceived(ValidatorIndex(sender), message))

    def _watch(self, sender: int, message: ConsensusMessage) -> None:
        votes: tuple[Vote, ...] = ()
        if isinstance(message, Votes):
            votes = message.votes
        elif isinstance(message, Proposal):
            votes = (message.leader_vote,)
        for vote in votes:
            assert vote.signer == sender
            place = (vote.epoch, vote.kind, vote.view, vote.subject)
            assert place in self.journal_votes[sender], "sent before journaled"
            known = self.observed.votes.setdefault((sender, vote.epoch, vote.view), [])
            if vote not in known:
                for other in known:
                    assert offence_of(other, vote) is None, f"{sender} contradicts itself: {other} {vote}"
                known.append(vote)

    def _narrate(self, process: Process, event: Input, effects: list[Effect]) -> None:
        from tests.consensus.transcript import describe

        self.observed.log += describe(self.now, process.index, event, effects)


def view_and_kind(message: ConsensusMessage) -> tuple[int, int] | None:
    """What a partition may depend on: the view, and 0 proposal, 1..3 vote, 4 certificate."""
    match message:
        case Proposal(leader_vote=vote):
            return vote.view, 0
        case Votes(votes=votes):
            return votes[0].view, votes[0].kind
        case CertificateMessage(certificate=certificate):
            return certificate.view, 4
        case _:
            return None


def hostile_link(seed: int, heal_ms: int, count: int) -> Link:
    """Until `heal_ms`: loss, duplication, reordering, and a partition drawn anew per (view, kind). Then calm."""
    rng = Random(seed)
    loss, duplication = rng.choice([0.0, 0.05, 0.3]), rng.choice([0.0, 0.3])
    slowest_ms = rng.choice([20, 100, 400])
    cut = rng.choice([0.0, 0.3, 0.8])

    def link(now: int, sender: int, receiver: int, message: ConsensusMessage) -> Delays:
        if now >= heal_ms:
            return [rng.randint(5, 15)]
        where = view_and_kind(message)
        if where is not None:
            draw = Random(seed * 1_000_003 + where[0] * 8 + where[1])
            if draw.random() < cut:
                sides = [draw.random() < 0.5 for _ in range(count)]
                if sides[sender] != sides[receiver]:
                    return []
        if rng.random() < loss:
            return []
        copies = 2 if rng.random() < duplication else 1
        return [rng.randint(1, slowest_ms) for _ in range(copies)]

    return link


def final_hashes(process: Process) -> list[BlockHash]:
    return [hash_of(block.header) for block, _ in process.store]
