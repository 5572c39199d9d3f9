"""Nonces, cancels, cash and orders of a block, action by action. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ledger.events import ActionRejected, OrderAccepted, TransactionApplied, TransactionRejected
from ledger.instruments import Kind
from ledger.transactions import (
    CancelAll,
    CancelLabel,
    CancelOrder,
    Deposit,
    Envelope,
    NamedInstrument,
    PlaceOrder,
    SignedTransaction,
    Transaction,
    TransferCash,
    Withdraw,
    transaction_id,
)
from primitives.codec import decode
from primitives.signing import address_of
from tests.naive.account import LIQUIDATION, REDUCE_ONLY, AccountKey, NaiveAccount
from tests.naive.call import Order, on_grid
from tests.naive.margin import naive_margin
from tests.naive.waterfall import haircut_uusd

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

LOTS_MAX = 1_000_000
POST_ONLY_CONFIDENCE_PPM = 200_000


class Sent(NamedTuple):
    """A transaction with its sender."""

    id: bytes
    signer: bytes
    key: AccountKey
    content: Transaction
    names: tuple[NamedInstrument, ...]


def execute(ledger: NaiveLedger, raw_transactions: tuple[bytes, ...]) -> None:
    """All of a block's transactions, phase by phase."""
    sent = [_read(raw) for raw in raw_transactions]
    sent.sort(key=lambda item: (*item.key, item.content.nonce, item.id))
    good = [item for item in sent if _use_nonce(ledger, item)]
    _cancels(ledger, good)
    for kinds, perform in (((Deposit,), _deposit), ((Withdraw, TransferCash), _move_out)):
        for item, index, action in _actions(good, kinds):
            _refuse(ledger, item, index, perform(ledger, item, action))
    for item in good:
        _orders(ledger, item)


def _read(raw: bytes) -> Sent:
    signed: Envelope = decode(Envelope, raw, bytes_max=1 << 20)  # type: ignore[arg-type]
    content = decode(Transaction, signed.payload, bytes_max=1 << 20)
    if isinstance(signed, SignedTransaction):
        key = (address_of(signed.public_key), content.subaccount)
        return Sent(transaction_id(raw), signed.public_key, key, content, ())
    return Sent(transaction_id(raw), b"", (signed.owner, content.subaccount), content, signed.names)


def _actions(sent: list[Sent], kinds: tuple[type, ...]) -> Iterator[tuple[Sent, int, object]]:
    for item in sent:
        for index, action in enumerate(item.content.actions):
            if isinstance(action, kinds):
                yield item, index, action


def _refuse(ledger: NaiveLedger, sent: Sent, index: int, reason: str | None) -> None:
    if reason is not None:
        ledger.events.append(ActionRejected(sent.id, index, reason, ""))


def _use_nonce(ledger: NaiveLedger, sent: Sent) -> bool:
    account, nonce = ledger.accounts.get(sent.key), sent.content.nonce
    window = ledger.genesis.parameters.nonce_window
    reason = None
    if sent.content.chain_id != ledger.chain_id:
        reason = "wrong_chain"
    elif not all(_is_named_right(ledger, named) for named in sent.names):
        reason = "wrong_name"
    elif account is None:
        reason = "unknown_account"
    elif nonce in account.nonces_used or not 0 <= nonce - account.nonce_floor < 2 * window:
        reason = "bad_nonce"
    if reason is not None or account is None:
        ledger.events.append(TransactionRejected(sent.id, reason or "", ""))
        return False
    account.nonce_floor = max(account.nonce_floor, nonce - window + 1)
    account.nonces_used = {item for item in {*account.nonces_used, nonce} if item >= account.nonce_floor}
    ledger.events.append(TransactionApplied(sent.id, *sent.key, nonce))
    return True


def _is_named_right(ledger: NaiveLedger, named: NamedInstrument) -> bool:
    known = ledger.instruments.get(named.id)
    return (
        known is not None and known.name == named.name and known.lots_per_contract == named.lots_per_contract
    )


def _cancels(ledger: NaiveLedger, sent: list[Sent]) -> None:
    chosen: dict[int, Order] = {}
    for item, index, action in _actions(sent, (CancelOrder, CancelLabel, CancelAll)):
        named = [
            order
            for order in ledger.orders.values()
            if order.account == item.key
            and order.height < ledger.height
            and order.id not in chosen
            and _is_named(action, order)
        ]
        if not named and not isinstance(action, CancelAll):
            _refuse(ledger, item, index, "unknown_order")
        chosen |= {order.id: order for order in named}
    for order in sorted(chosen.values(), key=lambda order: (order.instrument, order.id)):
        ledger.cancel(order, "requested")


def _is_named(action: object, order: Order) -> bool:
    if isinstance(action, CancelOrder):
        return order.id == action.order_id
    if isinstance(action, CancelLabel):
        return order.label == action.label != 0
    assert isinstance(action, CancelAll)
    return action.instrument in (None, order.instrument)


# --- cash ---


def _deposit(ledger: NaiveLedger, sent: Sent, action: object) -> str | None:
    assert isinstance(action, Deposit)
    if sent.signer != ledger.genesis.custodian_key:
        return "not_custodian"
    key = (action.owner, action.subaccount)
    if _is_for_sale(ledger, key):
        return "auction_under_way"
    ledger.accounts.setdefault(key, NaiveAccount(0))
    ledger.supply["deposited_uusd"] += action.amount_uusd
    ledger.move_cash(key, action.amount_uusd, "deposit")
    return None


def _move_out(ledger: NaiveLedger, sent: Sent, action: object) -> str | None:
    assert isinstance(action, Withdraw | TransferCash)
    account, amount = ledger.accounts[sent.key], action.amount_uusd
    if isinstance(action, TransferCash) and action.to_subaccount == sent.key[1]:
        return "same_account"
    if ledger.breakers.holds_money():
        return "trading_halted"
    if account.health == LIQUIDATION:
        return "account_in_liquidation"
    orders = [_as_margin(order) for order in _open(ledger, sent.key) if not order.reduce_only]
    margin = naive_margin(ledger.rows, account.cash_uusd - amount, account.positions, orders)
    if account.cash_uusd < amount or margin.im_excess_uusd < 0:
        return "insufficient_margin"
    if isinstance(action, Withdraw):
        kept = haircut_uusd(ledger, amount)
        ledger.supply["debt_uusd"] -= kept
        ledger.supply["withdrawn_uusd"] += amount - kept
        ledger.move_cash(sent.key, -amount, "withdrawal")
    else:
        target = (sent.key[0], action.to_subaccount)
        if _is_for_sale(ledger, target):
            return "auction_under_way"
        ledger.accounts.setdefault(target, NaiveAccount(0))
        ledger.move_cash(sent.key, -amount, "transfer")
        ledger.move_cash(target, amount, "transfer")
    return None


def _is_for_sale(ledger: NaiveLedger, key: AccountKey) -> bool:
    leaf = ledger.liquidations.get(key)
    return leaf is not None and leaf.auction_ns > 0


# --- orders ---


def _open(ledger: NaiveLedger, key: AccountKey) -> list[Order]:
    return sorted((item for item in ledger.orders.values() if item.account == key), key=lambda item: item.id)


def _as_margin(order: Order) -> tuple[int, int, int]:
    return order.instrument, order.lots if order.is_buy else -order.lots, order.price_uusd


def _orders(ledger: NaiveLedger, sent: Sent) -> None:
    """Each order by itself, then as many as margin carries, found by the rule's own bisection."""
    before = _open(ledger, sent.key)
    taken: list[tuple[int, Order]] = []
    for _, index, action in _actions([sent], (PlaceOrder,)):
        assert isinstance(action, PlaceOrder)
        reason = _judge(ledger, sent.key, action, before, [order for _, order in taken])
        _refuse(ledger, sent, index, reason)
        if reason is None:
            taken.append((index, _order_of(ledger, sent.key, action)))
    carried = _carried(ledger, sent.key, before, [item for item in taken if not item[1].reduce_only])
    for index, order in taken:
        if not order.reduce_only and index not in carried:
            _refuse(ledger, sent, index, "insufficient_margin")
            continue
        order.id = ledger.next_order_id
        ledger.enter(order)
        ledger.events.append(
            OrderAccepted(
                sent.id,
                index,
                order.id,
                *sent.key,
                order.instrument,
                0 if order.is_buy else 1,
                order.price_uusd,
                order.lots,
                order.label,
            )
        )


def _carried(
    ledger: NaiveLedger, key: AccountKey, before: list[Order], new: list[tuple[int, Order]]
) -> set[int]:
    account = ledger.accounts[key]
    resting = [_as_margin(order) for order in before if not order.reduce_only]

    def holds(count: int) -> bool:
        orders = resting + [_as_margin(order) for _, order in new[:count]]
        return naive_margin(ledger.rows, account.cash_uusd, account.positions, orders).im_excess_uusd >= 0

    if holds(len(new)):
        return {index for index, _ in new}
    good, bad = 0, len(new)
    while bad - good > 1:
        middle = (good + bad) // 2
        if holds(middle):
            good = middle
        else:
            bad = middle
    return {index for index, _ in new[:good]}


def _order_of(ledger: NaiveLedger, key: AccountKey, action: PlaceOrder) -> Order:
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


def _judge(
    ledger: NaiveLedger, key: AccountKey, action: PlaceOrder, before: list[Order], taken: list[Order]
) -> str | None:
    """Why an order is refused, margin apart; the first of these rules that does not hold."""
    instrument = ledger.instruments.get(action.instrument)
    if instrument is None:
        return "unknown_instrument"
    if instrument.kind != Kind.PERPETUAL and instrument.expiry_ns <= ledger.time_ns:
        return "instrument_expired"
    rules: list[Callable[[], str | None]] = [
        lambda: None if on_grid(ledger.grid(instrument), action.price_uusd) else "off_tick",
        lambda: "post_only_not_gtc" if action.post_only and action.time_in_force else None,
        lambda: _judge_standing(ledger, key, action),
        lambda: _judge_price(ledger, action),
        lambda: _judge_limits(ledger, key, action, before, taken),
        lambda: _judge_reducing(ledger, key, action, before + taken),
    ]
    return next((reason for rule in rules if (reason := rule()) is not None), None)


def _judge_standing(ledger: NaiveLedger, key: AccountKey, action: PlaceOrder) -> str | None:
    health = ledger.accounts[key].health
    if health == LIQUIDATION:
        return "account_in_liquidation"
    if health == REDUCE_ONLY and not action.reduce_only:
        return "account_must_reduce"
    instrument = ledger.instruments[action.instrument]
    expiry_ns = 0 if instrument.kind == Kind.PERPETUAL else instrument.expiry_ns
    confidence = ledger.oracle.confidence_ppm(
        instrument.underlying, expiry_ns, ledger.time_ns, ledger.silent_blocks
    )
    is_uncertain = confidence <= POST_ONLY_CONFIDENCE_PPM
    return ledger.breakers.refusal(instrument, action, is_uncertain=is_uncertain)


def _judge_price(ledger: NaiveLedger, action: PlaceOrder) -> str | None:
    instrument = ledger.instruments[action.instrument]
    mark, price = ledger.rows.mark[ledger.rows.row_of[instrument.id]], action.price_uusd
    is_buy = action.side == 0
    if (price - mark if is_buy else mark - price) > ledger.band_uusd(instrument):
        return "price_outside_band"
    for order in ledger.orders.values():
        if action.post_only and order.instrument == instrument.id and order.height < ledger.height:
            reaches = price >= order.price_uusd if is_buy else price <= order.price_uusd
            if order.is_buy != is_buy and reaches:
                return "post_only_would_cross"
    return None


def _judge_limits(
    ledger: NaiveLedger, key: AccountKey, action: PlaceOrder, before: list[Order], taken: list[Order]
) -> str | None:
    parameters, positions = ledger.genesis.parameters, ledger.accounts[key].positions
    own = before + taken
    if action.label and any(order.label == action.label for order in own):
        return "duplicate_label"
    if len(own) >= parameters.open_orders_max:
        return "too_many_orders"
    lots = sum(order.lots for order in own) + sum(abs(held) for held, _ in positions.values())
    if lots + action.size_lots > LOTS_MAX:
        return "too_many_lots"
    if len({*positions, *(order.instrument for order in own), action.instrument}) > parameters.positions_max:
        return "too_many_positions"
    in_book = [order for order in (*ledger.orders.values(), *taken) if order.instrument == action.instrument]
    return "book_full" if len(in_book) >= parameters.orders_per_book_max else None


def _judge_reducing(ledger: NaiveLedger, key: AccountKey, action: PlaceOrder, own: list[Order]) -> str | None:
    if not action.reduce_only:
        return None
    held = ledger.accounts[key].positions.get(action.instrument, (0, 0))[0]
    room = max(0, -held if action.side == 0 else held)
    others = [
        order.lots
        for order in own
        if order.reduce_only and order.instrument == action.instrument and order.is_buy == (action.side == 0)
    ]
    return "reduce_only_would_increase" if sum(others) + action.size_lots > room else None
