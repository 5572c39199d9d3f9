"""Lists new expiries every day at 08:00 UTC, further strikes every hour, and forgets settled series. Pure.

So many daily, weekly (Friday), monthly (last Friday) and quarterly (last Friday of March, June, September and
December) expiries are kept listed; each gets calls and puts at round strikes within so many standard deviations
of the forward, at first from the variance the chain agrees on for its nearest expiry. When the price has moved, or so
little time is left that the strikes are too far apart, those that are missing are listed too. Source: market.md
section 6.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import isqrt
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from ledger.events import SeriesListed
from ledger.instruments import LOTS_PER_CONTRACT, Instrument, Kind, Underlying, date_of
from ledger.listing import Listing
from ledger.margin.scenarios import LOT_VALUE_E8_MAX, VALUE_SCALE
from ledger.market import Slice
from ledger.oracle import AgreedSlice, UnderlyingOracle, genesis_slice, roll_slice
from ledger.pricing import fixed_math
from ledger.settlement.parameters import DAY_NS, ListingParameters
from ledger.settlement.state import KEY_SCHEDULE, Schedule, get_protection
from ledger.state_keys import oracle_key
from primitives.amounts import USD, ceil_div

if TYPE_CHECKING:
    from ledger.state import State
    from ledger.workspace import Workspace

EXPIRY_OF_DAY_NS = DAY_NS // 3
"""08:00:00 UTC."""
_FRIDAY = 1
"""1 January 1970 was a Thursday: days since then, modulo 7."""
_LADDER = (1, 2, 5)
HOUR_NS = DAY_NS // 24
LIFETIME_STRIKES = 2
"""Times `strikes_max`: what one expiry may come to have; then it gets no more."""


def scheduled_expiries(now_ns: int, parameters: ListingParameters) -> list[int]:
    """Every expiry that should be listed at a time, ascending, all of them after it."""
    today = (now_ns - EXPIRY_OF_DAY_NS) // DAY_NS
    days = range(today + 1, today + 500)
    fridays = [day for day in days if day % 7 == _FRIDAY]
    monthly = [day for day in fridays if _month(day) != _month(day + 7)]
    quarterly = [day for day in monthly if _month(day) % 3 == 0]
    wanted = {
        *days[: parameters.daily],
        *fridays[: parameters.weekly],
        *monthly[: parameters.monthly],
        *quarterly[: parameters.quarterly],
    }
    return [day * DAY_NS + EXPIRY_OF_DAY_NS for day in sorted(wanted)]


def _month(day: int) -> int:
    return date_of(day * DAY_NS)[1]


class Band(NamedTuple):
    """Where strikes are listed: multiples of the step from the lowest to the highest price, both allowed."""

    low_uusd: int
    high_uusd: int
    step_uusd: int

    @property
    def strikes_uusd(self) -> list[int]:
        """Ascending; a strike is at least one step."""
        first = max(1, ceil_div(self.low_uusd, self.step_uusd))
        return list(range(first * self.step_uusd, self.high_uusd + 1, self.step_uusd))


def band_around(forward_uusd: int, theta_e12: int, parameters: ListingParameters) -> Band:
    """forward * exp(+-n sqrt(theta)), in steps of 1, 2 or 5 times a power of ten dollars.

    The step is the smallest that leaves at most `strikes_max` strikes.
    """
    width = parameters.deviations * isqrt(theta_e12 * 10**42)
    factor = fixed_math.exp(width)
    low_uusd = ceil_div(forward_uusd * fixed_math.SCALE, factor)
    high_uusd = forward_uusd * factor // fixed_math.SCALE
    step_uusd = next(
        step
        for power in range(12)
        for step in (base * 10**power * USD for base in _LADDER)
        if high_uusd // step - ceil_div(low_uusd, step) < parameters.strikes_max
    )
    return Band(low_uusd, high_uusd, step_uusd)


def strikes_around(forward_uusd: int, theta_e12: int, parameters: ListingParameters) -> list[int]:
    """The strikes of the band."""
    return band_around(forward_uusd, theta_e12, parameters).strikes_uusd


def missing_strikes(band: Band, listed_uusd: Sequence[int]) -> list[int]:
    """The band's strikes that no listed one (ascending) is nearer to than half a step."""
    missing = []
    for strike in band.strikes_uusd:
        at = bisect_left(listed_uusd, strike)
        if all(2 * abs(strike - near) >= band.step_uusd for near in listed_uusd[max(0, at - 1) : at + 1]):
            missing.append(strike)
    return missing


def run_schedule(workspace: Workspace, before_ns: int) -> None:
    """In the first block of each hour: list the strikes that are missing around where the price is now.

    In the first one at or after 08:00 before that: drop what settled long ago, and begin the expiries that are missing.
    `before_ns` is the time of the parent block.
    """
    parameters, now_ns = get_protection(workspace.state).listing, workspace.time_ns
    if now_ns // HOUR_NS == before_ns // HOUR_NS or not parameters.strikes_max:
        return
    day, day_before = ((time - EXPIRY_OF_DAY_NS) // DAY_NS for time in (now_ns, before_ns))
    if day != day_before:
        _delist(workspace.state, now_ns - parameters.keep_settled_ns)
    series = _listed_strikes(workspace.state)
    for item in workspace.state.genesis.underlyings:
        underlying = Underlying(item.underlying)
        oracle = workspace.state.oracle(underlying)
        known = {agreed.slice.expiry_ns: agreed for agreed in oracle.slices}
        for expiry_ns in scheduled_expiries(now_ns, parameters):
            agreed = known.get(expiry_ns)
            if agreed is not None:
                listed = sorted(series.get((underlying, expiry_ns), ()))
                _extend(workspace, underlying, agreed, listed, parameters)
            elif day != day_before:
                model = _first_slice(oracle, expiry_ns, now_ns)
                if _list(workspace, underlying, model.slice, [], parameters):
                    _add_slice(workspace.state, underlying, model)


def _delist(state: State, oldest_ns: int) -> None:
    for instrument_id in sorted(state.instruments):
        listing = state.listing(instrument_id)
        if listing is not None and listing.is_settled and listing.instrument.expiry_ns < oldest_ns:
            state.put_listing(instrument_id, None)


def _listed_strikes(state: State) -> dict[tuple[int, int], set[int]]:
    """Strikes of every option known, by (underlying, expiry)."""
    found: dict[tuple[int, int], set[int]] = {}
    for item in state.instruments.values():
        if item.kind != Kind.PERPETUAL:
            found.setdefault((item.underlying, item.expiry_ns), set()).add(item.strike_uusd)
    return found


def _extend(
    workspace: Workspace,
    underlying: Underlying,
    agreed: AgreedSlice,
    listed_uusd: Sequence[int],
    parameters: ListingParameters,
) -> None:
    """More strikes of an expiry whose settlement has not begun, once validators have agreed on its slice."""
    state, now_ns = workspace.state, workspace.time_ns
    is_open = now_ns < agreed.slice.expiry_ns - state.parameters.settlement_window_ns
    if is_open and agreed.slice.confidence_ppm:
        index_uusd = state.oracle(underlying).index_uusd
        now = roll_slice(agreed.slice, agreed.index_uusd, index_uusd, agreed.agreed_ns, now_ns)
        _list(workspace, underlying, now, listed_uusd, parameters)


def _list(
    workspace: Workspace,
    underlying: Underlying,
    model: Slice,
    listed_uusd: Sequence[int],
    parameters: ListingParameters,
) -> bool:
    """Calls and puts at an expiry's missing strikes; False if the list had no room for them: then none are listed.

    Those nearest to the forward come first: an expiry has at most twice `strikes_max` in its life.
    """
    state = workspace.state
    band = band_around(model.forward_uusd, model.theta_e12, parameters)
    strike_max_uusd = LOT_VALUE_E8_MAX // VALUE_SCALE * LOTS_PER_CONTRACT[underlying]
    strikes = [strike for strike in missing_strikes(band, listed_uusd) if strike <= strike_max_uusd]
    strikes.sort(key=lambda strike: (abs(strike - model.forward_uusd), strike))
    strikes = sorted(strikes[: max(0, LIFETIME_STRIKES * parameters.strikes_max - len(listed_uusd))])
    if len(state.instruments) + 2 * len(strikes) > parameters.instruments_max:
        return False
    if not strikes:
        return True
    first_id = next_id = get_next_id(state)
    for strike in strikes:
        for kind in (Kind.CALL, Kind.PUT):
            item = Instrument(
                next_id, underlying, kind, model.expiry_ns, strike, LOTS_PER_CONTRACT[underlying]
            )
            state.put_listing(next_id, Listing(item, False, 0))
            next_id += 1
    state.put(KEY_SCHEDULE, Schedule(next_id))
    workspace.events.append(SeriesListed(underlying, model.expiry_ns, first_id, next_id - first_id))
    return True


def _add_slice(state: State, underlying: Underlying, model: AgreedSlice) -> None:
    oracle = state.oracle(underlying)
    slices = tuple(sorted((*oracle.slices, model), key=lambda agreed: agreed.slice.expiry_ns))
    state.put(oracle_key(underlying), replace(oracle, slices=slices))


def get_next_id(state: State) -> int:
    """The id of the next new instrument: never one that was used before."""
    schedule: Schedule | None = state.leaves.get(KEY_SCHEDULE)
    return schedule.next_id if schedule else max(state.instruments, default=-1) + 1


def _first_slice(oracle: UnderlyingOracle, expiry_ns: int, time_ns: int) -> AgreedSlice:
    """What is believed of a new expiry: the nearest one's variance in proportion to time, confidence 0."""
    fresh = genesis_slice(expiry_ns, oracle.index_uusd, time_ns)
    known = [item for item in oracle.slices if item.slice.expiry_ns > time_ns]
    if known:
        near = min(known, key=lambda item: abs(item.slice.expiry_ns - expiry_ns))
        rolled = roll_slice(near.slice, near.index_uusd, oracle.index_uusd, near.agreed_ns, time_ns)
        ratio = expiry_ns - time_ns, rolled.expiry_ns - time_ns
        fresh = replace(
            rolled,
            expiry_ns=expiry_ns,
            theta_e12=max(10_000, min(9 * 10**12, rolled.theta_e12 * ratio[0] // ratio[1])),
            psi_e9=max(1, min(4 * 10**9, rolled.psi_e9 * ratio[0] // ratio[1])),
            wings_e9=0,
            confidence_ppm=0,
        )
    return AgreedSlice(fresh, oracle.index_uusd, time_ns, 0)
