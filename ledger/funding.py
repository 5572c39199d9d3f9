"""Funding of perpetuals: who holds the dearer side pays the other, by the second, touching no account. Pure.

While a perpetual's book stands above the index longs pay shorts, below it shorts pay longs: the premium of the
middle of the book over the index, clamped, is paid once in eight hours, a part of it in every block. What one
contract has paid since genesis is one number for each perpetual. Positions are bought, sold and valued at the
price less that number, so a position's cost holds the number of its own beginning, every valuation sees the
difference, and what one side pays the other gets to the micro-dollar. Source: market.md section 4, phase 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.instruments import Instrument, Kind
from ledger.margin.scenarios import LOT_VALUE_E8_MAX, VALUE_SCALE
from ledger.settlement.parameters import FundingParameters
from ledger.settlement.state import Funding, funding_key, get_protection
from primitives.amounts import PPM, clamp

if TYPE_CHECKING:
    from ledger.state import State

E6 = 1_000_000
"""The cumulative number is kept in 1e-6 micro-USD, so that short blocks lose next to nothing."""


def funding_uusd(state: State, instrument: Instrument) -> int:
    """What a long contract has paid since genesis, a multiple of lots_per_contract; 0 for an option.

    Rounded down; the rest is paid as soon as it adds up to a multiple.
    """
    if instrument.kind != Kind.PERPETUAL:
        return 0
    leaf: Funding | None = state.leaves.get(funding_key(instrument.id))
    whole = leaf.cumulative_e6 // E6 if leaf else 0
    return whole - whole % instrument.lots_per_contract


def accrue_funding(state: State, time_ns: int, *, is_halted: bool = False) -> None:
    """Bring every perpetual up to a block's time; needs the block's indices, and books as they rested before.

    Time beyond `gap_ns_max` since the last accrual costs nobody anything, nor does a halt: nobody saw a price then.
    """
    parameters = get_protection(state).funding
    for instrument_id in sorted(state.instruments):
        instrument = state.instruments[instrument_id]
        if instrument.kind != Kind.PERPETUAL:
            continue
        before: Funding | None = state.leaves.get(funding_key(instrument_id))
        index_uusd = state.oracle(instrument.underlying).index_uusd
        premium_ppm = 0 if is_halted else _premium_ppm(state, instrument_id, index_uusd, parameters)
        cumulative_e6 = 0 if before is None else before.cumulative_e6
        if before is not None and not is_halted:
            elapsed_ns = min(time_ns - before.time_ns, parameters.gap_ns_max)
            accrued_e6 = index_uusd * before.premium_ppm * elapsed_ns // parameters.period_ns
            most_e6 = funding_uusd_max(instrument) * E6
            cumulative_e6 = clamp(before.cumulative_e6 + accrued_e6, -most_e6, most_e6)
        state.put(funding_key(instrument_id), Funding(instrument_id, cumulative_e6, premium_ppm, time_ns))


def funding_uusd_max(instrument: Instrument) -> int:
    """Where the cumulative number stops, so that values stay exact in 64 bits ($2 million for a bitcoin)."""
    return LOT_VALUE_E8_MAX // VALUE_SCALE * instrument.lots_per_contract // 2


def _premium_ppm(state: State, instrument: int, index_uusd: int, parameters: FundingParameters) -> int:
    """Middle of the resting book over the index, rounded down and clamped; 0 unless both sides are there, uncrossed."""
    book = state.book(instrument)
    bid_uusd, ask_uusd = book.best_bid_uusd, book.best_ask_uusd
    if bid_uusd is None or ask_uusd is None or bid_uusd >= ask_uusd:
        return 0
    premium_ppm = (bid_uusd + ask_uusd - 2 * index_uusd) * PPM // (2 * index_uusd)
    return clamp(premium_ppm, -parameters.premium_max_ppm, parameters.premium_max_ppm)
