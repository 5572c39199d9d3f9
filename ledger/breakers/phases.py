"""The trading phase of each underlying: what moves it at the start of a block, and what it allows. Pure.

One mechanism for everything that may stop trading: a gap between blocks (halt, then post-only, then an auction), drift
of the marks (post-only, then an auction), a fast move of the index (auction), finality too slow for the index's
volatility (auction until it is faster), and low confidence in an expiry (cautious). The strictest cause holds. Source:
market.md sections 2 and 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isqrt
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.breakers.drift import after_judgement, counted, is_due, is_paused_after, judge_epoch
from ledger.breakers.events import PhaseChanged
from ledger.breakers.monitors import watch
from ledger.breakers.parameters import BreakerParameters
from ledger.breakers.reasons import BreakerReason
from ledger.breakers.state import (
    KEY_RESTART,
    Cause,
    Colour,
    Phase,
    Restart,
    UnderlyingPhase,
    get_breakers,
    get_drift_table,
    get_drifts,
    get_phase,
    get_restart,
    names_of,
    phase_key,
)
from ledger.oracle import SILENT_BLOCKS_PER_EPOCH, weighted_median
from ledger.reasons import LedgerReason
from ledger.transactions import PlaceOrder, TimeInForce
from primitives.amounts import PPM, SECONDS_PER_YEAR, clamp
from primitives.errors import ProtocolViolation

if TYPE_CHECKING:
    from ledger.events import Event
    from ledger.instruments import Instrument
    from ledger.oracle import UnderlyingOracle
    from ledger.state import State
    from ledger.transactions import OracleReport

DAY_NS = 86_400 * 10**9
UNQUOTED_VARIANCE_E12 = 360_000_000_000
"""A year's variance of 60 % volatility, for an index without any options."""


# --- the market as a whole ---


def after_gap(restart: Restart, parameters: BreakerParameters, epoch_ns: int, now_ns: int) -> Restart:
    """The way out of a halt after one more block with prices; a long gap begins it anew."""
    gap_ns = now_ns - restart.priced_ns if restart.priced_ns else 0
    auction_ns = max((rule.auction_ns for rule in parameters.gaps if gap_ns > rule.gap_ns), default=None)
    if auction_ns is not None:
        is_under_way = restart.fresh_left or now_ns < restart.auction_until_ns
        restart = replace(
            restart,
            fresh_left=parameters.fresh_epochs,
            fresh_ns=0,
            post_only_until_ns=0,
            auction_until_ns=0,
            auction_ns=max(auction_ns, restart.auction_ns if is_under_way else 0),
        )
    if restart.fresh_left and (not restart.fresh_ns or now_ns >= restart.fresh_ns + epoch_ns):
        restart = replace(restart, fresh_left=restart.fresh_left - 1, fresh_ns=now_ns)
        if not restart.fresh_left:
            until_ns = now_ns + parameters.post_only_ns
            restart = replace(
                restart, post_only_until_ns=until_ns, auction_until_ns=until_ns + restart.auction_ns
            )
    intervals = (*restart.intervals_ns, gap_ns) if restart.priced_ns else ()
    return replace(restart, priced_ns=now_ns, intervals_ns=intervals[-parameters.latency.samples :])


# --- one underlying ---


def usual_move_ppm(oracle: UnderlyingOracle, tau_ns: int, now_ns: int) -> int:
    """sigma sqrt(tau) of the index, rounded down: sigma from the nearest expiry at least a day ahead, else the last."""
    ahead = [item for item in oracle.slices if item.slice.expiry_ns > now_ns]
    variance_e12, left_ns = UNQUOTED_VARIANCE_E12, SECONDS_PER_YEAR * 10**9
    if ahead:
        agreed = next((item for item in ahead if item.slice.expiry_ns >= now_ns + DAY_NS), ahead[-1])
        variance_e12, left_ns = agreed.slice.theta_e12, agreed.slice.expiry_ns - agreed.agreed_ns
    return isqrt(variance_e12 * tau_ns // left_ns)


def latency_of(moved_ppm: int, half_ppm: int, parameters: BreakerParameters) -> tuple[int, bool]:
    """(factor on bands, whether matching pauses) for a usual move and a half-spread, both in ppm of the index."""
    rules = parameters.latency
    half_ppm = max(half_ppm, rules.floor_ppm)
    widening_ppm = clamp(moved_ppm * PPM // half_ppm, PPM, rules.pause_spreads * PPM)
    return widening_ppm, moved_ppm > rules.pause_spreads * half_ppm


def phase_of(leaf: UnderlyingPhase, restart: Restart, now_ns: int) -> tuple[Phase, Cause]:
    """The strictest phase that any cause asks for, and all causes."""
    asked = [(Phase.OPEN, Cause(0))]
    if restart.fresh_left:
        asked.append((Phase.HALTED, Cause.HALT))
    elif now_ns < restart.post_only_until_ns:
        asked.append((Phase.POST_ONLY, Cause.RESTART))
    elif now_ns < restart.auction_until_ns:
        asked.append((Phase.AUCTION, Cause.RESTART))
    if leaf.is_drifting:
        asked.append((Phase.POST_ONLY, Cause.DRIFT))
    if now_ns < leaf.auction_until_ns:
        asked.append((Phase.AUCTION, Cause(leaf.auction_causes)))
    if leaf.is_late:
        asked.append((Phase.AUCTION, Cause.LATENCY))
    causes = Cause(0)
    for _, cause in asked:
        causes |= cause
    return max(phase for phase, _ in asked), causes


class _Underlying:
    """One underlying's leaf, moved through a block with prices."""

    def __init__(self, state: State, underlying: int, now_ns: int) -> None:
        self._state = state
        self._underlying = underlying
        self._now_ns = now_ns
        self._parameters = get_breakers(state)
        self._oracle = state.oracle(underlying)
        self.leaf = get_phase(state, underlying)

    def judge(self, colour: Colour) -> None:
        """Drift of an epoch: a pause begins, or ends with an auction."""
        rules, leaf = self._parameters.drift, self.leaf
        red, green = counted(colour, leaf.red_epochs, leaf.green_epochs)
        is_drifting = is_paused_after(leaf.is_drifting, red, green, rules)
        self.leaf = replace(leaf, red_epochs=red, green_epochs=green, is_drifting=is_drifting)
        if leaf.is_drifting and not is_drifting:
            self._collect(rules.auction_ns, Cause.DRIFT)

    def watch(self) -> None:
        """The index of this block: a fast move begins an auction, or makes it longer."""
        monitors = next(
            (item.monitors for item in self._parameters.monitors if item.underlying == self._underlying), ()
        )
        windows, auction_ns = watch(self.leaf.windows, monitors, self._oracle.index_uusd, self._now_ns)
        self.leaf = replace(self.leaf, windows=windows)
        if auction_ns:
            self._collect(auction_ns, Cause.PRICE)

    def _collect(self, auction_ns: int, cause: Cause) -> None:
        leaf = self.leaf
        held = Cause(leaf.auction_causes) if self._now_ns < leaf.auction_until_ns else Cause(0)
        until_ns = max(leaf.auction_until_ns, self._now_ns + auction_ns)
        self.leaf = replace(leaf, auction_until_ns=until_ns, auction_causes=int(held | cause))

    def measure(self, tau_ns: int) -> None:
        """Latency: how far the index usually moves while a block becomes final."""
        if not self._parameters.latency.pause_spreads:
            return
        moved_ppm = usual_move_ppm(self._oracle, tau_ns, self._now_ns)
        half_ppm = self._half_spread_uusd() * PPM // self._oracle.index_uusd
        widening_ppm, is_late = latency_of(moved_ppm, half_ppm, self._parameters)
        self.leaf = replace(self.leaf, moved_ppm=moved_ppm, widening_ppm=widening_ppm, is_late=is_late)

    def _half_spread_uusd(self) -> int:
        return max(
            (item.half_spread_uusd for item in get_drifts(self._state, self._underlying, 0)), default=0
        )

    def close(self, restart: Restart, events: list[Event]) -> None:
        """Write the leaf, with an event if phase or causes changed."""
        phase, causes = phase_of(self.leaf, restart, self._now_ns)
        if (phase, causes) != (self.leaf.phase, self.leaf.causes):
            until_ns = until_of(phase, causes, self.leaf, restart)
            events.append(PhaseChanged(self._underlying, phase.name.lower(), names_of(causes), until_ns))
        self._state.put(phase_key(self._underlying), replace(self.leaf, phase=phase, causes=int(causes)))


def until_of(phase: Phase, causes: Cause, leaf: UnderlyingPhase, restart: Restart) -> int:
    """When a phase ends if nothing more happens, 0 when that depends on more than time."""
    if phase == Phase.POST_ONLY and not causes & Cause.DRIFT:
        return restart.post_only_until_ns
    if phase == Phase.AUCTION and not causes & Cause.LATENCY:
        return max(leaf.auction_until_ns, restart.auction_until_ns if causes & Cause.RESTART else 0)
    return 0


def update_breakers(state: State, reports: Sequence[OracleReport], events: list[Event]) -> Phases:
    """Bring every phase up to a block whose reports are agreed on; without reports all stay as they are.

    Marks are still those of the block before.
    """
    if not reports:
        return Phases(state)
    now_ns, parameters = state.clock.time_ns, get_breakers(state)
    before = Phases(state)
    restart = after_gap(get_restart(state), parameters, state.parameters.oracle_epoch_ns, now_ns)
    colours = judge_epoch(state, reports, now_ns, events) if is_due(state, restart, now_ns) else None
    if colours is not None:
        restart = after_judgement(restart, now_ns)
    state.put(KEY_RESTART, restart)
    tau_ns = weighted_median((1, item) for item in restart.intervals_ns) if restart.intervals_ns else 0
    for parameters_of in state.genesis.underlyings:
        underlying = parameters_of.underlying
        moving = _Underlying(state, underlying, now_ns)
        if colours is not None and underlying in colours:
            moving.judge(colours[underlying])
        moving.watch()
        moving.measure(tau_ns)
        moving.close(restart, events)
    return Phases(state, before)


# --- what a block may do ---


class Phases:
    """What the phases allow in one block; from the state after update_breakers."""

    def __init__(self, state: State, before: Phases | None = None) -> None:
        """`before`: those of the block before, to know what matches again."""
        self._listed = state.instruments
        self._restart, self._now_ns = get_restart(state), state.clock.time_ns
        self._is_silent = state.clock.blocks_without_oracle >= SILENT_BLOCKS_PER_EPOCH
        self._phases = {
            item.underlying: Phase(get_phase(state, item.underlying).phase)
            for item in state.genesis.underlyings
        }
        self._paused = get_drift_table(state).paused
        self._before = before

    @property
    def is_halted(self) -> bool:
        """Whether prices are not fresh yet after a halt."""
        return self._restart.fresh_left > 0

    def of_underlying(self, underlying: int) -> Phase:
        """The phase of a whole underlying."""
        return self._phases[underlying]

    def of(self, instrument: Instrument) -> Phase:
        """The phase of one instrument: its underlying's, or post-only while its own mark is in doubt."""
        phase = self._phases[instrument.underlying]
        return max(phase, Phase.POST_ONLY) if instrument.id in self._paused else phase

    def resumed(self) -> list[int]:
        """Instruments that match in this block and did not in the one before, by id."""
        before = self._before
        if before is None or (before._phases == self._phases and before._paused == self._paused):
            return []
        listed = (self._listed[item] for item in sorted(self._listed))
        return [item.id for item in listed if self.of(item).is_matching and not before.of(item).is_matching]

    def check_order(self, instrument: Instrument, order: PlaceOrder, *, is_uncertain: bool) -> None:
        """`is_uncertain`: confidence in the instrument's price is low.

        Raises:
            ProtocolViolation: TRADING_HALTED, ONLY_POST_ONLY, ONLY_RESTING.
        """
        phase = self.of(instrument)
        if phase is Phase.OPEN and not is_uncertain:
            return
        phase = max(phase, Phase.CAUTIOUS if is_uncertain else Phase.OPEN)
        if phase < Phase.HALTED and order.post_only:
            return
        if phase == Phase.HALTED:
            raise _halted()
        if phase == Phase.AUCTION:
            if order.time_in_force != TimeInForce.GTC:
                raise ProtocolViolation(
                    BreakerReason.ONLY_RESTING,
                    "orders are collected for an auction: only resting ones are taken",
                )
        elif phase == Phase.POST_ONLY or not order.reduce_only:
            raise ProtocolViolation(
                LedgerReason.ONLY_POST_ONLY, f"the price of {instrument.name} is too uncertain for this order"
            )

    def check_money_out(self) -> None:
        """Raises ProtocolViolation(TRADING_HALTED) until the post-only time after a halt is over."""
        if self.is_halted or self._now_ns < self._restart.post_only_until_ns:
            raise _halted()

    def check_package(self, instruments: Iterable[Instrument]) -> None:
        """Raises ProtocolViolation: TRADING_HALTED, MATCHING_PAUSED."""
        if self.is_halted:
            raise _halted()
        if not all(self.of(item).is_matching for item in instruments):
            raise ProtocolViolation(BreakerReason.MATCHING_PAUSED, "matching pauses for one of the legs")

    def may_liquidate(self, instruments: Iterable[int]) -> bool:
        """Whether an account that holds these may be liquidated: every mark is trusted and every book matches."""
        return not self._is_silent and all(self.of(self._listed[item]).is_matching for item in instruments)


def _halted() -> ProtocolViolation:
    # A new one each time: one that is raised again keeps the frames of all its raises, and with them the prices.
    return ProtocolViolation(
        BreakerReason.TRADING_HALTED, "trading is halted until prices are fresh: only cancels and deposits"
    )
