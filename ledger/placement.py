"""Which orders of a batch may take part in this block's call, each refusal with its reason. Pure.

Everything but margin is judged order by order. Margin is judged for the whole batch at once, with the worse
of all buys and all sells filled; if that does not hold, the longest prefix found by bisection is taken and
the rest refused, so that a batch that is too large costs a few margin computations, not one for each order.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from ledger.admission import check_order_form, check_order_shape, find_tradable, ticks_of
from ledger.calls import reducible_lots
from ledger.events import ActionRejected, OrderAccepted
from ledger.instruments import Instrument
from ledger.margin.health import Health
from ledger.margin.portfolio import ACCOUNT_LOTS_MAX
from ledger.margin.requirements import OpenOrder
from ledger.matching.orders import RestingOrder, Ticks
from ledger.reasons import CancelReason, LedgerReason
from ledger.trading.cancels import unknown_order
from ledger.trading.protection import check_not_frozen, order_requirement_uusd, reserve_uusd
from ledger.trading.reasons import TradingReason
from ledger.trading.state import Protection
from ledger.trading.wanted import Wanted, wanted_of
from ledger.transactions import Action, MarginModel, PlaceOrder, Side
from ledger.valuation import Valuation
from ledger.workspace import OpenAccount, Workspace
from primitives.amounts import USD, ceil_div
from primitives.errors import ProtocolViolation

POST_ONLY_CONFIDENCE_PPM = 200_000
"""At or below this confidence only post-only and reduce-only orders are taken (market.md section 2)."""


SURE_UUSD = USD
"""By so much the sum of single requirements must be covered before the joint one is taken for granted."""


class Margined(NamedTuple):
    """What margin sees of an open order, and whether market-maker protection bounds it."""

    order: OpenOrder
    is_quote: bool


class _Terms(NamedTuple):
    """What an instrument asks of the orders of one block."""

    instrument: Instrument
    ticks: Ticks
    is_uncertain: bool
    """Whether confidence in its price is so low that not every order is taken."""
    mark_uusd: int
    band_uusd: int


class _Open:
    """What the account has open, while a batch adds to it."""

    def __init__(self, workspace: Workspace, account: OpenAccount) -> None:
        trading = workspace.find_trading(account.key)
        self._quotes: Container[int] = trading.quotes if trading is not None else ()
        self.labels: set[int] = set()
        self.count = len(account.orders)
        self.lots = sum([abs(lots) for lots, _ in account.positions.values()])
        self.instruments = {*account.positions, *account.orders.values()}
        self.new: dict[int, int] = {}
        """Orders of this batch by instrument that have not entered yet."""
        self.reducing: dict[tuple[int, int], int] = {}
        self.resting: dict[int, tuple[int, RestingOrder]] = {}
        """Instrument and order by id, of all that margin must cover: not those that only reduce."""
        self.replaced: set[int] = set()
        self.room_uusd: int | None = None
        """What a session key may still build; None: the owner acts."""
        for order_id, instrument in account.orders.items():
            order = workspace.order(order_id)
            self.lots += order.left_lots
            if order.label:
                self.labels.add(order.label)
            if order.reduce_only:
                key = instrument, order.side
                self.reducing[key] = self.reducing.get(key, 0) + order.left_lots
            else:
                self.resting[order_id] = instrument, order

    def margined(self, gone: Container[int] = ()) -> list[Margined]:
        """What margin sees of the orders of `resting`, by id, without those that are `gone`."""
        return [
            Margined(
                OpenOrder(instrument, _signed(order.side, order.left_lots), order.price_uusd),
                order_id in self._quotes,
            )
            for order_id, (instrument, order) in self.resting.items()
            if order_id not in gone
        ]

    def exchange(self, order: RestingOrder, instrument: int, sign: int) -> None:
        """Count an open order out (sign -1), because a new one is to replace it, or in again (+1)."""
        self.count += sign
        self.lots += sign * order.left_lots
        if order.label:
            (self.labels.add if sign > 0 else self.labels.discard)(order.label)
        if order.reduce_only:
            self.reducing[instrument, order.side] += sign * order.left_lots
        (self.replaced.discard if sign > 0 else self.replaced.add)(order.order_id)

    def add(self, action: PlaceOrder) -> None:
        """Count one more order."""
        self.labels.add(action.label)
        self.labels.discard(0)
        self.count += 1
        self.lots += action.size_lots
        self.instruments.add(action.instrument)
        self.new[action.instrument] = self.new.get(action.instrument, 0) + 1
        if action.reduce_only:
            key = action.instrument, action.side
            self.reducing[key] = self.reducing.get(key, 0) + action.size_lots


def _signed(side: int, lots: int) -> int:
    return lots if side == Side.BUY else -lots


def _margined(wanted: Wanted) -> Margined:
    order = wanted.action
    lots = _signed(order.side, order.size_lots)
    return Margined(OpenOrder(order.instrument, lots, order.price_uusd), wanted.is_quote)


class OrderDesk:
    """Takes the orders of one block, batch by batch."""

    def __init__(self, workspace: Workspace, valuation: Valuation) -> None:
        self._workspace = workspace
        self._valuation = valuation
        self._parameters = workspace.state.parameters
        self._terms: dict[int, _Terms] = {}

    def place(
        self,
        transaction_id: bytes,
        account: OpenAccount,
        actions: Sequence[tuple[int, Action]],
        notional_uusd_max: int | None = None,
    ) -> None:
        """Enter a batch's orders, in its order, into this block's call; refusals become events.

        `notional_uusd_max`: what a session key may build, None for the owner.
        """
        wanted: list[Wanted] = []
        for index, action in actions:
            try:
                wanted += wanted_of(self._workspace, self._valuation, account, index, action)
            except ProtocolViolation as violation:
                self._refuse(transaction_id, index, violation)
        self.enter(transaction_id, account, wanted, notional_uusd_max)

    def enter(
        self,
        transaction_id: bytes,
        account: OpenAccount,
        wanted: Sequence[Wanted],
        notional_uusd_max: int | None = None,
    ) -> None:
        """Enter limit orders of one account; refusals become events."""
        opened = _Open(self._workspace, account)
        candidates: list[Wanted] = []
        if notional_uusd_max is not None:
            opened.room_uusd = notional_uusd_max - self._notional(account)
        for item in wanted:
            try:
                self._check_exchange(account, opened, item)
            except ProtocolViolation as violation:
                self._refuse(transaction_id, item.place, violation)
                continue
            opened.add(item.action)
            candidates.append(item)
        left = self._carried(account, opened, [item for item in candidates if not item.action.reduce_only])
        for item in candidates:
            left -= not item.action.reduce_only
            if item.action.reduce_only or left >= 0:
                self._enter(transaction_id, account, item)
            else:
                self._refuse(transaction_id, item.place, _INSUFFICIENT)

    def check_withdrawal(self, account: OpenAccount, amount_uusd: int) -> None:
        """Raises ProtocolViolation: TRADING_HALTED, ACCOUNT_IN_LIQUIDATION, INSUFFICIENT_MARGIN."""
        self._workspace.phases.check_money_out()
        if account.health == Health.LIQUIDATION:
            raise _in_liquidation()
        excess = self.excess_uusd(account, cash_uusd=account.cash_uusd - amount_uusd)
        if excess < 0 or account.cash_uusd < amount_uusd:
            raise ProtocolViolation(
                LedgerReason.INSUFFICIENT_MARGIN, "the initial requirement would not hold after it"
            )

    def check_model(self, account: OpenAccount, model: int) -> None:
        """Raises ProtocolViolation(INSUFFICIENT_MARGIN) if the account could not open under that model."""
        orders = [item.order for item in _Open(self._workspace, account).margined()]
        if self._valuation.excess_with_orders_uusd(account, orders, account.cash_uusd, model) < 0:
            raise ProtocolViolation(
                LedgerReason.INSUFFICIENT_MARGIN, "the initial requirement would not hold under that model"
            )

    # --- what a session key may build ---

    def check_notional(self, account: OpenAccount, more: Sequence[tuple[int, int]], max_uusd: int) -> None:
        """Raises ProtocolViolation(SESSION_NOTIONAL) if (instrument, lots) more are above what a key may build."""
        room_uusd = max_uusd - self._notional(account)
        for instrument, lots in more:
            room_uusd = self._use_notional(room_uusd, instrument, lots)

    def check_holdings(self, account: OpenAccount) -> None:
        """What an account may hold with its open orders. Raises TOO_MANY_LOTS, TOO_MANY_POSITIONS."""
        opened = _Open(self._workspace, account)
        if opened.lots > ACCOUNT_LOTS_MAX:
            raise _too_many_lots()
        if len(opened.instruments) > self._parameters.positions_max:
            raise _too_many_positions(self._parameters.positions_max)

    def _use_notional(self, room_uusd: int, instrument: int, lots: int) -> int:
        left_uusd = room_uusd - self._notional_of(instrument, lots)
        if left_uusd < 0:
            raise ProtocolViolation(
                TradingReason.SESSION_NOTIONAL, "positions and orders would exceed the session key's notional"
            )
        return left_uusd

    def _notional(self, account: OpenAccount) -> int:
        """Positions, open orders and triggers, gross at the index."""
        held = [(instrument, abs(lots)) for instrument, (lots, _) in account.positions.items()]
        held += [(value, self._workspace.order(key).left_lots) for key, value in account.orders.items()]
        trading = self._workspace.find_trading(account.key)
        waiting = trading.triggers.values() if trading is not None else ()
        held += [(item.order.instrument, item.order.size_lots) for item in waiting]
        return sum(self._notional_of(instrument, lots) for instrument, lots in held)

    def _notional_of(self, instrument_id: int, lots: int) -> int:
        instrument = self._workspace.state.instruments[instrument_id]
        index_uusd = self._valuation.index_uusd(instrument.underlying)
        return ceil_div(lots * index_uusd, instrument.lots_per_contract)

    # --- order by order ---

    def check_shape(self, order: PlaceOrder) -> Instrument:
        """What is wrong with an order whatever the account and the book. Raises as `check_order_shape`."""
        return check_order_shape(self._workspace.state, order, self._workspace.time_ns)

    def _check_exchange(self, account: OpenAccount, opened: _Open, item: Wanted) -> None:
        """`_check`, without the order that this one replaces. Raises as it does."""
        if item.is_quote and (listed := self._workspace.state.instruments.get(item.action.instrument)):
            check_not_frozen(self._workspace, account.key, listed.underlying)
        if not item.replaces:
            return self._check(account, opened, item.action)
        if item.replaces in opened.replaced:
            raise unknown_order()
        old = self._workspace.order(item.replaces)
        self._exchange(opened, old, item.action.instrument, -1)
        try:
            self._check(account, opened, item.action)
        except ProtocolViolation:
            self._exchange(opened, old, item.action.instrument, 1)
            raise

    def _exchange(self, opened: _Open, old: RestingOrder, instrument: int, sign: int) -> None:
        opened.exchange(old, instrument, sign)
        if opened.room_uusd is not None:
            opened.room_uusd -= sign * self._notional_of(instrument, old.left_lots)

    def _check(self, account: OpenAccount, opened: _Open, action: PlaceOrder) -> None:
        """Everything but margin. Raises ProtocolViolation with the reason."""
        terms = self._terms.get(action.instrument) or self._find_terms(action.instrument)
        check_order_form(terms.instrument, terms.ticks, action)
        self._check_standing(account, terms, action)
        self._check_price(terms, action)
        self._check_limits(opened, action)
        if action.reduce_only:
            reducing = opened.reducing.get((action.instrument, action.side), 0) + action.size_lots
            if reducing > reducible_lots(account.lots(action.instrument), action.side):
                raise ProtocolViolation(
                    LedgerReason.REDUCE_ONLY_WOULD_INCREASE,
                    "larger than what there is to reduce on this side",
                )
        if opened.room_uusd is not None:
            opened.room_uusd = self._left_room(opened.room_uusd, action)

    def _left_room(self, room_uusd: int, action: PlaceOrder) -> int:
        """What a session key may build beyond an order; one that only reduces is never too much."""
        if action.reduce_only:
            return room_uusd - self._notional_of(action.instrument, action.size_lots)
        return self._use_notional(room_uusd, action.instrument, action.size_lots)

    def _find_terms(self, instrument_id: int) -> _Terms:
        workspace, valuation = self._workspace, self._valuation
        instrument = find_tradable(workspace.state, instrument_id, workspace.time_ns)
        found = self._terms[instrument_id] = _Terms(
            instrument,
            ticks_of(workspace.state, instrument),
            valuation.confidence_ppm(instrument) <= POST_ONLY_CONFIDENCE_PPM,
            valuation.mark_uusd(instrument_id),
            valuation.band_uusd(instrument),
        )
        return found

    def _check_standing(self, account: OpenAccount, terms: _Terms, action: PlaceOrder) -> None:
        if account.health == Health.LIQUIDATION:
            raise _in_liquidation()
        if account.health == Health.REDUCE_ONLY and not action.reduce_only:
            raise ProtocolViolation(
                LedgerReason.ACCOUNT_MUST_REDUCE,
                "below the initial requirement only reduce-only orders are taken",
            )
        self._workspace.phases.check_order(terms.instrument, action, is_uncertain=terms.is_uncertain)

    def _check_price(self, terms: _Terms, action: PlaceOrder) -> None:
        over_uusd = _signed(action.side, action.price_uusd - terms.mark_uusd)
        if over_uusd > terms.band_uusd:
            raise ProtocolViolation(
                LedgerReason.PRICE_OUTSIDE_BAND,
                f"{action.price_uusd} is more than {terms.band_uusd} past the mark {terms.mark_uusd}",
            )
        if action.post_only and self._workspace.book(action.instrument).would_cross(
            action.side, action.price_uusd
        ):
            raise ProtocolViolation(
                LedgerReason.POST_ONLY_WOULD_CROSS, "it would trade with the resting book"
            )

    def _check_limits(self, opened: _Open, action: PlaceOrder) -> None:
        parameters, workspace = self._parameters, self._workspace
        if action.label in opened.labels:
            raise ProtocolViolation(LedgerReason.DUPLICATE_LABEL, f"label {action.label} is on an open order")
        if opened.count >= parameters.open_orders_max:
            raise ProtocolViolation(
                LedgerReason.TOO_MANY_ORDERS,
                f"an account has at most {parameters.open_orders_max} open orders",
            )
        if opened.lots + action.size_lots > ACCOUNT_LOTS_MAX:
            raise _too_many_lots()
        if len(opened.instruments) + (action.instrument not in opened.instruments) > parameters.positions_max:
            raise _too_many_positions(parameters.positions_max)
        resting = len(workspace.book(action.instrument)) + len(workspace.incoming.get(action.instrument, ()))
        if resting + opened.new.get(action.instrument, 0) >= parameters.orders_per_book_max:
            raise ProtocolViolation(LedgerReason.BOOK_FULL, "the book holds no more orders")

    # --- margin ---

    def excess_uusd(self, account: OpenAccount, *, cash_uusd: int) -> int:
        """IM excess with all open orders filled the worse way, and so much cash."""
        return self._excess(account, _Open(self._workspace, account).margined(), cash_uusd)

    def _excess(self, account: OpenAccount, orders: list[Margined], cash_uusd: int) -> int:
        every = [item.order for item in orders]
        full = self._valuation.excess_with_orders_uusd(account, every, cash_uusd)
        trading = self._workspace.find_trading(account.key)
        if full >= 0 or trading is None or trading.margin_model != MarginModel.PORTFOLIO:
            return full
        if not any(item.lots_max for item in trading.protections.values()):
            return full
        rest, reserved_uusd = self._with_protection(trading.protections, orders)
        bounded = self._valuation.excess_with_orders_uusd(account, rest, cash_uusd) - reserved_uusd
        return max(full, bounded)

    def _surely_holds(self, account: OpenAccount, required_uusd: int) -> bool:
        """Whether even the sum of each open order's own requirement is covered: then so is their joint one.

        The initial excess is superadditive (netting only helps), so this spares most orders the portfolio
        computation and never changes its answer; the slack outweighs every rounding.
        """
        stored = self._workspace.state.account(account.key)
        if stored is None or not account.has_stored_positions():
            return False
        if account.key in self._valuation.standard or self._workspace.state.standard.get(account.key):
            return False
        excess_uusd = self._valuation.im_excess_uusd(account.key) + account.cash_uusd - stored.cash_uusd
        return excess_uusd - required_uusd >= SURE_UUSD

    def _with_protection(
        self, protections: dict[int, Protection], orders: list[Margined]
    ) -> tuple[list[OpenOrder], int]:
        """Orders that protection does not bound, and what the others reserve."""
        listed = self._workspace.state.instruments
        bounded: dict[int, list[OpenOrder]] = {key: [] for key, item in protections.items() if item.lots_max}
        rest: list[OpenOrder] = []
        for order, is_quote in orders:
            underlying = listed[order.instrument_id].underlying
            (bounded[underlying] if is_quote and underlying in bounded else rest).append(order)
        return rest, sum(
            reserve_uusd(self._valuation, protections[key], quotes) for key, quotes in bounded.items()
        )

    def _needed_uusd(self, resting: Iterable[tuple[int, RestingOrder]]) -> int:
        """What resting orders require each by itself, added; rounded up."""
        prices = self._valuation
        return sum(
            [
                order_requirement_uusd(
                    prices, instrument, order.side == Side.BUY, order.price_uusd, order.left_lots
                )
                for instrument, order in resting
            ]
        )

    def _carried(self, account: OpenAccount, opened: _Open, candidates: Sequence[Wanted]) -> int:
        """Length of the longest prefix (by bisection) with which the initial requirement holds."""
        prices = self._valuation
        resting_uusd = self._needed_uusd(opened.resting.values())
        more = [
            order_requirement_uusd(
                prices, order.instrument, order.side == Side.BUY, order.price_uusd, order.size_lots
            )
            for order in (item.action for item in candidates)
        ]

        def holds(count: int) -> bool:
            gone = {item.replaces for item in candidates[:count] if item.replaces}
            required_uusd = resting_uusd + sum(more[:count])
            if gone:
                resting = opened.resting
                required_uusd -= self._needed_uusd([resting[item] for item in gone if item in resting])
            if self._surely_holds(account, required_uusd):
                return True
            margined = opened.margined(gone) + [_margined(item) for item in candidates[:count]]
            return self._excess(account, margined, account.cash_uusd) >= 0

        good, bad = 0, len(candidates) + 1
        probe = len(candidates)
        while good + 1 < bad:
            good, bad = (probe, bad) if holds(probe) else (good, probe)
            probe = (good + bad) // 2
        return good

    # --- the outcome ---

    def _enter(self, transaction_id: bytes, account: OpenAccount, item: Wanted) -> None:
        workspace, action = self._workspace, item.action
        if item.replaces:
            workspace.cancel_resting(action.instrument, [item.replaces], CancelReason.REPLACED)
        order = RestingOrder(
            workspace.next_order_id,
            *account.key,
            action.side,
            action.price_uusd,
            action.size_lots,
            workspace.height,
            action.label,
            action.time_in_force,
            action.post_only,
            action.reduce_only,
        )
        workspace.add_order(account, action.instrument, order)
        if item.expires_ns:
            workspace.trading(account.key).deadlines[order.order_id] = item.expires_ns
        if item.is_quote:
            workspace.trading(account.key).quotes.add(order.order_id)
        workspace.events.append(
            OrderAccepted(
                transaction_id,
                item.place,
                order.order_id,
                *account.key,
                action.instrument,
                action.side,
                action.price_uusd,
                action.size_lots,
                action.label,
            )
        )

    def _refuse(self, transaction_id: bytes, index: int, violation: ProtocolViolation) -> None:
        self._workspace.events.append(
            ActionRejected(transaction_id, index, violation.reason.value, violation.detail)
        )


_INSUFFICIENT = ProtocolViolation(
    LedgerReason.INSUFFICIENT_MARGIN, "the initial requirement would not hold with this order filled"
)


def _in_liquidation() -> ProtocolViolation:
    # A new one each time: one that is raised again keeps the frames of all its raises.
    return ProtocolViolation(
        LedgerReason.ACCOUNT_IN_LIQUIDATION, "the account is below its maintenance requirement"
    )


def _too_many_lots() -> ProtocolViolation:
    return ProtocolViolation(
        LedgerReason.TOO_MANY_LOTS, f"an account holds and orders at most {ACCOUNT_LOTS_MAX} lots"
    )


def _too_many_positions(limit: int) -> ProtocolViolation:
    return ProtocolViolation(LedgerReason.TOO_MANY_POSITIONS, f"an account is in at most {limit} instruments")
