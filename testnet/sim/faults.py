"""Plays the faults of a plan: starts each, ends each, and heals the core at last. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testnet.sim.network import MS
from testnet.sim.plan import Fault, FaultKind
from testnet.sim.validator import SimulatedValidator, Standing

if TYPE_CHECKING:
    from testnet.sim.simulation import Simulation


class FaultPlayer:
    """One for each run."""

    def __init__(self, world: Simulation) -> None:
        self._world = world
        self._isolating = 0
        self._is_healed = False
        self._restart_at_ns: dict[int, int] = {}
        self._leader = 0
        self._switches: list[Fault] = []
        """Armed, until the block before the last of an epoch is final."""

    def schedule(self) -> None:
        """Put every fault on the heap."""
        for fault in self._world.plan.faults:
            self._world.after(fault.at_ms * MS, self._start, fault)

    def on_view(self, leader: int) -> None:
        """The highest view has a new leader."""
        self._leader = leader
        if self._isolating:
            self._world.network.isolated = leader

    def on_height(self, height: int) -> None:
        """Somebody calls a block of this height final."""
        due = [fault for fault in self._switches if height >= fault.amount - 1]
        for fault in due:
            self._switches.remove(fault)
            if height == fault.amount - 1 and not self._is_healed:
                self._switch(fault)

    def _switch(self, fault: Fault) -> None:
        """The leader dies and the network parts, just before the validators change."""
        world, length_ns = self._world, (fault.until_ms - fault.at_ms) * MS
        world.happened("partition and dead leader at a switch")
        self._cut(fault, 1)
        world.after(length_ns, self._end_switch, fault)
        validator = world.validators[self._leader]
        self._restart_at_ns[validator.index] = world.now_ns + length_ns
        # Not inside the step that made the block final: the process dies at its next effect.
        validator.crash_at = validator.performed + 1

    def _end_switch(self, fault: Fault) -> None:
        if not self._is_healed:
            self._cut(fault, -1)

    def on_crashed(self, validator: SimulatedValidator) -> None:
        """It died where a CRASH fault said; it comes back when that fault says, at the healing at the latest."""
        world = self._world
        until_ns = self._restart_at_ns.get(validator.index, 0)
        world.after(max(20 * MS, until_ns - world.now_ns), self._boot, validator)

    def _boot(self, validator: SimulatedValidator) -> None:
        """After the healing, only the core comes back: everybody else stays as it is."""
        if not self._is_healed or validator.index in self._world.network.healed:
            validator.boot()

    def heal(self, core: frozenset[int]) -> None:
        """Make the core and the links inside it whole; freeze the rest."""
        world = self._world
        self._is_healed = True
        world.network.healed = core
        for index in sorted(core):
            validator = world.validators[index]
            disk = validator.disk
            disk.is_full = disk.fail_sync = False
            disk.latency_ns = 0
            validator.drift_ppm = 0
            validator.crash_at = None
            validator.knows_upgrade = True
            if validator.core is not None and validator.version_max == 1:
                validator.crash()
            validator.resume()
            validator.boot()

    # --- one fault ---

    def _start(self, fault: Fault) -> None:
        if self._is_healed:
            return
        world = self._world
        world.audit(b"fault", fault.nodes[0] if fault.nodes else 0, 0, fault.kind.encode()[:8])
        world.happened(f"fault {fault.kind}")
        if fault.kind in (FaultKind.CUT, FaultKind.DEAF, FaultKind.FLAP):
            self._cut(fault, 1)
            if fault.kind is FaultKind.FLAP:
                world.after(fault.amount * MS, self._flap, fault, -1)
        elif fault.kind is FaultKind.ISOLATE_LEADER:
            self._isolating += 1
            world.network.isolated = self._leader
        elif fault.kind is FaultKind.SLOW_LINK:
            for pair in self._pairs(fault):
                world.network.slow_ns[pair] = fault.amount * MS
        elif fault.kind is FaultKind.SWITCH:
            self._switches.append(fault)
            return
        else:
            for node in fault.nodes:
                self._start_on(world.validators[node], fault)
        world.after((fault.until_ms - fault.at_ms) * MS, self._end, fault)

    def _start_on(self, validator: SimulatedValidator, fault: Fault) -> None:
        disk = validator.disk
        match fault.kind:
            case FaultKind.CRASH:
                self._restart_at_ns[validator.index] = fault.until_ms * MS
                if fault.amount == 0:
                    validator.crash()
                else:
                    validator.crash_at = validator.performed + fault.amount
            case FaultKind.PAUSE:
                validator.pause()
            case FaultKind.FSYNC:
                disk.fail_sync = True
            case FaultKind.SLOW_DISK:
                disk.latency_ns = fault.amount * MS
            case FaultKind.FULL_DISK:
                disk.is_full = True
            case FaultKind.LOST_DISK:
                validator.crash()
                disk.wipe(fault.amount)
                if fault.amount == 0:
                    validator.store.wipe()
                validator.must_watch = fault.amount in (0, 2)
                if fault.amount != 3:
                    validator.signatures.on_memory_lost()
            case FaultKind.UPGRADE:
                validator.crash()
                validator.knows_upgrade = True
            case FaultKind.DRIFT:
                validator.drift_ppm = fault.amount
            case FaultKind.CLOCK_STEP:
                validator.clock_offset_ns += fault.amount * MS

    def _end(self, fault: Fault) -> None:
        """Whole again, unless the healing came first: then everything outside the core stays as it is."""
        if self._is_healed:
            return
        world = self._world
        if fault.kind in (FaultKind.CUT, FaultKind.DEAF):
            self._cut(fault, -1)
        elif fault.kind is FaultKind.ISOLATE_LEADER:
            self._isolating -= 1
            if not self._isolating:
                world.network.isolated = None
        elif fault.kind is FaultKind.SLOW_LINK:
            for pair in self._pairs(fault):
                world.network.slow_ns.pop(pair, None)
        for node in fault.nodes:
            self._end_on(world.validators[node], fault)

    def _end_on(self, validator: SimulatedValidator, fault: Fault) -> None:
        disk = validator.disk
        match fault.kind:
            case FaultKind.PAUSE:
                validator.resume()
            case FaultKind.SLOW_DISK:
                disk.latency_ns = 0
            case FaultKind.DRIFT:
                validator.drift_ppm = 0
            case (
                FaultKind.CRASH
                | FaultKind.FSYNC
                | FaultKind.FULL_DISK
                | FaultKind.LOST_DISK
                | FaultKind.UPGRADE
            ):
                disk.is_full = disk.fail_sync = False
                if validator.standing in (Standing.DOWN, Standing.STOPPED):
                    validator.boot()

    def _cut(self, fault: Fault, change: int) -> None:
        for a, b in self._pairs(fault):
            self._world.network.cuts[a, b] += change
            if fault.kind is not FaultKind.DEAF:
                self._world.network.cuts[b, a] += change

    def _flap(self, fault: Fault, change: int) -> None:
        """Off, on, off; ends whole."""
        if self._is_healed:
            return
        self._cut(fault, change)
        if change > 0 or self._world.now_ns < fault.until_ms * MS:
            self._world.after(fault.amount * MS, self._flap, fault, -change)

    @staticmethod
    def _pairs(fault: Fault) -> list[tuple[int, int]]:
        return [(a, b) for a in fault.nodes for b in fault.peers if a != b]
