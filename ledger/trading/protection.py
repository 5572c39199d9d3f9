"""Market-maker protection: what quotes traded in an interval, when all of them go, and what they reserve. Pure.

A call cannot stop half-way, so limits act between calls: once a limit is reached, the quotes on that underlying
leave every later call of the block and all books. What one block can fill is therefore less than the limit of
lots and the largest side of one instrument together; that times the largest unit margin is what quotes
reserve, where it is less than their full order margin. Quotes of an account below its initial requirement go
when the next block begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.margin.requirements import OpenOrder
from ledger.matching.orders import AccountKey, RestingOrder
from ledger.reasons import CancelReason
from ledger.trading.events import ProtectionTripped
from ledger.trading.reasons import TradingReason
from ledger.trading.state import OpenTrading, Protection
from ledger.transactions import SetProtection, Side
from primitives.amounts import ceil_div
from primitives.errors import ProtocolViolation

if TYPE_CHECKING:
    from ledger.instruments import Instrument
    from ledger.prices import Prices
    from ledger.workspace import Workspace

UNTIL_RESET_NS = 2**63 - 1
"""Frozen until the account says otherwise."""


def protection_of(action: SetProtection, time_ns: int) -> Protection:
    """New limits, counting from nothing."""
    return Protection(
        action.underlying,
        action.interval_ns,
        action.frozen_ns,
        action.lots_max,
        action.delta_ppm_max,
        action.vega_uusd_max,
        time_ns,
        0,
        0,
        0,
        0,
    )


def cleared(protection: Protection, time_ns: int) -> Protection:
    """The same limits, counting from nothing, not frozen."""
    return replace(protection, since_ns=time_ns, lots=0, delta_ppm=0, vega_uusd=0, frozen_until_ns=0)


def check_not_frozen(workspace: Workspace, key: AccountKey, underlying: int) -> None:
    """Raises ProtocolViolation(QUOTES_FROZEN)."""
    trading = workspace.find_trading(key)
    protection = None if trading is None else trading.protections.get(underlying)
    if protection is not None and protection.frozen_until_ns > workspace.time_ns:
        raise ProtocolViolation(
            TradingReason.QUOTES_FROZEN, f"quotes are frozen until {protection.frozen_until_ns}"
        )


def count_fill(
    workspace: Workspace, prices: Prices, instrument: Instrument, order: RestingOrder, signed_lots: int
) -> None:
    """Add one fill of an account's order to its protection, if the order is a quote and there is one."""
    trading = workspace.find_trading(order.account)
    if trading is None or order.order_id not in trading.quotes:
        return
    protection = trading.protections.get(instrument.underlying)
    if protection is None:
        return
    is_over = workspace.time_ns >= protection.since_ns + protection.interval_ns
    if is_over or protection.frozen_until_ns:  # Quotes that were frozen and trade again begin anew.
        protection = cleared(protection, workspace.time_ns)
    per_contract = instrument.lots_per_contract
    trading.protections[instrument.underlying] = replace(
        protection,
        lots=protection.lots + abs(signed_lots),
        delta_ppm=protection.delta_ppm + signed_lots * prices.delta_ppm(instrument.id) // per_contract,
        vega_uusd=protection.vega_uusd + signed_lots * prices.vega_uusd(instrument.id) // per_contract,
    )


def trip(workspace: Workspace, underlying: int, accounts: Iterable[AccountKey]) -> None:
    """After a call: freeze the accounts among `accounts` that reached a limit, and cancel their quotes."""
    for key in sorted(accounts):
        trading = workspace.find_trading(key)
        protection = None if trading is None else trading.protections.get(underlying)
        if trading is None or protection is None or not protection.is_exceeded or protection.frozen_until_ns:
            continue
        until_ns = workspace.time_ns + protection.frozen_ns if protection.frozen_ns else UNTIL_RESET_NS
        trading.protections[underlying] = replace(protection, frozen_until_ns=until_ns)
        workspace.events.append(
            ProtectionTripped(
                *key, underlying, protection.lots, protection.delta_ppm, protection.vega_uusd, until_ns
            )
        )
        workspace.cancel_open(quotes_on(workspace, trading, underlying), CancelReason.PROTECTION)


def quotes_on(workspace: Workspace, trading: OpenTrading, underlying: int) -> list[int]:
    """Ids of an account's open quotes on one underlying."""
    orders, listed = workspace.existing(trading.key).orders, workspace.state.instruments
    return [item for item in sorted(trading.quotes) if listed[orders[item]].underlying == underlying]


def order_requirement_uusd(prices: Prices, instrument: int, is_buy: bool, price_uusd: int, lots: int) -> int:
    """What an order of so many lots requires by itself, with the loss against the mark; rounded up for each lot."""
    mark_uusd, buy_uusd, sell_uusd, lots_per_contract = prices.lot_terms[instrument]
    unit_uusd, worse_uusd = (
        (buy_uusd, price_uusd - mark_uusd) if is_buy else (sell_uusd, mark_uusd - price_uusd)
    )
    if worse_uusd > 0:
        unit_uusd += ceil_div(worse_uusd, lots_per_contract)
    return lots * unit_uusd


def reserve_uusd(prices: Prices, protection: Protection, quotes: Iterable[OpenOrder]) -> int:
    """What one block's fills of these quotes, all on one underlying, can require at most; rounded up."""
    sides: dict[tuple[int, int], int] = {}
    unit_uusd = 0
    for quote in quotes:
        instrument, is_buy = quote.instrument_id, quote.lots > 0
        side = Side.BUY if is_buy else Side.SELL
        sides[instrument, side] = sides.get((instrument, side), 0) + abs(quote.lots)
        unit_uusd = max(unit_uusd, order_requirement_uusd(prices, instrument, is_buy, quote.price_uusd, 1))
    if not sides:
        return 0
    lots = min(sum(sides.values()), protection.lots_max - 1 + max(sides.values()))
    return lots * unit_uusd
