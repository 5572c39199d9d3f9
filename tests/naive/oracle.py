"""Agreed prices by the book: sort, add weights up, take the lower median. Pure.

The clamp of a surface and its change limit are integer functions of ledger.pricing.surface with tests of
their own; they are used here as they are. Everything around them is written again.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from ledger.genesis import LedgerGenesis
from ledger.market import Slice
from ledger.oracle import AgreedSlice, ReporterState, UnderlyingOracle
from ledger.pricing.surface import clamp_slices, limit_slice_change
from ledger.transactions import OracleReport, OracleUpdate, QuotesReport
from primitives.codec import decode

DECAY_BLOCKS = 64


def lower_median(votes: list[tuple[int, int]]) -> int:
    """Of (value, weight): every value repeated by its weight, the lower middle one."""
    repeated = sorted(value for value, weight in votes for _ in range(weight))
    return repeated[(len(repeated) - 1) // 2]


class NaiveOracle:
    """Reports kept by reporter, and what was agreed for each underlying."""

    def __init__(self, genesis: LedgerGenesis, agreed: dict[int, UnderlyingOracle]) -> None:
        self.genesis = genesis
        self.weights = {number: item.weight for number, item in enumerate(genesis.reporters)}
        """Of those who report in this epoch."""
        self.agreed = agreed
        self.reporters: dict[int, ReporterState] = {}

    def read(self, raw: bytes) -> list[OracleReport]:
        """The reports of a block's first transaction."""
        if not raw:
            return []
        update = decode(OracleUpdate, raw, bytes_max=1 << 20)
        return [decode(OracleReport, item.payload, bytes_max=1 << 20) for item in update.reports]

    def block_time(self, reports: list[OracleReport], parent_ns: int) -> int:
        """The median clock, later than the parent's."""
        if not reports:
            return parent_ns + 1
        return max(
            parent_ns + 1, lower_median([(item.time_ns, self.weights[item.reporter]) for item in reports])
        )

    def take(self, reports: list[OracleReport], now_ns: int) -> None:
        """A block's reports: the index of each underlying, then its slices."""
        for report in reports:
            before = self.reporters.get(report.reporter)
            plain = replace(report, quotes=QuotesReport((), (), ()))
            surfaces = plain if report.surfaces else before.surfaces if before else None
            self.reporters[report.reporter] = ReporterState(report.time_ns, surfaces)
        for underlying in sorted(self.agreed):
            votes = [
                (item.index_uusd, self.weights[report.reporter])
                for report in reports
                for item in report.indices
                if item.underlying == underlying
            ]
            if self._is_quorum(votes):
                before_slices = self.agreed[underlying].slices
                oracle = UnderlyingOracle(lower_median(votes), now_ns, before_slices)
                if any(report.surfaces for report in reports):
                    slices = self._slices(underlying, oracle, now_ns)
                    oracle = UnderlyingOracle(oracle.index_uusd, now_ns, slices)
                self.agreed[underlying] = oracle

    def confidence_ppm(self, underlying: int, expiry_ns: int, now_ns: int, silent_blocks: int) -> int:
        """Confidence in an expiry's slice; expiry 0 asks for the perpetual's, which is full while reports come."""
        parameters = self.genesis.parameters
        silent = silent_blocks // DECAY_BLOCKS
        if not expiry_ns:
            return max(0, 1_000_000 - silent * parameters.confidence_decay_ppm)
        agreed = next(i for i in self.agreed[underlying].slices if i.slice.expiry_ns == expiry_ns)
        missed = max(0, (now_ns - agreed.agreed_ns) // parameters.oracle_epoch_ns - 1) + silent
        return max(0, agreed.slice.confidence_ppm - missed * parameters.confidence_decay_ppm)

    def _is_quorum(self, votes: list[Any]) -> bool:
        return bool(3 * sum(vote[-1] for vote in votes) >= 2 * sum(self.weights.values()))

    def _slices(self, underlying: int, oracle: UnderlyingOracle, now_ns: int) -> tuple[AgreedSlice, ...]:
        parameters = self.genesis.parameters
        proposed: list[Slice] = []
        streaks: list[int | None] = []
        for old in oracle.slices:
            rolled = rolled_slice(old.slice, old.index_uusd, oracle.index_uusd, old.agreed_ns, now_ns)
            votes = self._seen(underlying, old.slice.expiry_ns, oracle.index_uusd, now_ns)
            due = old.slice.confidence_ppm == 0 or now_ns >= old.agreed_ns + parameters.oracle_epoch_ns
            if not (due and old.slice.expiry_ns > now_ns and self._is_quorum(votes)):
                proposed.append(rolled)
                streaks.append(None)
                continue
            wanted = _median_slice(votes)
            held = limit_slice_change(
                rolled, wanted, parameters.theta_limit_ppm, parameters.forward_limit_ppm
            )
            streak = 0 if held == wanted or old.slice.confidence_ppm == 0 else old.limited_epochs + 1
            is_believed = streak in (0, 3)
            proposed.append(wanted if is_believed else held)
            streaks.append(0 if is_believed else streak)
        return tuple(
            old if streak is None else AgreedSlice(item, oracle.index_uusd, now_ns, streak)
            for old, item, streak in zip(oracle.slices, clamp_slices(proposed), streaks, strict=True)
        )

    def _seen(self, underlying: int, expiry_ns: int, index_uusd: int, now_ns: int) -> list[tuple[Slice, int]]:
        """(slice rolled to now, weight) of every reporter whose last surfaces are at most three epochs old."""
        votes = []
        for number, kept in sorted(self.reporters.items()):
            report = kept.surfaces
            is_current = number in self.weights
            if (
                not is_current
                or report is None
                or report.time_ns < now_ns - 3 * self.genesis.parameters.oracle_epoch_ns
            ):
                continue
            then = {item.underlying: item.index_uusd for item in report.indices}
            for surface in report.surfaces:
                for item in surface.slices:
                    if surface.underlying == underlying and item.expiry_ns == expiry_ns:
                        rolled = rolled_slice(item, then[underlying], index_uusd, report.time_ns, now_ns)
                        votes.append((rolled, self.weights[number]))
        return votes


def rolled_slice(item: Slice, index_then: int, index_now: int, then_ns: int, now_ns: int) -> Slice:
    """Forward in proportion to the index, variance in proportion to the time left; rounded down."""
    left_then, left_now = max(1, item.expiry_ns - then_ns), max(1, item.expiry_ns - now_ns)
    return Slice(
        item.expiry_ns,
        max(1, item.forward_uusd * index_now // index_then),
        item.discount_ppm,
        max(10_000, item.theta_e12 * left_now // left_then),
        item.rho_e6,
        max(1, item.psi_e9 * left_now // left_then),
        item.wings_e9 * left_now // left_then,
        item.confidence_ppm,
    )


def _median_slice(votes: list[tuple[Slice, int]]) -> Slice:
    parts = {
        name: lower_median([(getattr(item, name), weight) for item, weight in votes])
        for name in Slice.__struct_fields__
    }
    return Slice(**parts)
