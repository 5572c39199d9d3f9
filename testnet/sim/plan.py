"""One run as data: who takes part, how the network is, what breaks when. No I/O.

Everything that a run draws from its seed beforehand is here, as JSON; the run itself draws only delays, losses and
torn writes, from streams of their own. The same plan on the same commit gives the same run.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from primitives.errors import OperatorError


class FaultKind(StrEnum):
    """What breaks. `nodes`, `peers` and `amount` of a Fault mean what is said here."""

    CUT = "cut"
    """No message passes between `nodes` and `peers`, in either direction."""
    DEAF = "deaf"
    """No message from `nodes` reaches `peers`: one direction only."""
    FLAP = "flap"
    """Like CUT, on and off every `amount` milliseconds."""
    ISOLATE_LEADER = "isolate_leader"
    """Whoever leads the highest view can be neither heard nor told anything."""
    SLOW_LINK = "slow_link"
    """`amount` milliseconds more from `nodes` to `peers`."""
    CRASH = "crash"
    """kill -9 of `nodes` `amount` effects after `at_ms` (0: at once), back at `until_ms`. Writes may be torn."""
    PAUSE = "pause"
    """`nodes` stand still, as after SIGSTOP, and then find everything that came meanwhile."""
    FSYNC = "fsync"
    """The next fsync of `nodes` fails; they must stop. They are started again at `until_ms`."""
    SLOW_DISK = "slow_disk"
    """Every fsync of `nodes` takes `amount` milliseconds."""
    FULL_DISK = "full_disk"
    """No write of `nodes` succeeds; they must stop. They are started again at `until_ms`, with room."""
    LOST_DISK = "lost_disk"
    """`nodes` lose power and part of their disk: `amount` 0 all, 1 the journal, 2 the watermark, 3 a byte changes."""
    DRIFT = "drift"
    """The clocks of `nodes` run `amount` ppm fast."""
    CLOCK_STEP = "clock_step"
    """The wall clocks of `nodes` step by `amount` milliseconds, for good."""
    SWITCH = "switch"
    """When the block before the last of an epoch, that of height `amount`, is final somewhere: whoever leads then is
    killed, and `nodes` are cut from `peers`, both for as long as from `at_ms` to `until_ms`."""
    UPGRADE = "upgrade"
    """`nodes` are stopped and, at `until_ms`, started with a build that knows the newest protocol version."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Breaks at `at_ms` and is whole again at `until_ms`, unless the healing finds it outside the core."""

    kind: FaultKind
    at_ms: int
    until_ms: int
    nodes: tuple[int, ...]
    peers: tuple[int, ...] = ()
    amount: int = 0


class Traitor(msgspec.Struct, frozen=True, kw_only=True):
    """A Byzantine validator and the name of what it does (testnet/byzantine)."""

    validator: int
    behaviour: str


class SetChange(msgspec.Struct, frozen=True, kw_only=True):
    """From `epoch` (2 or later) on the validators have these weights; 0: no member."""

    epoch: int
    weights: tuple[int, ...]


class NetworkPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What every link does while the network is hostile."""

    delay_min_ms: int = 5
    delay_max_ms: int = 15
    loss_ppm: int = 0
    duplicate_ppm: int = 0
    straggler_ppm: int = 0
    """Messages that take up to twenty times as long: reordering."""
    kind_cut_ppm: int = 0
    """(view, kind) pairs for which a partition is drawn, two-way or one-way."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. `healed` is the core that is whole again after `hostile_ms`; all else stays as it is for ever."""

    seed: int
    validators: int
    weights: tuple[int, ...] = ()
    delta_ms: int = 100
    min_block_ms: int = 200
    epoch_blocks: int = 0
    """Blocks in an epoch; 0: one endless epoch."""
    sets: tuple[SetChange, ...] = ()
    """Later validator sets, by epoch; each is decided two epochs before it votes."""
    upgrade_epoch: int = 0
    """The epoch (2 or later) from which protocol version 2 is in force; 0: never."""
    old_builds: tuple[int, ...] = ()
    """Who knows version 1 alone, until an UPGRADE or the healing."""
    hostile_ms: int
    network: NetworkPlan = NetworkPlan()
    signatures: str = "model"
    """model: keyed hashes, unforgeable inside the model; ed25519: real ones."""
    range_blocks: int = 0
    """Blocks in a range of the node's catch-up, which takes whoever is half of that behind; 0: the core's own alone."""
    application: str = "empty"
    """empty: blocks without transactions; exchange: the real ledger under a stream of orders."""
    torn_writes: bool = False
    traitors: tuple[Traitor, ...] = ()
    faults: tuple[Fault, ...] = ()
    healed: tuple[int, ...] = ()
    first_half: tuple[int, ...] = ()
    """Whom colluders tell one story; the others are told another."""
    must_live: bool = True
    """Whether finality is owed after the healing; not when more than f are Byzantine."""

    @property
    def traitor_set(self) -> frozenset[int]:
        """The Byzantine validators."""
        return frozenset(traitor.validator for traitor in self.traitors)

    def weights_in(self, epoch: int) -> tuple[int, ...]:
        """The validators' weights in an epoch."""
        weights = self.weights or (1,) * self.validators
        for change in self.sets:
            if change.epoch <= epoch:
                weights = change.weights
        return weights

    def version_in(self, epoch: int) -> int:
        """The protocol version of an epoch's blocks."""
        return 2 if self.upgrade_epoch and epoch >= self.upgrade_epoch else 1


def to_json(plan: Plan) -> str:
    """The plan as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1).decode() + "\n"


def from_json(raw: bytes) -> Plan:
    """Raises OperatorError when this is no plan."""
    try:
        return msgspec.json.decode(raw, type=Plan)
    except msgspec.MsgspecError as error:
        raise OperatorError(f"this is no plan of the simulator: {error}") from None
