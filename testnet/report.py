"""The verdict on a run: what was promised, what was measured, and whether too little happened to tell. Pure.

`judge` takes facts and returns the report; nothing here measures. Exit codes: 0 kept, 1 broken, 2 inconclusive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from testnet.plan import RETURN_SECONDS


class Verdict(StrEnum):
    """What the run shows about our promises."""

    KEPT = "kept"
    BROKEN = "broken"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> int:
        """0, 1 or 2: for scripts and CI."""
        return {Verdict.KEPT: 0, Verdict.BROKEN: 1, Verdict.INCONCLUSIVE: 2}[self]


@dataclass(frozen=True, slots=True)
class Divergence:
    """Two validators with different state roots at one final height."""

    height: int
    roots: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    """One validator that was killed and started again; seconds since the restart, None if it never happened."""

    validator: int
    killed_at_seconds: float
    restarted_at_seconds: float | None
    caught_up_seconds: float | None
    voted_seconds: float | None


@dataclass(slots=True)
class DriftFacts:
    """The chain's epsilon against the half-spread, both in bp of the index, in each epoch it judged."""

    epochs: int = 0
    samples: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """(epsilon, half-spread) by instrument."""
    colours: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class ListingFacts:
    """What became of the series that the chain listed during the run. Times in seconds of one clock."""

    is_scheduled: bool = False
    """Whether the chain was to list any."""
    known: set[tuple[int, int]] = field(default_factory=set)
    """(underlying, expiry) of what is listed."""
    series: int = 0
    options: int = 0
    """Listed during the run, in new series and as further strikes of old ones."""
    trades: int = 0
    """In those of new series."""
    first_trade_seconds: float | None = None
    """From the block that listed a series to the first trade in any of them."""
    _listed_at: dict[int, float] = field(default_factory=dict)

    def on_listed(self, series: tuple[int, int], instruments: Collection[int], now: float) -> None:
        """These instruments of a series were listed."""
        self.options += len(instruments)
        if series not in self.known:
            self.known.add(series)
            self.series += 1
            self._listed_at.update(dict.fromkeys(instruments, now))

    def on_trade(self, instrument: int, now: float) -> None:
        """Something was traded, perhaps in a listed series."""
        listed_at = self._listed_at.get(instrument)
        if listed_at is None:
            return
        self.trades += 1
        if self.first_trade_seconds is None:
            self.first_trade_seconds = now - listed_at


@dataclass(frozen=True, slots=True)
class PhaseFact:
    """A trading phase that began at a height."""

    height: int
    underlying: str
    phase: str
    causes: tuple[str, ...]


@dataclass(slots=True)
class Facts:
    """Everything a run measured."""

    validators: int
    seconds: float
    setup_seconds: float = 0.0
    final_heights: dict[int, int] = field(default_factory=dict)
    compared_heights: int = 0
    divergences: list[Divergence] = field(default_factory=list)
    finality_ms: list[float] = field(default_factory=list)
    final_blocks_fast: int = 0
    final_blocks: int = 0
    orders: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    order_to_final_ms: list[float] = field(default_factory=list)
    acknowledged: int = 0
    lost_final: int = 0
    lost_accepted: int = 0
    trades: int = 0
    liquidations: int = 0
    expiries_settled: int = 0
    listing: ListingFacts = field(default_factory=ListingFacts)
    epsilon_bp: list[float] = field(default_factory=list)
    spread_bp: list[float] = field(default_factory=list)
    drift: DriftFacts = field(default_factory=DriftFacts)
    phases: list[PhaseFact] = field(default_factory=list)
    conservation_failures: list[str] = field(default_factory=list)
    conservation_checked: int = 0
    equivocations: int = 0
    double_signed: list[str] = field(default_factory=list)
    signatures: int = 0
    """Of validators, compared for `double_signed`."""
    halted: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    rss_mb: dict[int, float] = field(default_factory=dict)
    cpu_seconds: dict[int, float] = field(default_factory=dict)
    surface_rmse_vol_points: list[float] = field(default_factory=list)
    market: str = "synthetic"
    seed: int = 0
    speed: int = 1


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile, None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)


def broken_promises(facts: Facts) -> list[str]:
    """One sentence for each promise that this run saw broken."""
    broken: list[str] = []
    for divergence in facts.divergences[:5]:
        broken.append(f"state roots differ at height {divergence.height}: {dict(divergence.roots)}")
    broken.extend(f"money was not conserved: {failure}" for failure in facts.conservation_failures[:5])
    if facts.lost_final:
        broken.append(f"{facts.lost_final} orders acknowledged as final are missing from the chain")
    if facts.lost_accepted:
        broken.append(f"{facts.lost_accepted} accepted orders never reached a final block")
    if facts.equivocations:
        broken.append(f"{facts.equivocations} equivocations by validators that should all be honest")
    if facts.listing.is_scheduled and facts.expiries_settled and not facts.listing.series:
        broken.append("an expiry was settled and no series was listed after it")
    broken.extend(facts.double_signed[:5])
    broken.extend(f"a validator halted: {reason}" for reason in facts.halted)
    broken.extend(f"a process ended by itself: {what}" for what in facts.crashed)
    for recovery in facts.recoveries:
        if recovery.voted_seconds is None:
            broken.append(f"validator {recovery.validator} was killed and did not vote again")
        elif recovery.voted_seconds > RETURN_SECONDS:
            broken.append(
                f"validator {recovery.validator} was killed and voted again only after {recovery.voted_seconds:.1f} s"
            )
    return broken


def doubts(facts: Facts) -> list[str]:
    """One sentence for each thing that happened too little to tell."""
    doubtful: list[str] = []
    if facts.compared_heights < 10:
        doubtful.append(f"only {facts.compared_heights} heights could be compared, 10 are needed")
    if facts.trades == 0:
        doubtful.append("no trade happened")
    if facts.conservation_checked == 0:
        doubtful.append("conservation was never checked")
    if facts.acknowledged == 0:
        doubtful.append("no order was acknowledged")
    return doubtful


def judge(facts: Facts) -> Verdict:
    """Broken beats inconclusive beats kept."""
    if broken_promises(facts):
        return Verdict.BROKEN
    return Verdict.INCONCLUSIVE if doubts(facts) else Verdict.KEPT


def report_of(facts: Facts) -> dict[str, Any]:
    """The JSON report; every figure measured in this run."""
    heights = list(facts.final_heights.values())
    return {
        "verdict": judge(facts).value,
        "broken": broken_promises(facts),
        "doubts": doubts(facts),
        "validators": facts.validators,
        "seconds": round(facts.seconds, 1),
        "setup_seconds": round(facts.setup_seconds, 1),
        "market": facts.market,
        "seed": facts.seed,
        "speed": facts.speed,
        "final_height": {"min": min(heights, default=0), "max": max(heights, default=0)},
        "state_root_agreement": not facts.divergences and facts.compared_heights > 0,
        "compared_heights": facts.compared_heights,
        "finality_ms": _finality(facts),
        "order_to_final_ms": {
            "p50": _rounded(percentile(facts.order_to_final_ms, 0.50)),
            "p99": _rounded(percentile(facts.order_to_final_ms, 0.99)),
            "count": len(facts.order_to_final_ms),
        },
        "orders": _orders(facts),
        "trades": facts.trades,
        "liquidations": facts.liquidations,
        "expiries_settled": facts.expiries_settled,
        "listing": _listing(facts.listing),
        "epsilon_bp": {
            "p50": _rounded(percentile(facts.epsilon_bp, 0.50), 3),
            "p99": _rounded(percentile(facts.epsilon_bp, 0.99), 3),
            "max": _rounded(max(facts.epsilon_bp, default=None), 3),
        },
        "spread_bp": {"p50": _rounded(percentile(facts.spread_bp, 0.50), 3)},
        "drift": _drift(facts.drift),
        "phases": [asdict(item) for item in facts.phases],
        "surface_rmse_vol_points": {
            "p50": _rounded(percentile(facts.surface_rmse_vol_points, 0.50), 3),
            "max": _rounded(max(facts.surface_rmse_vol_points, default=None), 3),
        },
        "conservation": {
            "ok": not facts.conservation_failures and facts.conservation_checked > 0,
            "checked_blocks": facts.conservation_checked,
        },
        "equivocations": facts.equivocations,
        "signatures": {"compared": facts.signatures, "double": len(facts.double_signed)},
        "recoveries": [
            {
                "validator": item.validator,
                "killed_at_seconds": _rounded(item.killed_at_seconds),
                "restarted_at_seconds": _rounded(item.restarted_at_seconds),
                "caught_up_seconds": _rounded(item.caught_up_seconds),
                "voted_seconds": _rounded(item.voted_seconds),
            }
            for item in facts.recoveries
        ],
        "rss_mb_max": _rounded(max(facts.rss_mb.values(), default=None), 1),
        "cpu_seconds_per_validator": _per_validator(facts.cpu_seconds),
    }


def _listing(listing: ListingFacts) -> dict[str, Any]:
    return {
        "series": listing.series,
        "options": listing.options,
        "trades": listing.trades,
        "first_trade_seconds": _rounded(listing.first_trade_seconds),
    }


def _drift(drift: DriftFacts) -> dict[str, Any]:
    """Over everything judged, and by instrument."""
    every = [sample for samples in drift.samples.values() for sample in samples]
    return {
        "epochs": drift.epochs,
        "judged": dict(sorted(drift.colours.items())),
        "within_spread_share": _rounded(
            sum(epsilon <= 2 * half for epsilon, half in every) / len(every) if every else None, 3
        ),
        **_drift_percentiles(every),
        "instruments": {name: _drift_percentiles(drift.samples[name]) for name in sorted(drift.samples)},
    }


def _drift_percentiles(samples: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {
        f"{name}_bp": {
            f"p{share}": _rounded(percentile([sample[place] for sample in samples], share / 100), 3)
            for share in (50, 99)
        }
        for place, name in enumerate(("epsilon", "half_spread"))
    }


def _orders(facts: Facts) -> dict[str, Any]:
    return {
        **facts.orders,
        "acknowledged": facts.acknowledged,
        "lost": facts.lost_final + facts.lost_accepted,
        "rejected": dict(sorted(facts.rejected.items())),
    }


def _finality(facts: Facts) -> dict[str, Any]:
    share = facts.final_blocks_fast / facts.final_blocks if facts.final_blocks else None
    return {
        "p50": _rounded(percentile(facts.finality_ms, 0.50)),
        "p99": _rounded(percentile(facts.finality_ms, 0.99)),
        "count": len(facts.finality_ms),
        "fast_share": _rounded(share, 3),
    }


def _per_validator(values: Mapping[int, float]) -> list[float]:
    return [round(values[index], 1) for index in sorted(values)]
