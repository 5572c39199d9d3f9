"""This block's prices and volatilities from the validators' signed reports, and when they are too old. Pure.

Every number is the lower stake-weighted median over reports that hold at least two thirds of the voting
power, so with at most a third of liars it lies within what honest validators saw. Reports carry clocks too:
their median is the block's time. Between two agreements a slice is rolled: its forward moves with the index
and its variance with time. Source: market.md section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from ledger.genesis import OracleReporter
from ledger.instruments import LOTS_PER_CONTRACT, Instrument, Kind, Underlying
from ledger.margin.parameters import TAIL_MOVES_PPM
from ledger.margin.scenarios import LOT_VALUE_E8_MAX, VALUE_SCALE
from ledger.market import Slice, UnderlyingMarket
from ledger.pricing.surface import WINGS_E9_MAX, clamp_slices, limit_slice_change
from ledger.reasons import LedgerReason
from ledger.staking.state import KEY_REPORTERS, Reporters
from ledger.state_keys import oracle_key, reporter_key
from ledger.transactions import NO_QUOTES, OracleReport, OracleUpdate, SignedReport
from primitives.amounts import PPM, SECONDS_PER_YEAR
from primitives.codec import U8, U63, Wire, decode, encode
from primitives.errors import ProtocolViolation

if TYPE_CHECKING:
    from ledger.state import State

REPORT_BYTES_MAX = 16_384
UPDATE_BYTES_MAX = 262_144
"""Also a block's limit for one transaction; the leader leaves reports out rather than exceed it. Reports of 100
validators on eleven expiries of two underlyings take 141 KB without quotes."""
SILENT_BLOCKS_PER_EPOCH = 64
"""Block time stands still without reports, so silence is counted in blocks: so many make one missed epoch."""
SURFACE_EPOCHS_MAX = 3
"""A reporter's surfaces count for so many epochs after their report."""
BASIS_PPM_MAX = 250_000
"""A forward is within so much of the index in the same report."""
LIMITED_EPOCHS_MAX = 3
"""A change beyond the limits is believed in full once so many epochs in a row want it."""
_GENESIS_VOL_E6 = 600_000
"""Before the first report, with confidence 0: 60 % volatility and a mild smile."""


class AgreedSlice(Wire):
    """A slice as agreed, with the index it was agreed at and when; `slice.expiry_ns` orders them."""

    slice: Slice
    index_uusd: U63
    agreed_ns: U63
    limited_epochs: U8


class UnderlyingOracle(Wire):
    """One leaf per underlying."""

    index_uusd: U63
    index_ns: U63
    slices: tuple[AgreedSlice, ...]


class ReporterState(Wire):
    """A reporter's last used report (each is used once) and its last report that had surfaces."""

    time_ns: U63
    surfaces: OracleReport | None


def weighted_median(votes: Iterable[tuple[int, int]]) -> int:
    """The lower median of (weight, value): smallest value with 2 * cumulative weight >= all weight."""
    ordered = sorted((value, weight) for weight, value in votes)
    present = sum(weight for _, weight in ordered)
    reached = 0
    for value, weight in ordered:
        reached += weight
        if 2 * reached >= present:
            return value
    raise ValueError("a median needs a vote")


def genesis_oracle(index_uusd: int, time_ns: int, instruments: Iterable[Instrument]) -> UnderlyingOracle:
    """What is believed of one underlying before any report: a flat 60 % volatility with confidence 0."""
    expiries = sorted({item.expiry_ns for item in instruments if item.kind != Kind.PERPETUAL})
    slices = [genesis_slice(expiry_ns, index_uusd, time_ns) for expiry_ns in expiries]
    return UnderlyingOracle(
        index_uusd, time_ns, tuple(AgreedSlice(item, index_uusd, time_ns, 0) for item in slices)
    )


def genesis_slice(expiry_ns: int, index_uusd: int, time_ns: int) -> Slice:
    """A flat slice with confidence 0."""
    tau_ns = max(1, expiry_ns - time_ns)
    theta_e12 = max(10_000, _GENESIS_VOL_E6**2 * tau_ns // (SECONDS_PER_YEAR * 10**9))
    return Slice(expiry_ns, index_uusd, PPM, theta_e12, 0, max(1, theta_e12 // 1000), 0, 0)


def decode_update(raw: bytes) -> OracleUpdate:
    """A block's first transaction; no bytes mean no reports. Raises ProtocolViolation of the codec."""
    return OracleUpdate(()) if not raw else decode(OracleUpdate, raw, bytes_max=UPDATE_BYTES_MAX)


def decode_report(report: SignedReport, chain_id: bytes) -> OracleReport:
    """The content of a report.

    Raises:
        ProtocolViolation: of the codec, WRONG_CHAIN, ORACLE_REPORTER, or ORACLE_CONTENT (order).
    """
    content = decode(OracleReport, report.payload, bytes_max=REPORT_BYTES_MAX)
    if content.chain_id != chain_id:
        raise ProtocolViolation(LedgerReason.WRONG_CHAIN, "a report of another chain")
    if content.reporter != report.reporter:
        raise ProtocolViolation(LedgerReason.ORACLE_REPORTER, "the report names another reporter")
    if not _is_ascending([item.underlying for item in content.indices]):
        raise ProtocolViolation(LedgerReason.ORACLE_CONTENT, "indices are not in order of underlying")
    known = {item.underlying for item in content.indices}
    for surface in content.surfaces:
        if surface.underlying not in known:
            raise ProtocolViolation(LedgerReason.ORACLE_CONTENT, "a surface without its index")
        if not _is_ascending([item.expiry_ns for item in surface.slices]):
            raise ProtocolViolation(LedgerReason.ORACLE_CONTENT, "slices are not in order of expiry")
        if any(not is_plausible(item) for item in surface.slices):
            raise ProtocolViolation(LedgerReason.ORACLE_CONTENT, "a slice outside its bounds")
    seen = [(item.height, item.place) for item in content.delays]
    if seen != sorted(set(seen)):
        raise ProtocolViolation(LedgerReason.ORACLE_CONTENT, "delays are not in order of height and place")
    if not _is_ascending([item.underlying for item in content.surfaces]):
        raise ProtocolViolation(LedgerReason.ORACLE_CONTENT, "surfaces are not in order of underlying")
    quotes = content.quotes
    if not len(quotes.instruments) == len(quotes.marks_cents) == len(quotes.half_spreads_cents):
        raise ProtocolViolation(LedgerReason.ORACLE_CONTENT, "quotes are columns of different lengths")
    if not _is_ascending(quotes.instruments):
        raise ProtocolViolation(LedgerReason.ORACLE_CONTENT, "quotes are not in order of instrument")
    return content


def is_plausible(item: Slice) -> bool:
    """Whether the numbers are inside the ranges of market.md section 1, before any clamp."""
    return (
        1 <= item.forward_uusd <= 10**13
        and 1 <= item.discount_ppm <= PPM
        and 10_000 <= item.theta_e12 <= 9 * 10**12
        and abs(item.rho_e6) <= 900_000
        and 1 <= item.psi_e9 <= 4 * 10**9
        and item.wings_e9 <= WINGS_E9_MAX
        and item.confidence_ppm <= PPM
    )


def _is_ascending(values: Sequence[int]) -> bool:
    return all(a < b for a, b in pairwise(values))


def reporters_of(state: State) -> dict[int, OracleReporter]:
    """Who reports, by number: the running epoch's validators, or genesis' reporters as long as they are the same."""
    found: Reporters | None = state.leaves.get(KEY_REPORTERS)
    if found is None:
        return dict(enumerate(state.genesis.reporters))
    return {number: OracleReporter(key, weight) for number, key, weight in found.reporters}


def weight_total(state: State) -> int:
    """Voting power of all reporters."""
    return sum(reporter.weight for reporter in reporters_of(state).values())


def has_quorum(state: State, weight: int) -> bool:
    """Whether a weight is at least two thirds of all."""
    return 3 * weight >= 2 * weight_total(state)


def check_report(state: State, report: SignedReport) -> OracleReport:
    """Everything about one report that does not depend on the others or on its signature.

    Raises:
        ProtocolViolation: with the reason.
    """
    if report.reporter not in reporters_of(state):
        raise ProtocolViolation(LedgerReason.ORACLE_REPORTER, f"no reporter {report.reporter}")
    content = decode_report(report, state.chain_id)
    _check_values(state, content)
    if content.time_ns <= state.reporter_time_ns(report.reporter):
        raise ProtocolViolation(
            LedgerReason.ORACLE_REPEATED, f"reporter {report.reporter}'s report is not newer than its last"
        )
    return content


def _check_values(state: State, content: OracleReport) -> None:
    """Refuse what the margin model could not hold in 64 bits. Raises ProtocolViolation(ORACLE_CONTENT)."""
    known = {item.underlying for item in state.genesis.underlyings}
    index_uusd = {item.underlying: item.index_uusd for item in content.indices}
    for underlying, value in index_uusd.items():
        if underlying not in known:
            raise ProtocolViolation(LedgerReason.ORACLE_CONTENT, f"no underlying {underlying}")
        if value > index_uusd_max(underlying):
            raise ProtocolViolation(
                LedgerReason.ORACLE_CONTENT, f"an index of {value} is beyond what is exact"
            )
    for surface in content.surfaces:
        spot = index_uusd[surface.underlying]
        for item in surface.slices:
            if abs(item.forward_uusd - spot) * PPM > spot * BASIS_PPM_MAX:
                raise ProtocolViolation(LedgerReason.ORACLE_CONTENT, "a forward too far from its index")


def index_uusd_max(underlying: int) -> int:
    """The highest index whose options stay within LOT_VALUE_E8_MAX when it rises by the largest tail."""
    contract_uusd = LOT_VALUE_E8_MAX // VALUE_SCALE * LOTS_PER_CONTRACT[Underlying(underlying)]
    return contract_uusd * PPM // ((PPM + max(TAIL_MOVES_PPM)) * (PPM + BASIS_PPM_MAX) // PPM)


class CheckedUpdate(NamedTuple):
    """An update that may stand in a block: the reports' contents and the block time that follows."""

    reports: tuple[OracleReport, ...]
    time_ns: int


def check_update(state: State, update: OracleUpdate) -> CheckedUpdate:
    """Judge a block's oracle update against the parent's state.

    Raises:
        ProtocolViolation: ORACLE_ORDER, ORACLE_QUORUM, ORACLE_STALE and those of check_report.
    """
    if not _is_ascending([report.reporter for report in update.reports]):
        raise ProtocolViolation(LedgerReason.ORACLE_ORDER, "reports are not in ascending order of reporter")
    contents = tuple(check_report(state, report) for report in update.reports)
    time_ns = _block_time(state, contents)
    if contents:
        reporters = reporters_of(state)
        present = sum(reporters[item.reporter].weight for item in contents)
        if not has_quorum(state, present):
            raise ProtocolViolation(
                LedgerReason.ORACLE_QUORUM, "reports of less than two thirds of the power"
            )
        oldest = min(item.time_ns for item in contents)
        if oldest + state.parameters.oracle_stale_ns < time_ns:
            raise ProtocolViolation(LedgerReason.ORACLE_STALE, "a report is too old for the block's time")
    return CheckedUpdate(contents, time_ns)


def _block_time(state: State, contents: Sequence[OracleReport]) -> int:
    after_parent = state.clock.time_ns + 1
    if not contents:
        return after_parent
    reporters = reporters_of(state)
    return max(
        after_parent, weighted_median((reporters[item.reporter].weight, item.time_ns) for item in contents)
    )


def compute_block_time(state: State, update: OracleUpdate) -> int:
    """The header time of a block on this state: the reports' median clock, later than the parent's.

    Raises:
        ProtocolViolation: the update may not stand in a block.
    """
    return check_update(state, update).time_ns


def build_oracle_update(state: State, reports: Iterable[SignedReport]) -> OracleUpdate:
    """The leader's update: the newest usable report of each validator, or none when they are too few.

    Signatures are the caller's; everything else is checked here, and stale reports are left out.
    """
    newest: dict[int, tuple[int, SignedReport]] = {}
    for report in reports:
        try:
            content = check_report(state, report)
        except ProtocolViolation:
            continue
        if report.reporter not in newest or newest[report.reporter][0] < content.time_ns:
            newest[report.reporter] = (content.time_ns, report)
    chosen = [newest[reporter] for reporter in sorted(newest)]
    while chosen:
        update = OracleUpdate(tuple(report for _, report in chosen))
        try:
            check_update(state, update)
        except ProtocolViolation as violation:
            if violation.reason != LedgerReason.ORACLE_STALE:
                break
        else:
            if len(encode(update)) <= UPDATE_BYTES_MAX:
                return update
        chosen.remove(min(chosen, key=lambda item: item[0]))
    return OracleUpdate(())


# --- executing an update ---


def roll_slice(item: Slice, index_from: int, index_to: int, time_from: int, time_to: int) -> Slice:
    """The slice at a later time and another index: forward in proportion to the index, variance to time left.

    theta, psi and wings shrink alike, so phi and with it the smile in k stays; no arbitrage appears. Rounds down.
    """
    before, after = max(1, item.expiry_ns - time_from), max(1, item.expiry_ns - time_to)
    if index_from == index_to and before == after:
        return item
    return Slice(
        item.expiry_ns,
        max(1, item.forward_uusd * index_to // index_from),
        item.discount_ppm,
        max(10_000, item.theta_e12 * after // before),
        item.rho_e6,
        max(1, item.psi_e9 * after // before),
        item.wings_e9 * after // before,
        item.confidence_ppm,
    )


def missed_epochs(agreed: AgreedSlice, now_ns: int, silent_blocks: int, epoch_ns: int) -> int:
    """Oracle epochs that passed without an agreement on a slice, one of grace, plus those of silence."""
    return max(0, (now_ns - agreed.agreed_ns) // epoch_ns - 1) + silent_blocks // SILENT_BLOCKS_PER_EPOCH


def current_market(state: State, underlying: int, now_ns: int) -> UnderlyingMarket:
    """The market as of now: every slice rolled, its confidence less the decay of each missed epoch."""
    oracle, parameters = state.oracle(underlying), state.parameters
    slices = []
    for agreed in oracle.slices:
        rolled = roll_slice(agreed.slice, agreed.index_uusd, oracle.index_uusd, agreed.agreed_ns, now_ns)
        missed = missed_epochs(agreed, now_ns, state.clock.blocks_without_oracle, parameters.oracle_epoch_ns)
        confidence_ppm = max(0, rolled.confidence_ppm - missed * parameters.confidence_decay_ppm)
        slices.append(replace(rolled, confidence_ppm=confidence_ppm) if missed else rolled)
    return UnderlyingMarket(oracle.index_uusd, tuple(slices))


def apply_reports(state: State, reports: Sequence[OracleReport], time_ns: int) -> None:
    """Take checked reports over: each reporter's state, then every underlying's index and slices."""
    for report in reports:
        key = reporter_key(report.reporter)
        before: ReporterState | None = state.leaves.get(key)
        surfaces = before.surfaces if before else None
        if report.surfaces:
            surfaces = replace(report, quotes=NO_QUOTES) if report.quotes.instruments else report
        state.put(key, ReporterState(report.time_ns, surfaces))
    has_surfaces = any(report.surfaces for report in reports)
    for parameters in state.genesis.underlyings:
        underlying = parameters.underlying
        before_oracle = state.oracle(underlying)
        index_uusd = _agreed_index(state, reports, underlying)
        if index_uusd is None:
            continue
        oracle = UnderlyingOracle(index_uusd, time_ns, before_oracle.slices)
        if has_surfaces:
            oracle = UnderlyingOracle(index_uusd, time_ns, _agreed_slices(state, underlying, oracle, time_ns))
        state.put(oracle_key(underlying), oracle)


def _agreed_index(state: State, reports: Sequence[OracleReport], underlying: int) -> int | None:
    reporters = reporters_of(state)
    votes = [
        (reporters[report.reporter].weight, item.index_uusd)
        for report in reports
        for item in report.indices
        if item.underlying == underlying
    ]
    return weighted_median(votes) if has_quorum(state, sum(weight for weight, _ in votes)) else None


def _agreed_slices(
    state: State, underlying: int, oracle: UnderlyingOracle, time_ns: int
) -> tuple[AgreedSlice, ...]:
    """Each expiry's slice: agreed anew when an epoch has passed and two thirds see it, kept otherwise."""
    seen = _reported_slices(state, underlying, oracle.index_uusd, time_ns)
    epoch_ns = state.parameters.oracle_epoch_ns
    proposals: list[tuple[Slice, int, bool]] = []
    for agreed in oracle.slices:
        expiry_ns = agreed.slice.expiry_ns
        rolled = roll_slice(agreed.slice, agreed.index_uusd, oracle.index_uusd, agreed.agreed_ns, time_ns)
        votes = seen.get(expiry_ns, ())
        is_due = agreed.agreed_ns + epoch_ns <= time_ns or agreed.slice.confidence_ppm == 0
        if not is_due or expiry_ns <= time_ns or not has_quorum(state, sum(weight for weight, _ in votes)):
            proposals.append((rolled, agreed.limited_epochs, False))
            continue
        limited, epochs = _limited(state, agreed, rolled, _median_slice(votes))
        proposals.append((limited, epochs, True))
    clamped = clamp_slices([item for item, _, _ in proposals])
    return tuple(
        AgreedSlice(item, oracle.index_uusd, time_ns, epochs) if is_new else kept
        for item, (_, epochs, is_new), kept in zip(clamped, proposals, oracle.slices, strict=True)
    )


def _reported_slices(
    state: State, underlying: int, index_uusd: int, time_ns: int
) -> dict[int, list[tuple[int, Slice]]]:
    """(weight, slice rolled to now) of every reporter whose surfaces are fresh, by expiry."""
    oldest_ns = time_ns - SURFACE_EPOCHS_MAX * state.parameters.oracle_epoch_ns
    seen: dict[int, list[tuple[int, Slice]]] = {}
    for number, reporter in reporters_of(state).items():
        kept: ReporterState | None = state.leaves.get(reporter_key(number))
        report = kept.surfaces if kept else None
        if report is None or report.time_ns < oldest_ns:
            continue
        index_then = {item.underlying: item.index_uusd for item in report.indices}
        for surface in report.surfaces:
            if surface.underlying != underlying:
                continue
            for item in surface.slices:
                rolled = roll_slice(item, index_then[underlying], index_uusd, report.time_ns, time_ns)
                seen.setdefault(item.expiry_ns, []).append((reporter.weight, rolled))
    return seen


def _median_slice(votes: Sequence[tuple[int, Slice]]) -> Slice:
    """Every component's own lower weighted median; clamp_slices then restores freedom from arbitrage."""

    def median(part: Callable[[Slice], int]) -> int:
        return weighted_median((weight, part(item)) for weight, item in votes)

    return Slice(
        votes[0][1].expiry_ns,
        median(lambda item: item.forward_uusd),
        median(lambda item: item.discount_ppm),
        median(lambda item: item.theta_e12),
        median(lambda item: item.rho_e6),
        median(lambda item: item.psi_e9),
        median(lambda item: item.wings_e9),
        median(lambda item: item.confidence_ppm),
    )


def _limited(state: State, agreed: AgreedSlice, rolled: Slice, proposed: Slice) -> tuple[Slice, int]:
    """(the slice within this epoch's change limits, epochs in a row that wanted more)."""
    parameters = state.parameters
    limited = limit_slice_change(rolled, proposed, parameters.theta_limit_ppm, parameters.forward_limit_ppm)
    is_first = agreed.slice.confidence_ppm == 0
    if is_first or limited == proposed:
        return proposed, 0
    epochs = agreed.limited_epochs + 1
    return (proposed, 0) if epochs >= LIMITED_EPOCHS_MAX else (limited, epochs)
