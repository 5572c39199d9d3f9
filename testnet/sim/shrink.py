"""Makes a failing plan small: fewer faults, traitors, seconds and validators, while the same promise breaks. No I/O.

Every concern has a stream of its own, so taking one fault away leaves the others as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from testnet.sim.plan import Fault, NetworkPlan, Plan
from testnet.sim.simulation import verdict_of

RUNS_MAX = 400
"""Runs spent on one plan."""
Fails = Callable[[Plan], bool]


def shrink(plan: Plan, oracle: str, runs_max: int = RUNS_MAX) -> Plan:
    """The smallest plan found that still breaks `oracle`; the plan itself when nothing can go."""
    runs = 0

    def fails(candidate: Plan) -> bool:
        nonlocal runs
        runs += 1
        _, violation = verdict_of(candidate)
        return violation is not None and violation.oracle == oracle

    smaller = True
    while smaller and runs < runs_max:
        smaller = False
        for candidate in _simpler(plan):
            if runs >= runs_max:
                break
            if fails(candidate):
                plan, smaller = candidate, True
                break
    return plan


def _simpler(plan: Plan) -> Iterator[Plan]:
    """Simpler plans, the boldest first."""
    replace = msgspec.structs.replace
    yield from _with_fewer_epochs(plan)
    if plan.weights:
        yield replace(plan, weights=())
    elif plan.validators > 4 and not plan.sets and not plan.old_builds:
        yield from _with_fewer_validators(plan)
    for size in _sizes(len(plan.faults)):
        for start in range(0, len(plan.faults), size):
            yield replace(plan, faults=plan.faults[:start] + plan.faults[start + size :])
    last_ms = max((fault.until_ms for fault in plan.faults), default=0)
    for hostile_ms in (plan.hostile_ms // 2, plan.hostile_ms * 3 // 4, plan.hostile_ms * 9 // 10, last_ms):
        if 1_000 <= hostile_ms < plan.hostile_ms:
            yield replace(plan, hostile_ms=hostile_ms)
    for at in range(len(plan.traitors)):
        yield replace(plan, traitors=plan.traitors[:at] + plan.traitors[at + 1 :])
    calm = NetworkPlan()
    for name in calm.__struct_fields__:
        if getattr(plan.network, name) != getattr(calm, name):
            yield replace(plan, network=replace(plan.network, **{name: getattr(calm, name)}))
    if plan.torn_writes:
        yield replace(plan, torn_writes=False)
    for at, fault in enumerate(plan.faults):
        for other in _milder(fault):
            yield replace(plan, faults=(*plan.faults[:at], other, *plan.faults[at + 1 :]))


def _with_fewer_epochs(plan: Plan) -> Iterator[Plan]:
    """Without a change of the validators, or without the upgrade."""
    for at in range(len(plan.sets)):
        yield msgspec.structs.replace(plan, sets=plan.sets[:at] + plan.sets[at + 1 :])
    if plan.upgrade_epoch:
        yield msgspec.structs.replace(plan, upgrade_epoch=0, old_builds=())


def _sizes(count: int) -> Iterator[int]:
    """Delta debugging: halves, quarters, ... single faults."""
    size = count
    while size >= 1:
        yield size
        size //= 2


def _with_fewer_validators(plan: Plan) -> Iterator[Plan]:
    for count in (4, 7):
        quorum = 2 * count // 3 + 1
        traitors = tuple(traitor for traitor in plan.traitors if traitor.validator < count)
        healed = tuple(index for index in plan.healed if index < count)
        if count < plan.validators and len(traitors) <= count - quorum and len(healed) >= quorum:
            faults = tuple(_within(fault, count) for fault in plan.faults if _within(fault, count).nodes)
            yield msgspec.structs.replace(
                plan, validators=count, traitors=traitors, healed=healed, faults=faults
            )


def _within(fault: Fault, count: int) -> Fault:
    nodes = tuple(node for node in fault.nodes if node < count)
    return msgspec.structs.replace(fault, nodes=nodes, peers=tuple(p for p in fault.peers if p < count))


def _milder(fault: Fault) -> Iterator[Fault]:
    length_ms = fault.until_ms - fault.at_ms
    if length_ms > 200:
        yield msgspec.structs.replace(fault, until_ms=fault.at_ms + length_ms // 2)
