"""The simulated network: which copies of a message arrive, and when. No I/O.

Delays and losses come from the run's own stream; what is cut comes from the plan. After the healing, links inside the
core are good; every other link stays as it was at that moment.
"""

from __future__ import annotations

from collections import Counter
from random import Random

from consensus.messages import CertificateMessage, ConsensusMessage, Proposal, Votes
from testnet.sim.plan import NetworkPlan, Plan
from testnet.sim.streams import stream

MS = 1_000_000
"""Nanoseconds in a millisecond."""
PARTITIONS_REMEMBERED_MAX = 4_096
"""Drawn (view, kind) partitions; drawn again, the same, when forgotten."""


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


class Letter:
    """One message on its way to one or many: its name for the auditor, and the verdict of admission, found once."""

    __slots__ = ("message", "name", "sender", "verdicts", "where")

    def __init__(self, sender: int, message: ConsensusMessage, name: bytes) -> None:
        self.sender = sender
        self.message = message
        self.name = name
        self.where = view_and_kind(message)
        self.verdicts: dict[bytes, bool] = {}
        """By the block that the receiver's epoch stands on: a verdict is a function of the bytes and the epoch."""


class SimulatedNetwork:
    """Asked once for each receiver of each message."""

    def __init__(self, plan: Plan) -> None:
        self._plan: NetworkPlan = plan.network
        self._seed = plan.seed
        self._count = plan.validators
        self._rng: Random = stream(plan.seed, "network")
        self._stream_rng: Random = stream(plan.seed, "network streams")
        self._span = (plan.network.delay_max_ms - plan.network.delay_min_ms) * MS
        self._partitions: dict[tuple[int, int], tuple[int, bool] | None] = {}
        self.cuts: Counter[tuple[int, int]] = Counter()
        """(from, to) -> how many faults stop this direction now."""
        self.slow_ns: dict[tuple[int, int], int] = {}
        self.isolated: int | None = None
        """Whoever is the leader that can be neither heard nor told anything; None for nobody."""
        self.healed: frozenset[int] = frozenset()

    def delays_ns(self, sender: int, receiver: int, letter: Letter) -> tuple[int, ...]:
        """Nanoseconds until each copy arrives; nothing when it is lost."""
        return self._drawn(sender, receiver, letter.where, self._rng)

    def stream_delays_ns(self, sender: int, receiver: int) -> tuple[int, ...]:
        """The same for one direction of a stream of its own; drawn apart, so that letters fall as they fell."""
        return self._drawn(sender, receiver, None, self._stream_rng)

    def _drawn(
        self, sender: int, receiver: int, where: tuple[int, int] | None, rng: Random
    ) -> tuple[int, ...]:
        plan, draw = self._plan, rng.random
        if sender in self.healed and receiver in self.healed:
            return (int((5 + 10 * draw()) * MS),)
        link = (sender, receiver)
        if self.cuts[link] or self.isolated in link:
            return ()
        if plan.kind_cut_ppm and where is not None and self._is_cut(sender, receiver, where):
            return ()
        if plan.loss_ppm and draw() * 1_000_000 < plan.loss_ppm:
            return ()
        delay = plan.delay_min_ms * MS + int(draw() * self._span) + self.slow_ns.get(link, 0)
        if plan.straggler_ppm and draw() * 1_000_000 < plan.straggler_ppm:
            delay *= 2 + int(18 * draw())
        if plan.duplicate_ppm and draw() * 1_000_000 < plan.duplicate_ppm:
            return (delay, delay + int(draw() * 10 * self._span))
        return (delay,)

    def _is_cut(self, sender: int, receiver: int, where: tuple[int, int]) -> bool:
        """A partition drawn anew for each (view, kind): two sides, cut in one direction or in both."""
        if where not in self._partitions:
            if len(self._partitions) >= PARTITIONS_REMEMBERED_MAX:
                self._partitions.clear()
            rng = stream(self._seed, f"partition {where[0]} {where[1]}")
            is_drawn = rng.random() * 1_000_000 < self._plan.kind_cut_ppm
            self._partitions[where] = (rng.getrandbits(self._count), rng.random() < 0.3) if is_drawn else None
        drawn = self._partitions[where]
        if drawn is None:
            return False
        sides, one_way = drawn
        from_side, to_side = sides >> sender & 1, sides >> receiver & 1
        return from_side > to_side if one_way else from_side != to_side
