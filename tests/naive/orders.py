"""What becomes of orders in a block: all kinds as limit orders, judged one by one, then by margin together. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ledger.events import OrderAccepted
from ledger.instruments import Kind
from ledger.transactions import (
    MassQuote,
    PlaceMarket,
    PlaceOrder,
    PlaceUntil,
    ReplaceOrder,
)
from tests.naive.account import LIQUIDATION, REDUCE_ONLY, AccountKey, NaiveAccount
from tests.naive.call import Order, on_grid
from tests.naive.quotes import defect, is_frozen, quote_orders, reserve_uusd
from tests.naive.sent import Sent, actions_of, refuse
from tests.naive.sessions import gross_uusd
from tests.naive.standard import STANDARD, margin_of

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

LOTS_MAX = 1_000_000
POST_ONLY_CONFIDENCE_PPM = 200_000
ORDERS = (PlaceOrder, PlaceUntil, PlaceMarket, ReplaceOrder, MassQuote)


class Wanted(NamedTuple):
    """A limit order of the action at `place`; `replaces` goes when it is taken."""

    place: int
    order: Order
    replaces: Order | None = None


def open_orders(ledger: NaiveLedger, key: AccountKey) -> list[Order]:
    """An account's open orders, by id."""
    return sorted((item for item in ledger.orders.values() if item.account == key), key=lambda item: item.id)


def excess_uusd(ledger: NaiveLedger, account: NaiveAccount, orders: list[Order]) -> int:
    """IM excess with these orders filled the worse way; protected quotes count as the less of it and their reserve."""
    margined = [item for item in orders if not item.reduce_only]

    def excess(counted: list[Order]) -> int:
        triples = [_as_margin(item) for item in counted]
        return margin_of(ledger, account, triples).im_excess_uusd

    limits = {number: item for number, item in account.protections.items() if item.lots_max}
    if not limits or account.model == STANDARD:
        return excess(margined)

    def limited(order: Order) -> bool:
        return order.is_quote and ledger.instruments[order.instrument].underlying in limits

    reserved = sum(
        reserve_uusd(
            ledger,
            limit.lots_max,
            [
                item
                for item in margined
                if limited(item) and ledger.instruments[item.instrument].underlying == number
            ],
        )
        for number, limit in limits.items()
    )
    return max(excess(margined), excess([item for item in margined if not limited(item)]) - reserved)


def _as_margin(order: Order) -> tuple[int, int, int]:
    return order.instrument, order.lots if order.is_buy else -order.lots, order.price_uusd


# --- one transaction ---


def place_orders(ledger: NaiveLedger, sent: Sent) -> None:
    """All orders of one transaction."""
    wanted: list[Wanted] = []
    for _, index, action in actions_of([sent], ORDERS):
        found = _limit_orders(ledger, sent.key, index, action)
        if isinstance(found, str):
            refuse(ledger, sent.id, index, found)
        else:
            wanted += found
    enter(ledger, sent.id, sent.key, wanted, sent.limit_uusd)


def enter(
    ledger: NaiveLedger, transaction: bytes, key: AccountKey, wanted: list[Wanted], limit_uusd: int | None
) -> None:
    """Each by itself, then as many as margin carries, found by the rule's own bisection."""
    taken: list[Wanted] = []
    for item in wanted:
        reason = _judge(ledger, key, item, taken, limit_uusd)
        refuse(ledger, transaction, item.place, reason)
        if reason is None:
            taken.append(item)
    carried = _carried(ledger, key, [item for item in taken if not item.order.reduce_only])
    for item in taken:
        order = item.order
        if not order.reduce_only and not any(item is one for one in carried):
            refuse(ledger, transaction, item.place, "insufficient_margin")
            continue
        if item.replaces is not None:
            ledger.cancel(item.replaces, "replaced")
        order.id = ledger.take_id()
        ledger.orders[order.id] = order
        ledger.events.append(
            OrderAccepted(
                transaction,
                item.place,
                order.id,
                *key,
                order.instrument,
                0 if order.is_buy else 1,
                order.price_uusd,
                order.lots,
                order.label,
            )
        )


def _without_replaced(own: list[Order], items: list[Wanted]) -> list[Order]:
    gone = [item.replaces.id for item in items if item.replaces is not None]
    return [order for order in own if order.id not in gone]


def _carried(ledger: NaiveLedger, key: AccountKey, new: list[Wanted]) -> list[Wanted]:
    before = open_orders(ledger, key)

    def holds(count: int) -> bool:
        first = new[:count]
        orders = _without_replaced(before, first) + [item.order for item in first]
        return excess_uusd(ledger, ledger.accounts[key], orders) >= 0

    if holds(len(new)):
        return new
    good, bad = 0, len(new)
    while bad - good > 1:
        middle = (good + bad) // 2
        if holds(middle):
            good = middle
        else:
            bad = middle
    return new[:good]


# --- every kind as limit orders ---


def order_of(ledger: NaiveLedger, key: AccountKey, action: PlaceOrder) -> Order:
    """The order that a limit order's action asks for; it has no id yet."""
    return Order(
        0,
        key,
        action.instrument,
        action.side == 0,
        action.price_uusd,
        action.size_lots,
        ledger.height,
        action.label,
        action.time_in_force,
        action.post_only,
        action.reduce_only,
    )


def edge_or_reason(ledger: NaiveLedger, number: int, *, is_buy: bool) -> int | str:
    """What a market order's limit is."""
    instrument = ledger.instruments.get(number)
    if instrument is None:
        return "unknown_instrument"
    if number not in ledger.rows.row_of:
        return "instrument_expired"
    return ledger.band_edge_uusd(instrument, is_buy=is_buy)


def _limit_orders(ledger: NaiveLedger, key: AccountKey, place: int, action: object) -> list[Wanted] | str:
    """The limit orders of an action, or why it is refused as a whole."""
    if isinstance(action, PlaceOrder):
        return [Wanted(place, order_of(ledger, key, action))]
    if isinstance(action, PlaceUntil):
        if action.order.time_in_force != 0:
            return "good_till_time_not_gtc"
        if action.expires_ns <= ledger.time_ns:
            return "time_passed"
        order = order_of(ledger, key, action.order)
        order.expires_ns = action.expires_ns
        return [Wanted(place, order)]
    if isinstance(action, PlaceMarket):
        price = edge_or_reason(ledger, action.instrument, is_buy=action.side == 0)
        if isinstance(price, str):
            return price
        how = (action.time_in_force, False, action.reduce_only, action.label)
        limit = PlaceOrder(action.instrument, action.side, price, action.size_lots, *how)
        return [Wanted(place, order_of(ledger, key, limit))]
    if isinstance(action, ReplaceOrder):
        return _replacement(ledger, key, place, action)
    assert isinstance(action, MassQuote)
    return defect(action) or [Wanted(place, item) for item in quote_orders(ledger, key, action)]


def _replacement(
    ledger: NaiveLedger, key: AccountKey, place: int, action: ReplaceOrder
) -> list[Wanted] | str:
    old = ledger.orders.get(action.order_id)
    if old is None or old.account != key or old.height == ledger.height:
        return "unknown_order"
    if action.price_uusd == old.price_uusd and action.size_lots <= old.lots:
        return []
    new = Order(**{**vars(old), "id": 0, "height": ledger.height})
    new.price_uusd, new.lots = action.price_uusd, action.size_lots
    return [Wanted(place, new, old)]


# --- one order ---


def shape_defect(ledger: NaiveLedger, order: Order) -> str | None:
    """What is wrong with an order whatever the account and the book."""
    instrument = ledger.instruments.get(order.instrument)
    if instrument is None:
        return "unknown_instrument"
    if instrument.kind != Kind.PERPETUAL and instrument.expiry_ns <= ledger.time_ns:
        return "instrument_expired"
    if not on_grid(ledger.grid(instrument), order.price_uusd):
        return "off_tick"
    return "post_only_not_gtc" if order.post_only and order.time_in_force else None


def _judge(
    ledger: NaiveLedger, key: AccountKey, item: Wanted, taken: list[Wanted], limit_uusd: int | None
) -> str | None:
    """Why an order is refused, margin apart; the first of these rules that does not hold."""
    order = item.order
    instrument = ledger.instruments.get(order.instrument)
    if order.is_quote and instrument is not None and is_frozen(ledger, key, instrument.underlying):
        return "quotes_frozen"
    if item.replaces is not None and any(one.replaces is item.replaces for one in taken):
        return "unknown_order"
    own = _without_replaced(open_orders(ledger, key), [*taken, item]) + [one.order for one in taken]
    rules: list[Callable[[], str | None]] = [
        lambda: shape_defect(ledger, order),
        lambda: _judge_standing(ledger, key, order),
        lambda: _judge_price(ledger, order),
        lambda: _judge_limits(ledger, key, order, own, [one.order for one in taken]),
        lambda: _judge_reducing(ledger, key, order, own),
        lambda: _judge_exposure(ledger, key, order, own, limit_uusd),
    ]
    return next((reason for rule in rules if (reason := rule()) is not None), None)


def _judge_standing(ledger: NaiveLedger, key: AccountKey, order: Order) -> str | None:
    health = ledger.accounts[key].health
    if health == LIQUIDATION:
        return "account_in_liquidation"
    if health == REDUCE_ONLY and not order.reduce_only:
        return "account_must_reduce"
    instrument = ledger.instruments[order.instrument]
    expiry_ns = 0 if instrument.kind == Kind.PERPETUAL else instrument.expiry_ns
    confidence = ledger.oracle.confidence_ppm(
        instrument.underlying, expiry_ns, ledger.time_ns, ledger.silent_blocks
    )
    is_uncertain = confidence <= POST_ONLY_CONFIDENCE_PPM
    return ledger.breakers.refusal(instrument, order, is_uncertain=is_uncertain)


def _judge_price(ledger: NaiveLedger, order: Order) -> str | None:
    instrument = ledger.instruments[order.instrument]
    mark, price = ledger.rows.mark[ledger.rows.row_of[instrument.id]], order.price_uusd
    if (price - mark if order.is_buy else mark - price) > ledger.band_uusd(instrument):
        return "price_outside_band"
    for other in ledger.orders.values():
        if order.post_only and other.instrument == instrument.id and other.height < ledger.height:
            reaches = price >= other.price_uusd if order.is_buy else price <= other.price_uusd
            if other.is_buy != order.is_buy and reaches:
                return "post_only_would_cross"
    return None


def _judge_limits(
    ledger: NaiveLedger, key: AccountKey, order: Order, own: list[Order], taken: list[Order]
) -> str | None:
    parameters, positions = ledger.parameters, ledger.accounts[key].positions
    if order.label and any(item.label == order.label for item in own):
        return "duplicate_label"
    if len(own) >= parameters.open_orders_max:
        return "too_many_orders"
    lots = sum(item.lots for item in own) + sum(abs(held) for held, _ in positions.values())
    if lots + order.lots > LOTS_MAX:
        return "too_many_lots"
    if len({*positions, *(item.instrument for item in own), order.instrument}) > parameters.positions_max:
        return "too_many_positions"
    in_book = [item for item in (*ledger.orders.values(), *taken) if item.instrument == order.instrument]
    return "book_full" if len(in_book) >= parameters.orders_per_book_max else None


def _judge_reducing(ledger: NaiveLedger, key: AccountKey, order: Order, own: list[Order]) -> str | None:
    if not order.reduce_only:
        return None
    held = ledger.accounts[key].positions.get(order.instrument, (0, 0))[0]
    room = max(0, -held if order.is_buy else held)
    others = [
        item.lots
        for item in own
        if item.reduce_only and item.instrument == order.instrument and item.is_buy == order.is_buy
    ]
    return "reduce_only_would_increase" if sum(others) + order.lots > room else None


def _judge_exposure(
    ledger: NaiveLedger, key: AccountKey, order: Order, own: list[Order], limit_uusd: int | None
) -> str | None:
    """A session key's limit; what only reduces is always within it."""
    if limit_uusd is None or order.reduce_only:
        return None
    return "session_notional" if gross_uusd(ledger, key, [*own, order]) > limit_uusd else None
