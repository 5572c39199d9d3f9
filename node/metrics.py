"""The node's counters and timings, in one Prometheus registry per node object. Reads clocks.

Nothing here serves HTTP: the gateway fetches the text over the Unix socket.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from consensus.effects import ReportEvidence, ReportNotarized
from ledger.breakers.queries import BreakersView
from ledger.breakers.state import Colour, Phase
from ledger.instruments import Underlying
from ledger.staking.queries import ValidatorView
from node.rpc.protocol import StatusReply

FINALITY_SAMPLES_MAX = 16_384
"""Newest finality times kept for percentiles; older ones are forgotten."""

_VALIDATOR_GAUGES = {
    "power": "Voting power in the epoch that runs",
    "jailed": "1 while the validator is in jail, for good when tombstoned",
    "missed_blocks": "Parent certificates of the sliding window without its vote",
    "leader_delay_ppm": "Smoothed delay of its proposals in ppm of the view timer",
    "late_proposals": "Proposals of the sliding window that came in the last part of the view timer",
    "outside_reports": "Oracle reports of the sliding window off the agreed median",
    "stake_uusd": "Stake at work, micro-USD",
}
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1, 2, 5)


class NodeMetrics:
    """What one node counts. Not thread-safe beyond what Prometheus' own objects are."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._journal = self._histogram("journal_seconds", "Append and fsync of one batch of safety records")
        self._build = self._histogram("build_seconds", "Filling a block of our own")
        self._validate = self._histogram("validate_seconds", "Validating a proposed block")
        self._execute = self._histogram("execute_seconds", "Executing a block ahead of its finality")
        self._finality = self._histogram("finality_seconds", "From first sight of a block to its finality")
        self._store = self._histogram("store_seconds", "Committing final blocks to the store")
        self._views = Counter(
            "quorate_views", "Views entered, by what admitted us", ["by"], registry=self.registry
        )
        self._notarized = Counter("quorate_notarized_blocks", "Blocks notarized", registry=self.registry)
        self._evidence = Counter("quorate_evidence", "Proved offences", ["kind"], registry=self.registry)
        self._final = Counter(
            "quorate_final_blocks", "Final blocks, by path", ["path"], registry=self.registry
        )
        self._events = Counter(
            "quorate_events", "Things counted by reason", ["name", "reason"], registry=self.registry
        )
        self._validators = {
            name: Gauge(f"quorate_validator_{name}", text, ["validator"], registry=self.registry)
            for name, text in _VALIDATOR_GAUGES.items()
        }
        labels = ["underlying", "phase"]
        self._phase = self._labelled("phase", "1 for the trading phase that holds", labels)
        self._colours = self._labelled("instruments", "Instruments by colour", ["underlying", "colour"])
        self._widening = self._labelled("band_widening", "Latency's factor on price bands", ["underlying"])
        labels = ["underlying", "what", "quantile"]
        self._drift = self._labelled("drift_ppm", "Epsilon and half-spread, ppm of the index", labels)
        self._gauges: dict[str, Gauge] = {}
        self._view = self._gauge("view")
        self._height = self._gauge("final_height")
        self.finality_us: deque[int] = deque(maxlen=FINALITY_SAMPLES_MAX)
        self.finality_count = 0
        self.fast_count = 0

    # --- timings ---

    def time_journal(self) -> AbstractContextManager[None]:
        """Times one journal append."""
        return _timed(self._journal)

    def time_build(self) -> AbstractContextManager[None]:
        """Times the filling of a block."""
        return _timed(self._build)

    def time_validate(self) -> AbstractContextManager[None]:
        """Times one validation."""
        return _timed(self._validate)

    def time_execute(self) -> AbstractContextManager[None]:
        """Times one execution ahead."""
        return _timed(self._execute)

    def time_store(self) -> AbstractContextManager[None]:
        """Times one commit of final blocks."""
        return _timed(self._store)

    # --- events ---

    def on_view(self, view: int, admitted_by: str) -> None:
        """We entered a view."""
        self._view.set(view)
        self._views.labels(admitted_by).inc()

    def on_notarized(self, effect: ReportNotarized) -> None:
        """A block has a notarization."""
        del effect
        self._notarized.inc()

    def on_evidence(self, effect: ReportEvidence) -> None:
        """An offence was proved."""
        self._evidence.labels(effect.kind).inc()

    def on_final(self, height: int, finality_us: int | None, fast: bool) -> None:
        """A block is final; `finality_us` since we first saw it (None in catch-up), `fast` by the two-delay
        path."""
        self._height.set(height)
        self._final.labels("fast" if fast else "slow").inc()
        if finality_us is None:
            return
        self.finality_us.append(finality_us)
        self.finality_count += 1
        self.fast_count += fast
        self._finality.observe(finality_us / 1e6)

    def count(self, name: str, reason: str, amount: int = 1) -> None:
        """Count something by reason: both from enums of ours, never from a stranger."""
        self._events.labels(name, reason).inc(amount)

    def set(self, name: str, value: float) -> None:
        """Set the gauge quorate_<name>; names are ours."""
        self._gauge(name).set(value)

    def set_breakers(self, view: BreakersView) -> None:
        """Show each underlying's phase and latency factor, and drift against half-spreads over its instruments."""
        for item in view.phases:
            name = Underlying(item.underlying).name
            own = [drift for drift in view.drifts if drift.instrument.underlying == item.underlying]
            for phase in Phase:
                self._phase.labels(name, phase.name.lower()).set(phase.name.lower() == item.phase)
            for colour, count in zip(Colour, item.colours, strict=True):
                self._colours.labels(name, colour.name.lower()).set(count)
            self._widening.labels(name).set(item.widening_ppm / 1e6)
            for what in ("epsilon", "half_spread"):
                values = sorted(getattr(drift, f"{what}_ppm") for drift in own) or [0]
                for share in (50, 99):
                    value = values[min(len(values) - 1, len(values) * share // 100)]
                    self._drift.labels(name, what, f"p{share}").set(value)

    def set_validators(self, views: Sequence[ValidatorView]) -> None:
        """Show the members of the running epoch's set, by place; whoever left it is no longer shown."""
        for gauge in self._validators.values():
            gauge.clear()
        for view in views:
            if view.place is not None:
                values = (
                    *(view.weight, view.validator.is_jailed, view.missed_blocks, view.leader_delay_ppm),
                    *(view.late_proposals, view.outside_reports, view.validator.stake_uusd),
                )
                for gauge, value in zip(self._validators.values(), values, strict=True):
                    gauge.labels(str(view.place)).set(value)

    def set_status(self, status: StatusReply) -> None:
        """Show what the node's status says, under the names that dashboards and alerts ask for."""
        age_ns = status.market_time_ns - status.block_time_ns if status.final_height else 0
        for name, value in {
            "executed_height": status.height,
            "final_block_age_seconds": age_ns / 1e9,
            "is_voting": status.index >= 0 and not status.halted and not status.observer,
            "is_halted": bool(status.halted),
            "peers_connected": sum(peer.connected for peer in status.peers),
            "peers": len(status.peers),
            "mempool_transactions": status.mempool_size,
            "resident_bytes": status.rss_bytes,
            "cpu_seconds": status.cpu_ms / 1_000,
            "epsilon_ppm": status.epsilon_ppm_p50,
        }.items():
            self.set(name, value)

    # --- reading ---

    def finality_percentiles_us(self) -> tuple[int, int]:
        """(p50, p99) of the newest samples; zeros before the first."""
        samples = sorted(self.finality_us)
        if not samples:
            return 0, 0
        return samples[len(samples) // 2], samples[min(len(samples) - 1, len(samples) * 99 // 100)]

    def fast_share_ppm(self) -> int:
        """Share of timed blocks that took the two-delay path."""
        return self.fast_count * 1_000_000 // self.finality_count if self.finality_count else 0

    def text(self, extra: Mapping[tuple[str, str], int] | None = None) -> bytes:
        """Prometheus text format; `extra` (name, label) -> count, such as gossip's counters, is shown as it
        is."""
        lines = [
            f'quorate_{name}{{label="{label}"}} {count}\n' for (name, label), count in (extra or {}).items()
        ]
        return generate_latest(self.registry) + "".join(lines).encode()

    def _labelled(self, name: str, text: str, labels: Sequence[str]) -> Gauge:
        return Gauge(f"quorate_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(f"quorate_{name}", name.replace("_", " "), registry=self.registry)
        return self._gauges[name]

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(f"quorate_{name}", help_text, buckets=_SECONDS, registry=self.registry)


@contextmanager
def _timed(histogram: Histogram) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        histogram.observe(time.perf_counter() - began)
