"""Every number of drift and breakers, as replicated data with hard bounds. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from primitives.amounts import NS, PPM
from primitives.codec import U8, U32, U63, Wire

DAY_NS = 86_400 * NS


class PriceMonitor(Wire):
    """A move of the index of `move_ppm` within `window_ns` of market time starts an auction of `auction_ns`."""

    window_ns: U63
    move_ppm: U32
    auction_ns: U63


class UnderlyingMonitors(Wire):
    """One underlying's monitors, from the shortest window to the longest; none: they are off."""

    underlying: U8
    monitors: tuple[PriceMonitor, ...]


class GapRule(Wire):
    """More than `gap_ns` between two blocks with prices halts trading; it resumes by an auction of `auction_ns`."""

    gap_ns: U63
    auction_ns: U63


class DriftParameters(Wire):
    """Epsilon against the half-spread h: market.md section 7.

    h is the median of `spread_epochs` agreed half-spreads, at least `ticks_min` ticks. Green up to `green_spreads` h,
    amber up to `amber_spreads` h; the index and perpetuals at least up to `index_green_ppm` and `index_amber_ppm` of
    the index; an option is red beyond `option_red_ppm` of the index only.
    """

    quotes_max: U32
    """Instruments of one report; with more listed they take turns."""
    spread_epochs: U32
    ticks_min: U32
    green_spreads: U32
    amber_spreads: U32
    index_green_ppm: U32
    index_amber_ppm: U32
    option_red_ppm: U32
    margin_ppm: U32
    """Added to what an amber or red instrument requires initially."""
    red_epochs: U32
    """So many red epochs in a row pause an instrument, or its underlying."""
    green_epochs: U32
    """So many green epochs in a row end the pause."""
    red_options_ppm: U32
    """With this share of its judged options red, an underlying is red."""
    auction_ns: U63
    """After the pause of an underlying."""


class LatencyParameters(Wire):
    """sigma sqrt(tau) against h of the index: bands widen in proportion, beyond `pause_spreads` h matching pauses.

    `pause_spreads` 0: the breaker is off. h counts as `floor_ppm` of the index at least; tau is the median of the last
    `samples` times between blocks with prices.
    """

    pause_spreads: U32
    floor_ppm: U32
    samples: U32


class BreakerParameters(Wire):
    """All of them; times in market nanoseconds."""

    drift: DriftParameters
    monitors: tuple[UnderlyingMonitors, ...]
    """In order of underlying."""
    latency: LatencyParameters
    gaps: tuple[GapRule, ...]
    """Ascending; none: a gap changes nothing."""
    fresh_epochs: U32
    """Oracle epochs agreed on after a halt before anything but cancels and deposits is taken."""
    post_only_ns: U63
    """Then only cancels, post-only orders and deposits, for so long."""
    band_spreads: U32
    """An order's price band is at least so many h wide."""


def breaker_rules(parameters: BreakerParameters) -> Iterator[tuple[bool, str]]:
    """(whether it holds, the rule) for every bound."""
    drift, latency = parameters.drift, parameters.latency
    yield 1 <= drift.quotes_max <= 256, "a report quotes 1 to 256 instruments"
    yield 1 <= drift.spread_epochs <= 60, "a half-spread is the median of 1 to 60 epochs"
    yield 1 <= drift.ticks_min <= 100, "a half-spread is at least 1 to 100 ticks"
    yield 1 <= drift.green_spreads <= drift.amber_spreads <= 100, "green <= amber <= 100 half-spreads"
    yield drift.index_green_ppm <= drift.index_amber_ppm <= PPM // 10, "green <= amber <= 10 % of the index"
    yield drift.option_red_ppm <= PPM // 10, "an option is red from at most 10 % of the index"
    yield drift.margin_ppm <= 2 * PPM, "amber adds at most twice the requirement"
    yield 1 <= drift.red_epochs <= 100 and 1 <= drift.green_epochs <= 100, "1 to 100 red and green epochs"
    yield 0 < drift.red_options_ppm <= PPM, "an underlying is red from a share of its options"
    yield drift.auction_ns <= DAY_NS, "an auction lasts a day at most"
    named = [item.underlying for item in parameters.monitors]
    yield named == sorted(set(named)), "monitors are in order of underlying, each once"
    for item in parameters.monitors:
        windows = [monitor.window_ns for monitor in item.monitors]
        yield windows == sorted(set(windows)) and len(windows) <= 8, "at most 8 monitors, by window"
        for monitor in item.monitors:
            yield NS <= monitor.window_ns <= DAY_NS, "a monitor's window is a second to a day"
            yield 1_000 <= monitor.move_ppm <= PPM, "a monitored move is 0.1 % to 100 %"
            yield monitor.auction_ns <= DAY_NS, "an auction lasts a day at most"
    yield latency.pause_spreads <= 1_000, "matching pauses within 1,000 half-spreads"
    yield 1 <= latency.floor_ppm <= PPM // 10, "the least half-spread is at most 10 % of the index"
    yield 1 <= latency.samples <= 64, "finality is the median of 1 to 64 blocks"
    gaps = [rule.gap_ns for rule in parameters.gaps]
    yield gaps == sorted(set(gaps)) and len(gaps) <= 8, "at most 8 gap rules, ascending"
    yield all(rule.gap_ns >= NS for rule in parameters.gaps), "a gap is at least a second"
    yield all(rule.auction_ns <= DAY_NS for rule in parameters.gaps), "an auction lasts a day at most"
    yield 1 <= parameters.fresh_epochs <= 100, "1 to 100 fresh epochs"
    yield parameters.post_only_ns <= DAY_NS, "the time of post-only orders is a day at most"
    yield parameters.band_spreads <= 100, "the band is at least at most 100 half-spreads wide"
