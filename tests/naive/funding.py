"""What perpetuals pay: a premium from one block's book to the next block's clock. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.instruments import Instrument, Kind
from ledger.settlement.state import Funding

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

PPM = 1_000_000


def accrue(ledger: NaiveLedger, *, is_halted: bool) -> None:
    """Every perpetual's number after the time since its last block, and the premium from now on; none in a halt."""
    parameters = ledger.protection.funding
    for number, perpetual in sorted(ledger.instruments.items()):
        if perpetual.kind == Kind.PERPETUAL:
            index_uusd = ledger.oracle.agreed[perpetual.underlying].index_uusd
            before = ledger.funding.get(number, Funding(number, 0, 0, ledger.time_ns))
            elapsed_ns = 0 if is_halted else min(ledger.time_ns - before.time_ns, parameters.gap_ns_max)
            paid_e6 = index_uusd * before.premium_ppm * elapsed_ns // parameters.period_ns
            premium_ppm = 0 if is_halted else _premium_ppm(ledger, number, index_uusd)
            limit_ppm = parameters.premium_max_ppm
            premium_ppm = max(-limit_ppm, min(limit_ppm, premium_ppm))
            cumulative_e6 = before.cumulative_e6 + paid_e6
            ledger.funding[number] = Funding(number, cumulative_e6, premium_ppm, ledger.time_ns)


def paid_uusd(ledger: NaiveLedger, instrument: Instrument) -> int:
    """What a long contract has paid, in whole micro-USD per lot."""
    leaf = ledger.funding.get(instrument.id)
    per = instrument.lots_per_contract
    return leaf.cumulative_e6 // PPM // per * per if leaf else 0


def _premium_ppm(ledger: NaiveLedger, number: int, index_uusd: int) -> int:
    own = [order for order in ledger.orders.values() if order.instrument == number]
    bids = [order.price_uusd for order in own if order.is_buy]
    asks = [order.price_uusd for order in own if not order.is_buy]
    if not bids or not asks or max(bids) >= min(asks):
        return 0
    return (max(bids) + min(asks) - 2 * index_uusd) * PPM // (2 * index_uusd)
