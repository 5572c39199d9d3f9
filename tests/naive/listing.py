"""New series by the calendar, further strikes by the hour, and what is forgotten. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import isqrt
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.events import SeriesListed
from ledger.instruments import Instrument, Kind, Underlying
from ledger.market import Slice
from ledger.oracle import AgreedSlice, UnderlyingOracle
from ledger.pricing import fixed_math
from ledger.settlement.parameters import ListingParameters
from tests.naive.oracle import rolled_slice

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

USD = PPM = 1_000_000
NS, YEAR_NS = 10**9, 31_536_000 * 10**9
HOUR_NS = 3_600 * NS
LOTS = {Underlying.BTC: 100, Underlying.ETH: 10}
LOT_UUSD_MAX = 40_000 * USD
LADDER = sorted(base * 10**power * USD for base in (1, 2, 5) for power in range(12))


def run_schedule(ledger: NaiveLedger, before_ns: int) -> None:
    """Once an hour; once a day, at eight, more of it."""
    rules, now = ledger.protection.listing, ledger.time_ns
    if not rules.strikes_max or now // HOUR_NS == before_ns // HOUR_NS:
        return
    is_morning = (now // HOUR_NS - 8) // 24 != (before_ns // HOUR_NS - 8) // 24
    if is_morning:
        for number in [number for number in ledger.settled if _is_old(ledger, number)]:
            del ledger.settled[number], ledger.instruments[number]
    for underlying in sorted(ledger.oracle.agreed):
        before = ledger.oracle.agreed[underlying]
        slices = {item.slice.expiry_ns: item for item in before.slices}
        for expiry_ns in _calendar(now, rules):
            if expiry_ns in slices:
                _extend(ledger, underlying, slices[expiry_ns])
            elif is_morning:
                model = AgreedSlice(_believed(before, expiry_ns, now), before.index_uusd, now, 0)
                if _list(ledger, underlying, model.slice, []):
                    oracle = ledger.oracle.agreed[underlying]
                    known = sorted((*oracle.slices, model), key=lambda item: item.slice.expiry_ns)
                    ledger.oracle.agreed[underlying] = replace(oracle, slices=tuple(known))


def _is_old(ledger: NaiveLedger, number: int) -> bool:
    kept_ns = ledger.protection.listing.keep_settled_ns
    return ledger.instruments[number].expiry_ns < ledger.time_ns - kept_ns


def _calendar(now_ns: int, rules: ListingParameters) -> list[int]:
    """Eight o'clock of the days, Fridays and last Fridays that come."""
    at = datetime.fromtimestamp(now_ns // NS, UTC)
    first = at.replace(hour=8, minute=0, second=0)
    if at.hour >= 8:
        first += timedelta(days=1)
    days = [first + timedelta(days=ahead) for ahead in range(499)]
    fridays = [day for day in days if day.isoweekday() == 5]
    lasts = [day for day in fridays if (day + timedelta(days=7)).month != day.month]
    quarters = [day for day in lasts if day.month in (3, 6, 9, 12)]
    chosen = days[: rules.daily] + fridays[: rules.weekly]
    chosen += lasts[: rules.monthly] + quarters[: rules.quarterly]
    return sorted({round(day.timestamp()) * NS for day in chosen})


def _believed(oracle: UnderlyingOracle, expiry_ns: int, now_ns: int) -> Slice:
    """Of an expiry that nobody has spoken of: the nearest one's variance in proportion to time."""
    ahead = [item for item in oracle.slices if item.slice.expiry_ns > now_ns]
    if not ahead:
        theta = max(10_000, 600_000**2 * (expiry_ns - now_ns) // YEAR_NS)
        return Slice(expiry_ns, oracle.index_uusd, PPM, theta, 0, max(1, theta // 1000), 0, 0)
    near = min(ahead, key=lambda item: abs(item.slice.expiry_ns - expiry_ns))
    model = rolled_slice(near.slice, near.index_uusd, oracle.index_uusd, near.agreed_ns, now_ns)
    left, left_near = expiry_ns - now_ns, model.expiry_ns - now_ns
    theta = min(9 * 10**12, max(10_000, model.theta_e12 * left // left_near))
    psi = min(4 * 10**9, max(1, model.psi_e9 * left // left_near))
    return Slice(expiry_ns, model.forward_uusd, model.discount_ppm, theta, model.rho_e6, psi, 0, 0)


def _extend(ledger: NaiveLedger, underlying: int, agreed: AgreedSlice) -> None:
    expiry_ns = agreed.slice.expiry_ns
    if agreed.slice.confidence_ppm == 0:
        return
    if ledger.time_ns >= expiry_ns - ledger.parameters.settlement_window_ns:
        return
    index = ledger.oracle.agreed[underlying].index_uusd
    now = rolled_slice(agreed.slice, agreed.index_uusd, index, agreed.agreed_ns, ledger.time_ns)
    options = [item for item in ledger.instruments.values() if item.expiry_ns == expiry_ns]
    listed = {item.strike_uusd for item in options if item.underlying == underlying}
    _list(ledger, underlying, now, sorted(listed))


def _list(ledger: NaiveLedger, underlying: int, model: Slice, listed: list[int]) -> bool:
    """Whether there was room."""
    rules, per = ledger.protection.listing, LOTS[Underlying(underlying)]
    strikes, step = _strikes(model, rules)
    strikes = [
        strike
        for strike in strikes
        if strike <= LOT_UUSD_MAX * per and all(2 * abs(strike - other) >= step for other in listed)
    ]
    room = 2 * rules.strikes_max - len(listed)
    near = sorted(strikes, key=lambda strike: (abs(strike - model.forward_uusd), strike))[: max(0, room)]
    if len(ledger.instruments) + 2 * len(near) > rules.instruments_max:
        return False
    first = ledger.next_instrument
    for strike in sorted(near):
        for kind in (Kind.CALL, Kind.PUT):
            item = Instrument(ledger.next_instrument, underlying, kind, model.expiry_ns, strike, per)
            ledger.instruments[item.id] = item
            ledger.next_instrument += 1
    if near:
        ledger.has_schedule = True
        ledger.events.append(SeriesListed(underlying, model.expiry_ns, first, 2 * len(near)))
    return True


def _strikes(model: Slice, rules: ListingParameters) -> tuple[list[int], int]:
    """Round strikes within so many deviations, and their step: the first of the ladder that leaves few enough."""
    factor = fixed_math.exp(rules.deviations * isqrt(model.theta_e12 * 10**42))
    low = -(-model.forward_uusd * fixed_math.SCALE // factor)
    high = model.forward_uusd * factor // fixed_math.SCALE
    for step in LADDER:
        if high // step - -(-low // step) + 1 <= rules.strikes_max:
            return [strike for strike in range(-(-low // step) * step, high + 1, step) if strike], step
    raise AssertionError("the ladder is long enough")
