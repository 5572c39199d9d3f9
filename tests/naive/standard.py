"""The standard model position by position, and which model an account is under. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.instruments import Instrument, Kind
from tests.naive.account import NaiveAccount
from tests.naive.margin import E8_PER_UUSD, PPM, NaiveMargin, naive_margin

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

STANDARD = 1
Orders = list[tuple[int, int, int]]
Positions = dict[int, tuple[int, int]]


class Need(NamedTuple):
    """What an account requires, initially and to be left alone, in 1e-8 USD."""

    initial: int
    maintenance: int


def margin_of(
    ledger: NaiveLedger, account: NaiveAccount, orders: Orders | None = None, model: int | None = None
) -> NaiveMargin:
    """An account's margin under its own model (or another), with open orders as that model counts them."""
    plain = naive_margin(ledger.rows, account.cash_uusd, account.positions, orders or [])
    if (account.model if model is None else model) != STANDARD:
        return plain
    cash, positions = _with_orders(ledger, account, orders or [])
    im, mm = standard_excesses(ledger, cash, positions)
    return plain._replace(im_excess_uusd=im, mm_excess_uusd=mm)


def standard_excesses(ledger: NaiveLedger, cash_uusd: int, positions: Positions) -> tuple[int, int]:
    """(initial, maintenance): cash and perpetuals' profit less what each expiry requires."""
    rows, equity = ledger.rows, cash_uusd
    expiries: dict[tuple[int, int], list[tuple[Instrument, int]]] = {}
    oracle = 0
    for number, (lots, cost) in sorted(positions.items()):
        item, row = ledger.instruments[number], rows.row_of[number]
        if item.kind == Kind.PERPETUAL:
            equity += lots * rows.basis[row] // item.lots_per_contract - cost
        expiries.setdefault((item.underlying, item.expiry_ns), []).append((item, lots))
        oracle += abs(lots) * rows.oracle_unit[row]
    needs = [_need(ledger, held) for held in expiries.values()]
    initial = _up(sum(need.initial for need in needs)) + _up(oracle)
    return equity - initial, equity - _up(sum(need.maintenance for need in needs))


def _up(value_e8: int) -> int:
    return -(-value_e8 // E8_PER_UUSD)


def _need(ledger: NaiveLedger, held: list[tuple[Instrument, int]]) -> Need:
    """One expiry's, or one perpetual's."""
    units = {item.id: _units(ledger, item) for item, _ in held}
    if held[0][0].kind == Kind.PERPETUAL:
        return Need(*(sum(abs(lots) * units[item.id][which] for item, lots in held) for which in (0, 1)))
    needs = []
    for which in (0, 1):
        alone = sum(-lots * units[item.id][which] for item, lots in held if lots < 0)
        short_calls = [units[item.id][which] for item, lots in held if lots < 0 and item.kind == Kind.CALL]
        naked = max(0, -sum(lots for item, lots in held if item.kind == Kind.CALL))
        needs.append(min(alone, _largest_loss(held) + naked * max(short_calls, default=0)))
    return Need(*needs)


def _largest_loss(held: list[tuple[Instrument, int]]) -> int:
    """At settlement, at 0 or at a strike held; at least 0."""
    scale = E8_PER_UUSD // held[0][0].lots_per_contract
    paid = [0]
    for price in (0, *(item.strike_uusd for item, _ in held)):
        total = 0
        for item, lots in held:
            sign = 1 if item.kind == Kind.CALL else -1
            total += lots * max(0, sign * (price - item.strike_uusd)) * scale
        paid.append(total)
    return -min(paid)


def _units(ledger: NaiveLedger, item: Instrument) -> Need:
    """Of one lot short, or of one lot of a perpetual; each part of the index rounded up."""
    rules, scale = ledger.trading_rules.standard, E8_PER_UUSD // item.lots_per_contract
    index = ledger.oracle.agreed[item.underlying].index_uusd * scale

    def part(ppm: int) -> int:
        return -(-index * ppm // PPM)

    if item.kind == Kind.PERPETUAL:
        return Need(part(rules.perpetual_im_ppm), part(rules.perpetual_mm_ppm))
    mark = ledger.rows.mark[ledger.rows.row_of[item.id]] * scale
    strike = item.strike_uusd * scale
    out = max(0, strike - index if item.kind == Kind.CALL else index - strike)
    initial = max(part(rules.short_im_ppm) - out, part(rules.short_im_floor_ppm))
    return Need(initial + mark, part(rules.short_mm_ppm) + mark)


def _with_orders(ledger: NaiveLedger, account: NaiveAccount, orders: Orders) -> tuple[int, Positions]:
    """T10: options sold earn nothing, options bought relieve nothing, of a perpetual the larger side counts."""
    cash, positions, rows = account.cash_uusd, dict(account.positions), ledger.rows
    for number in sorted({order[0] for order in orders}):
        item, mark = ledger.instruments[number], rows.mark[rows.row_of[number]]
        own, per = [order for order in orders if order[0] == number], item.lots_per_contract
        held, cost = positions.get(number, (0, 0))
        bought = sum(lots for _, lots, _ in own if lots > 0)
        sold = sum(lots for _, lots, _ in own if lots < 0)
        if item.kind == Kind.PERPETUAL:
            cash += sum(min(0, lots * (mark - price) // per) for _, lots, price in own)
            lots = max(held + bought, held + sold, key=abs)
            cost += (lots - held) * mark // per
        else:
            cash -= sum(-(-lots * price // per) for _, lots, price in own if lots > 0)
            lots = held + sold
        positions.pop(number, None)
        if lots:
            positions[number] = lots, cost
        else:
            cash -= cost
    return cash, positions
