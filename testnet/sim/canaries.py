"""Deliberately broken builds: each forgets one rule, and a campaign must notice. Changes the program while it hunts.

A canary that lives means that the simulator is blind in one eye.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import msgspec

from consensus import admission, certificate_store, certificates, retransmission, vote_keeper
from consensus import state as state_module
from consensus.certificates import SignatureCheck
from consensus.core import Core
from consensus.effects import Admitted, Effect, OwnVote, Persist
from consensus.epoch import Epoch
from consensus.evidence_pool import EvidencePool
from consensus.final_range import check_range
from consensus.messages import VoteKind
from consensus.pacemaker import Pacemaker
from consensus.safety import OwnVotes, restore
from consensus.state import ConsensusState, Outbox
from consensus.validator_set import ValidatorSet
from consensus.watch import Watch
from node import safety_journal
from node.storage.watermark import START
from node.sync import catch_up
from node.sync.scheduler import Scheduler
from primitives.errors import InvariantViolation
from primitives.identifiers import NO_BLOCK, BlockHash
from testnet.checkers import Violation
from testnet.sim.campaign import quiet
from testnet.sim.files import SimulatedFile
from testnet.sim.plan import Fault, FaultKind, NetworkPlan, Plan, SetChange, Traitor
from testnet.sim.simulation import verdict_of
from testnet.sim.streams import stream
from testnet.sim.swarm import Wishes, draw_plan
from testnet.sim.twins import TwinScenario

TWINS_PER_ATTEMPT = 40
SECONDS_MAX = 120
"""A canary that has not been noticed after so much processor time lives."""

Patch = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Canary:
    """`patches` are (owner, name, replacement); `hunt` says where to look: twins, swarm, epochs (short ones, with
    changes of everything), ranges (catch-up past a liar), the same run twice, or the same run in processes with other
    hash seeds.
    """

    name: str
    patches: Callable[[], list[Patch]]
    hunt: str = "swarm"
    traitor: str = ""
    """Who is likeliest to walk into the gap; "" for any."""


@dataclass(frozen=True, slots=True)
class Caught:
    """How a canary fared."""

    name: str
    caught: bool
    seconds: float
    attempts: int
    oracle: str


@contextmanager
def broken(canary: Canary) -> Iterator[None]:
    """The broken build, for as long as the context lasts."""
    with ExitStack() as stack:
        for owner, name, replacement in canary.patches():
            stack.callback(setattr, owner, name, owner.__dict__[name])
            setattr(owner, name, replacement)
        yield


def hunt(canary: Canary, seconds_max: float = SECONDS_MAX) -> Caught:
    """Look until it is caught or the time is up."""
    start = _processor_seconds()
    with broken(canary):
        for attempt in count(1):
            oracle = _attempt(canary, attempt)
            seconds = _processor_seconds() - start
            if oracle or seconds > seconds_max:
                return Caught(canary.name, bool(oracle), round(seconds, 2), attempt, oracle)
    raise AssertionError("a hunt ends")


def _processor_seconds() -> float:
    """Of this process and those that it has waited for: what else runs on the machine does not count."""
    return sum(os.times()[:4])


def _attempt(canary: Canary, attempt: int) -> str:
    """The name of the oracle that noticed, or nothing."""
    kind = canary.hunt
    if kind == "processes":
        return "event hash" if len({_hash_elsewhere(canary, seed) for seed in ("1", "2", "3")}) > 1 else ""
    try:
        if kind == "twins":
            for seed in range(attempt * TWINS_PER_ATTEMPT, (attempt + 1) * TWINS_PER_ATTEMPT):
                TwinScenario(seed).run()
            return ""
    except Violation as violation:
        return violation.oracle
    except InvariantViolation:
        return "invariant"
    if kind in ("epochs", "ranges"):
        plan = epochs_plan(attempt) if kind == "epochs" else ranges_plan(attempt)
    else:
        plan = focused_plan(attempt, canary.traitor)
    simulation, violation_found = verdict_of(plan)
    if violation_found is not None and violation_found.oracle != "no exception":
        return violation_found.oracle
    if kind == "twice":
        again, _ = verdict_of(plan)
        return "event hash" if again.event_hash() != simulation.event_hash() else ""
    return ""


def focused_plan(seed: int, traitor: str = "") -> Plan:
    """A swarm plan of four, with one traitor more often than not. A whole build keeps every promise in it."""
    plan = draw_plan(seed, Wishes(validators=4, hostile_ms=8_000))
    rng = stream(seed, "focus")
    lost = {node for fault in plan.faults if fault.kind == "lost_disk" for node in fault.nodes}
    if lost or (rng.random() < 0.3 and not traitor):
        return plan
    who = plan.traitors[0].validator if plan.traitors else next(i for i in range(4))
    behaviour = rng.choice(
        ["liar", "mutator", "stale leader", "false reporter", "equivocating leader", "spammer"]
    )
    fields = {name: getattr(plan, name) for name in plan.__struct_fields__}
    fields["weights"] = ()
    fields["traitors"] = (Traitor(validator=who, behaviour=traitor or behaviour),)
    fields["healed"] = tuple(index for index in range(4) if index != who)
    return Plan(**fields)


def epochs_plan(seed: int) -> Plan:
    """A swarm plan of four in epochs of four quick blocks, with all that may change between epochs."""
    plan = draw_plan(seed, Wishes(validators=4, hostile_ms=12_000))
    rng = stream(seed, "focus on epochs")
    who, double = rng.sample(range(4), 2) if rng.random() < 0.5 else (rng.randrange(4), None)
    out = who if double is None else double
    healed = tuple(index for index in range(4) if index != out)
    lost_ms = rng.randrange(500, 6_000)
    lost = Fault(kind=FaultKind.LOST_DISK, at_ms=lost_ms, until_ms=lost_ms + 200, nodes=(who,), amount=0)
    kept = (FaultKind.CUT, FaultKind.CRASH, FaultKind.SLOW_LINK, FaultKind.PAUSE)
    faults = tuple(one for one in plan.faults if one.kind in kept and rng.random() < 0.3)
    without = tuple(0 if index == out else 1 for index in range(4))
    sets = (SetChange(epoch=rng.randint(2, 5), weights=without),) if rng.random() < 0.5 else ()
    upgrade = rng.choice([0, 2, 3])
    traitors = () if double is None else (Traitor(validator=double, behaviour=rng.choice(_EPOCH_TRAITORS)),)
    fields = {
        **{name: getattr(plan, name) for name in plan.__struct_fields__},
        "weights": (),
        "min_block_ms": 50,
        "delta_ms": 50,
        "epoch_blocks": 4,
        "network": NetworkPlan(),
        "sets": sets,
        "upgrade_epoch": upgrade,
        "old_builds": (healed[0],) if upgrade else (),
        "traitors": traitors,
        "faults": faults if traitors else (*faults, lost),
        "healed": healed,
    }
    return Plan(**fields)


def ranges_plan(seed: int) -> Plan:
    """Four with quick blocks, one of them long away, another one a liar in catch-up; short epochs or an endless one."""
    rng = stream(seed, "focus on ranges")
    late, liar = rng.sample(range(4), 2)
    at_ms, until_ms = rng.randrange(0, 2_000), rng.randrange(5_000, 9_000)
    absence = Fault(
        kind=rng.choice([FaultKind.CRASH, FaultKind.CUT, FaultKind.LOST_DISK]),
        at_ms=at_ms,
        until_ms=until_ms,
        nodes=(late,),
        peers=tuple(index for index in range(4) if index != late),
    )
    again_ms = until_ms + rng.randrange(10, 1_000)
    again = Fault(kind=FaultKind.CRASH, at_ms=again_ms, until_ms=again_ms + 300, nodes=(late,))
    return Plan(
        seed=seed,
        validators=4,
        delta_ms=50,
        min_block_ms=50,
        epoch_blocks=rng.choice([0, 30]),
        hostile_ms=14_000,
        range_blocks=rng.choice([4, 16]),
        network=NetworkPlan(loss_ppm=rng.choice([0, 100_000])),
        traitors=(Traitor(validator=liar, behaviour="liar in catch-up"),),
        faults=(absence, again) if rng.random() < 0.5 else (absence,),
        healed=tuple(index for index in range(4) if index != liar),
    )


_EPOCH_TRAITORS = ["doppelganger", "double voter", "equivocating leader", "liar"]


def _hash_elsewhere(canary: Canary, hash_seed: str) -> str:
    """The event hash of a run of the broken build in a process of its own."""
    program = (
        "import sys; from testnet.sim.campaign import quiet; quiet(); from testnet.sim import canaries as c\n"
        "with c.broken(next(one for one in c.CANARIES if one.name == sys.argv[1])):\n"
        "    print(c.verdict_of(c.focused_plan(1))[0].event_hash())"
    )
    command = [sys.executable, "-c", program, canary.name]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


# --- the broken rules ---


def _report_dropped() -> list[Patch]:
    return [(OwnVotes, "nullify", lambda self, view: self._signed(VoteKind.NULLIFY, view, NO_BLOCK))]


def _notarize_after_nullify() -> list[Patch]:
    def may(self: OwnVotes, view: int, block: BlockHash) -> bool:
        own = self.of(view)
        return self._may_sign(view) and own.notarized is None and own.finalized in (None, block)

    return [(OwnVotes, "may_notarize", may)]


def _finalize_after_nullify() -> list[Patch]:
    def may(self: OwnVotes, view: int, block: BlockHash) -> bool:
        own = self.of(view)
        return self._may_sign(view) and own.finalized is None and own.notarized in (None, block)

    return [(OwnVotes, "may_finalize", may)]


def _notarize_twice() -> list[Patch]:
    def may(self: OwnVotes, view: int, block: BlockHash) -> bool:
        return self._may_sign(view) and self.of(view).nullified is None

    def record(self: OwnVotes, kind: int, view: int, subject: BlockHash) -> None:
        self._views.setdefault(view, type(self.of(view))()).notarized = subject
        self._signatures.pop((view, kind), None)

    return [(OwnVotes, "may_notarize", may), (OwnVotes, "_record", record)]


def _journal_forgotten() -> list[Patch]:
    return [(OwnVotes, "restore", lambda self, record: None)]


def _certificates_forgotten() -> list[Patch]:
    def without(own: OwnVotes, records: Any) -> Any:
        return restore(own, [one for one in records if not isinstance(one, Admitted)])

    return [(state_module, "restore", without)]


def _resolve_with(resolve: Callable[[Any, ValidatorSet], BlockHash]) -> list[Patch]:
    return [(module, "resolve", resolve) for module in (certificates, certificate_store, vote_keeper)]


def _everything_skips() -> list[Patch]:
    return _resolve_with(lambda certificate, validators: NO_BLOCK)


def _majority_of_the_quorum() -> list[Patch]:
    """Counted over half a quorum's weight less one: a minority carries."""

    def resolve(certificate: Any, validators: ValidatorSet) -> BlockHash:
        for group in certificate.groups:
            if group.report != NO_BLOCK and 2 * validators.weight_of(group.signers) >= validators.quorum - 1:
                return BlockHash(group.report)
        return NO_BLOCK

    return _resolve_with(resolve)


def _weights(change: Callable[[ValidatorSet], None]) -> list[Patch]:
    original = ValidatorSet.__init__

    def init(self: ValidatorSet, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        change(self)

    return [(ValidatorSet, "__init__", init)]


def _fast_quorum_too_low() -> list[Patch]:
    return _weights(lambda validators: setattr(validators, "final_weight", validators.final_weight - 1))


def _quorum_too_low() -> list[Patch]:
    return _weights(lambda validators: setattr(validators, "quorum", validators.quorum - 1))


def _skips_unchecked() -> list[Patch]:
    return [(certificates, "_check_skips", lambda *_: None)]


class _EqualsAll:
    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def _justification_root_unchecked() -> list[Patch]:
    return [(certificates, "justification_root", lambda justification: _EqualsAll())]


def _body_unchecked() -> list[Patch]:
    return [(admission, "check_body", lambda *_: None)]


def _signatures_unchecked() -> list[Patch]:
    return [(admission, "signatures_of", lambda message, epoch: [])]


def _send_before_persist() -> list[Patch]:
    """What a step wants to be written comes with the next one; the driver writes all that it has before it sends."""
    original = Outbox.take

    def take(self: Outbox) -> list[Effect]:
        effects = original(self)
        late = self.__dict__.pop("late", [])
        self.__dict__["late"] = [one for one in effects if isinstance(one, Persist)]
        return [*late, *(one for one in effects if not isinstance(one, Persist))]

    return [(Outbox, "take", take)]


def _no_fsync() -> list[Patch]:
    return [(SimulatedFile, "sync", lambda self: None)]


def _no_retransmission() -> list[Patch]:
    def on_retry(state: Any) -> None:
        return None

    return [(retransmission, "on_retry", on_retry)]


def _lost_disk_ignored() -> list[Patch]:
    return [
        (safety_journal, "observer_reason", lambda watermark, journaled: None),
    ]


def _torn_tail_silences() -> list[Patch]:
    def floor(journal: Any, watermark: Any) -> Any:
        return watermark.reserved if journal.dropped_bytes else START

    return [(safety_journal, "floor_after", floor)]


def _wall_clock_in_the_core() -> list[Patch]:
    return [(Pacemaker, "forward_ms", lambda self: 1 + time.perf_counter_ns() % 25)]


def _nullify_after_finalize() -> list[Patch]:
    """Two guards go together: R4's own, and the place in the journal that a finalize vote leads a restart past."""

    def may(self: OwnVotes, view: int) -> bool:
        return self._may_sign(view) and self.of(view).nullified is None

    def without_views(own: OwnVotes, records: Any) -> Any:
        kept = list(records)
        restored = restore(own, kept)
        restored.view = max((one.view for one in kept if isinstance(one, OwnVote)), default=0)
        return restored

    return [(OwnVotes, "may_nullify", may), (state_module, "restore", without_views)]


def _chain_ignored() -> list[Patch]:
    original = certificates.check_justified

    def check(block: Any, epoch: Epoch) -> None:
        header = msgspec.structs.replace(block.header, chain_id=epoch.chain_id)
        original(msgspec.structs.replace(block, header=header), epoch)

    return [(module, "check_justified", check) for module in (certificates, admission)]


def _parent_unchecked() -> list[Patch]:
    return [(certificates, "_check_parent", lambda *_: None)]


def _gap_off_by_one() -> list[Patch]:
    """The last skipped view is never asked for."""
    original = certificates._check_skips

    def check(header: Any, skips: Any, epoch: Epoch) -> None:
        if len(skips) != header.view - header.parent_view - 2:
            original(header, skips, epoch)

    return [(certificates, "_check_skips", check)]


def _evidence_never_expires() -> list[Patch]:
    return [(EvidencePool, "expire", lambda self, epoch: None)]


def _far_votes_kept() -> list[Patch]:
    original = ConsensusState.__init__

    def init(self: ConsensusState, *arguments: Any) -> None:
        original(self, *arguments)
        self.parameters = replace(self.parameters, lookahead_views=2**62)

    return [(ConsensusState, "__init__", init)]


def _set_iteration() -> list[Patch]:
    def others(self: ConsensusState) -> list[Any]:
        names = {str(index) for index in range(self.validators.count) if index != self.place}
        return [int(name) for name in names]

    return [(ConsensusState, "others", others)]


def _watch_signs() -> list[Patch]:
    return [(Watch, "may_sign", lambda self, epoch: True)]


def _double_ignored() -> list[Patch]:
    return [(Core, "_check_own", lambda self, vote: None)]


def _following_with(change: Callable[[Epoch, ValidatorSet], Epoch]) -> list[Patch]:
    original = Epoch.following

    def following(self: Epoch, boundary: BlockHash, validators: ValidatorSet, version: int) -> Epoch:
        return change(original(self, boundary, validators, version), validators)

    return [(Epoch, "following", following)]


def _version_forgotten() -> list[Patch]:
    return _following_with(lambda epoch, decided: replace(epoch, version=1))


def _set_one_epoch_early() -> list[Patch]:
    return _following_with(lambda epoch, decided: replace(epoch, validators=decided))


def _ranges_with(check: Callable[..., list[SignatureCheck]]) -> list[Patch]:
    return [(catch_up, "check_range", check)]


def _range_unverified() -> list[Patch]:
    return _ranges_with(lambda *_: [])


def _range_signatures_unchecked() -> list[Patch]:
    def check(*arguments: Any) -> list[SignatureCheck]:
        check_range(*arguments)
        return []

    return _ranges_with(check)


def _tip_unverified() -> list[Patch]:
    return [(catch_up, "check_final_header", lambda *_: [])]


def _liar_asked_again() -> list[Patch]:
    return [(Scheduler, "drop", lambda self, peer: None)]


CANARIES = [
    Canary("report dropped from nullify", _report_dropped),
    Canary("notarize after nullify", _notarize_after_nullify),
    Canary("finalize after nullify", _finalize_after_nullify),
    Canary("notarize twice in a view", _notarize_twice),
    Canary("journal forgotten at a restart", _journal_forgotten),
    Canary("certificates forgotten at a restart", _certificates_forgotten),
    Canary("every timeout certificate skips", _everything_skips),
    Canary("majority counted over the quorum", _majority_of_the_quorum),
    Canary("fast quorum one too low", _fast_quorum_too_low),
    Canary("quorum one too low", _quorum_too_low),
    Canary("skipped views unchecked", _skips_unchecked),
    Canary("justification root unchecked", _justification_root_unchecked, traitor="mutator"),
    Canary("body unchecked", _body_unchecked, traitor="mutator"),
    Canary("signatures unchecked", _signatures_unchecked),
    Canary("send before persist", _send_before_persist),
    Canary("no fsync", _no_fsync),
    Canary("no retransmission", _no_retransmission),
    Canary("votes again after a lost disk", _lost_disk_ignored),
    Canary("a torn tail silences", _torn_tail_silences),
    Canary("nullify after finalize", _nullify_after_finalize),
    Canary("chain id ignored", _chain_ignored, traitor="mutator"),
    Canary("parent certificate unchecked", _parent_unchecked),
    Canary("gap check off by one", _gap_off_by_one),
    Canary("evidence never expires", _evidence_never_expires, "epochs"),
    Canary("votes of any view are kept", _far_votes_kept),
    Canary("watch mode signs", _watch_signs, "epochs"),
    Canary("its double is ignored", _double_ignored, "epochs"),
    Canary("protocol version forgotten", _version_forgotten, "epochs"),
    Canary("a set votes one epoch early", _set_one_epoch_early, "epochs"),
    Canary("a range is believed unverified", _range_unverified, "ranges"),
    Canary("a range's signatures unchecked", _range_signatures_unchecked, "ranges"),
    Canary("a tip is believed unverified", _tip_unverified, "ranges"),
    Canary("a liar in catch-up is asked again", _liar_asked_again, "ranges"),
    Canary("set iteration in the core", _set_iteration, "processes"),
    Canary("wall clock in the core", _wall_clock_in_the_core, "twice"),
]


def canary_campaign(names: Sequence[str], seconds_max: float, jobs: int) -> Iterator[Caught]:
    """Hunt for each, in the order given; every hunt breaks the build of its own process only."""
    with ProcessPoolExecutor(jobs, initializer=quiet) as pool:
        yield from pool.map(partial(_hunt_by_name, seconds_max), names)


def _hunt_by_name(seconds_max: float, name: str) -> Caught:
    return hunt(next(canary for canary in CANARIES if canary.name == name), seconds_max)
