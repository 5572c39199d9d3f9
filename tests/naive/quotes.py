"""Mass quotes, and the protection that takes them away. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.instruments import Instrument
from ledger.trading.events import ProtectionTripped
from ledger.transactions import MassQuote
from tests.naive.account import AccountKey
from tests.naive.call import Order
from tests.naive.margin import naive_margin

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

FOREVER_NS = 2**63 - 1


def defect(action: MassQuote) -> str | None:
    """Why a mass quote is refused as a whole."""
    numbers = [item.instrument for item in action.quotes]
    if any(numbers.count(number) > 1 for number in numbers):
        return "duplicate_quote"
    for item in action.quotes:
        if not item.bid_lots and not item.ask_lots:
            return "empty_quote"
        if item.bid_lots and item.ask_lots and item.ask_uusd <= item.bid_uusd:
            return "empty_quote"
    return None


def quote_orders(ledger: NaiveLedger, key: AccountKey, action: MassQuote) -> list[Order]:
    """Its sides as post-only orders, each instrument's bid before its ask."""
    orders = []
    for item in action.quotes:
        for is_buy, price, lots in (
            (True, item.bid_uusd, item.bid_lots),
            (False, item.ask_uusd, item.ask_lots),
        ):
            if lots:
                order = Order(
                    0, key, item.instrument, is_buy, price, lots, ledger.height, 0, 0, True, False, True
                )
                orders.append(order)
    return orders


# --- protection ---


def is_frozen(ledger: NaiveLedger, key: AccountKey, underlying: int) -> bool:
    """Whether no quotes on the underlying are taken now."""
    protection = ledger.accounts[key].protections.get(underlying)
    return protection is not None and ledger.time_ns < protection.frozen_until_ns


def count_fill(ledger: NaiveLedger, instrument: Instrument, order: Order, lots: int) -> None:
    """A trade of a quote: so many signed lots more in its interval."""
    protections = ledger.accounts[order.account].protections
    old = protections.get(instrument.underlying)
    if not order.is_quote or old is None:
        return
    is_over = ledger.time_ns - old.since_ns >= old.interval_ns
    if is_over or old.frozen_until_ns:  # What was frozen and trades again begins anew.
        old = replace(old, since_ns=ledger.time_ns, lots=0, delta_ppm=0, vega_uusd=0, frozen_until_ns=0)
    row, per = ledger.rows.row_of[instrument.id], instrument.lots_per_contract
    protections[instrument.underlying] = replace(
        old,
        lots=old.lots + abs(lots),
        delta_ppm=old.delta_ppm + lots * ledger.rows.delta_ppm[row] // per,
        vega_uusd=old.vega_uusd + lots * ledger.rows.vega_uusd[row] // per,
    )


def trip(ledger: NaiveLedger, underlying: int, keys: set[AccountKey]) -> None:
    """After a call: those who reached a limit are frozen and lose their quotes on the underlying."""
    for key in sorted(keys):
        item = ledger.accounts[key].protections.get(underlying)
        if item is None or item.frozen_until_ns:
            continue
        reached = [
            (item.lots, item.lots_max),
            (abs(item.delta_ppm), item.delta_ppm_max),
            (abs(item.vega_uusd), item.vega_uusd_max),
        ]
        if any(limit and done >= limit for done, limit in reached):
            until = ledger.time_ns + item.frozen_ns if item.frozen_ns else FOREVER_NS
            ledger.accounts[key].protections[underlying] = replace(item, frozen_until_ns=until)
            sums = (item.lots, item.delta_ppm, item.vega_uusd)
            ledger.events.append(ProtectionTripped(*key, underlying, *sums, until))
            ledger.cancel_all(quotes_on(ledger, key, underlying), "protection")


def quotes_on(ledger: NaiveLedger, key: AccountKey, underlying: int) -> list[Order]:
    """An account's open quotes on one underlying."""
    return [
        item
        for item in ledger.orders.values()
        if item.is_quote
        and item.account == key
        and ledger.instruments[item.instrument].underlying == underlying
    ]


def reserve_uusd(ledger: NaiveLedger, lots_max: int, quotes: list[Order]) -> int:
    """What fills of one block can require at most: the lots before the limit and one side, at the dearest lot."""
    if not quotes:
        return 0
    sides = [
        sum(item.lots for item in quotes if (item.instrument, item.is_buy) == side)
        for side in {(item.instrument, item.is_buy) for item in quotes}
    ]
    lots = min(sum(sides), lots_max - 1 + max(sides))
    return lots * max(_lot_uusd(ledger, item) for item in quotes)


def _lot_uusd(ledger: NaiveLedger, order: Order) -> int:
    """What one lot requires initially by itself, and what its price is worse than the mark, rounded up."""
    alone = naive_margin(ledger.rows, 0, {order.instrument: (1 if order.is_buy else -1, 0)})
    worse = order.price_uusd - ledger.rows.mark[ledger.rows.row_of[order.instrument]]
    worse = max(0, worse if order.is_buy else -worse)
    return (
        alone.mtm_uusd
        - alone.im_excess_uusd
        - (-worse // ledger.instruments[order.instrument].lots_per_contract)
    )
