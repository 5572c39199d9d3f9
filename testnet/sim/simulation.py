"""One run of one plan: the event heap, virtual time, faults, the auditor's hash, and the checkers' eyes. No I/O.

Everything happens on one heap of (time_ns, order, action). The hash covers every event; two runs of a plan on one
commit give the same one, in any process and under any PYTHONHASHSEED.
"""

from __future__ import annotations

import heapq
import struct
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from consensus import admission
from consensus.effects import DeliverFinal, OpenedEpoch
from consensus.epoch import Epoch, first_epoch
from consensus.evidence import check_pair
from consensus.forensics import check_accusation
from consensus.fork import find_fork
from consensus.inputs import NextSetDecided
from consensus.messages import (
    Block,
    BlockEvidence,
    ConsensusMessage,
    EpochProof,
    PairEvidence,
    TimeoutCertificate,
    hash_of,
)
from consensus.state import CoreConfig, Parameters
from consensus.validator_set import ValidatorSet
from node.sync.catch_up import Ask
from node.sync.messages import RangeRequest
from primitives.codec import encode
from primitives.errors import InvariantViolation, ProtocolViolation
from primitives.hashing import digest
from primitives.identifiers import BlockHash
from testnet.byzantine import BEHAVIOURS
from testnet.checkers import Violation
from testnet.checkers.chain import OneChain
from testnet.checkers.limits import check_limits
from testnet.checkers.liveness import bound_ms, catch_up_ms
from testnet.checkers.ranges import BelievedRanges
from testnet.checkers.rules import Rules, members_of
from testnet.sim.exchange import ORDER_EVERY_NS, ExchangeExecutor, Market
from testnet.sim.executors import EmptyExecutor, Executor, Roots
from testnet.sim.faults import FaultPlayer
from testnet.sim.files import SimulatedDisk
from testnet.sim.network import MS, Letter, SimulatedNetwork
from testnet.sim.plan import Plan
from testnet.sim.signers import KeyRing
from testnet.sim.stores import FinalStore
from testnet.sim.streams import stream
from testnet.sim.validator import SimulatedValidator

CHAIN_ID = digest(b"sim-chain", b"quorate")
HOUSEKEEPING_NS = 2_000 * MS
"""How often limits are checked and old bookkeeping goes."""
_EVENT = struct.Struct(">Q8sHH8s")


class Simulation:
    """`run()` gives back normally or raises Violation (or InvariantViolation from the product itself)."""

    def __init__(self, plan: Plan, *, trace: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.now_ns = 0
        self.trace = trace
        self.sometimes: Counter[str] = Counter()
        self.events = 0
        self.guilty: set[int] = set()
        """Everybody against whom a valid pair of votes was reported."""
        self.halts: list[tuple[int, str]] = []
        self.forks: list[frozenset[int]] = []
        """Whom each pair of conflicting chains names."""
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._hash = blake2b(digest_size=16)
        self.ring = KeyRing(plan.seed, plan.validators, plan.signatures)
        keys = tuple(signer.public_key for signer in self.ring.signers)
        self.validators_set = ValidatorSet(keys, plan.weights_in(0))
        self.epoch = first_epoch(CHAIN_ID, self.validators_set)
        self.rules = Rules(CHAIN_ID, keys, plan.weights_in, self.epoch.genesis, self.ring.is_valid)
        self.chain = OneChain(
            self.rules, plan.epoch_blocks, plan.version_in, forks_allowed=not plan.must_live
        )
        self.ranges = BelievedRanges(self.rules, plan.epoch_blocks)
        self.network = SimulatedNetwork(plan)
        self.roots = Roots()
        self.market: Market | None = None
        if plan.application == "exchange":
            self.market = Market(plan.seed, plan.validators, CHAIN_ID, lambda i: self.validators[i].wall_ns())
        self._gossip = stream(plan.seed, "gossip")
        self.others = [tuple(j for j in range(plan.validators) if j != i) for i in range(plan.validators)]
        self.validators = [self._new_validator(index) for index in range(plan.validators)]
        self.faults = FaultPlayer(self)
        self.highest_epoch, self.highest_view = 0, 1
        self.recovery_ms = self.recovery_limit_ms = 0

    def _new_validator(self, index: int) -> SimulatedValidator:
        plan = self.plan
        parameters = Parameters(delta_ms=plan.delta_ms, min_block_ms=plan.min_block_ms)
        config = CoreConfig(CHAIN_ID, self.validators_set, index, parameters)
        disk = SimulatedDisk(stream(plan.seed, f"disk {index}"), plan.torn_writes)
        behaviour = next((t.behaviour for t in plan.traitors if t.validator == index), None)
        actor = None
        if behaviour is not None:
            rng = stream(plan.seed, f"traitor {index}")
            actor = BEHAVIOURS[behaviour](
                index, plan.validators, CHAIN_ID, self.ring.signers[index].sign, rng
            )
            actor.first_half = frozenset(plan.first_half) or actor.first_half
        return SimulatedValidator(self, index, config, self.ring.signers[index], disk, actor)

    def new_executor(self, index: int, store: FinalStore) -> Executor:
        """The application as a restart finds it."""
        if self.market is not None:
            tip = hash_of(store.blocks[-1].header) if store.blocks else self.epoch.genesis
            exchange = ExchangeExecutor(self.market, store.leaves, tip, len(store.blocks))
            exchange.find_block = lambda block: self._held(index, block)
            return exchange
        executor = EmptyExecutor(self.roots)
        executor.find_block = lambda block: self._held(index, block)
        if store.proof is not None:
            executor.finalize(tuple(store.blocks), store.proof)
        return executor

    def _held(self, index: int, block: BlockHash) -> Block | None:
        core = self.validators[index].core
        node = core.state.tree.get(block) if core is not None else None
        return node.block if node is not None else None

    def _submit_order(self) -> None:
        """A client tells each validator, but for those who happen not to hear of it."""
        if self.market is not None:
            sender, raw = self.market.next_order()
            for validator in self.validators:
                executor = validator.executor
                if isinstance(executor, ExchangeExecutor) and self._gossip.random() < 0.8:
                    executor.submit(sender, raw)
            self.after(ORDER_EVERY_NS, self._submit_order)

    # --- time ---

    def after(self, delay_ns: int, action: Callable[..., None], *arguments: Any) -> None:
        """Do something later; ties go in the order of asking."""
        self._order += 1
        heapq.heappush(self._heap, (self.now_ns + delay_ns, self._order, action, arguments))

    def run_until(self, end_ns: int, done: Callable[[], bool] | None = None) -> bool:
        """Take events up to a time, or until `done` holds after one; whether it did."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end_ns:
            self.now_ns, _, action, arguments = pop(heap)
            action(*arguments)
            self.events += 1
            if done is not None and done():
                return True
        self.now_ns = max(self.now_ns, end_ns)
        return False

    def run(self) -> None:
        """The hostile phase, then the healing, then whatever is owed. Raises Violation."""
        for validator in self.validators:
            self.after(0, validator.boot)
        self.faults.schedule()
        self.after(HOUSEKEEPING_NS, self._housekeeping)
        self.after(0, self._submit_order)
        self.run_until(self.plan.hostile_ms * MS)
        if self.plan.must_live:
            self._heal_and_wait()
        self._check_at_the_end()
        self.forks = self._check_forks()

    def _heal_and_wait(self) -> None:
        """A random core is whole; everything else is frozen as it is for ever; finality must follow in time."""
        self.faults.heal(frozenset(self.plan.healed))
        core = [self.validators[index] for index in self.plan.healed]
        coming = {self.plan.weights_in(self.highest_epoch), *(one.weights for one in self.plan.sets)}
        behind = max(self._views_behind(validator) for validator in core)
        epochs_behind = self.highest_epoch - min(self._epoch_of(validator) for validator in core)
        limit_ms = bound_ms(
            bad_turns=max(
                sum(1 for leader in members_of(weights).turns if leader not in self.plan.healed)
                for weights in coming
            ),
            delta_ms=self.plan.delta_ms,
            min_block_ms=self.plan.min_block_ms,
            views_behind=behind,
            epochs_behind=epochs_behind,
        )
        if self._is_left_to_ranges(core):
            limit_ms += catch_up_ms(epochs_behind)
        start_ns, goal = self.now_ns, max(validator.height for validator in self.validators) + 1
        lived = self.run_until(start_ns + limit_ms * MS, lambda: min(one.height for one in core) >= goal)
        if not lived:
            heights = [(one.index, one.height, one.standing.value) for one in core]
            raise Violation("liveness", f"no block {goal} within {limit_ms} ms of the healing: {heights}")
        self.recovery_ms = (self.now_ns - start_ns) // MS
        self.recovery_limit_ms = limit_ms

    def _is_left_to_ranges(self, core: Sequence[SimulatedValidator]) -> bool:
        """Whether somebody in the core is so far behind that it fetches ranges, or does so already."""
        if not self.plan.range_blocks:
            return False
        highest = max(validator.height for validator in self.validators)
        is_far = highest > min(validator.height for validator in core) + self.plan.range_blocks // 2
        return is_far or any(one.catching_up is not None and one.catching_up.is_fetching for one in core)

    @staticmethod
    def _views_behind(validator: SimulatedValidator) -> int:
        state = validator.core.state if validator.core is not None else None
        return state.view - state.tree.root.view if state is not None else 0

    @staticmethod
    def _epoch_of(validator: SimulatedValidator) -> int:
        return validator.store.opened[-1][0].number if validator.store.opened else 0

    def _housekeeping(self) -> None:
        for validator in self.validators:
            if validator.core is not None and validator.is_honest:
                check_limits(validator.index, validator.core.state)
                validator.signatures.forget_below(validator.core.epoch.number, validator.core.view)
        self.after(HOUSEKEEPING_NS, self._housekeeping)

    def _check_at_the_end(self) -> None:
        """Replay from genesis, and whatever restarts from the stores, give the same roots."""
        for validator in self.validators:
            if not validator.is_honest or not validator.store.blocks or self.chain.forked_at is not None:
                continue
            if validator.core is not None and validator.executor.root() not in self._replayed(validator):
                raise Violation(
                    "replay", f"validator {validator.index} has another root than its blocks give"
                )

    def _check_forks(self) -> list[frozenset[int]]:
        """From any two conflicting chains alone: f+1 or more guilty, nobody honest, every proof stands by itself."""
        held = [v for v in self.validators if v.is_honest and v.store.heights()[1]]
        if self.chain.forked_at is None:
            return []
        found = (self._fork_of(one, two) for place, one in enumerate(held) for two in held[place + 1 :])
        return [guilty for guilty in found if guilty is not None]

    def _fork_of(self, one: SimulatedValidator, two: SimulatedValidator) -> frozenset[int] | None:
        first = first_epoch(CHAIN_ID, self.validators_set, self.plan.epoch_blocks)
        try:
            fork = find_fork(one.store, two.store, first, self.ring.is_valid)
        except ProtocolViolation as lacking:
            raise Violation(
                "culprits", f"the chains of honest validators {one.index} and {two.index}: {lacking}"
            ) from None
        if fork is None:
            return None
        for accusation in fork.accusations:
            check_accusation(accusation, fork.epoch, self.ring.is_valid)
        guilty = frozenset(accusation.offender for accusation in fork.accusations)
        self.happened("fork" if fork.epoch.number == 0 else "fork in a later epoch")
        if any(fork.epoch.is_suffix(chain.blocks[-1].header.height) for chain in fork.chains):
            self.happened("fork judged through suffix blocks")
        where = f"the fork between validators {one.index} and {two.index} at height {fork.height}"
        if not guilty <= self.plan.traitor_set:
            raise Violation("culprits", f"{where} names honest {sorted(guilty - self.plan.traitor_set)}")
        members = self.rules.members(fork.epoch.number)
        if members.weight_of(guilty) <= members.faulty:
            raise Violation("culprits", f"{where} names only {sorted(guilty)}")
        return guilty

    def _replayed(self, validator: SimulatedValidator) -> set[bytes]:
        """The root as a restart finds it, and as all blocks from genesis give it: one, if all is well."""
        restarted = self.new_executor(validator.index, validator.store).root()
        fresh = FinalStore()
        replay = self.new_executor(validator.index, fresh)
        if validator.store.proof is not None:
            replay.finalize(tuple(validator.store.blocks), validator.store.proof)
        return {restarted} & {replay.root()}

    # --- what the checkers see ---

    def audit(self, kind: bytes, node: int, peer: int = 0, name: bytes = b"") -> None:
        """Put one event into the hash."""
        self._hash.update(_EVENT.pack(self.now_ns, kind, node, peer, name))
        if self.trace is not None:
            self.trace(f"{self.now_ns // 1000:>12} us  {kind.decode():8} {node} {peer} {name.hex()}")

    def event_hash(self) -> str:
        """Over every event so far."""
        return self._hash.hexdigest()

    def happened(self, what: str) -> None:
        """Count something that campaigns should reach sometimes."""
        self.sometimes[what] += 1

    def on_view(self, validator: SimulatedValidator, view: int) -> None:
        """Somebody enters a view."""
        self.audit(b"view", validator.index, 0, view.to_bytes(8, "big"))
        epoch = validator.core.epoch if validator.core is not None else self.epoch
        if validator.is_honest and (epoch.number, view) > (self.highest_epoch, self.highest_view):
            self.highest_epoch, self.highest_view = epoch.number, view
            self.faults.on_view(epoch.leaders.leader_of(view))

    def decide(self, epoch: int, known: ValidatorSet) -> NextSetDecided:
        """What the ledger says at the end of an epoch: set and version of the one after the next."""
        weights = enumerate(self.plan.weights_in(epoch + 2))
        chosen = known.following((i, known.public_keys[i], weight) for i, weight in weights if weight)
        return NextSetDecided(epoch, chosen, self.plan.version_in(epoch + 2))

    def on_epoch(self, validator: SimulatedValidator, opened: OpenedEpoch, proof: EpochProof) -> None:
        """Somebody enters an epoch."""
        number, place = opened.number, validator.index
        self.audit(b"epoch", place, number % 65_536)
        if validator.is_honest:
            self.chain.on_epoch(place, opened, self._epoch_of(validator))
            if self.plan.version_in(number) > 1 and validator.version_max == 1:
                raise Violation("one set", f"validator {place} begins epoch {number} of an unknown version")
        old, new = self.plan.weights_in(number - 1), self.plan.weights_in(number)
        for holds, what in (
            (True, "epoch opened"),
            (old != new, "set changed"),
            (not old[place] and new[place], "validator joined"),
            (old[place] and not new[place], "validator left"),
            (number == self.plan.upgrade_epoch, "upgrade in force"),
            (number < self.highest_epoch, "caught up past an epoch"),
            (len(proof.headers) > 1, "epoch closed by a suffix"),
        ):
            if holds:
                self.happened(what)

    def on_final(self, validator: SimulatedValidator, delivered: DeliverFinal) -> None:
        """An honest validator calls blocks final."""
        self.audit(b"final", validator.index, len(delivered.blocks), delivered.proof.block[:8])
        self.chain.on_final(validator.index, validator.height, delivered)
        self.faults.on_height(delivered.blocks[-1].header.height)
        justification = delivered.blocks[-1].justification
        self.sometimes["fast finality" if delivered.is_fast else "slow finality"] += 1
        if justification.skips:
            self.sometimes["leader skipped"] += 1
            if len(justification.skips) >= 3:
                self.sometimes["block after three failed views"] += 1
        if isinstance(justification.parent, TimeoutCertificate):
            self.sometimes["block on a carried parent"] += 1
        if len(delivered.blocks) > 1:
            self.sometimes["final through a descendant"] += 1

    def on_evidence(
        self, validator: SimulatedValidator, kind: str, offender: int, evidence: PairEvidence | BlockEvidence
    ) -> None:
        """Somebody reports an offence; of an honest validator there can be none."""
        self.audit(b"evidence", validator.index, offender)
        self.happened(f"evidence {kind}")
        self.guilty.add(offender)
        if self.validators[offender].is_honest and validator.is_honest:
            raise Violation("no honest accused", f"validator {validator.index} accuses {offender} of {kind}")
        if isinstance(evidence, PairEvidence) and check_pair(evidence).value != kind:
            raise Violation("no honest accused", f"evidence of {kind} proves something else")

    def on_halt(self, validator: SimulatedValidator, reason: str, detail: str) -> None:
        """R9, or a foreign use of the key: with at most f Byzantine no honest validator ever halts."""
        self.audit(b"halt", validator.index)
        self.halts.append((validator.index, reason))
        if validator.is_honest and self.plan.must_live:
            raise Violation("no alarm", f"validator {validator.index} halted: {reason}, {detail}")

    def crashed_itself(self, validator: SimulatedValidator) -> None:
        """Died at an effect boundary; comes back when its fault says, or soon."""
        validator.crash()
        self.faults.on_crashed(validator)

    def on_liar(self, validator: SimulatedValidator, ask: Ask, violation: ProtocolViolation) -> None:
        """Somebody who catches up names whoever has answered it."""
        self.audit(b"liar", validator.index, ask.peer)
        self.happened(f"lie noticed: {violation.reason.value}")
        if isinstance(ask.question, RangeRequest):
            self.happened("lying server dropped")
            self.ranges.on_liar(validator.index, ask.peer)
        is_whole = self.chain.forked_at is None
        if validator.is_honest and self.validators[ask.peer].is_honest and is_whole:
            raise Violation("honest messages pass", f"{ask.peer} answered {violation}")

    # --- the network ---

    def carry(self, sender: int, receiver: int, raw: bytes, action: Callable[..., None], *to: Any) -> None:
        """A question or an answer on a stream of its own: it arrives once or never."""
        delays = self.network.stream_delays_ns(sender, receiver)
        for delay_ns in delays[:1]:
            name = digest(b"sim-stream", raw)[:8]
            self.after(delay_ns, self._carried, sender, receiver, name, action, to)

    def _carried(
        self, sender: int, receiver: int, name: bytes, action: Callable[..., None], to: tuple[Any, ...]
    ) -> None:
        self.audit(b"stream", receiver, sender, name)
        action(*to)

    def send(self, sender: int, message: ConsensusMessage, receivers: Sequence[int]) -> None:
        """One message to some; each copy is an event of its own."""
        letter = Letter(sender, message, digest(b"sim-letter", encode(message))[:8])
        delays_ns = self.network.delays_ns
        for receiver in receivers:
            for delay_ns in delays_ns(sender, receiver, letter):
                self.after(delay_ns, self._arrive, receiver, letter)

    def _arrive(self, receiver: int, letter: Letter) -> None:
        self._hash.update(_EVENT.pack(self.now_ns, b"letter", receiver, letter.sender, letter.name))
        if self.trace is not None:
            kind = type(letter.message).__name__
            self.trace(
                f"{self.now_ns // 1000:>12} us  {letter.sender} -> {receiver} {kind} {letter.where or ''}"
            )
        self.validators[receiver].hear(letter)

    def admits(self, letter: Letter, receiver: SimulatedValidator, epoch: Epoch) -> bool:
        """The node's own admission, and every signature; a function of the bytes, so found once for all receivers."""
        verdict = letter.verdicts.get(epoch.genesis)
        if verdict is None:
            verdict = letter.verdicts[epoch.genesis] = self._is_admitted(letter, receiver, epoch)
        return verdict

    def _is_admitted(self, letter: Letter, receiver: SimulatedValidator, epoch: Epoch) -> bool:
        is_honest = self.validators[letter.sender].is_honest
        try:
            admission.check(letter.message, epoch)
            if is_honest and self.plan.signatures == "model":
                return True  # An honest validator signed these itself or has verified them when they came.
            for check in admission.signatures_of(letter.message, epoch):
                if not self.ring.is_valid(check):
                    self.happened("refused: bad signature")
                    return False
        except ProtocolViolation as refusal:
            self.happened(f"refused: {refusal.reason.value}")
            is_whole = self.chain.forked_at is None  # After a fork, epochs of one number are different ones.
            if is_honest and receiver.is_honest and is_whole:  # A traitor may have asked for it.
                raise Violation("honest messages pass", f"{letter.sender} sent {refusal}") from None
            return False
        return True


def verdict_of(plan: Plan, trace: Callable[[str], None] | None = None) -> tuple[Simulation, Violation | None]:
    """Run a plan; a broken promise of the product's own (InvariantViolation) is a violation too."""
    simulation = Simulation(plan, trace=trace)
    try:
        simulation.run()
    except Violation as violation:
        return simulation, violation
    except InvariantViolation as broken:
        return simulation, Violation("invariant", str(broken))
    except Exception as error:  # Whatever the product raises here would have ended a node.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return simulation, Violation("no exception", f"{error!r} in {place.name}, line {place.lineno}")
    return simulation, None
