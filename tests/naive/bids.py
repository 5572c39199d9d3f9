"""Bids on an account that is for sale: what a part of it costs, and who may take it. Pure."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.events import AuctionBid
from ledger.settlement.state import Liquidation
from ledger.transactions import BidAuction
from tests.naive.account import HEALTHY
from tests.naive.sent import Sent
from tests.naive.standard import margin_of
from tests.naive.waterfall import equity_uusd, pass_on, room_uusd

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

PPM = 1_000_000
E12 = 10**12


def bid(ledger: NaiveLedger, sent: Sent, action: object) -> str | None:
    """Sell a part to the bidder, or why not."""
    assert isinstance(action, BidAuction)
    key, bidder = (action.owner, action.subaccount), ledger.accounts[sent.key]
    leaf, account = ledger.liquidations.get(key), ledger.accounts.get(key)
    if account is not None and not ledger.breakers.may_liquidate(account.positions):
        return "liquidations_paused"
    if leaf is None or account is None or not leaf.auction_ns or not account.positions:
        return "no_auction"
    if bidder.health != HEALTHY or sent.key == key:
        return "account_must_reduce"
    sale = (_insolvent_sale if leaf.is_insolvent else _solvent_sale)(ledger, key, leaf, action.fraction_ppm)
    if isinstance(sale, str):
        return sale
    fraction, payment, fee, value, paid_off, reward = sale
    if payment > action.pay_at_most_uusd:
        return "bid_price"
    lots = {
        number: ceil(Fraction(abs(held) * fraction, E12)) * (1 if held > 0 else -1)
        for number, (held, _) in account.positions.items()
    }
    held_then = [
        bidder.positions.get(item, (0, 0))[0] + lots.get(item, 0) for item in {*bidder.positions, *lots}
    ]
    if len([item for item in held_then if item]) > ledger.parameters.positions_max:
        return "too_many_positions"
    if room_uusd(ledger, sent.key, lots, value + reward) < 0:
        return "insufficient_margin"
    _withdraw_offers(ledger, key)
    ledger.supply["fund_uusd"] += fee - paid_off - reward
    account.cash_uusd += paid_off - fee
    bidder.cash_uusd += reward
    pass_on(ledger, key, sent.key, lots, value)
    ledger.liquidations[key] = replace(
        leaf,
        is_fee_paid=leaf.is_fee_paid or not leaf.is_insolvent,
        reserved_uusd=leaf.reserved_uusd + max(0, payment),
    )
    ledger.events.append(AuctionBid(*key, *sent.key, fraction, payment, fee))
    return None


Sale = tuple[int, int, int, int, int, int]
"""Fraction (1e-12), payment, fee, cash that passes, what the fund pays the account, and the bidder."""


def _solvent_sale(
    ledger: NaiveLedger, key: tuple[bytes, int], leaf: Liquidation, wanted_ppm: int
) -> Sale | str:
    account, rules = ledger.accounts[key], ledger.protection.auction
    equity, maintenance = equity_uusd(ledger, account), margin_of(ledger, account).mm_excess_uusd
    buffer = maintenance - ceil(Fraction(rules.buffer_ppm * (equity - maintenance), PPM))
    if buffer >= 0:
        return "no_auction"
    fee = 0
    if not leaf.is_fee_paid:
        fee = ceil(Fraction(rules.fee_ppm * equity * -buffer, PPM * (equity - buffer)))
    equity, buffer = equity - fee, buffer - fee
    reserved = min(leaf.reserved_uusd, max(0, account.cash_uusd - fee))
    if reserved >= equity:
        reserved = 0
    discount = _discount_ppm(ledger, ledger.time_ns - leaf.auction_ns)
    fraction = wanted_ppm * E12 // PPM
    if buffer < 0:
        below = -buffer * PPM + (PPM - discount) * equity + discount * reserved
        fraction = min(fraction, E12, ceil(Fraction(-buffer * PPM * E12, below)))
    else:
        fraction = 0
    free = equity - reserved
    payment = ceil(Fraction(fraction * (PPM - discount) * free, E12 * PPM))
    return fraction, payment, fee, floor(Fraction(fraction * free, E12)) - payment, 0, 0


def _discount_ppm(ledger: NaiveLedger, elapsed_ns: int) -> int:
    rules = ledger.protection.auction
    start, fast = rules.discount_start_ppm, rules.discount_fast_ppm
    if elapsed_ns < rules.fast_ns:
        return floor(start + Fraction((fast - start) * elapsed_ns, rules.fast_ns))
    rest = min(Fraction(1), Fraction(elapsed_ns - rules.fast_ns, rules.slow_ns - rules.fast_ns))
    return floor(fast + (PPM - fast) * rest)


def _insolvent_sale(
    ledger: NaiveLedger, key: tuple[bytes, int], leaf: Liquidation, wanted_ppm: int
) -> Sale | str:
    account, limit_ns = ledger.accounts[key], ledger.protection.auction.insolvent_ns
    equity, maintenance = equity_uusd(ledger, account), margin_of(ledger, account).mm_excess_uusd
    elapsed = min(ledger.time_ns - leaf.auction_ns, limit_ns)
    pays = -equity + floor(Fraction((equity - maintenance) * elapsed, limit_ns))
    affordable = ledger.supply["fund_uusd"] * E12 // pays if pays > 0 else E12
    fraction = min(wanted_ppm * E12 // PPM, affordable)
    if fraction == 0:
        return "no_auction"
    total = max(0, floor(Fraction(fraction * pays, E12)))
    part = max(0, floor(Fraction(-fraction * equity, E12)))
    return fraction, -total, 0, 0, part, total - part


def _withdraw_offers(ledger: NaiveLedger, key: tuple[bytes, int]) -> None:
    """What the ledger has offered in this block for an account whose portfolio now changes."""
    own = [item for item in ledger.orders.values() if item.account == key]
    assert all(item.height == ledger.height for item in own), "older orders went when it was found"
    for order in sorted(own, key=lambda item: (item.instrument, item.id)):
        ledger.cancel(order, "liquidation")
