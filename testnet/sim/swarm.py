"""Draws a plan from a seed: each family of faults is in or out, and then has a strength of its own. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from msgspec.structs import replace

from node.sync.messages import RANGE_BLOCKS_MAX
from testnet.byzantine import BEHAVIOURS
from testnet.sim.plan import Fault, FaultKind, NetworkPlan, Plan, SetChange, Traitor
from testnet.sim.streams import stream

CALM_SHARE = 0.05
"""Runs without any fault."""
ED25519_SHARE = 0.03
"""Runs with real signatures."""
WEIGHTED_SHARE = 0.2
"""Runs whose validators have unequal weights, 1 to 5."""
SETS_SHARE = 0.6
"""Runs with epochs whose validators change."""
UPGRADE_SHARE = 0.4
"""Runs with epochs in which the protocol is upgraded."""
RANGE_LIAR_SHARE = 0.5
"""Runs with traitors and catch-up by ranges in which one of them lies about those, whatever was drawn for it."""
FAMILY_SHARE = 0.5
"""How often a family is in."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator asks of a campaign."""

    validators: int = 0
    """0: 4, 7 or 10, from the seed."""
    hostile_ms: int = 0
    """0: 10 to 60 seconds, from the seed."""
    application: str = "empty"
    over_threshold: bool = False
    """More than f traitors, at most 2f: forks are allowed, and must name the guilty."""


DEFAULT_WISHES = Wishes()


def draw_plan(seed: int, wishes: Wishes = DEFAULT_WISHES) -> Plan:
    """The plan of one seed."""
    rng = stream(seed, "shape")
    count = wishes.validators or rng.choice([4, 4, 7, 10])
    hostile_ms = wishes.hostile_ms or rng.randrange(10_000, 60_000)
    weights = () if wishes.over_threshold else _weights(seed, count)
    total = sum(weights) or count
    quorum = 2 * total // 3 + 1
    faulty = total - quorum
    lengths = [0, 0, 6, 2] if wishes.over_threshold else [0, 0, 4, 4, 10]
    epoch_blocks = stream(seed, "epochs").choice(lengths)
    base = Plan(
        seed=seed,
        validators=count,
        weights=weights,
        delta_ms=rng.choice([50, 100, 100, 400]),
        min_block_ms=max(rng.choice([0, 50, 200, 200, 1_000]), 50 if epoch_blocks else 0),
        epoch_blocks=epoch_blocks,
        hostile_ms=hostile_ms,
        application=wishes.application,
        range_blocks=stream(seed, "ranges").choice([0, 4, 4, 4, 16, RANGE_BLOCKS_MAX]),
        signatures="ed25519" if rng.random() < ED25519_SHARE else "model",
        healed=tuple(range(count)),
        must_live=not wishes.over_threshold,
    )
    if rng.random() < CALM_SHARE and not wishes.over_threshold:
        return base
    # Loss of a disk takes a validator out of the vote for good: it counts against f like a traitor.
    out_max = stream(seed, "out").randint(faulty + 1, 2 * faulty) if wishes.over_threshold else faulty
    out = _up_to(out_max, stream(seed, "who").sample(range(count), min(count, out_max)), weights)
    traitors = _traitors(seed, out, over=wishes.over_threshold, has_ranges=base.range_blocks > 0)
    loyal_out = [index for index in out if index not in {traitor.validator for traitor in traitors}]
    if wishes.over_threshold:
        return _divided(seed, base, traitors)
    faults = _faults(seed, count, hostile_ms, loyal_out)
    lost = {node for fault in faults if fault.kind is FaultKind.LOST_DISK for node in fault.nodes}
    able = [i for i in range(count) if i not in lost and all(i != t.validator for t in traitors)]
    plan = Plan(
        **{name: getattr(base, name) for name in base.__struct_fields__ if name not in _REDRAWN},
        network=_network(seed),
        torn_writes=stream(seed, "torn").random() < FAMILY_SHARE,
        traitors=tuple(traitors),
        faults=tuple(faults),
        healed=_core(seed, able, quorum, weights),
    )
    return _with_upgrade(_with_sets(plan, out)) if plan.epoch_blocks else plan


def _with_sets(plan: Plan, out: list[int]) -> Plan:
    """Validators leave, join and change their weight; now and then the network parts at such a switch.

    In every set the healed core is a quorum, and those that are out are at most f.
    """
    rng = stream(plan.seed, "sets")
    if rng.random() >= SETS_SHARE:
        return plan

    def drawn() -> tuple[int, ...] | None:
        for _ in range(20):
            heaviest = 5 if plan.weights else 1
            weights = tuple(
                0 if rng.random() < 0.25 else rng.randint(1, heaviest) for _ in range(plan.validators)
            )
            total, quorum = sum(weights), 2 * sum(weights) // 3 + 1
            able, bad = sum(weights[i] for i in plan.healed), sum(weights[i] for i in out)
            members = sum(weight > 0 for weight in weights)
            if 2 * members > plan.validators and able >= quorum and bad <= total - quorum:
                return weights
        return None

    first = drawn() if rng.random() < 0.5 else None
    epochs = sorted(rng.sample(range(2, 9), rng.randint(1, 4)))
    sets = [(epoch, weights) for epoch in epochs if (weights := drawn()) is not None]
    switches = [_at_switch(rng, plan, epoch) for epoch, _ in sets if rng.random() < FAMILY_SHARE]
    return replace(
        plan,
        weights=first or plan.weights,
        sets=tuple(SetChange(epoch=epoch, weights=weights) for epoch, weights in sets),
        faults=tuple(sorted((*plan.faults, *switches), key=_order)),
    )


def _at_switch(rng: Random, plan: Plan, epoch: int) -> Fault:
    nodes = _some(rng, plan.validators)
    peers = tuple(index for index in range(plan.validators) if index not in nodes)
    length_ms = rng.randint(100, 8_000)
    height = epoch * plan.epoch_blocks
    return Fault(kind=FaultKind.SWITCH, at_ms=0, until_ms=length_ms, nodes=nodes, peers=peers, amount=height)


def _with_upgrade(plan: Plan) -> Plan:
    """A rolling upgrade: some builds are replaced in time, some too late, some never in the hostile phase."""
    rng = stream(plan.seed, "upgrade")
    if rng.random() >= UPGRADE_SHARE:
        return plan
    old = _some(rng, plan.validators) if rng.random() < 0.5 else tuple(range(plan.validators))
    replaced = []
    for node in old:
        at_ms = rng.randrange(0, 2 * plan.hostile_ms)
        if at_ms < plan.hostile_ms:
            until_ms = at_ms + rng.randint(50, 3_000)
            replaced.append(Fault(kind=FaultKind.UPGRADE, at_ms=at_ms, until_ms=until_ms, nodes=(node,)))
    faults = tuple(sorted((*plan.faults, *replaced), key=_order))
    return replace(plan, upgrade_epoch=rng.randint(2, 4), old_builds=old, faults=faults)


def _order(fault: Fault) -> tuple[int, str, tuple[int, ...]]:
    return fault.at_ms, fault.kind, fault.nodes


def _weights(seed: int, count: int) -> tuple[int, ...]:
    rng = stream(seed, "weights")
    return tuple(rng.randint(1, 5) for _ in range(count)) if rng.random() < WEIGHTED_SHARE else ()


def _up_to(limit: int, order: list[int], weights: tuple[int, ...]) -> list[int]:
    """The first in `order` whose weight fits under the limit together."""
    chosen: list[int] = []
    for index in order:
        weight = weights[index] if weights else 1
        if weight <= limit:
            chosen.append(index)
            limit -= weight
    return chosen


def _core(seed: int, able: list[int], quorum: int, weights: tuple[int, ...]) -> tuple[int, ...]:
    """A quorum of the able, or more."""
    rng = stream(seed, "core")
    order = rng.sample(able, len(able))
    core: list[int] = []
    while order and (sum(weights[i] if weights else 1 for i in core) < quorum or rng.random() < 0.4):
        core.append(order.pop())
    return tuple(sorted(core))


def _divided(seed: int, base: Plan, traitors: list[Traitor]) -> Plan:
    """More than f traitors, and honest halves that hear the traitors better than each other."""
    rng = stream(seed, "halves")
    honest = [i for i in range(base.validators) if all(i != traitor.validator for traitor in traitors)]
    rng.shuffle(honest)
    first, second = honest[: len(honest) // 2], honest[len(honest) // 2 :]
    until_ms = rng.choice([base.hostile_ms // 8, base.hostile_ms // 2, base.hostile_ms])
    cut = Fault(
        kind=FaultKind.CUT,
        at_ms=0,
        until_ms=until_ms,
        nodes=tuple(sorted(first)),
        peers=tuple(sorted(second)),
    )
    return Plan(
        **{name: getattr(base, name) for name in base.__struct_fields__ if name not in _REDRAWN},
        network=NetworkPlan(
            delay_min_ms=1, delay_max_ms=rng.choice([15, 60]), loss_ppm=rng.choice([0, 0, 100_000])
        ),
        traitors=tuple(traitors),
        faults=(cut,),
        healed=(),
        first_half=tuple(sorted(first)),
    )


_REDRAWN = {"first_half", "network", "torn_writes", "traitors", "faults", "healed"}


def _traitors(seed: int, out: list[int], *, over: bool, has_ranges: bool) -> list[Traitor]:
    rng = stream(seed, "traitors")
    chosen = out if over else out[: rng.randint(0, len(out))]
    names = [name for name in sorted(BEHAVIOURS) if not over or BEHAVIOURS[name].forks]
    if over:
        # Traitors who agree on one plan fork the chain; a crowd of different ones hardly ever does.
        names = rng.choice(
            [["colluder"], ["colluder"], ["denier"], ["denier"], ["colluder", "denier"], names]
        )
    drawn = [Traitor(validator=index, behaviour=rng.choice(names)) for index in sorted(chosen)]
    if has_ranges and drawn and not over and stream(seed, "range liar").random() < RANGE_LIAR_SHARE:
        drawn[0] = replace(drawn[0], behaviour="liar in catch-up")
    return drawn


def _network(seed: int) -> NetworkPlan:
    def some(name: str, strengths: list[int]) -> int:
        rng = stream(seed, f"network {name}")
        return rng.choice(strengths) if rng.random() < FAMILY_SHARE else 0

    return NetworkPlan(
        delay_min_ms=1,
        delay_max_ms=some("delay", [60, 200, 600]) or 15,
        loss_ppm=some("loss", [10_000, 50_000, 200_000]),
        duplicate_ppm=some("duplicate", [50_000, 300_000]),
        straggler_ppm=some("straggler", [20_000, 100_000]),
        kind_cut_ppm=some("kind cut", [100_000, 300_000, 700_000]),
    )


Draw = Callable[[Random, int, int], list[Fault]]


def _span(rng: Random, hostile_ms: int, most_ms: int = 15_000) -> tuple[int, int]:
    at_ms = rng.randrange(0, hostile_ms)
    return at_ms, at_ms + rng.randint(100, most_ms)


def _some(rng: Random, count: int) -> tuple[int, ...]:
    return tuple(sorted(rng.sample(range(count), rng.randint(1, max(1, count // 2)))))


def _cuts(kind: FaultKind) -> Draw:
    def draw(rng: Random, count: int, hostile_ms: int) -> list[Fault]:
        faults = []
        for _ in range(rng.randint(1, 4)):
            at_ms, until_ms = _span(rng, hostile_ms)
            nodes = _some(rng, count)
            peers = tuple(index for index in range(count) if index not in nodes)
            amount = rng.randint(50, 2_000)
            faults.append(
                Fault(kind=kind, at_ms=at_ms, until_ms=until_ms, nodes=nodes, peers=peers, amount=amount)
            )
        return faults

    return draw


def _swizzle(rng: Random, count: int, hostile_ms: int) -> list[Fault]:
    """Stop links one by one, restore them in another order (FoundationDB's swizzle-clogging)."""
    links = [(a, b) for a in range(count) for b in range(a + 1, count)]
    chosen = rng.sample(links, rng.randint(1, len(links)))
    start_ms, step_ms = rng.randrange(0, hostile_ms), rng.randint(10, 500)
    back = rng.sample(range(len(chosen)), len(chosen))
    return [
        Fault(
            kind=FaultKind.CUT,
            at_ms=start_ms + place * step_ms,
            until_ms=start_ms + (len(chosen) + order) * step_ms,
            nodes=(a,),
            peers=(b,),
        )
        for place, ((a, b), order) in enumerate(zip(chosen, back, strict=True))
    ]


def _single(kind: FaultKind, most: int, amounts: tuple[int, int], most_ms: int = 15_000) -> Draw:
    def draw(rng: Random, count: int, hostile_ms: int) -> list[Fault]:
        faults = []
        for _ in range(rng.randint(1, most)):
            at_ms, until_ms = _span(rng, hostile_ms, most_ms)
            nodes = (rng.randrange(count),)
            peers = tuple(i for i in range(count) if i not in nodes)
            amount = rng.randint(*amounts)
            faults.append(
                Fault(kind=kind, at_ms=at_ms, until_ms=until_ms, nodes=nodes, peers=peers, amount=amount)
            )
        return faults

    return draw


def _power_loss(rng: Random, count: int, hostile_ms: int) -> list[Fault]:
    """Everybody at once."""
    at_ms = rng.randrange(0, hostile_ms)
    return [
        Fault(
            kind=FaultKind.CRASH,
            at_ms=at_ms,
            until_ms=at_ms + rng.randint(50, 3_000),
            nodes=(node,),
            amount=rng.randint(0, 30),
        )
        for node in range(count)
    ]


def _absence(rng: Random, count: int, hostile_ms: int) -> list[Fault]:
    """One is away so long that it must catch up by ranges."""
    at_ms = rng.randrange(0, hostile_ms // 2)
    until_ms = at_ms + rng.randint(hostile_ms // 4, hostile_ms // 2)
    return [Fault(kind=FaultKind.CRASH, at_ms=at_ms, until_ms=until_ms, nodes=(rng.randrange(count),))]


FAMILIES: dict[str, Draw] = {
    "cut": _cuts(FaultKind.CUT),
    "deaf": _cuts(FaultKind.DEAF),
    "flap": _cuts(FaultKind.FLAP),
    "swizzle": _swizzle,
    "isolate leader": _single(FaultKind.ISOLATE_LEADER, 2, (0, 0)),
    "slow link": _single(FaultKind.SLOW_LINK, 3, (50, 3_000)),
    "crash": _single(FaultKind.CRASH, 12, (0, 60), 4_000),
    "power loss": _power_loss,
    "absence": _absence,
    "pause": _single(FaultKind.PAUSE, 3, (0, 0)),
    "fsync": _single(FaultKind.FSYNC, 2, (0, 0)),
    "slow disk": _single(FaultKind.SLOW_DISK, 3, (5, 800)),
    "full disk": _single(FaultKind.FULL_DISK, 2, (0, 0)),
    "drift": _single(FaultKind.DRIFT, 2, (-20_000, 20_000)),
    "clock step": _single(FaultKind.CLOCK_STEP, 3, (-60_000, 60_000)),
}


def _faults(seed: int, count: int, hostile_ms: int, loyal_out: list[int]) -> list[Fault]:
    faults: list[Fault] = []
    for name, draw in FAMILIES.items():
        rng = stream(seed, f"faults {name}")
        if rng.random() < FAMILY_SHARE:
            faults += draw(rng, count, hostile_ms)
    rng = stream(seed, "faults lost disk")
    for node in loyal_out:
        if rng.random() < FAMILY_SHARE:
            at_ms, until_ms = _span(rng, hostile_ms, 4_000)
            faults.append(
                Fault(
                    kind=FaultKind.LOST_DISK,
                    at_ms=at_ms,
                    until_ms=until_ms,
                    nodes=(node,),
                    amount=rng.randint(0, 3),
                )
            )
    return sorted(faults, key=_order)
