"""Twins (arXiv 2004.10617): validators with two cores and one key, and a partition drawn for each (view, kind). No I/O.

A scenario lasts a few views. Messages arrive at once or never; when nobody has anything left to say, the earliest
timer runs out. Only safety is judged: agreement, and that nobody but a twinned key is ever accused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from consensus.core import Core
from consensus.effects import (
    Broadcast,
    BuildPayload,
    DeliverFinal,
    Effect,
    Halt,
    ReportEvidence,
    Send,
    SetTimer,
    ValidatePayload,
)
from consensus.epoch import Epoch, first_epoch
from consensus.inputs import Input, MessageReceived, PayloadBuilt, Started, TimerFired, TimerKind, Validated
from consensus.messages import ConsensusMessage, EvidenceMessage, StatusRequest, Vote, hash_of
from consensus.state import CoreConfig, Parameters
from consensus.validator_set import ValidatorSet
from primitives.hashing import digest
from primitives.identifiers import ValidatorIndex
from testnet.checkers import Violation
from testnet.sim.network import view_and_kind
from testnet.sim.signers import ModelSigner
from testnet.sim.streams import stream

CHAIN_ID = digest(b"sim-chain", b"twins")
VIEWS = 4
"""Views that a scenario is watched for."""
STEPS_MAX = 1_500
"""Inputs after which a scenario ends; a healthy one takes a few hundred."""
CUT_SHARE = 0.6
"""(view, kind) pairs with a partition."""


TIMERS = (TimerKind.PROPOSAL, TimerKind.VIEW, TimerKind.FORWARD, TimerKind.PROPOSE)


PERFORMED = frozenset(
    (Broadcast, Send, SetTimer, BuildPayload, ValidatePayload, DeliverFinal, ReportEvidence, Halt)
)
"""Nothing is stored or shown here: of all other effects, which are half of them, nothing comes."""


class FearlessCore(Core):
    """Must not take fright at words under its key that its twin said."""

    def _check_own(self, vote: Vote) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario came to."""

    final_height: int
    offences: int
    steps: int


class TwinScenario:
    """`count` validators, the last `twins` of a random order with two cores each."""

    def __init__(self, seed: int, count: int = 4, twins: int = 1) -> None:
        self._rng: Random = stream(seed, "twins")
        self._count = count
        chosen = self._rng.sample(range(count), twins)
        self._owner = [*range(count), *chosen]
        """Identity of each instance; the instances from `count` on are the second copies."""
        self._honest = [index for index in range(count) if index not in chosen]
        self._instances: list[list[int]] = [
            [at for at, owner in enumerate(self._owner) if owner == index] for index in range(count)
        ]
        self._cuts: dict[tuple[int, int], tuple[int, ...] | None] = {}
        """By (view, kind): for each sender the instances that do not hear it, as bits; None: everybody hears all."""
        self._queue: deque[tuple[int, Input]] = deque()
        self._timers: list[dict[TimerKind, tuple[int, int]]] = [{} for _ in self._owner]
        self._now_ms = 0
        self._final: dict[int, bytes] = {}
        self._height = 0
        self._offences = 0
        self._cores = [self._core(at) for at in range(len(self._owner))]

    def _core(self, at: int) -> Core:
        owner = self._owner[at]
        kind: Callable[..., Core] = Core if owner in self._honest else FearlessCore
        epoch = _epoch(self._count)
        config = CoreConfig(CHAIN_ID, epoch.validators, owner, PARAMETERS, epoch=epoch)
        return kind(config, _signer(owner))

    def run(self) -> Outcome:
        """Raises Violation when two honest validators disagree, or one is accused."""
        for at in range(len(self._owner)):
            self._give(at, Started())
        steps, cores = 0, self._cores
        while steps < STEPS_MAX and (self._queue or self._next_timer()):
            at, event = self._queue.popleft()
            if cores[at].view <= VIEWS:
                self._give(at, event)
                steps += 1
        return Outcome(self._height, self._offences, steps)

    def _next_timer(self) -> bool:
        """Nothing is on its way: time passes until somebody loses patience."""
        due = min(
            (
                (deadline, at, kind, view)
                for at, timers in enumerate(self._timers)
                if self._cores[at].view <= VIEWS
                for kind, (deadline, view) in timers.items()
            ),
            default=None,
        )
        if due is None:
            return False
        self._now_ms, at, kind, view = due
        del self._timers[at][kind]
        self._queue.append((at, TimerFired(kind, view)))
        return True

    def _give(self, at: int, event: Input) -> None:
        for effect in self._cores[at].step(event):
            if type(effect) in PERFORMED:
                self._perform(at, effect)

    def _perform(self, at: int, effect: Effect) -> None:
        match effect:
            case Broadcast(message=message):
                self._send(at, message, range(len(self._owner)))
            case Send(to=to, message=message):
                self._send(at, message, self._instances[to])
            case SetTimer(kind=kind, view=view, delay_ms=delay_ms):
                # Without repetition what is cut stays cut, and a scenario stays short.
                if kind in TIMERS:
                    self._timers[at][kind] = (self._now_ms + delay_ms, view)
            case BuildPayload(parent=parent, view=view):
                # The copies of a leader fill their blocks differently: they equivocate.
                built = PayloadBuilt(parent, view, (bytes([at]),), view, bytes(32))
                self._queue.append((at, built))
            case ValidatePayload(block_hash=block_hash):
                self._queue.append((at, Validated(block_hash, True)))
            case DeliverFinal(blocks=blocks):
                for block in blocks:
                    self._on_final(at, block.header.height, hash_of(block.header))
            case ReportEvidence(offender=offender):
                self._offences += 1
                if offender in self._honest:
                    raise Violation("no honest accused", f"{effect.kind} against {offender}")
            case Halt(reason=reason, detail=detail):
                if self._owner[at] in self._honest:
                    raise Violation("no alarm", f"{reason}: {detail}")

    def _on_final(self, at: int, height: int, name: bytes) -> None:
        if self._owner[at] not in self._honest:
            return
        self._height = max(self._height, height)
        if self._final.setdefault(height, name) != name:
            raise Violation("agreement", f"two blocks are final at height {height}")

    def _send(self, at: int, message: ConsensusMessage, receivers: range | list[int]) -> None:
        if isinstance(message, EvidenceMessage | StatusRequest):
            return  # Everybody judges what it saw itself, and nobody restarts: these would be half of all steps.
        owner = self._owner[at]
        cuts = self._cuts_of(message)
        deaf = 0 if cuts is None else cuts[at]
        received = MessageReceived(ValidatorIndex(owner), message)
        for to in receivers:
            if self._owner[to] != owner and not deaf >> to & 1:
                self._queue.append((to, received))

    def _cuts_of(self, message: ConsensusMessage) -> tuple[int, ...] | None:
        where = view_and_kind(message)
        if where is None:
            return None
        if where not in self._cuts:
            self._cuts[where] = self._draw_cuts() if self._rng.random() < CUT_SHARE else None
        return self._cuts[where]

    def _draw_cuts(self) -> tuple[int, ...]:
        """Two sides that do not hear each other, or links each on their own."""
        size = len(self._owner)
        if self._rng.random() < 0.5:
            sides = self._rng.getrandbits(size)
            return tuple(~sides if sides >> at & 1 else sides for at in range(size))
        return tuple(self._rng.getrandbits(size) & self._rng.getrandbits(size) for _ in range(size))


PARAMETERS = Parameters(delta_ms=100)


@cache
def _signer(index: int) -> ModelSigner:
    return ModelSigner(b"twin %d" % index)


@cache
def _epoch(count: int) -> Epoch:
    """The one epoch of all scenarios of this size; leaders remembered in one are known in the next."""
    return first_epoch(CHAIN_ID, ValidatorSet(tuple(_signer(index).public_key for index in range(count))))
