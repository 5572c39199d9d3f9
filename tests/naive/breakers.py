"""Phases and drift from everything that ever happened: all indices and colours, looked through anew. Pure."""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, Any

from ledger.breakers.events import DriftJudged, InstrumentPaused, PhaseChanged
from ledger.breakers.parameters import BreakerParameters
from ledger.breakers.state import Bucket, Drift, Drifts, Restart, UnderlyingPhase, drift_key, phase_key
from ledger.instruments import Instrument, Kind
from ledger.transactions import OracleReport
from tests.naive.margin import Rows, naive_margin
from tests.naive.oracle import DECAY_BLOCKS, lower_median

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

PPM = 1_000_000
DAY_NS, YEAR_NS = 86_400 * 10**9, 31_536_000 * 10**9
OPEN, CAUTIOUS, AUCTION, POST_ONLY, HALTED = range(5)
NAMES = ("open", "cautious", "auction", "post_only", "halted")
GREEN, AMBER, RED = range(3)
CAUSES = {"halt": 1, "restart": 2, "drift": 4, "price": 8, "latency": 16}


class NaiveDrift:
    """One instrument: every judged epoch."""

    def __init__(self) -> None:
        self.spreads: list[int] = []
        self.colours: list[int] = []
        self.external = self.epsilon = self.half = 0
        self.is_paused = False


def in_a_row(colours: list[int], wanted: int) -> int:
    """How many of the last ones are of this colour."""
    count = 0
    for colour in reversed(colours):
        if colour != wanted:
            break
        count += 1
    return count


class NaiveUnderlying:
    """One underlying: every index, every colour, and the auctions that were asked for."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.since: list[int] = []
        self.colours: list[int] = []
        self.is_drifting = self.is_late = False
        self.moved, self.widening = 0, PPM
        self.until, self.auction_causes = 0, 0
        self.phase, self.causes = OPEN, 0
        self.has_leaf = False


class NaiveBreakers:
    """All phases."""

    def __init__(self, ledger: NaiveLedger) -> None:
        self.ledger = ledger
        self.underlyings = {item.underlying: NaiveUnderlying() for item in ledger.genesis.underlyings}
        self.drifts: dict[int, NaiveDrift] = {}
        self.times: list[int] = []
        self.judged: list[int] = []
        self.fresh_left = self.fresh_ns = self.post_only_until = self.auction_until = self.auction_ns = 0
        self.phases_before: dict[int, int] = {}

    @property
    def rules(self) -> BreakerParameters:
        """The numbers in force."""
        return self.ledger.genesis.breakers

    # --- a block ---

    def update(self, reports: list[OracleReport]) -> None:
        """What a block's reports change; `ledger.marks` are still those of the block before."""
        self.phases_before = {number: self.of(item) for number, item in self.ledger.instruments.items()}
        if not reports:
            return
        now = self.ledger.time_ns
        self._restart(now)
        colours = self._judge(reports, now)
        for number, item in sorted(self.underlyings.items()):
            if number in colours:
                self._drift(item, colours[number], now)
            self._watch(number, item, now)
            self._measure(number, item, now)
            self._close(number, item, now)

    def _restart(self, now: int) -> None:
        gap = now - self.times[-1] if self.times else 0
        wanted = [rule.auction_ns for rule in self.rules.gaps if gap > rule.gap_ns]
        if wanted:
            was_under_way = self.fresh_left > 0 or now < self.auction_until
            self.auction_ns = max(*wanted, self.auction_ns if was_under_way else 0, 0)
            self.fresh_left, self.fresh_ns = self.rules.fresh_epochs, 0
            self.post_only_until = self.auction_until = 0
        epoch_ns = self.ledger.genesis.parameters.oracle_epoch_ns
        if self.fresh_left and (self.fresh_ns == 0 or now - self.fresh_ns >= epoch_ns):
            self.fresh_left, self.fresh_ns = self.fresh_left - 1, now
            if self.fresh_left == 0:
                self.post_only_until = now + self.rules.post_only_ns
                self.auction_until = self.post_only_until + self.auction_ns
        self.times.append(now)

    def _intervals(self) -> list[int]:
        pairs = zip(self.times, self.times[1:], strict=False)
        return [after - before for before, after in pairs][-self.rules.latency.samples :]

    # --- drift ---

    def _judge(self, reports: list[OracleReport], now: int) -> dict[int, int]:
        """The colour of each underlying in this epoch; nothing when there is none to judge."""
        epoch_ns = self.ledger.genesis.parameters.oracle_epoch_ns
        if self.judged and now - self.judged[-1] < epoch_ns:
            return {}
        weights = self.ledger.oracle.weights
        votes: dict[int, list[tuple[int, int, int]]] = {}
        for report in reports:
            quotes = report.quotes
            for place, instrument in enumerate(quotes.instruments):
                votes.setdefault(instrument, []).append(
                    (quotes.marks_cents[place], quotes.half_spreads_cents[place], weights[report.reporter])
                )
        agreed = {
            instrument: cast
            for instrument, cast in votes.items()
            if 3 * sum(vote[2] for vote in cast) >= 2 * sum(weights.values())
        }
        if not agreed:
            return {}
        self.judged.append(now)
        marks = dict(self.ledger.marks.marks) if self.ledger.marks else {}
        seen: dict[int, list[tuple[Kind, int]]] = {}
        groups = sorted(agreed, key=lambda item: (*self._group(item), item))
        for number in groups:
            item = self.ledger.instruments.get(number)
            window_ns = self.ledger.genesis.parameters.settlement_window_ns
            if item is None or number not in marks or 0 < item.expiry_ns <= now + window_ns:
                continue
            colour = self._judge_one(item, agreed[number], marks[number])
            seen.setdefault(item.underlying, []).append((Kind(item.kind), colour))
        for underlying in sorted(seen):
            counts = [sum(1 for _, one in seen[underlying] if one == colour) for colour in range(3)]
            self.ledger.events.append(DriftJudged(underlying, *counts))
        return {number: colour for number in seen if (colour := self._whole(seen[number])) is not None}

    def _group(self, number: int) -> tuple[int, int]:
        item = self.ledger.instruments.get(number)
        return (item.underlying, item.expiry_ns) if item else (0, 0)

    def _judge_one(self, item: Instrument, cast: list[tuple[int, int, int]], mark: int) -> int:
        rules, drift = self.rules.drift, self.drifts.setdefault(item.id, NaiveDrift())
        drift.external = lower_median([(vote[0], vote[2]) for vote in cast]) * 10_000
        drift.spreads.append(lower_median([(vote[1], vote[2]) for vote in cast]) * 10_000)
        recent = sorted(drift.spreads[-rules.spread_epochs :])
        tick = next(tick for start, tick in self.ledger.grid(item) if drift.external >= start)
        drift.half = max(recent[(len(recent) - 1) // 2], rules.ticks_min * tick)
        drift.epsilon = abs(drift.external - mark)
        index = self.ledger.oracle.agreed[item.underlying].index_uusd
        green, amber = rules.green_spreads * drift.half, rules.amber_spreads * drift.half
        if item.kind == Kind.PERPETUAL:
            green = max(green, index * rules.index_green_ppm // PPM)
            amber = max(amber, index * rules.index_amber_ppm // PPM)
        is_red = drift.epsilon > amber
        if item.kind != Kind.PERPETUAL:
            is_red = is_red and drift.epsilon > index * rules.option_red_ppm // PPM
        colour = RED if is_red else GREEN if drift.epsilon <= green else AMBER
        drift.colours.append(colour)
        was_paused = drift.is_paused
        if was_paused:
            drift.is_paused = in_a_row(drift.colours, GREEN) < rules.green_epochs
        else:
            drift.is_paused = in_a_row(drift.colours, RED) >= rules.red_epochs
        if was_paused != drift.is_paused:
            self.ledger.events.append(InstrumentPaused(item.id, drift.is_paused, drift.epsilon, drift.half))
        return colour

    def _whole(self, seen: list[tuple[Kind, int]]) -> int | None:
        options = [colour for kind, colour in seen if kind != Kind.PERPETUAL]
        perpetuals = [colour for kind, colour in seen if kind == Kind.PERPETUAL]
        if options and options.count(RED) * PPM >= self.rules.drift.red_options_ppm * len(options):
            return RED
        return max(perpetuals) if perpetuals else None

    def _drift(self, item: NaiveUnderlying, colour: int, now: int) -> None:
        item.colours.append(colour)
        rules = self.rules.drift
        if not item.is_drifting:
            item.is_drifting = in_a_row(item.colours, RED) >= rules.red_epochs
        elif in_a_row(item.colours, GREEN) >= rules.green_epochs:
            item.is_drifting = False
            self._collect(item, rules.auction_ns, CAUSES["drift"], now)

    def _collect(self, item: NaiveUnderlying, auction_ns: int, cause: int, now: int) -> None:
        item.auction_causes = cause | (item.auction_causes if now < item.until else 0)
        item.until = max(item.until, now + auction_ns)

    # --- moves and latency ---

    def _monitors(self, number: int) -> tuple[Any, ...]:
        return next((item.monitors for item in self.rules.monitors if item.underlying == number), ())

    def _window(self, number: int, place: int, now: int) -> list[Bucket]:
        """Lows and highs of each twelfth of a monitor's window since it began anew, out of all indices."""
        item, part = self.underlyings[number], self._monitors(number)[place].window_ns // 12
        buckets: dict[int, list[int]] = {}
        for time_ns, index in item.seen[item.since[place] :]:
            if time_ns // part > now // part - 12:
                buckets.setdefault(time_ns // part, []).append(index)
        return [Bucket(one, min(buckets[one]), max(buckets[one])) for one in sorted(buckets)]

    def _watch(self, number: int, item: NaiveUnderlying, now: int) -> None:
        monitors = self._monitors(number)
        item.since = item.since or [0] * len(monitors)
        index = self.ledger.oracle.agreed[number].index_uusd
        item.seen.append((now, index))
        tripped = []
        for place, monitor in enumerate(monitors):
            window = self._window(number, place, now)
            low, high = min(one.low_uusd for one in window), max(one.high_uusd for one in window)
            if (index - low) * PPM >= low * monitor.move_ppm or (
                high - index
            ) * PPM >= high * monitor.move_ppm:
                tripped.append(place)
        if tripped:
            for place in range(tripped[-1] + 1):
                item.since[place] = len(item.seen) - 1
            auction_ns = max(monitors[place].auction_ns for place in tripped)
            if auction_ns:
                self._collect(item, auction_ns, CAUSES["price"], now)

    def _measure(self, number: int, item: NaiveUnderlying, now: int) -> None:
        rules, intervals = self.rules.latency, sorted(self._intervals())
        if not rules.pause_spreads:
            return
        tau = intervals[(len(intervals) - 1) // 2] if intervals else 0
        oracle = self.ledger.oracle.agreed[number]
        ahead = [one for one in oracle.slices if one.slice.expiry_ns > now]
        far = [one for one in ahead if one.slice.expiry_ns - now >= DAY_NS] or ahead[-1:]
        variance, left = 36 * 10**10, YEAR_NS
        if far:
            variance, left = far[0].slice.theta_e12, far[0].slice.expiry_ns - far[0].agreed_ns
        item.moved = isqrt(variance * tau // left)
        halves = [self.drifts[one].half for one in self.drifts if self._is_perpetual_of(one, number)]
        half_ppm = max(rules.floor_ppm, max(halves, default=0) * PPM // oracle.index_uusd)
        item.is_late = item.moved > rules.pause_spreads * half_ppm
        item.widening = min(rules.pause_spreads * PPM, max(PPM, item.moved * PPM // half_ppm))

    def _is_perpetual_of(self, instrument: int, underlying: int) -> bool:
        item = self.ledger.instruments[instrument]
        return item.kind == Kind.PERPETUAL and item.underlying == underlying

    # --- phases ---

    def _close(self, number: int, item: NaiveUnderlying, now: int) -> None:
        wanted: dict[str, int] = {}
        until = 0
        if self.fresh_left:
            wanted["halt"] = HALTED
        elif now < self.post_only_until:
            wanted["restart"] = POST_ONLY
        elif now < self.auction_until:
            wanted["restart"], until = AUCTION, self.auction_until
        if item.is_drifting:
            wanted["drift"] = POST_ONLY
        if now < item.until:
            until = max(until, item.until)
            for name in ("drift", "price"):
                if item.auction_causes & CAUSES[name]:
                    wanted[name] = max(wanted.get(name, OPEN), AUCTION)
        if item.is_late:
            wanted["latency"] = AUCTION
        phase = max(wanted.values(), default=OPEN)
        causes = sum(CAUSES[name] for name in wanted)
        if (phase, causes) != (item.phase, item.causes):
            if phase == POST_ONLY:
                until = 0 if "drift" in wanted else self.post_only_until
            if phase in (OPEN, HALTED) or (phase == AUCTION and "latency" in wanted):
                until = 0
            names = tuple(name for name in CAUSES if name in wanted)
            self.ledger.events.append(PhaseChanged(number, NAMES[phase], names, until))
        item.phase, item.causes, item.has_leaf = phase, causes, True

    def of(self, instrument: Instrument) -> int:
        """What trading of an instrument allows."""
        phase = self.underlyings[instrument.underlying].phase
        drift = self.drifts.get(instrument.id)
        return max(phase, POST_ONLY) if drift is not None and drift.is_paused else phase

    def matches(self, number: int) -> bool:
        """Whether its call runs."""
        return self.of(self.ledger.instruments[number]) <= CAUTIOUS

    def resumes(self, number: int) -> bool:
        """Whether it matches again."""
        return self.matches(number) and self.phases_before.get(number, OPEN) > CAUTIOUS

    def may_liquidate(self, instruments: Any) -> bool:
        """Whether an account that holds these may be liquidated."""
        return self.ledger.silent_blocks < DECAY_BLOCKS and all(self.matches(item) for item in instruments)

    def holds_money(self) -> bool:
        """Whether no money may leave."""
        return self.fresh_left > 0 or self.ledger.time_ns < self.post_only_until

    def refusal(self, instrument: Instrument, order: Any, *, is_uncertain: bool) -> str | None:
        """Why an order is not taken now."""
        phase = max(self.of(instrument), CAUTIOUS if is_uncertain else OPEN)
        if phase == HALTED:
            return "trading_halted"
        if phase == OPEN or order.post_only:
            return None
        if phase == AUCTION:
            return "only_resting" if order.time_in_force else None
        return None if phase == CAUTIOUS and order.reduce_only else "only_post_only"

    # --- margin, bands, leaves ---

    def add_surcharges(self, rows: Rows) -> None:
        """What doubtful marks add to the rows: a part of the dearer side's own need."""
        more = {}
        for number, drift in self.drifts.items():
            if number in rows.row_of and drift.colours[-1] != GREEN:
                sides = [naive_margin(rows, 0, {number: (lots, 0)}) for lots in (1, -1)]
                need = max(0, *(side.mtm_uusd - side.im_excess_uusd for side in sides))
                more[number] = -(-need * self.rules.drift.margin_ppm // PPM)
        for number, added in more.items():
            rows.oracle_unit[rows.row_of[number]] += added * 100

    def widened(self, instrument: Instrument, band_uusd: int) -> int:
        """A price band after half-spread and latency."""
        drift = self.drifts.get(instrument.id)
        band_uusd = max(band_uusd, self.rules.band_spreads * drift.half if drift else 0)
        return band_uusd * self.underlyings[instrument.underlying].widening // PPM

    def forget(self, options: list[Instrument]) -> None:
        """They are settled."""
        for option in options:
            self.drifts.pop(option.id, None)

    def leaves(self) -> dict[bytes, Any]:
        """As the state keeps it."""
        rules, values = self.rules, dict[bytes, Any]()
        for number, item in self.drifts.items():
            instrument = self.ledger.instruments[number]
            key = drift_key(instrument.underlying, instrument.expiry_ns)
            leaf = Drift(
                number,
                item.external,
                item.epsilon,
                item.half,
                item.colours[-1],
                in_a_row(item.colours, RED),
                in_a_row(item.colours, GREEN),
                item.is_paused,
                tuple(item.spreads[-rules.drift.spread_epochs :]),
            )
            values.setdefault(key, []).append(leaf)
        values = {
            key: Drifts(tuple(sorted(items, key=lambda one: one.instrument))) for key, items in values.items()
        }
        for number, item in self.underlyings.items():
            if item.has_leaf:
                values[phase_key(number)] = self._phase_leaf(number, item)
        if self.times:
            values[b"yr"] = Restart(
                self.times[-1],
                tuple(self._intervals()),
                self.judged[-1] if self.judged else 0,
                len(self.judged),
                self.fresh_left,
                self.fresh_ns,
                self.post_only_until,
                self.auction_until,
                self.auction_ns,
            )
        return values

    def _phase_leaf(self, number: int, item: NaiveUnderlying) -> UnderlyingPhase:
        places = range(len(self._monitors(number)))
        return UnderlyingPhase(
            item.phase,
            item.causes,
            item.until,
            item.auction_causes,
            item.is_drifting,
            in_a_row(item.colours, RED),
            in_a_row(item.colours, GREEN),
            item.moved,
            item.widening,
            item.is_late,
            tuple(tuple(self._window(number, place, self.times[-1])) for place in places),
        )
