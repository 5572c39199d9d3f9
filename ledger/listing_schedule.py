"""Lists new option series every day at 08:00 UTC and forgets settled ones. Pure.

So many daily, weekly (Friday), monthly (last Friday) and quarterly (last Friday of March, June, September and
December) expiries are kept listed; each gets calls and puts at round strikes within so many standard deviations
of the forward, from the variance the chain agrees on for its nearest expiry. Source: market.md section 6.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.events import SeriesListed
from ledger.instruments import LOTS_PER_CONTRACT, Instrument, Kind, Underlying, date_of
from ledger.listing import Listing
from ledger.margin.scenarios import LOT_VALUE_E8_MAX, VALUE_SCALE
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


def strikes_around(forward_uusd: int, theta_e12: int, parameters: ListingParameters) -> list[int]:
    """Multiples of a step of 1, 2 or 5 times a power of ten dollars within forward * exp(+-n sqrt(theta)).

    The step is the smallest that leaves at most `strikes_max` of them.
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
    return list(range(max(step_uusd, ceil_div(low_uusd, step_uusd) * step_uusd), high_uusd + 1, step_uusd))


def run_schedule(workspace: Workspace, before_ns: int) -> None:
    """In the first block at or after 08:00: drop what settled long ago, then list what is missing.

    `before_ns` is the time of the parent block.
    """
    parameters = get_protection(workspace.state).listing
    day, day_before = ((time - EXPIRY_OF_DAY_NS) // DAY_NS for time in (workspace.time_ns, before_ns))
    if day == day_before or not parameters.strikes_max:
        return
    _delist(workspace.state, workspace.time_ns - parameters.keep_settled_ns)
    for underlying in workspace.state.genesis.underlyings:
        for expiry_ns in scheduled_expiries(workspace.time_ns, parameters):
            _list(workspace, Underlying(underlying.underlying), expiry_ns, parameters)


def _delist(state: State, oldest_ns: int) -> None:
    for instrument_id in sorted(state.instruments):
        listing = state.listing(instrument_id)
        if listing is not None and listing.is_settled and listing.instrument.expiry_ns < oldest_ns:
            state.put_listing(instrument_id, None)


def _list(
    workspace: Workspace, underlying: Underlying, expiry_ns: int, parameters: ListingParameters
) -> None:
    """One expiry of one underlying, unless it is there or would be one instrument too many."""
    state, time_ns = workspace.state, workspace.time_ns
    oracle = state.oracle(underlying)
    if any(agreed.slice.expiry_ns == expiry_ns for agreed in oracle.slices):
        return
    model = _first_slice(oracle, expiry_ns, time_ns)
    strikes = [
        strike
        for strike in strikes_around(model.slice.forward_uusd, model.slice.theta_e12, parameters)
        if strike <= LOT_VALUE_E8_MAX // VALUE_SCALE * LOTS_PER_CONTRACT[underlying]
    ]
    if len(state.instruments) + 2 * len(strikes) > parameters.instruments_max:
        return
    first_id = next_id = max(get_next_id(state), 0)
    for strike in strikes:
        for kind in (Kind.CALL, Kind.PUT):
            item = Instrument(next_id, underlying, kind, expiry_ns, strike, LOTS_PER_CONTRACT[underlying])
            state.put_listing(next_id, Listing(item, False, 0))
            next_id += 1
    state.put(KEY_SCHEDULE, Schedule(next_id))
    slices = tuple(sorted((*oracle.slices, model), key=lambda agreed: agreed.slice.expiry_ns))
    state.put(oracle_key(underlying), replace(oracle, slices=slices))
    workspace.events.append(SeriesListed(underlying, expiry_ns, first_id, next_id - first_id))


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
