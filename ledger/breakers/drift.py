"""Epsilon: how far the chain's marks are from what the venues show, judged once in an oracle epoch. Pure.

In the first block of an epoch whose reports of two thirds of the power carry quotes, each quoted instrument's raw
external mark is their lower weighted median, and epsilon its distance to the mark that the chain had until now: what
somebody who sees the world could take from somebody who trusts the chain. Source: market.md section 7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from ledger.admission import ticks_of
from ledger.breakers.events import DriftJudged, InstrumentPaused
from ledger.breakers.parameters import DriftParameters
from ledger.breakers.state import (
    Colour,
    Drift,
    Drifts,
    Restart,
    drift_key,
    get_breakers,
    get_drifts,
)
from ledger.instruments import Kind
from ledger.matching.orders import tick_at
from ledger.oracle import UPDATE_BYTES_MAX, reporters_of, weight_total, weighted_median
from ledger.transactions import UUSD_PER_CENT
from primitives.amounts import PPM

if TYPE_CHECKING:
    from ledger.events import Event
    from ledger.instruments import Instrument
    from ledger.state import State
    from ledger.transactions import OracleReport


OTHER_BYTES = 260
"""What a signed report takes at most beside its quotes and slices."""
SLICE_BYTES = 53
"""What one slice takes at most."""
QUOTE_BYTES = 15
"""What one quote takes at most: an id, and two numbers of cents."""


class External(NamedTuple):
    """What the venues show of an instrument, agreed by the validators."""

    mark_uusd: int
    half_spread_uusd: int


def is_due(state: State, restart: Restart, now_ns: int) -> bool:
    """Whether a new epoch may be judged."""
    return not restart.judged_ns or now_ns >= restart.judged_ns + state.parameters.oracle_epoch_ns


def quoted_instruments(state: State, epoch: int) -> list[int]:
    """What reporters should quote in an epoch, ascending: all perpetuals, and options in turns.

    `epoch`: how many were judged before (Restart.judged_epochs).
    """
    marked = [state.instruments.get(item) for item, _ in state.marks.marks] if state.marks else []
    perpetuals = [item.id for item in marked if item is not None and item.kind == Kind.PERPETUAL]
    options = [item.id for item in marked if item is not None and item.kind != Kind.PERPETUAL]
    slices = sum(len(state.oracle(item.underlying).slices) for item in state.genesis.underlyings)
    most = min(get_breakers(state).drift.quotes_max, quotes_that_fit(len(reporters_of(state)), slices))
    room = max(1, most - len(perpetuals))
    turns = max(1, -(-len(options) // room))
    turn = epoch % turns
    return sorted(perpetuals + options[turn * room : (turn + 1) * room])


def quotes_that_fit(reporters: int, slices: int) -> int:
    """How many quotes each of so many reports may carry, beside its slices, for all of them to fit one update."""
    room = UPDATE_BYTES_MAX // max(1, reporters) - OTHER_BYTES - SLICE_BYTES * slices
    return room // QUOTE_BYTES


def agreed_quotes(state: State, reports: Sequence[OracleReport]) -> dict[int, External]:
    """Lower weighted medians of every instrument that two thirds of the power quote, by instrument."""
    total = weight_total(state)
    votes: dict[int, list[tuple[int, int, int]]] = {}
    reporters = reporters_of(state)
    for report in reports:
        weight, quotes = reporters[report.reporter].weight, report.quotes
        for instrument, mark, half_spread in zip(
            quotes.instruments, quotes.marks_cents, quotes.half_spreads_cents, strict=True
        ):
            votes.setdefault(instrument, []).append((weight, mark, half_spread))
    return {
        instrument: External(
            weighted_median((weight, mark) for weight, mark, _ in cast) * UUSD_PER_CENT,
            weighted_median((weight, half) for weight, _, half in cast) * UUSD_PER_CENT,
        )
        for instrument, cast in sorted(votes.items())
        if 3 * sum(weight for weight, _, _ in cast) >= 2 * total
    }


def colour_of(
    is_perpetual: bool, epsilon_uusd: int, half_spread_uusd: int, index_uusd: int, rules: DriftParameters
) -> Colour:
    """Green, amber or red: at a limit it is still the better colour."""
    green, amber = rules.green_spreads * half_spread_uusd, rules.amber_spreads * half_spread_uusd
    if is_perpetual:
        green = max(green, index_uusd * rules.index_green_ppm // PPM)
        amber = max(amber, index_uusd * rules.index_amber_ppm // PPM)
    else:
        amber = max(amber, index_uusd * rules.option_red_ppm // PPM)
    if epsilon_uusd <= green:
        return Colour.GREEN
    return Colour.AMBER if epsilon_uusd <= amber else Colour.RED


class _Judge:
    """One epoch's judgement over the instruments that were quoted."""

    def __init__(self, state: State, quotes: dict[int, External], now_ns: int) -> None:
        self._state = state
        self._quotes = quotes
        self._now_ns = now_ns
        self._rules = get_breakers(state).drift
        self._marks = dict(state.marks.marks) if state.marks is not None else {}

    def instruments(self) -> Iterator[Instrument]:
        """Those that can be judged, by id; an option while its settlement average has not begun."""
        window_ns = self._state.parameters.settlement_window_ns
        for instrument_id in self._quotes:
            item = self._state.instruments.get(instrument_id)
            if item is None or instrument_id not in self._marks:
                continue
            if item.kind == Kind.PERPETUAL or item.expiry_ns - window_ns > self._now_ns:
                yield item

    def drift(self, instrument: Instrument, before: Drift | None) -> Drift:
        """An instrument's state after this epoch."""
        rules, quote = self._rules, self._quotes[instrument.id]
        spreads = (*(before.spreads_uusd if before else ()), quote.half_spread_uusd)[-rules.spread_epochs :]
        tick_uusd = tick_at(ticks_of(self._state, instrument), quote.mark_uusd)
        half_uusd = max(weighted_median((1, item) for item in spreads), rules.ticks_min * tick_uusd)
        epsilon_uusd = abs(quote.mark_uusd - self._marks[instrument.id])
        index_uusd = self._state.oracle(instrument.underlying).index_uusd
        colour = colour_of(instrument.kind == Kind.PERPETUAL, epsilon_uusd, half_uusd, index_uusd, rules)
        red, green = counted(colour, before.red_epochs if before else 0, before.green_epochs if before else 0)
        is_paused = is_paused_after(before is not None and before.is_paused, red, green, rules)
        return Drift(
            instrument.id, quote.mark_uusd, epsilon_uusd, half_uusd, colour, red, green, is_paused, spreads
        )


def counted(colour: Colour, red_epochs: int, green_epochs: int) -> tuple[int, int]:
    """(red epochs in a row, green epochs in a row) after one more."""
    return (
        red_epochs + 1 if colour == Colour.RED else 0,
        green_epochs + 1 if colour == Colour.GREEN else 0,
    )


def is_paused_after(was_paused: bool, red_epochs: int, green_epochs: int, rules: DriftParameters) -> bool:
    """Whether a pause begins, goes on or ends."""
    return green_epochs < rules.green_epochs if was_paused else red_epochs >= rules.red_epochs


def judge_epoch(
    state: State, reports: Sequence[OracleReport], now_ns: int, events: list[Event]
) -> dict[int, Colour] | None:
    """Write every quoted instrument's drift; the colour of each underlying, None when no two thirds quote.

    An underlying is as its perpetual, or red with too many options; without both it has no colour.
    """
    quotes = agreed_quotes(state, reports)
    if not quotes:
        return None
    judge = _Judge(state, quotes, now_ns)
    by_leaf: dict[tuple[int, int], list[Instrument]] = {}
    for instrument in judge.instruments():
        by_leaf.setdefault((instrument.underlying, instrument.expiry_ns), []).append(instrument)
    judged: dict[int, list[tuple[bool, Colour]]] = {}
    for underlying, expiry_ns in sorted(by_leaf):
        drifts = {item.instrument: item for item in get_drifts(state, underlying, expiry_ns)}
        for instrument in by_leaf[underlying, expiry_ns]:
            before = drifts.get(instrument.id)
            after = drifts[instrument.id] = judge.drift(instrument, before)
            is_perpetual = instrument.kind == Kind.PERPETUAL
            judged.setdefault(underlying, []).append((is_perpetual, Colour(after.colour)))
            if after.is_paused != (before is not None and before.is_paused):
                events.append(
                    InstrumentPaused(
                        instrument.id, after.is_paused, after.epsilon_uusd, after.half_spread_uusd
                    )
                )
        kept = tuple(drifts[item] for item in sorted(drifts) if item in state.instruments)
        state.put(drift_key(underlying, expiry_ns), Drifts(kept))
    rules = get_breakers(state).drift
    for underlying in sorted(judged):
        colours = [colour for _, colour in judged[underlying]]
        events.append(DriftJudged(underlying, *(colours.count(item) for item in Colour)))
    colours_of = {item: underlying_colour(judged[item], rules) for item in sorted(judged)}
    return {underlying: colour for underlying, colour in colours_of.items() if colour is not None}


def underlying_colour(judged: Sequence[tuple[bool, Colour]], rules: DriftParameters) -> Colour | None:
    """Of (is a perpetual, colour) of what was judged in one epoch."""
    options = [colour for is_perpetual, colour in judged if not is_perpetual]
    if options and options.count(Colour.RED) * PPM >= rules.red_options_ppm * len(options):
        return Colour.RED
    return max((colour for is_perpetual, colour in judged if is_perpetual), default=None)


def after_judgement(restart: Restart, now_ns: int) -> Restart:
    """The clock of epochs after one that was judged."""
    return replace(restart, judged_ns=now_ns, judged_epochs=restart.judged_epochs + 1)
